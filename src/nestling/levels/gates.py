"""Gates: factors in [0, 1] that multiply a level's update.

A gate is a specification (data, part of the plan) and a small state. Factors are
computed by the pure functions at the top of this page; `GateState` remembers what they need.
Several gates on one level multiply.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from nestling.core.checked import checked
from nestling.core.errors import SettingError
from nestling.core.params import wide_dtype, widen_half

_CONFIG = ConfigDict(extra="forbid", defer_build=True)
Share = Annotated[float, Field(ge=0.0, le=1.0)]
HalfLife = Annotated[float, Field(gt=0.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]
# Below this product of two lengths float32 begins to lose the squares that they are made of.
_SMALLEST_SIZE = 1e-30


def schedule_factor(step: int, start: int, stop: int, low: float, high: float) -> float:
    """Linear ramp from `low` at step `start` to `high` at step `stop`, constant outside.

    Args:
        step: optimizer steps so far.
        start: step at which the ramp begins.
        stop: step at which it ends; equal to `start` for a jump.
        low: factor before the ramp, in [0, 1].
        high: factor after it, in [0, 1].

    >>> [schedule_factor(t, 10, 20, 0.0, 1.0) for t in (0, 15, 30)]
    [0.0, 0.5, 1.0]
    """
    if step >= stop:
        return high
    if step <= start:
        return low
    return low + (high - low) * (step - start) / (stop - start)


def surprise_factor(loss: float, mean: float, spread: float, threshold: float) -> float:
    """sigmoid((loss - mean) / spread - threshold): near 1 when the loss is out of the ordinary.

    Args:
        loss: this step's loss.
        mean: running mean of the loss.
        spread: its running standard deviation.
        threshold: in spreads; at this surprise the gate is half open.

    >>> surprise_factor(3.0, mean=1.0, spread=1.0, threshold=2.0)
    0.5
    """
    surprise = (loss - mean) / spread if spread > 0 else 0.0
    return 1.0 / (1.0 + math.exp(min(700.0, threshold - surprise)))


def importance_factor(importance: Tensor, mean: Tensor, strength: float) -> Tensor:
    """1 / (1 + strength * F / mean(F)): small where a weight matters to what was learned.

    Args:
        importance: Fisher diagonal or any importance >= 0, shape of the parameter.
        mean: scalar (), mean of the importance over the whole level.
        strength: >= 0; 0 leaves the gate open.

    Returns: factor per weight, shape of the parameter, float32 at least, in (0, 1].

    >>> importance_factor(torch.tensor([0.0, 2.0]), torch.tensor(1.0), 0.5)
    tensor([1.0000, 0.5000])
    """
    importance, mean = widen_half(importance), widen_half(mean)
    floor = torch.finfo(importance.dtype).tiny
    return 1.0 / (1.0 + strength * importance / mean.clamp_min(floor))


def agreement_factor(gradients: list[Tensor], slow: list[Tensor]) -> float:
    """max(0, cos(g, g_slow)): closed when fast and slow data pull in opposite directions.

    Args:
        gradients: the level's gradients at this boundary, any shapes.
        slow: what they are compared with, same shapes.

    >>> agreement_factor([torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 0.0])])
    0.0
    """
    fast, slow = [widen_half(g) for g in gradients], [widen_half(s) for s in slow]
    product, size = _multiply(fast, slow)
    if not _SMALLEST_SIZE < size < math.inf:  # squares that float32 does not hold
        product, size = _multiply(
            *([t.to(wide_dtype(t.device)) for t in ts] for ts in (fast, slow))
        )
    return min(1.0, max(0.0, product / size)) if size > 0 else 1.0


def _multiply(left: list[Tensor], right: list[Tensor]) -> tuple[float, float]:
    """The product of two lists of tensors, and that of their lengths."""
    product = sum(float(torch.sum(a * b)) for a, b in zip(left, right, strict=True))
    size = math.sqrt(sum(float(a.square().sum()) for a in left))
    return product, size * math.sqrt(sum(float(b.square().sum()) for b in right))


@checked
@dataclass(frozen=True, config=_CONFIG)
class ScheduleGate:
    """Gate that ramps a level's updates up or down over optimizer steps; see `schedule_factor`."""

    start: Annotated[int, Field(ge=0)]
    stop: Annotated[int, Field(ge=0)]
    low: Share = 0.0
    high: Share = 1.0
    kind: Literal["schedule"] = "schedule"

    @model_validator(mode="after")
    def _check_ramp(self) -> "ScheduleGate":
        if self.stop < self.start:
            raise ValueError(f"ramp stops at {self.stop}, before its start {self.start}")
        return self


