"""The kinds of level as data: gradient levels, copies, memories and sleep."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    model_validator,
)
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked
from nestling.core.errors import SettingError
from nestling.levels.drift_watch import DriftWatch
from nestling.levels.gates import Gate, HalfLife, Name, ParentGate, ScheduleGate
from nestling.levels.outer_rules import OuterRule
from nestling.optim import AdamW, OptimizerFactory, OptimizerSpec

_CONFIG = ConfigDict(extra="forbid", defer_build=True)
# Before the name of a submodule: what goes into it, not what comes out.
INPUT_OF = "input of "
Count = Annotated[int, Field(ge=1)]
Pattern = Annotated[str, Field(min_length=1)]
AsTuple = AfterValidator(tuple)
# A text alone is a sequence to type checkers, and means one entry to whoever writes it.
OneOrMore = BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
NumFeatures = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

if TYPE_CHECKING:

    class _OptimizerField:
        """For type checkers: any function to an optimizer goes in, a specification comes out."""

        def __get__(self, level: object, owner: object) -> OptimizerSpec: ...
        def __set__(self, level: object, value: OptimizerSpec | OptimizerFactory) -> None: ...

else:
    _OptimizerField = OptimizerSpec


@checked
@dataclass(frozen=True, config=_CONFIG)
class Freeze:
    """Freeze a level's parameters in windows of optimizer steps, or until an event.

    Args:
        windows: pairs (first step, last step) of frozen steps, counted from 1, both included.
        until: frozen until `release` is called, or a `DriftWatch` fires, with this name.

    >>> freeze = Freeze(windows=((1, 100),))
    >>> freeze.covers(100), freeze.covers(101)
    (True, False)
    """

    windows: tuple[tuple[Count, Count], ...] = ()
    until: str | None = None

    @model_validator(mode="after")
    def _check_windows(self) -> "Freeze":
        for first, last in self.windows:
            if last < first:
                raise ValueError(f"window ({first}, {last}) ends before it begins")
        return self

    def covers(self, step: int, *, is_released: bool = False) -> bool:
        """Whether the level is frozen at optimizer step `step` (the first step is 1)."""
        if self.until is not None and not is_released:
            return True
        return any(first <= step <= last for first, last in self.windows)


@checked
@dataclass(frozen=True, config=_CONFIG)
class Level:
    """Gradient level: a group of parameters with its own optimizer, update period and gates.

    Args:
        name: the level's name.
        match: `fnmatch` globs over parameter names, or one; the first level that matches claims.
        period: optimizer steps between two updates.
        optimizer: update rule, e.g. `nl.adamw(lr=1e-3)`, or any function from a list of
            parameters to a `torch.optim.Optimizer`, which is then kept as a `CustomOptimizer`.
        reduce: the gradients of a period are averaged ("mean") or summed ("sum", the paper's
            eq. 71).
        between: "accumulate" uses every step's gradient; "skip" computes none until `window`
            steps before the boundary, which saves backward compute.
        window: steps whose gradient counts under "skip".
        gate: gates whose product multiplies every update.
        freeze: when the level stands still.
        trust: largest relative change ||update|| / ||weights|| per update; None for no bound.
            Weights that are all zero have no relative change and are not bounded.
        protect: an update is a proposal: undone, optimizer state included, if the judge
            refuses it or if it is not finite.
        band: relative change per update (low, high) outside of which an alarm is raised.
    """

    name: Name
    match: Annotated[Sequence[Pattern], OneOrMore, AsTuple]
    period: Count = 1
    optimizer: _OptimizerField = AdamW()  # type: ignore[assignment]  # what goes in
    reduce: Literal["mean", "sum"] = "mean"
    between: Literal["accumulate", "skip"] = "accumulate"
    window: Count = 1
    gate: Annotated[Sequence[Gate], AsTuple] = ()
    freeze: Freeze | None = None
    trust: Positive | None = None
    protect: bool = False
    band: tuple[Annotated[float, Field(ge=0.0)], Positive] = (0.0, 1.0)
    kind: Literal["gradient"] = "gradient"

    @model_validator(mode="after")
    def _check(self) -> "Level":
        if not self.match:
            raise ValueError(f"level {self.name!r} has no pattern; match=['*'] claims the rest")
        kinds = [g.kind for g in self.gate if not isinstance(g, ParentGate | ScheduleGate)]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise ValueError(f"level {self.name!r} has two {twice} gates; keep one")
        if self.window > self.period:
            raise ValueError(
                f"level {self.name!r}: window {self.window} is longer than period {self.period}"
            )
        if self.band[0] >= self.band[1]:
            raise ValueError(f"level {self.name!r}: band {self.band} is empty")
        return self


@checked
@dataclass(frozen=True, config=_CONFIG)
class Copy:
    """Copy level: exponential moving average (EMA) of other levels' weights, or an outer rule.

    copy <- decay * copy + (1 - decay) * parameters   [mean teacher; CLS-ER eq. 3]

    With a `rule` it holds slow weights from which the levels go on at each of its boundaries.

    Args:
        name: the level's name.
        of: names of the gradient levels that it copies, or one name.
        decay: share of the copy that stays at each update; 1 for a copy that never moves: the
            model as it was given, its running statistics and the size of its head included.
        period: optimizer steps between two updates.
        probability: update at each period with this probability (CLS-ER) instead of always.
        warmup: cap the decay at 1 - 1/(n + 1) at update n, so that the start is forgotten.
        rule: `nl.lookahead()`, `nl.outer_nesterov()` or `nl.beakers()`, which write back into the
            levels; None for an average, which does not. Decay, probability and warmup are the
            average's and stay as they are beside a rule.
    """

    name: Name
    of: Annotated[Sequence[Name], OneOrMore, AsTuple]
    decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.99
    period: Count = 1
    probability: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    warmup: bool = True
    rule: OuterRule | None = None
    kind: Literal["copy"] = "copy"

    @model_validator(mode="after")
    def _check(self) -> "Copy":
        if not self.of:
            raise ValueError(f"copy {self.name!r} copies no level; of=['spine'] copies that one")
        if self.rule is None:
            return self
        for field, default in (("decay", 0.99), ("probability", None), ("warmup", True)):
            if (value := getattr(self, field)) != default:
                raise ValueError(
                    f"copy {self.name!r}: {field}={value} is for an average, and it has the rule "
                    f"{self.rule.kind!r}; leave one of them out"
                )
        try:
            self.rule.check_period(self.period)
        except SettingError as error:
            raise ValueError(f"copy {self.name!r} of period {self.period}: {error}") from None
        return self


@checked
@dataclass(frozen=True, config=_CONFIG)
class Memory:
    """Memory level: closed-form ridge regression on fixed features, with several half-lives.

    Args:
        name: the level's name.
        on: "input" for the model's (first, flattened) input, a submodule's name for that
            submodule's output, "input of NAME" for what goes into it (where the answer is one
            per example: means over positions, or, of a convolution, over a grid of at most
            4 x 4), None for the input of the last linear layer; or several, read side by side.
        half_lives: in examples, fast to slow; infinity never forgets.
        num_features: random features of what it reads; 0 for none. A sequence: of each of `on`.
        features: kind of random feature: "relu", "fourier" or "product"; or, in integers, which
            is exact in any order and fast: "image" (oriented gradients and cell means under
            random ReLU, beside random ReLU of the pixels), "coded" (random ReLU of any numbers),
            or "auto" ("image" if the shape or the first inputs say so, else "coded", or "relu" of
            fewer than 16 numbers, which seven bits would blur).
        size: how many features in integers: "default" (1,504), "large" (4,000) or "huge" (8,000);
            `num_features` and `include_read` are for the others.
        include_read: also use what is read itself, beside its random features. A sequence: of
            each of `on`.
        ridge: ridge strength; None for generalised cross-validation from the statistics.
        frozen: read a frozen copy of the model (True) or the live one, which then needs
            `refit` after the spine changed (False).
        switch_rate: probability per example that the best half-life changes (fixed share).
        block: examples between two updates of the gate.
        prior_half_life: half-life in examples of a class-prior expert; None for none.
        seed: of the random features.
    """

    name: Name
    on: str | Annotated[Sequence[str], AsTuple] | None = None
    half_lives: Annotated[Sequence[HalfLife], AsTuple] = (30.0, 300.0, 3000.0, math.inf)
    num_features: NumFeatures | Annotated[Sequence[NumFeatures], AsTuple] = 500
    features: Literal["relu", "fourier", "product", "auto", "image", "coded"] = "relu"
    size: Literal["default", "large", "huge"] = "default"
    include_read: bool | Annotated[Sequence[bool], AsTuple] = True
    ridge: Positive | None = None
    frozen: bool = True
    switch_rate: Annotated[float, Field(ge=0.0, lt=1.0)] = 1e-3
    block: Count = 64
    prior_half_life: Positive | None = None
    seed: int = 0
    kind: Literal["memory"] = "memory"

    @model_validator(mode="after")
    def _check(self) -> "Memory":
        if not self.half_lives:
            raise ValueError(f"memory {self.name!r} has no half-life; half_lives=(math.inf,) works")
        num_read = len(self.reads)
        if num_read == 0 or len(set(self.reads)) < num_read:
            raise ValueError(f"memory {self.name!r} reads {list(self.reads)}; name each once")
        for name in ("num_features", "include_read"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and len(value) != num_read:
                raise ValueError(
                    f"memory {self.name!r} has {len(value)} {name} for {num_read} that it reads; "
                    "give one for all, or one each"
                )
        if self.coded_kind is not None and num_read > 1:
            raise ValueError(
                f"memory {self.name!r} makes {self.features!r} features of {num_read} that it "
                "reads; let it read one, or take features='relu'"
            )
        if any(num == 0 and not is_read for _, num, is_read in self.list_views()):
            raise ValueError(
                f"memory {self.name!r} reads nothing; num_features=500 or include_read=True works"
            )
        return self

    @property
    def coded_kind(self) -> Literal["auto", "image", "coded"] | None:
        """The kind of its features if they are integers; None if they are not."""
        kind = self.features
        return kind if kind == "auto" or kind == "image" or kind == "coded" else None

    @property
    def float_kind(self) -> Literal["relu", "fourier", "product"]:
        """The kind of its features where they are no integers."""
        kind = self.features
        return kind if kind == "fourier" or kind == "product" else "relu"

    @property
    def reads(self) -> tuple[str | None, ...]:
        """Names of what it reads, one or more; see `on`."""
        return (self.on,) if self.on is None or isinstance(self.on, str) else tuple(self.on)

    def list_views(self) -> list[tuple[str | None, int, bool]]:
        """Name, number of random features, and whether the thing itself, for each that it reads."""

        def spread(value: int | Sequence[int]) -> list[int]:
            return list(value) if isinstance(value, Sequence) else [value] * len(self.reads)

        numbers, kept = spread(self.num_features), spread(self.include_read)
        return [
            (name, num, bool(is_read))
            for name, num, is_read in zip(self.reads, numbers, kept, strict=True)
        ]


@checked
@dataclass(frozen=True, config=_CONFIG)
class Sleep:
    """Sleep level: teaches the model what a memory knows, from dreams; no example is stored.

    It keeps integer sums of each class's inputs: how often each value came, and products of pairs
    (of D inputs and K classes D^2 K / 2 numbers). `learner.consolidate(change=name)` draws
    inputs like them, lets the memory label them, trains a copy of the model on those, and keeps
    it if a judge agrees. See `nestling.consolidate.draw_codes` and `teach_asleep`.

    Args:
        name: the level's name.
        of: the memory level that says what the dreams are.
        teaches: names of the gradient levels that learn from it, or one; empty: all of them.
        start: from the weights as they are ("live"), or from new random ones ("fresh"), which
            modules with `reset_parameters` draw.
        num_inputs: dreams that are drawn, of every class as many.
        epochs: passes over them.
        batch_size: dreams per step.
        optimizer: of the copy; its rate falls to zero along half a cosine.
        temperature: T of the memory's answers p^(1/T); above 1 for softer ones.
        class_share: how much of what is taught is the class that a dream was drawn from, in
            [0, 1]; the rest is what the memory says of it.
        bounds: (least, greatest) value of an input; what lies beyond counts as the bound.
        seed: of dreams, their order and new weights.
    """

    name: Name
    of: Name
    teaches: Annotated[Sequence[Name], OneOrMore, AsTuple] = ()
    start: Literal["live", "fresh"] = "live"
    num_inputs: Count = 60_000
    epochs: Count = 3
    batch_size: Count = 64
    optimizer: _OptimizerField = AdamW()  # type: ignore[assignment]  # what goes in
    temperature: Positive = 2.0
    class_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    bounds: tuple[Finite, Finite] = (0.0, 1.0)
    seed: int = 0
    kind: Literal["sleep"] = "sleep"

    @model_validator(mode="after")
    def _check(self) -> "Sleep":
        if self.bounds[0] >= self.bounds[1]:
            raise ValueError(f"sleep {self.name!r}: bounds {self.bounds} are empty; (0, 1) works")
        return self


@checked
@dataclass(frozen=True, config=_CONFIG)
class Concepts:
    """Level of concepts: remembers several meanings of the labels, and which of them is in force.

    Where a memory that never forgets mixes what the same inputs meant at different times, this
    tells the meanings apart, and recalls one that comes back. See
    `nestling.memory.concept_slots.ConceptSlots`. It costs next to nothing until a meaning changes.

    Args:
        name: the level's name; a read-out that mixes may name it.
        of: the memory level beside which it stands, and whose features it looks at.
        num_slots: meanings that are kept.
        num_features: of the memory's features, evenly spaced, that each looks at.
    """

    name: Name
    of: Name
    num_slots: Annotated[int, Field(ge=2)] = 6
    num_features: Count = 300
    kind: Literal["concepts"] = "concepts"


AnySpec = Level | Copy | Memory | Sleep | Concepts | DriftWatch
AnyLevel = Annotated[AnySpec, Field(discriminator="kind")]
_SPECS: TypeAdapter[AnySpec] = TypeAdapter(
    AnyLevel, config={"defer_build": True, "ser_json_inf_nan": "constants"}
)


def dump_spec(spec: AnySpec) -> dict[str, Any]:
    """What the plan says of a level as JSON-ready data."""
    data: dict[str, Any] = _SPECS.dump_python(spec, mode="json")
    if isinstance(spec, Copy) and spec.rule is None:
        del data["rule"]
    return data


def load_spec(data: Mapping[str, Any], live: AnySpec) -> AnySpec:
    """What `dump_spec` took apart, checked; an optimizer of the user's own is that of `live`."""
    if isinstance(data.get("optimizer"), str) and isinstance(live, Level | Sleep):
        data = {**data, "optimizer": live.optimizer}
    return _SPECS.validate_python(data)
