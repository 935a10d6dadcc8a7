"""Hyperparameter changes on live levels: checked, then waiting for the level's boundary."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar

from pydantic import TypeAdapter, ValidationError

from nestling.core.checked import describe
from nestling.core.errors import SettingError, suggest
from nestling.levels.events import Change
from nestling.levels.gates import Gate
from nestling.levels.spec import (
    AnySpec,
    Copy,
    Freeze,
    Level,
    Memory,
    Sleep,
    dump_spec,
    load_spec,
)
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
_MEMORY_KNOBS = ("switch_rate",)
_SLEEP_KNOBS = ("num_inputs", "epochs", "batch_size", "temperature", "class_share")

Spec = TypeVar("Spec", bound=AnySpec)


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
    rule = spec.rule
    known = _COPY_KNOBS if rule is None else ("period", *rule.knobs)
    _check_known("copy", spec.name, knobs, known)
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
        if rule is not None:
            turned = {knob: knobs[knob] for knob in rule.knobs if knob in knobs}
            values["rule"] = {field.name: getattr(rule, field.name) for field in fields(rule)}
            values["rule"] |= turned
            knobs = {knob: value for knob, value in knobs.items() if knob not in turned}
        return TypeAdapter(Copy).validate_python(values | knobs)
    except ValidationError as error:
        raise SettingError(f"copy {spec.name!r}: {describe(error)}") from None


def turn_memory(spec: Memory, knobs: dict[str, object]) -> Memory:
    """A checked copy of a memory level's specification with other values; as `turn_level`."""
    _check_known("memory", spec.name, knobs, _MEMORY_KNOBS)
    values = {field.name: getattr(spec, field.name) for field in fields(spec)}
    try:
        return TypeAdapter(Memory).validate_python(values | knobs)
    except ValidationError as error:
        raise SettingError(f"memory {spec.name!r}: {describe(error)}") from None


def turn_sleep(spec: Sleep, knobs: dict[str, object]) -> Sleep:
    """A checked copy of a sleep level's specification with other values; as `turn_level`."""
    _check_known("sleep", spec.name, knobs, _SLEEP_KNOBS)
    values = {field.name: getattr(spec, field.name) for field in fields(spec)}
    try:
        return TypeAdapter(Sleep).validate_python(values | knobs)
    except ValidationError as error:
        raise SettingError(f"sleep {spec.name!r}: {describe(error)}") from None


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
    rate: float
    momentum: float
    switch_rate: float
    num_inputs: int
    epochs: int
    batch_size: int
    temperature: float
    class_share: float


@dataclass
class Waiting(Generic[Spec]):
    """A change that waits for a boundary.

    Attributes:
        change: its record.
        spec: of the level with it, checked.
        is_released: the event that its freeze waits for was said already.
    """

    change: Change
    spec: Spec
    is_released: bool = False


class WaitingChanges(Generic[Spec]):
    """Changes of one level's knobs that wait for its boundary.

    Args:
        turn: (specification, knobs) -> checked specification with these values.
    """

    def __init__(self, turn: Callable[[Spec, dict[str, object]], Spec]) -> None:
        self.turn = turn
        self.waiting: list[Waiting[Spec]] = []
        # Asked whether the other levels can bear the change; set by whoever holds them together.
        self.admit: Callable[[Spec], None] | None = None

    def ask(self, live: Spec, knobs: dict[str, object], reason: str, tick: int) -> Change:
        """Check a change and let it wait.

        Args:
            live: specification as it is now.
            knobs: knob -> new value.
            reason: why.
            tick: of the level's clock.

        Returns: the record of the change, whose `applied_at` is filled in at the boundary.

        Raises:
            SettingError: no knob, an unknown one, a wrong value, no reason, or a parent gate that
                the plan cannot have; nothing is changed.
        """
        changed = self.turn(self.waiting[-1].spec if self.waiting else live, knobs)
        if not isinstance(reason, str) or not reason.strip():
            raise SettingError(
                f"a change of level {live.name!r} needs a reason; reason='...' is kept"
            )
        if self.admit is not None:
            self.admit(changed)
        change = Change(live.name, describe_knobs(knobs), reason, asked_at=tick)
        self.waiting.append(Waiting(change, changed))
        return change

    def take(self, tick: int) -> list[Waiting[Spec]]:
        """The changes that waited, now in force, oldest first."""
        due, self.waiting = self.waiting, []
        for waiting in due:
            waiting.change.applied_at = tick
        return due

    def state_dict(self) -> list[dict[str, Any]]:
        """What waits, as plain data."""
        return [
            {
                "change": asdict(one.change),
                "spec": dump_spec(one.spec),
                "is_released": one.is_released,
            }
            for one in self.waiting
        ]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]], live: Spec) -> None:
        """Take over what `state_dict` gave; `live` is the level's specification."""
        self.waiting = [
            Waiting(
                Change(**one["change"]),
                load_spec(one["spec"], live),  # type: ignore[arg-type]
                one["is_released"],
            )
            for one in state
        ]


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