@checked
@dataclass(frozen=True, config=_CONFIG)
class SurpriseGate:
    """Gate that opens when the loss rises above its running mean; see `surprise_factor`.

    half_life is in optimizer steps; floor is the factor that always remains.
    """

    threshold: float = 1.0
    half_life: HalfLife = 100.0
    floor: Share = 0.0
    kind: Literal["surprise"] = "surprise"


@checked
@dataclass(frozen=True, config=_CONFIG)
class ImportanceGate:
    """Gate that shrinks updates of important weights (Fisher); see `importance_factor`.

    The importance is what `NestedOptimizer.set_importance` was given (a Fisher diagonal),
    else a running mean of squared boundary gradients (half_life in updates of the level).
    Differs: the latter squares the batch gradient, which is the Fisher diagonal divided by
    the batch size near an optimum; only its ratio to the level's mean enters, so the
    factor does not depend on the batch size.
    """

    strength: Annotated[float, Field(ge=0.0)] = 1.0
    half_life: HalfLife = 100.0
    kind: Literal["importance"] = "importance"


@checked
@dataclass(frozen=True, config=_CONFIG)
class AgreementGate:
    """Gate that shrinks updates that disagree with the mean gradient; see `agreement_factor`.

    half_life is in updates of the level; floor is the factor that always remains.
    """

    half_life: HalfLife = 10.0
    floor: Share = 0.0
    kind: Literal["agreement"] = "agreement"


@checked
@dataclass(frozen=True, config=_CONFIG)
class DriftGate:
    """Gate that opens for some optimizer steps after a drift: learn where the world has changed.

    Whoever watches says the event, see `nl.DriftWatch`, or `learner.release("drift")`; said again
    while it is open, it counts from there.

    Args:
        steps: optimizer steps for which it is open.
        on: the event that opens it.
        floor: the factor that always remains, in [0, 1].
    """

    steps: Annotated[int, Field(ge=1)]
    on: Name = "drift"
    floor: Share = 0.0
    kind: Literal["drift"] = "drift"


@checked
@dataclass(frozen=True, config=_CONFIG)
class ParentGate:
    """Hierarchical gate: multiplies a level's updates by the factor of another level's gates."""

    of: str
    kind: Literal["parent"] = "parent"


# Any of the gates that multiply a level's updates.
Gate = Annotated[
    ScheduleGate | SurpriseGate | ImportanceGate | AgreementGate | DriftGate | ParentGate,
    Field(discriminator="kind"),
]


