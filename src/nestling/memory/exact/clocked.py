"""Statistics with a clock: blocks arrive, fade by a half-life, are taken away and merged.

Letters: N examples, D features, M outputs.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nestling.core.errors import MergeError
from nestling.memory.checks import check_clock, check_half_life
from nestling.memory.exact.combine import align_statistics, merge_statistics, remove_block
from nestling.memory.exact.statistics import (
    SWEEP_HALF_LIVES,
    Statistics,
    add_block,
    add_life,
    decay_factor,
    decay_weights,
    export_statistics,
    grow_outputs,
    import_statistics,
    make_statistics,
    sweep,
)


class ClockedStatistics:
    """Sufficient statistics, the number of examples that arrived, and how fast they fade.

    Args:
        num_features: D.
        num_outputs: M to begin with.
        half_life: in examples, > 0.

    Raises:
        SettingError: a half-life that is not above 0.
    """

    def __init__(self, num_features: int, num_outputs: int, half_life: float = math.inf) -> None:
        self.half_life = check_half_life(half_life)
        self.values = make_statistics(num_features, num_outputs)
        self.clock = 0
        self._last_sweep = 0

    @property
    def num_features(self) -> int:
        """D."""
        return self.values.num_features

    @property
    def num_outputs(self) -> int:
        """M."""
        return self.values.num_outputs

    @property
    def weight(self) -> float:
        """Total weight, faded."""
        return self.values.weight

    @property
    def num_bytes(self) -> int:
        """Size of all sums."""
        return self.values.num_bytes

    @property
    def life_targets(self) -> Tensor:
        """(M,) sum of targets, never faded."""
        return self.values.life_targets

    @property
    def num_effective(self) -> float:
        """The number of equally weighted examples that know as much."""
        return self.values.num_effective

    def grow(self, num_outputs: int) -> None:
        """Append outputs that were zero for every example so far; in place, exact."""
        grow_outputs(self.values, num_outputs)

    @classmethod
    def of(cls, values: Statistics, clock: int) -> "ClockedStatistics":
        """Statistics that go on from given ones, with an infinite half-life."""
        clocked = cls(0, 0)
        clocked.values, clocked.clock = values, clock
        return clocked

    def add(self, phi_ND: Tensor, y_NM: Tensor, weight_N: Tensor) -> None:
        """Let a block of one example or more arrive; M as in the statistics."""
        N = phi_ND.shape[0]
        aged_N = decay_weights(weight_N, 0, self.half_life)
        add_block(self.values, phi_ND, y_NM, aged_N, decay_factor(N, self.half_life))
        add_life(self.values, phi_ND, y_NM, weight_N)
        self.clock += N
        if self.clock - self._last_sweep > SWEEP_HALF_LIVES * self.half_life:
            sweep(self.values)
            self._last_sweep = self.clock

    def remove(
        self, phi_ND: Tensor, y_NM: Tensor, weight_N: Tensor, clock: int, one_hot: bool
    ) -> None:
        """Take away a block that arrived from `clock` on; errors as in `RidgeMemory.remove`."""
        N = phi_ND.shape[0]
        check_clock(clock, N, self.clock)
        aged_N = decay_weights(weight_N, self.clock - clock - N, self.half_life)
        self.values = remove_block(self.values, phi_ND, y_NM, weight_N, aged_N, one_hot)

    def merge(self, other: "ClockedStatistics", may_grow: bool) -> None:
        """Add all of `other`, of equal D and half-life, both brought to the later clock.

        Raises:
            MergeError: different M that may not grow.
        """
        sizes = (self.values.num_outputs, other.values.num_outputs)
        if not may_grow and 0 < min(sizes) < max(sizes):
            raise MergeError(f"cannot merge memories of {sizes[0]} and {sizes[1]} outputs")
        clock = max(self.clock, other.clock)
        mine, theirs = (
            align_statistics(one.values, clock - one.clock, self.half_life, max(sizes))
            for one in (self, other)
        )
        merge_statistics(mine, theirs)
        self.values, self.clock = mine, clock

    def copy(self) -> "ClockedStatistics":
        """The same in memory of its own."""
        twin = ClockedStatistics(0, 0, self.half_life)
        twin.values, twin.clock, twin._last_sweep = self.values.copy(), self.clock, self._last_sweep
        return twin

    def state_dict(self) -> dict[str, object]:
        """Everything but the half-life."""
        return {
            "clock": self.clock,
            "last_sweep": self._last_sweep,
            "values": export_statistics(self.values),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.values = import_statistics(state["values"])
        self.clock, self._last_sweep = state["clock"], state["last_sweep"]
