"""Growing and merging modules: when a new one is due, and which two may become one.

Letters: C contexts.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from nestling.core.batches import Batch
from nestling.core.errors import SettingError
from nestling.memory.checks import check_half_life, check_saved
from nestling.memory.exact.statistics import decay_factor
from nestling.protect.columns import pack_batch, unpack_batch
from nestling.protect.routing.module_bank import ModuleBank

# A spread below this share of the mean surprise is luck, not certainty.
_LEAST_SPREAD = 0.01


class HeldBatch(NamedTuple):
    """A batch that waits: nobody knows yet whose it is."""

    batch: Batch
    read: Tensor


@dataclass
class Record:
    """What is known of one context's batches.

    Args:
        born: clock at its first batch.
        num_batches: that it learned since it was born or took in something unlike it.
        usage: the same, faded by the half-life.
        mean: running mean of its surprise, nats.
        variance: of its surprise about that mean.
        weight: how much of both running means is filled, from 0 to 1.
    """

    born: int
    num_batches: int = 0
    usage: float = 0.0
    mean: float = 0.0
    variance: float = 0.0
    weight: float = 0.0


@runtime_checkable
class MergingRouter(Protocol):
    """Protocol of routers that can compare and merge their contexts."""

    def compare_contexts(self) -> Tensor:
        """Divergences (C, C) in nats per direction, inf where one is unknown."""

    def merge(self, keep: int, drop: int) -> None:
        """Put what is known of `drop` to `keep`."""


class Growth:
    """Add a module when surprise stays high, and find modules that can be merged.

        u = (s - m_c) / max(d_c, |m_c| / 100),    grow when u > threshold `patience` times running

    s is the surprise of a batch under its best context c before it is learned; m_c and d_c are the
    running mean and standard deviation of c's surprise. Surprising batches wait: if the surprise
    lasts, they go to the new module; if it does not, they go where they fitted best. While a
    context is young (2 `warm_up` batches) it is still improving and is not judged; its first
    `warm_up` batches do not count towards m_c and d_c either. A context that took in another one
    is young again. Where a single surprising batch was taken in, m_c moves by what this changed
    in the surprise of the next, usual batch.

    Two contexts are merged if their Gaussians differ by less than `max_divergence`, or if one of
    them, `half_life` batches old or more, has less than `min_share` of all usage, batches fading
    by that half-life. The unused one goes to the context most like it.

    Args:
        threshold: u, in standard deviations.
        patience: batches in a row.
        warm_up: batches.
        surprise_half_life: of m_c and d_c, in c's own batches: a loss falls while it is learned.
        half_life: of usage, in batches.
        min_share: of usage, in [0, 1); 0 keeps unused modules for ever.
        max_divergence: symmetric divergence in nats per direction; 0 merges none.
        merge_every: batches between two looks for merges.

    Raises:
        SettingError: a setting out of its range.

    >>> growth = Growth(warm_up=2, patience=1)
    >>> for step in range(8):
    ...     growth.record(0, 1.0 + 0.1 * (step % 2))
    >>> growth.grow_when(0, 1.1), growth.grow_when(0, 9.0)
    (False, True)
    """

    def __init__(
        self,
        *,
        threshold: float = 6.0,
        patience: int = 3,
        warm_up: int = 5,
        surprise_half_life: float = 50.0,
        half_life: float = 500.0,
        min_share: float = 0.01,
        max_divergence: float = 0.1,
        merge_every: int = 50,
    ) -> None:
        for name, value, least in (
            ("patience", patience, 1),
            ("warm_up", warm_up, 1),
            ("merge_every", merge_every, 1),
            ("max_divergence", max_divergence, 0.0),
        ):
            if value < least:
                raise SettingError(f"{name}={value}; {least} or more works")
        if not threshold > 0.0 or not 0.0 <= min_share < 1.0:
            raise SettingError(
                f"threshold={threshold}, min_share={min_share}; above 0, and in [0, 1) work"
            )
        self.threshold = threshold
        self.patience = patience
        self.warm_up = warm_up
        self.surprise_half_life = check_half_life(surprise_half_life)
        self.half_life = check_half_life(half_life)
        self.min_share = min_share
        self.max_divergence = max_divergence
        self.merge_every = merge_every
        self.clock = 0
        self.records: dict[int, Record] = {}
        self.held: list[HeldBatch] = []

    def standardise(self, context: int, surprise: float) -> float | None:
        """Standardised surprise u under the best context; None while that context is young."""
        record = self.records.get(context)
        if record is None or record.num_batches < 2 * self.warm_up:
            return None
        spread = max(math.sqrt(record.variance), _LEAST_SPREAD * abs(record.mean), 1e-9)
        return (surprise - record.mean) / spread

    def is_surprising(self, context: int, surprise: float) -> bool:
        """Whether the standardised surprise is above the threshold; NaN is."""
        found = self.standardise(context, surprise)
        return found is not None and not found <= self.threshold

    def grow_when(self, context: int, surprise: float) -> bool:
        """Whether a new module is due: this batch and those that wait are all surprising."""
        return self.is_surprising(context, surprise) and len(self.held) + 1 >= self.patience

    def record(self, context: int, surprise: float | None) -> None:
        """Record that a batch was learned in a context."""
        self.clock += 1
        fade = decay_factor(1, self.half_life)
        for record in self.records.values():
            record.usage *= fade
        record = self.records.setdefault(context, Record(born=self.clock))
        record.num_batches += 1
        record.usage += 1.0
        if surprise is None or not math.isfinite(surprise) or record.num_batches <= self.warm_up:
            return
        # Exponential means that are plain means until the half-life is filled.
        fade = decay_factor(1, self.surprise_half_life)
        total = record.weight * fade + (1.0 - fade)
        step = (1.0 - fade) / total if total > 0.0 else 1.0 / (record.num_batches - self.warm_up)
        shift = surprise - record.mean
        record.mean += step * shift
        record.variance = (1.0 - step) * (record.variance + step * shift * shift)
        record.weight = total

    def shift(self, context: int, change: float) -> None:
        """Shift a context's mean surprise, in nats; NaN and infinity shift nothing."""
        if math.isfinite(change):
            self.records[context].mean += change

    def restart(self, context: int) -> None:
        """Forget a context's mean and spread of surprise, since it has just changed."""
        record = self.records[context]
        record.num_batches, record.mean, record.variance, record.weight = 0, 0.0, 0.0, 0.0

    def measure_shares(self) -> dict[int, float]:
        """Share of each context in all usage, faded by the half-life."""
        total = sum(record.usage for record in self.records.values())
        return {context: one.usage / total for context, one in self.records.items()}

    def find_merge(self, divergences_CC: Tensor) -> tuple[int, int] | None:
        """Find the nearest pair of modules (keep, drop) to merge; None if there is none.

        Args:
            divergences_CC: `MergingRouter.compare_contexts`.
        """
        shares = self.measure_shares()
        pairs = [
            (float(divergences_CC[a, b]), a, b)
            for a in shares
            for b in shares
            if a != b and shares[a] >= shares[b] and math.isfinite(float(divergences_CC[a, b]))
        ]
        for divergence, keep, drop in sorted(pairs):
            old = self.clock - self.records[drop].born >= self.half_life
            if divergence < self.max_divergence or (old and shares[drop] < self.min_share):
                return keep, drop
        return None

    def merge(self, keep: int, drop: int) -> float:
        """Merge the records of two modules; returns the share of `drop` in their usage."""
        if keep == drop or not {keep, drop} <= self.records.keys():
            raise SettingError(f"contexts {keep}, {drop}; two different of {sorted(self.records)}")
        gone = self.records.pop(drop)
        record = self.records[keep]
        share = gone.usage / (gone.usage + record.usage)
        record.usage += gone.usage
        record.born = min(record.born, gone.born)
        self.restart(keep)
        return share

    def state_dict(self) -> dict[str, Any]:
        """Clock, records and the batches that wait, with their raw examples."""
        return {
            "config": self._read_config(),
            "clock": self.clock,
            "records": {str(context): asdict(one) for context, one in self.records.items()},
            "held": [
                {k: v.clone() for k, v in {**pack_batch(one.batch), "read": one.read}.items()}
                for one in self.held
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken; ForeignSnapshot if built otherwise."""
        check_saved(state["config"], self._read_config(), "growth")
        self.clock = state["clock"]
        self.records = {int(context): Record(**one) for context, one in state["records"].items()}
        held = [{name: value.clone() for name, value in one.items()} for one in state["held"]]
        self.held = [HeldBatch(unpack_batch(columns), columns["read"]) for columns in held]

    def _read_config(self) -> dict[str, object]:
        return {
            "threshold": self.threshold,
            "patience": self.patience,
            "warm_up": self.warm_up,
            "surprise_half_life": self.surprise_half_life,
            "half_life": self.half_life,
            "min_share": self.min_share,
            "max_divergence": self.max_divergence,
            "merge_every": self.merge_every,
        }


def merge_contexts(
    bank: ModuleBank, router: MergingRouter, growth: Growth
) -> tuple[tuple[int, int], ...]:
    """Merge modules that are alike or hardly used, until none is left to merge.

    theta_keep is the average by usage, what the router knows is added exactly.

    Args:
        bank: changed.
        router: changed.
        growth: says which; changed.

    Returns: (kept, freed) slots of each merge.
    """
    merged = []
    while pair := growth.find_merge(router.compare_contexts()):
        bank.merge(*pair, share=growth.merge(*pair))
        router.merge(*pair)
        merged.append(pair)
    return tuple(merged)
