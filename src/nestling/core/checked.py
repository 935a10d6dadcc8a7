"""Checked data classes: a wrong argument is one line of a `SettingError`."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from nestling.core.errors import SettingError, suggest

T = TypeVar("T")


def describe(error: ValidationError) -> str:
    """Put a pydantic error on one line: key, problem, and the value that was given."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "value"
    message = first["msg"].removeprefix("Value error, ").replace("\n", " ")
    value = first.get("input")
    shown = f", got {value!r}" if isinstance(value, str | int | float | bool) else ""
    return f"{where}: {message}{shown}"


def checked(cls: type[T]) -> type[T]:
    """Let the constructor of a pydantic dataclass raise `SettingError`, on one line.

    Args:
        cls: a pydantic dataclass; its constructor is replaced.

    >>> from pydantic.dataclasses import dataclass
    >>> @checked
    ... @dataclass
    ... class Point:
    ...     x: int = 0
    >>> Point(x="far")
    Traceback (most recent call last):
    nestling.core.errors.SettingError: Point x: Input should be a valid integer, ... got 'far'
    """
    construct = cast(Callable[..., None], cls.__init__)

    @wraps(construct)
    def init(self: T, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            hint = ""
            if first["type"] == "unexpected_keyword_argument":
                known = [field.name for field in fields(cast(Any, cls))]
                hint = f"; {suggest(str(first['loc'][-1]), known)}"
            raise SettingError(f"{cls.__name__} {describe(error)}{hint}") from None
        finally:
            # Pydantic puts its own constructor back when it builds a deferred schema.
            cls.__init__ = init  # type: ignore[assignment]

    cls.__init__ = init  # type: ignore[assignment]
    return cls
