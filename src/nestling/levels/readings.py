"""Statistics of a level while it learns: clock, cost, relative change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nestling.core.params import wide_dtype

PERIODS_UNTIL_DEAD = 20
UPDATES_PER_MEASUREMENT = 100


@dataclass(frozen=True)
class LevelReading:
    """Statistics of a level: updates, refusals, relative change, learning rate, gate factor.

    Attributes:
        level: its name.
        kind: "gradient", "copy", "memory", "concepts", "sleep" or "watch".
        num_parameters: scalars that it owns, copies or keeps.
        share: of the model's trainable scalars, in [0, 1].
        period: optimizer steps between two updates.
        age: steps since its last boundary.
        num_steps: optimizer steps that it has seen.
        num_updates: updates that its optimizer made and that stand.
        num_refused: updates that were undone because the judge refused them.
        relative_change: mean ||change|| / ||weights|| per update since the last reading.
        factor: last value of its gates, in [0, 1].
        lr: its optimizer's rate, of a copy its outer rule's; None for a copy without.
        share_backward_skipped: steps without a backward pass through it, in [0, 1].
        seconds: spent in its updates; of a memory, in taking examples in, solving and answering.
        change_since_validation: ||now - then|| / ||then|| since a person last validated it; None
            if nobody has.
    """

    level: str
    kind: str
    num_parameters: int
    share: float
    period: int
    age: int
    num_steps: int
    num_updates: int
    num_refused: int = 0
    relative_change: float = 0.0
    factor: float = 1.0
    lr: float | None = None
    share_backward_skipped: float = 0.0
    seconds: float = field(default=0.0, compare=False)
    change_since_validation: float | None = None


class ChangeMeter:
    """How fast a level's parameters move, and whether that is out of its band.

    Args:
        params: the level's parameters as they are now.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.anchor = [param.detach().clone() for param in params]
        self.anchored_at = 0
        self.mean_change = 0.0
        self.ringing = ""

    @torch.no_grad()
    def measure(
        self,
        params: Sequence[Tensor],
        num_updates: int,
        band: tuple[float, float],
        should_move: bool,
    ) -> tuple[str, str] | None:
        """Mean relative change per update since the last measurement.

        Args:
            params: as they are now.
            num_updates: of the level so far.
            band: (low, high) of the mean relative change per update.
            should_move: whether its rate and gates are open.

        Returns: (kind, text) of an alarm; None if all is well or the same alarm goes on.
        """
        num_new = num_updates - self.anchored_at
        if num_new == 0:
            return None
        base = norm(self.anchor)
        # In place: a fresh tensor of this size costs more than the arithmetic.
        torch._foreach_sub_(self.anchor, list(params))
        moved = norm(self.anchor)
        torch._foreach_copy_(self.anchor, list(params))
        if not math.isfinite(moved):
            self.mean_change = math.inf
        else:
            # Weights that start at zero have no relative change.
            self.mean_change = moved / base / num_new if base > 0 else 0.0
        if moved == 0.0 and num_new < PERIODS_UNTIL_DEAD:
            return None  # too early to tell: the count goes on from the same anchor
        self.anchored_at = num_updates
        shown = f"changes by {self.mean_change:.3g} per update, band {band[0]:g} to {band[1]:g}"
        if moved == 0.0 and should_move:
            text = f"did not move in {num_new} updates; check its gradient"
            return self._ring("dead", text)
        if self.mean_change > band[1]:
            return self._ring("runaway", f"{shown}; lower its lr or set trust")
        if self.mean_change < band[0] and base > 0 and should_move:
            return self._ring("sluggish", f"{shown}; raise its lr or widen its band")
        self.ringing = ""
        return None

    def state_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """What the next measurement depends on; `names` are those of the parameters."""
        return {
            "anchored_at": self.anchored_at,
            "mean_change": self.mean_change,
            "ringing": self.ringing,
            "anchor": {n: v.clone() for n, v in zip(names, self.anchor, strict=True)},
        }

    def load_state_dict(
        self, state: Mapping[str, Any], names: Sequence[str], params: Sequence[Tensor]
    ) -> None:
        """Take over what `state_dict` gave, each anchor beside its parameter."""
        self.anchored_at, self.mean_change = state["anchored_at"], state["mean_change"]
        self.ringing = state["ringing"]
        self.anchor = [
            state["anchor"][name].to(param.device, copy=True)
            for name, param in zip(names, params, strict=True)
        ]

    def _ring(self, kind: str, text: str) -> tuple[str, str] | None:
        is_new, self.ringing = kind != self.ringing, kind
        return (kind, text) if is_new else None


def norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm of all tensors together, as a wide float.

    >>> norm([torch.tensor([3.0]), torch.tensor([4.0])])
    5.0
    """
    # Half precision is too coarse to square in.
    is_half = any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in tensors)
    dtype = torch.float32 if is_half else None
    norms = torch._foreach_norm(list(tensors), 2, dtype=dtype)
    wide = torch.stack([value.to(wide_dtype(value.device)) for value in norms])
    return float(wide.square().sum().sqrt())
