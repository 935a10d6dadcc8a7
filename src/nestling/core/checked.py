"""Checked data classes: a wrong argument is one line of a `SettingError`, in plain words."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nestling.core.errors import SettingError, suggest

T = TypeVar("T")

# What works, by the type of pydantic's error; {} holds what that error knows of the value.
_WORKS = {
    "string_type": "a text works",
    "string_too_short": "a text that is not empty works",
    "int_type": "a whole number works",
    "int_parsing": "a whole number works",
    "int_from_float": "a whole number works",
    "float_type": "a number works",
    "float_parsing": "a number works",
    "finite_number": "a finite number works",
    "bool_type": "True or False works",
    "bool_parsing": "True or False works",
    "greater_than": "a number greater than {gt:g} works",
    "greater_than_equal": "a number of {ge:g} or more works",
    "less_than": "a number less than {lt:g} works",
    "less_than_equal": "a number of {le:g} or less works",
    "literal_error": "{expected} works",
    "sequence_str": "a list works, such as [{value!r}]",
    "is_instance_of": "{class} works",
    "list_type": "a list works",
    "tuple_type": "a list works",
    "dict_type": "a table works",
    "path_type": "the path of a file works",
    "model_type": "a table works",
    "model_attributes_type": "a table works",
    "dataclass_type": "a table or a {class_name} works",
    "union_tag_not_found": "a table with the key {discriminator} works",
    "union_tag_invalid": "a table whose {discriminator} is one of {expected_tags} works",
}
# Keyword arguments and keys of a file that nobody knows.
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden", "unexpected_positional_argument")


def describe(error: ValidationError, names: Sequence[str] = ()) -> str:
    """What is wrong with a setting, on one line: its key, its value, and what would work.

    Args:
        error: what pydantic found; of several faults the first is said, of a value that may be
            several things the one that it is nearest to.
        names: of positional arguments, in order; also what is known where a key is unknown.
    """
    found = error.errors(include_url=False)
    # A misspelt key is also a missing one: say the spelling. Of alternatives, the deepest.
    first = next((one for one in found if one["type"] in _UNKNOWN), found[0])
    rivals = [one for one in found if one["loc"][:1] == first["loc"][:1]]
    if first["type"] not in _UNKNOWN and first["loc"]:
        first = max(rivals, key=lambda one: len(one["loc"]))
    where = _name_place(first, names)
    kind = first["type"]
    if kind in ("missing", "missing_argument"):
        key = where.rpartition(".")[2]
        return f"{where} is missing; give {'it' if key.isdigit() else key + '=...'}"
    if kind in _UNKNOWN:
        hint = f"; {suggest(where, names)}" if names and "." not in where else "; leave it out"
        return f"{where} is not known{hint}"
    if kind in ("value_error", "assertion_error"):
        message = first["msg"].partition(", ")[2].replace("\n", " ")
        return f"{where}: {message}{_show(first)}" if where else message
    alternatives = [
        say_what_works(one)
        for one in rivals
        if len(one["loc"]) == len(first["loc"]) and one["type"] not in _UNKNOWN
    ]
    wanted = ", or ".join(dict.fromkeys(alternatives))
    return f"{where}: {wanted}{_show(first)}" if where else f"{wanted}{_show(first)}"


def say_what_works(found: ErrorDetails) -> str:
    """What would have been right instead, in plain English.

    >>> say_what_works({"type": "greater_than", "ctx": {"gt": 0}, "loc": (), "msg": "", "input": 0})
    'a number greater than 0 works'
    """
    kind, context = found["type"], dict(found.get("ctx", {}))
    if kind == "is_instance_of" and context.get("class") in ("Sequence", "sequence"):
        return "a list works" + _suggest_list(found.get("input"))
    if kind in ("too_short", "too_long", "missing"):
        least = context.get("min_length", context.get("max_length"))
        return f"{least} entries work"
    if kind == "string_pattern_mismatch":
        return "a name of letters, digits, '_', '.' and '-' that begins with a letter works"
    if kind in _WORKS:
        context["value"] = found.get("input")
        return _WORKS[kind].format_map(_Context(context))
    plain = re.sub(r"^Input should (be|have) ", "", found["msg"])
    return f"{plain} works" if plain != found["msg"] else plain[:1].lower() + plain[1:]


class _Context(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "another value"


def _suggest_list(value: object) -> str:
    return f", such as [{value!r}]" if isinstance(value, str | int | float | bool) else ""


def _name_place(found: ErrorDetails, names: Sequence[str]) -> str:
    """The key as its user wrote it: arguments by name, entries counted, no tags of pydantic."""
    kinds = ("gradient", "copy", "memory", "concepts", "sleep", "watch")
    parts: list[str] = []
    for index, part in enumerate(found["loc"]):
        if isinstance(part, int):
            named = index == 0 and part < len(names)
            parts.append(names[part] if named else str(part))
        elif not _is_tag(part) and not (index == 0 and part in kinds):
            parts.append(part)
    return ".".join(parts)


def _is_tag(part: str) -> bool:
    """Whether it names an alternative of a union, and no key."""
    return part in ("str", "int", "float", "bool", "none") or any(c in part for c in "-[(")


def _show(found: ErrorDetails) -> str:
    value = found.get("input")
    if isinstance(value, str | int | float | bool) or value is None:
        return f", got {value!r}"
    if isinstance(value, Mapping | list | tuple) and len(repr(value)) <= 60:
        return f", got {value!r}"
    if is_dataclass(value) or callable(value):
        return f", got {getattr(value, '__name__', type(value).__name__)}"
    return f", got a {type(value).__name__}"


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
    nestling.core.errors.SettingError: Point x: a whole number works, got 'far'
    """
    construct = cast(Callable[..., None], cls.__init__)

    @wraps(construct)
    def init(self: T, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except ValidationError as error:
            names = [field.name for field in fields(cast(Any, cls)) if field.init]
            raise SettingError(f"{cls.__name__} {describe(error, names)}") from None
        finally:
            # Pydantic puts its own constructor back when it builds a deferred schema.
            cls.__init__ = init  # type: ignore[assignment]

    cls.__init__ = init  # type: ignore[assignment]
    return cls