class GateState:
    """What the gates of one level remember between steps.

    Args:
        gates: the level's gates, in the plan's order.
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        self.gates = gates
        self.mean = 0.0
        self.variance = 0.0
        self.num_losses = 0
        self.surprise = 1.0
        self.slow: list[Tensor] = []
        self.importance: list[Tensor] = []
        self.importance_is_given = False
        self.open_until = 0  # the last step for which a drift gate is open

    @property
    def awaited(self) -> set[str]:
        """Events that open a gate."""
        return {gate.on for gate in self.gates if isinstance(gate, DriftGate)}

    def hear(self, event: str, step: int) -> None:
        """Open the gates that wait for an event, said after optimizer step `step`."""
        for gate in self.gates:
            if isinstance(gate, DriftGate) and gate.on == event:
                self.open_until = step + gate.steps

    @property
    def needs_loss(self) -> bool:
        """Whether a gate wants to see the loss of every step."""
        return any(isinstance(gate, SurpriseGate) for gate in self.gates)

    def observe_loss(self, loss: float) -> None:
        """Take one step's loss into the running mean and spread.

        Args:
            loss: if it is not finite, the gate stays as it is.
        """
        gate = next((g for g in self.gates if isinstance(g, SurpriseGate)), None)
        if gate is None or not math.isfinite(loss):
            return
        opening = surprise_factor(loss, self.mean, math.sqrt(self.variance), gate.threshold)
        # Too few losses say nothing about the ordinary: the gate starts open.
        self.surprise = 1.0 if self.num_losses < 10 else gate.floor + (1 - gate.floor) * opening
        self.num_losses += 1
        keep = min(1.0 - 1.0 / self.num_losses, 2.0 ** (-1.0 / gate.half_life))
        change = loss - self.mean
        self.mean += (1.0 - keep) * change
        self.variance = keep * (self.variance + (1.0 - keep) * change * change)

    def compute_factor(
        self, step: int, gradients: list[Tensor], parents: dict[str, float]
    ) -> tuple[float, list[Tensor] | None]:
        """The product of all gates at a boundary.

        Args:
            step: optimizer steps so far.
            gradients: the level's gradients at this boundary.
            parents: level name -> last factor of that level.

        Returns: one factor for the level, and a factor per weight or None.
        """
        factor, per_weight = 1.0, None
        for gate in self.gates:
            match gate:
                case ScheduleGate():
                    factor *= schedule_factor(step, gate.start, gate.stop, gate.low, gate.high)
                case SurpriseGate():
                    factor *= self.surprise
                case DriftGate():
                    factor *= 1.0 if step <= self.open_until else gate.floor
                case AgreementGate():
                    factor *= self._agree(gate, gradients)
                case ImportanceGate():
                    per_weight = self._weigh(gate, gradients)
                case ParentGate():
                    factor *= parents[gate.of]
        return factor, per_weight

    def _agree(self, gate: AgreementGate, gradients: list[Tensor]) -> float:
        if not self.slow:
            self.slow = [widen_half(g.detach()).clone() for g in gradients]
            return 1.0
        agreement = agreement_factor(gradients, self.slow)
        wide = [widen_half(g) for g in gradients]
        torch._foreach_lerp_(self.slow, wide, 1.0 - 2.0 ** (-1.0 / gate.half_life))
        return gate.floor + (1.0 - gate.floor) * agreement

    def _weigh(self, gate: ImportanceGate, gradients: list[Tensor]) -> list[Tensor]:
        if not self.importance:
            self.importance = [torch.zeros_like(widen_half(g)) for g in gradients]
        num_weights = sum(value.numel() for value in self.importance)
        mean = torch.stack([value.sum() for value in self.importance]).sum() / num_weights
        factors = [importance_factor(value, mean, gate.strength) for value in self.importance]
        if not self.importance_is_given:
            squares = [widen_half(g.detach()).square() for g in gradients]
            torch._foreach_lerp_(self.importance, squares, 1.0 - 2.0 ** (-1.0 / gate.half_life))
        return factors

    def state_dict(self) -> dict[str, object]:
        """Everything that the next factor depends on."""
        return {
            "mean": self.mean,
            "variance": self.variance,
            "num_losses": self.num_losses,
            "surprise": self.surprise,
            "slow": [value.clone() for value in self.slow],
            "importance": [value.clone() for value in self.importance],
            "importance_is_given": self.importance_is_given,
            "open_until": self.open_until,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take over what `state_dict` gave; raises SettingError if an entry is missing."""
        if missing := self.state_dict().keys() - state.keys():
            raise SettingError(f"gate state lacks {sorted(missing)}")
        for name in self.state_dict():
            value = state[name]
            copied = [v.clone() for v in value] if isinstance(value, list) else value
            setattr(self, name, copied)


def feed_gates(gates: Mapping[str, GateState], loss: float | None) -> None:
    """Show one step's loss to the gates that want it.

    Args:
        gates: level name -> its gates.
        loss: of this step; None if nobody told.

    Raises:
        SettingError: a gate wants the loss and there is none.
    """
    watching = {name: state for name, state in gates.items() if state.needs_loss}
    for name, state in watching.items():
        if loss is None:
            raise SettingError(
                f"the surprise gate of level {name!r} needs the loss; call "
                "optimizer.observe(loss) before step(), or pass a closure"
            )
        state.observe_loss(loss)
