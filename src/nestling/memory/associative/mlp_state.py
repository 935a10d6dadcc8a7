"""Fast state of a two-layer residual MLP that is an associative memory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.memory.associative.fast_state import FastState, check_state
from nestling.memory.associative.linear_loop import open_state
from nestling.memory.associative.write_rule import WriteRule

# Axes: B samples, H heads, D width of keys and values, M hidden width.


@dataclass(frozen=True)
class DeepFastState:
    """State of memories M(z) = z + W_1 gelu(W_2 z), one for each sample and head.

    [Behrouz et al., Nested Learning, equation 89]

    Args:
        outer: of W_1, (B, H, D, M).
        inner: of W_2, (B, H, M, D).
    """

    outer: FastState
    inner: FastState

    @classmethod
    def from_initial(cls, outer_HDM: Tensor, inner_HMD: Tensor, num_samples: int) -> Self:
        """The same initial memory for every sample; gradients reach it (a learned start).

        At most one of the two may be zero: where both are, no gradient ever moves them.
        """
        return cls(
            FastState.from_initial(outer_HDM, num_samples),
            FastState.from_initial(inner_HMD, num_samples),
        )

    @classmethod
    def draw(
        cls,
        num_samples: int,
        num_heads: int,
        width: int,
        hidden: int,
        generator: torch.Generator,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """The identity map with random features: W_1 = 0, W_2 normal of variance 1 / D.

        >>> DeepFastState.draw(2, 1, 4, 8, torch.Generator().manual_seed(0)).inner.weights.shape
        torch.Size([2, 1, 8, 4])
        """
        shape = (num_heads, hidden, width)
        inner = torch.randn(shape, generator=generator, device=device, dtype=dtype)
        outer = torch.zeros((num_heads, width, hidden), device=device, dtype=dtype)
        return cls.from_initial(outer, inner / math.sqrt(width), num_samples)

    def detach(self) -> Self:
        """The same values, cut off from the graph: where back-propagation through time ends."""
        return type(self)(self.outer.detach(), self.inner.detach())

    def to(self, dtype: torch.dtype) -> Self:
        """The same state in another floating-point type."""
        return type(self)(self.outer.to(dtype), self.inner.to(dtype))

    def select(self, samples_N: Tensor) -> Self:
        """State of some samples, in this order: (N,) integers or (B,) truth values."""
        return type(self)(self.outer.select(samples_N), self.inner.select(samples_N))

    @property
    def counts_in_block(self) -> tuple[int, ...]:
        """Tokens of the block under way, of each sample."""
        return self.inner.counts_in_block

    @classmethod
    def merge(cls, parts: Sequence[Self], rows: Sequence[Sequence[int]]) -> Self:
        """One state of the parts of a batch, as `FastState.merge`."""
        outer = FastState.merge([part.outer for part in parts], rows)
        return cls(outer, FastState.merge([part.inner for part in parts], rows))

    def state_dict(self) -> dict[str, dict[str, Tensor | int]]:
        """All of it by name, to be saved; `from_state_dict` restores it."""
        return {"outer": self.outer.state_dict(), "inner": self.inner.state_dict()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Mapping[str, Tensor | int]]) -> Self:
        """The state that `state_dict` gave; ForeignSnapshot if it is none."""
        outer, inner = state.get("outer", {}), state.get("inner", {})
        return cls(FastState.from_state_dict(outer), FastState.from_state_dict(inner))


def check_deep_state(state: object) -> None:
    """Raise SettingError unless a state is one of an MLP memory."""
    if not isinstance(state, DeepFastState):
        raise SettingError(
            f"state={type(state).__name__} of an MLP memory; a DeepFastState works, "
            "e.g. DeepFastState.draw(...)"
        )


def open_deep_state(
    rule: WriteRule, state: DeepFastState, axes_BHD: tuple[int, int, int], with_momentum: bool
) -> DeepFastState:
    """A state as a rule needs it: with a momentum, zero where there was none yet.

    Raises:
        SettingError: a rule that an MLP cannot follow, a state that another rule left.
        ShapeMismatch: a state of other samples, heads or widths.
    """
    if rule.window > 1 or rule.swapped or rule.objective.erase != 1:
        raise SettingError(
            f"window={rule.window}, swapped={rule.swapped}, erase={rule.objective.erase} for an "
            "MLP memory; 1, False and 1 work; double_erase=True is the printed form"
        )
    hidden = state.inner.weights.shape[2] if state.inner.weights.dim() == 4 else -1
    num_samples, num_heads, width = axes_BHD
    check_state(state.inner, (num_samples, num_heads, hidden, width))
    check_state(state.outer, (num_samples, num_heads, width, hidden))
    return replace(
        state,
        outer=open_state(rule, state.outer, with_momentum),
        inner=open_state(rule, state.inner, with_momentum),
    )
