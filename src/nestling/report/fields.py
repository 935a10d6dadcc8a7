"""What the records of a run must hold for its report: checked where they are read."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nestling.core.errors import DataError


@dataclass(frozen=True)
class Field:
    """One field of a record.

    Attributes:
        wanted: what it must be, in words.
        fits: whether a value is that.
        is_optional: whether it may be missing.
    """

    wanted: str
    fits: Callable[[object], bool]
    is_optional: bool = False


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    # `math.isfinite` is no use before this: JSON holds integers that no float holds.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _are_accuracies(value: object) -> bool:
    return isinstance(value, dict) and all(v is None or _is_number(v) for v in value.values())


_TEXT = Field("a text", lambda value: isinstance(value, str))
_COUNT = Field("a whole number from 0", _is_count)
_SEED = Field("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool))
_NUMBER = Field("a number", _is_number)
_MEASURE = Field("a number, or null if not measured", lambda v: v is None or _is_number(v))
_FIGURE = Field(_MEASURE.wanted, _MEASURE.fits, is_optional=True)
_INDEX = Field("null or the index of an experience", lambda v: v is None or _is_count(v))
_SIGNED = {"method": _TEXT, "seed": _SEED}

FIELDS: Mapping[str, Mapping[str, Field]] = {
    "experience": {
        "index": _COUNT,
        "name": _TEXT,
        "test": Field(_TEXT.wanted, _TEXT.fits, is_optional=True),
    },
    "evaluation": {
        **_SIGNED,
        "during": _COUNT,
        "after": _INDEX,
        "step": _NUMBER,
        "accuracies": Field("an object of numbers", _are_accuracies),
    },
    "summary": {
        **_SIGNED,
        **dict.fromkeys(
            ("acc", "forgetting", "bwt", "steps_to_adapt", "seconds_per_example"), _FIGURE
        ),
    },
    "level": {
        **_SIGNED,
        "step": _NUMBER,
        "level": _TEXT,
        "num_updates": _NUMBER,
        "relative_change": _MEASURE,
    },
    "compute": {
        **_SIGNED,
        "level": _TEXT,
        **dict.fromkeys(("num_steps", "num_updates", "share_backward_skipped"), _NUMBER),
        "seconds": _NUMBER,
    },
    "alarm": {"message": _TEXT},
    "drift": {"message": _TEXT},
    "change": {"level": _TEXT, "knobs": Field("an object", lambda v: isinstance(v, dict))},
}


def check_record(record: Mapping[str, object], place: str, num_experiences: int) -> None:
    """Make sure that a record holds what a report reads of its kind; other kinds pass.

    Args:
        record: with its "kind".
        place: file and line, for the message.
        num_experiences: that the run has finished; one more may be under way.

    Raises:
        DataError: a field is missing or of the wrong kind; names place, field and value.

    >>> check_record({"kind": "experience", "index": 0, "name": "base"}, "line 1", 1)
    """
    kind = str(record["kind"])
    for name, field in FIELDS.get(kind, {}).items():
        if name not in record:
            if field.is_optional:
                continue
            raise DataError(
                f"{place}: this record of kind '{kind}' has no '{name}'; it must be {field.wanted}"
            )
        if not field.fits(record[name]):
            raise DataError(f"{place}: '{name}' is {record[name]!r:.60}; it must be {field.wanted}")
    after = record.get("after")
    # A run that was stopped may have measured the end of an experience that it did not record.
    if kind == "evaluation" and isinstance(after, int) and after > num_experiences:
        raise DataError(
            f"{place}: 'after' is {after}; it must be null or the index of an experience, "
            f"of which the run holds {num_experiences}"
        )
