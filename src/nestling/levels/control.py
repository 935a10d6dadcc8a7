"""Turning the knobs of a live level: new values are checked, then wait for its boundary."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Literal, TypedDict

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from nestling.core.checked import describe
from nestling.core.errors import MismatchedParameters, SettingError, suggest
from nestling.levels.gates import Gate
from nestling.levels.gradient import GradientLevel
from nestling.levels.plan import Plan, order_by_parent
from nestling.levels.readings import Change
from nestling.levels.spec import Copy, Freeze, Level
from nestling.optim import CustomOptimizer, Rate

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


def turn_level(spec: Level, knobs: dict[str, object]) -> Level:
    """A checked copy of a gradient level's specification with other values.

    Args:
        spec: as it is.
        knobs: knob -> value.

    Raises:
        SettingError: no knob, an unknown one, or a value that does not fit.

    >>> turn_level(Level("trunk", match=["*"], period=4), {"period": 64}).period
    64
    """
    _check_known("gradient level", spec.name, knobs, _LEVEL_KNOBS)
    values = {field.name: getattr(spec, field.name) for field in fields(spec)}
    rates = {knob: value for knob, value in knobs.items() if knob in ("lr", "weight_decay")}
    values |= {knob: value for knob, value in knobs.items() if knob not in rates}
    try:
        if isinstance(spec.optimizer, CustomOptimizer):  # its rates are turned in its group
            TypeAdapter(dict[str, Rate]).validate_python(rates, strict=True)
        else:
            values["optimizer"] = TypeAdapter(type(spec.optimizer)).validate_python(
                {f.name: getattr(spec.optimizer, f.name) for f in fields(spec.optimizer)} | rates
            )
        return TypeAdapter(Level).validate_python(values)
    except ValidationError as error:
        raise SettingError(f"level {spec.name!r}: {describe(error)}") from None


def turn_copy(spec: Copy, knobs: dict[str, object]) -> Copy:
    """A checked copy of a copy level's specification with other values; as `turn_level`."""
    _check_known("copy", spec.name, knobs, _COPY_KNOBS)
    if spec.decay == 1.0:
        raise SettingError(
            f"copy {spec.name!r} never moves and has no knob to turn; add another copy to the plan"
        )
    if knobs.get("decay") == 1.0:
        raise SettingError(
            f"copy {spec.name!r}: decay 1 is for copies that never moved; decay=0.9999 works"
        )
    values = {field.name: getattr(spec, field.name) for field in fields(spec)}
    try:
        return TypeAdapter(Copy).validate_python(values | knobs)
    except ValidationError as error:
        raise SettingError(f"copy {spec.name!r}: {describe(error)}") from None


def _check_known(kind: str, name: str, knobs: dict[str, object], known: tuple[str, ...]) -> None:
    if not knobs:
        raise SettingError(f"nothing to turn on {kind} {name!r}; knobs: {list(known)}")
    for knob in knobs:
        if knob not in known:
            raise SettingError(f"{kind} {name!r} has no knob {knob!r}; {suggest(knob, known)}")


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


class ChangeQueue:
    """Changes of live levels: all that were made, and those that wait for a boundary.

    Args:
        plan: says which levels there are.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.changes: list[Change] = []
        self.waiting: list[tuple[Change, Level | Copy]] = []

    def ask(
        self,
        live: dict[str, Level | Copy],
        name: str,
        reason: str,
        step: int,
        knobs: dict[str, object],
    ) -> Change:
        """Check a change and let it wait; see `NestedOptimizer.control`.

        Args:
            live: level name -> specification as it is now.
            name: of the level.
            reason: why.
            step: optimizer steps so far.
            knobs: knob -> new value.
        """
        if name not in live:
            self.plan.find(name)
            raise SettingError(f"level {name!r} is a memory; turn it through the learner")
        pending = {change.level: spec for change, spec in self.waiting}
        spec = pending.get(name, live[name])
        changed = turn_copy(spec, knobs) if isinstance(spec, Copy) else turn_level(spec, knobs)
        if not reason.strip():
            raise SettingError(f"a change of level {name!r} needs a reason; reason='...' is kept")
        # Whichever of the waiting changes comes first, no parent may be missing or in a circle.
        Plan(*(live | pending | {name: changed}).values())
        self.sort(live, changed)
        change = Change(name, describe_knobs(knobs), reason, asked_at=step)
        self.changes.append(change)
        self.waiting.append((change, changed))
        return change

    def sort(self, live: Mapping[str, Level | Copy], *changed: Level | Copy) -> list[str]:
        """Names of gradient levels, parents first, now and after every waiting change."""
        specs = [*live.values(), *(spec for _, spec in self.waiting), *changed]
        return order_by_parent(spec for spec in specs if isinstance(spec, Level))

    def take(self, name: str, step: int) -> Iterator[tuple[Change, Level | Copy]]:
        """The waiting changes of a level that is at a boundary, oldest first."""
        if not self.waiting:
            return
        due = [pair for pair in self.waiting if pair[0].level == name]
        self.waiting = [pair for pair in self.waiting if pair[0].level != name]
        for change, spec in due:
            change.applied_at = step
            yield change, spec


def describe_knobs(knobs: Mapping[str, object]) -> dict[str, object]:
    """JSON-ready values of knobs, for the record of a change."""

    def plain(value: object) -> object:
        if is_dataclass(value) and not isinstance(value, type):
            return plain(asdict(value))
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [plain(entry) for entry in value]
        return value

    return {knob: plain(value) for knob, value in knobs.items()}


def check_importance(
    levels: Sequence[GradientLevel], importance: Mapping[str, Tensor]
) -> list[tuple[GradientLevel, list[Tensor]]]:
    """The levels that an importance is about, each with a copy of its part.

    Raises:
        MismatchedParameters: an unknown name, another shape, or a part of a level is missing.
    """
    known = {name for level in levels for name in level.names}
    if unknown := sorted(importance.keys() - known):
        raise MismatchedParameters(f"importance of {unknown[0]!r}; {suggest(unknown[0], known)}")
    found: list[tuple[GradientLevel, list[Tensor]]] = []
    for level in levels:
        if not importance.keys() & set(level.names):
            continue
        for name, param in zip(level.names, level.params, strict=True):
            if name not in importance or importance[name].shape != param.shape:
                raise MismatchedParameters(
                    f"importance of {name!r} must have shape {tuple(param.shape)}, got "
                    f"{tuple(importance[name].shape) if name in importance else 'none'}"
                )
        values = [importance[name].detach().clone() for name in level.names]
        if not all(bool((value >= 0).all()) for value in values):
            raise MismatchedParameters(
                f"importance of level {level.spec.name!r} must be 0 or more and not NaN"
            )
        found.append((level, values))
    return found
