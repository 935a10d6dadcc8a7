"""Fast state of an associative memory: its weights, per sample and head, given in and out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self, cast

import torch
from torch import Tensor

from nestling.core.errors import ForeignSnapshot, SettingError, ShapeMismatch

# Axes: B samples, H heads, V width of a value, D width of a key, W tokens of a window less one.


@dataclass(frozen=True)
class FastState:
    """State of linear associative memories: one matrix for each sample and head.

    It is never changed: a write returns another one. All of what a memory knows between two calls
    is here, so a stream may be cut anywhere.

    Args:
        weights: (B, H, V, D) the memories' matrices; under the retentions "kl" and "lq" what they
            are read off, see `find_weights`.
        momentum: (B, H, V, D) their running sum of writes; None without momentum.
        in_force: (B, H, V, D) weights by which errors are measured until the block of tokens
            that is under way ends; None between blocks.
        num_in_block: tokens of that block that have come, 0 between blocks; one number for all
            samples, or one for each where padding has set them apart.
        recent_keys: (B, H, W, D) of the window of the Omega rule, oldest first.
        recent_values: (B, H, W, V) likewise.
        recent_rates: (B, H, W) likewise; 0 before the first token.
        anchor: (B, H, V, D) the initial state, under the retention "initial" only.

    >>> FastState.zeros(2, 4, 8, 8).weights.shape
    torch.Size([2, 4, 8, 8])
    """

    weights: Tensor
    momentum: Tensor | None = None
    in_force: Tensor | None = None
    num_in_block: int | tuple[int, ...] = 0
    recent_keys: Tensor | None = None
    recent_values: Tensor | None = None
    recent_rates: Tensor | None = None
    anchor: Tensor | None = None

    @classmethod
    def zeros(
        cls,
        num_samples: int,
        num_heads: int,
        value_width: int,
        key_width: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Memories that know nothing yet: all zero."""
        shape = (num_samples, num_heads, value_width, key_width)
        return cls(torch.zeros(shape, device=device, dtype=dtype))

    @classmethod
    def from_initial(cls, weights_HVD: Tensor, num_samples: int) -> Self:
        """The same initial memory for every sample; gradients reach it (a learned start).

        Args:
            weights_HVD: (H, V, D).
            num_samples: B.
        """
        return cls(weights_HVD.expand(num_samples, *weights_HVD.shape))

    def detach(self) -> Self:
        """The same values, cut off from the graph: where back-propagation through time ends."""
        values = {name: value.detach() for name, value in self._tensors().items()}
        return type(self)(**values, num_in_block=self.num_in_block)

    def to(self, dtype: torch.dtype) -> Self:
        """The same state in another floating-point type."""
        values = {name: value.to(dtype) for name, value in self._tensors().items()}
        return type(self)(**values, num_in_block=self.num_in_block)

    def select(self, samples_N: Tensor) -> Self:
        """State of some samples, in this order: (N,) integers or (B,) truth values."""
        values = {name: value[samples_N] for name, value in self._tensors().items()}
        counts = self.num_in_block
        if isinstance(counts, tuple):
            rows = torch.arange(len(counts), device=samples_N.device)[samples_N].tolist()
            counts = share_count([counts[row] for row in rows])
        if counts == 0:
            values.pop("in_force", None)
        return type(self)(**values, num_in_block=counts)

    @property
    def counts_in_block(self) -> tuple[int, ...]:
        """`num_in_block` of each sample."""
        counts = self.num_in_block
        return counts if isinstance(counts, tuple) else (counts,) * len(self.weights)

    @classmethod
    def merge(cls, parts: Sequence[Self], rows: Sequence[Sequence[int]]) -> Self:
        """One state of the parts of a batch.

        Args:
            parts: of the same rule, one or more.
            rows: of each part, where its samples stand in the batch; together 0 to B - 1.
        """
        order = [row for part in rows for row in part]
        back = sorted(range(len(order)), key=order.__getitem__)
        counts = [count for part in parts for count in part.counts_in_block]
        # A block that is about to begin takes the weights as they are.
        forced = [replace(part, in_force=part.in_force_now) for part in parts]
        first = forced[0]._tensors()
        values = {name: torch.cat([getattr(one, name) for one in forced])[back] for name in first}
        shared = share_count([counts[place] for place in back])
        if shared == 0:
            values.pop("in_force")
        return cls(**values, num_in_block=shared)

    @property
    def in_force_now(self) -> Tensor:
        """(B, H, V, D) weights by which the next error is measured."""
        return self.weights if self.in_force is None else self.in_force

    def state_dict(self) -> dict[str, Tensor | int]:
        """All of it by name, to be saved; `from_state_dict` restores it."""
        counts = self.num_in_block
        if isinstance(counts, tuple):
            return {**self._tensors(), "num_in_block": torch.tensor(counts, device="cpu")}
        return {**self._tensors(), "num_in_block": counts}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor | int]) -> Self:
        """The state that `state_dict` gave.

        Raises:
            ForeignSnapshot: names that are no memory's.
        """
        known = {field.name for field in fields(cls)}
        if "weights" not in state or not state.keys() <= known:
            raise ForeignSnapshot(
                f"a state with {sorted(state)} is no associative memory's; "
                "what FastState.state_dict() gave works"
            )
        tensors = {name: cast(Tensor, value) for name, value in state.items()}
        counts = state.get("num_in_block", 0)
        if isinstance(counts, Tensor) and counts.dim() > 0:
            shared = share_count([int(count) for count in counts.tolist()])
        else:
            shared = int(counts)
        return cls(**{**tensors, "num_in_block": shared})  # type: ignore[arg-type]

    def _tensors(self) -> dict[str, Tensor]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def share_count(counts: Sequence[int]) -> int | tuple[int, ...]:
    """The one number that all are, or all of them.

    >>> share_count([2, 2]), share_count([2, 0]), share_count([])
    (2, (2, 0), 0)
    """
    if len(set(counts)) <= 1:
        return counts[0] if counts else 0
    return tuple(counts)


def check_state(state: FastState, expected_BHVD: tuple[int, int, int, int]) -> None:
    """Raise unless a state is one, of so many samples, heads and widths.

    Raises:
        SettingError: not a state of a linear memory.
        ShapeMismatch: of other axes.
    """
    if not isinstance(state, FastState):
        raise SettingError(
            f"state={type(state).__name__} of a linear memory; a FastState works, "
            "e.g. FastState.zeros(...)"
        )
    found = tuple(state.weights.shape)
    if found == expected_BHVD:
        return
    parts = ("samples", "heads", "value width", "key width")
    if len(found) == 4:
        wrong = [
            f"{part} {one} for {other}"
            for part, one, other in zip(parts, found, expected_BHVD, strict=True)
            if one != other
        ]
        what = ", ".join(wrong)
    else:
        what = f"shape {found}"
    raise ShapeMismatch(
        f"a state of other inputs: {what}; a state of shape {expected_BHVD} works, "
        "e.g. a new one for a new batch"
    )
