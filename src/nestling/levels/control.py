"""Checking new values for the knobs of a live level."""

from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from typing import Literal, TypedDict

from pydantic import TypeAdapter, ValidationError

from nestling.core.checked import describe
from nestling.core.errors import PlanError, suggest
from nestling.levels.gates import Gate
from nestling.levels.spec import Copy, Freeze, Level

_LEVEL_KNOBS = (
    "period",
    "lr",
    "weight_decay",
    "reduce",
    "between",
    "window",
    "gate",
    "freeze",
    "trust",
)
_COPY_KNOBS = ("period", "decay", "probability")


class Knob(Enum):
    """Tells a knob that is not turned from one that is turned to None."""

    UNSET = "unset"


UNSET = Knob.UNSET


def turn_level(spec: Level, knobs: dict[str, object]) -> Level:
    """A checked copy of a gradient level's specification with other values.

    Args:
        spec: as it is.
        knobs: knob -> value.

    Raises:
        PlanError: no knob, an unknown one, or a value that does not fit.

    >>> turn_level(Level("trunk", period=4), {"period": 64}).period
    64
    """
    _check_known("gradient level", spec.name, knobs, _LEVEL_KNOBS)
    values = {field.name: getattr(spec, field.name) for field in fields(spec)}
    rates = {knob: value for knob, value in knobs.items() if knob in ("lr", "weight_decay")}
    values |= {knob: value for knob, value in knobs.items() if knob not in rates}
    try:
        values["optimizer"] = TypeAdapter(type(spec.optimizer)).validate_python(
            {f.name: getattr(spec.optimizer, f.name) for f in fields(spec.optimizer)} | rates
        )
        return TypeAdapter(Level).validate_python(values)
    except ValidationError as error:
        raise PlanError(f"level {spec.name!r}: {describe(error)}") from None


def turn_copy(spec: Copy, knobs: dict[str, object]) -> Copy:
    """A checked copy of a copy level's specification with other values; as `turn_level`."""
    _check_known("copy", spec.name, knobs, _COPY_KNOBS)
    values = {field.name: getattr(spec, field.name) for field in fields(spec)}
    try:
        return TypeAdapter(Copy).validate_python(values | knobs)
    except ValidationError as error:
        raise PlanError(f"copy {spec.name!r}: {describe(error)}") from None


def _check_known(kind: str, name: str, knobs: dict[str, object], known: tuple[str, ...]) -> None:
    if not knobs:
        raise PlanError(f"nothing to turn on {kind} {name!r}; knobs: {list(known)}")
    for knob in knobs:
        if knob not in known:
            raise PlanError(f"{kind} {name!r} has no knob {knob!r}; {suggest(knob, known)}")


class Knobs(TypedDict, total=False):
    """Every knob that a live level may have; see `NestedOptimizer.control`."""

    period: int
    lr: float
    weight_decay: float
    reduce: Literal["mean", "sum"]
    between: Literal["accumulate", "skip"]
    window: int
    gate: Sequence[Gate]
    freeze: Freeze | None
    trust: float | None
    decay: float
    probability: float | None
