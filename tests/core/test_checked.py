"""What pydantic finds, in plain words: key, value, and what would work."""

from typing import Literal

import pytest
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked, describe
from nestling.core.errors import SettingError


@checked
@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Setting:
    name: str
    size: int | tuple[int, ...] = Field(1, ge=1)
    kind: Literal["one", "other"] = "one"
    share: float = Field(0.5, gt=0.0, lt=1.0)
    rows: tuple[tuple[int, int], ...] = ()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "Setting name is missing; give name=..."),
        ({"name": 3}, "Setting name: a text works, got 3"),
        ({"name": "a", "size": "x"}, "Setting size: a whole number works, or a list works"),
        ({"name": "a", "size": [1, "x"]}, "Setting size.1: a whole number works, got 'x'"),
        ({"name": "a", "kind": "on"}, "Setting kind: 'one' or 'other' works, got 'on'"),
        ({"name": "a", "share": 0}, "Setting share: a number greater than 0 works, got 0"),
        ({"name": "a", "share": 1}, "Setting share: a number less than 1 works, got 1"),
        ({"name": "a", "rows": [[1]]}, "Setting rows.0.1 is missing; give it"),
        ({"name": "a", "rows": [[1, 2, 3]]}, "Setting rows.0: 2 entries work, got [1, 2, 3]"),
        ({"name": "a", "shore": 1}, "Setting shore is not known; known: ["),
        ({"shore": 1}, "did you mean 'share'?"),
    ],
)
def test_key_value_and_what_works(values: dict[str, object], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        Setting(**values)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert not [w for w in ("Input", "required", "\n") if w in str(caught.value)]


def test_positional_arguments_go_by_their_names() -> None:
    with pytest.raises(SettingError, match="Setting kind: 'one' or 'other' works, got 3"):
        Setting("a", 1, 3)  # type: ignore[arg-type]


def test_a_long_value_is_not_shown() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python(list(range(100)))
    assert describe(caught.value) == "a whole number works, got a list"
