"""Sums of 7-bit codes of labelled examples: whole numbers, so that no order can change a bit.

Letters: N examples of a block, D features, M classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import DataError, MergeError
from nestling.memory.checks import check_clock
from nestling.memory.coded.integer_products import multiply_codes
from nestling.memory.exact.statistics import Statistics

LARGEST_CODE = 127
# Examples whose products fit into int32: 127^2 * 133,000 < 2^31. Then they are folded into int64.
MOST_IN_INT32 = 133_000
# Rows that are gathered before their products are summed: writing D^2 sums costs as much as the
# products of some hundred rows.
GATHERED_ROWS = 1_024
# Columns of a block of the Gram matrix, of which only the upper triangle is kept.
TRIANGLE_COLUMNS = 384
# Weight whose products are whole numbers in float64, too: 127^2 * 2^38 < 2^53. A memory that holds
# more goes on in float64.
LARGEST_WEIGHT = 2**38


class IntegerSums:
    """Exact sums of coded examples: Gram matrix, cross sums, counts; with a clock.

    G = sum_i w_i phi_i phi_i^T,   B = sum_i w_i y_i phi_i^T,   n_c = sum_i w_i y_ic

    with phi_i in {0..127}^D (`nestling.memory.coded`), y_i one-hot and w_i whole numbers. Integers
    are added without rounding: any order, any cutting into blocks or shards, `merge` and `remove`
    give the same bits. Products are made in int8 or float32, whichever the processor does well,
    gathered in int32, and folded into int64 before that could overflow. Up to 1,024 rows of codes
    wait to be summed, until sums are read, saved, merged or taken away from.

    Args:
        num_features: D.
        num_outputs: M to begin with.

    >>> sums = IntegerSums(2, 2)
    >>> codes = torch.tensor([[1, 2], [3, 0]], dtype=torch.int8)
    >>> sums.add(codes, torch.tensor([0, 1]), torch.ones(2).long())
    >>> sums.read()["gram"].tolist(), sums.read()["cross"].tolist()
    ([[10, 2], [2, 4]], [[1, 2], [3, 0]])
    """

    def __init__(self, num_features: int, num_outputs: int) -> None:
        D, M = num_features, num_outputs
        self.clock = 0
        self.weight = 0
        self.squared_weight = 0
        self._young_DD = torch.zeros(D, D, dtype=torch.int32, device="cpu")
        self._num_young = 0
        self._old_DD: Tensor | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._num_waiting = 0
        self._cross_MD = torch.zeros(M, D, dtype=torch.int64, device="cpu")
        self._counts_M = torch.zeros(M, dtype=torch.int64, device="cpu")

    @property
    def num_features(self) -> int:
        """D."""
        return self._young_DD.shape[0]

    @property
    def num_outputs(self) -> int:
        """M."""
        return len(self._counts_M)

    @property
    def num_bytes(self) -> int:
        """Size of all sums."""
        parts = (self._young_DD, self._old_DD, self._cross_MD, self._counts_M)
        waiting = (part for pair in self._waiting for part in pair)
        return sum(p.numel() * p.element_size() for p in (*parts, *waiting) if p is not None)

    @property
    def life_targets(self) -> Tensor:
        """n_c, (M,) float64: what was seen of each class."""
        return self._counts_M.double()

    @property
    def num_effective(self) -> float:
        """(sum w)^2 / sum w^2, the number of equally weighted examples that know as much."""
        return self.weight**2 / self.squared_weight if self.squared_weight else 0.0

    @property
    def values(self) -> Statistics:
        """The same about the mean and in float64, for whoever solves; made anew at each call.

        Of the scatter matrix the upper triangle holds, as in `Statistics`. Rounded once, from exact
        integers: the same bits for every order, too.
        """
        return self.select(None)

    def select(self, chosen: Tensor | None) -> Statistics:
        """As `values`, of some of the features: their indices, rising; None for all."""
        self._sum_up()
        young_DD, old_DD, cross_MD = self._young_DD, self._old_DD, self._cross_MD
        if chosen is not None:
            young_DD = _pick(young_DD, chosen)
            old_DD = None if old_DD is None else _pick(old_DD, chosen)
            cross_MD = cross_MD[:, chosen]
        n = float(self.weight)
        total_D, counts_M = cross_MD.sum(0).double(), self._counts_M.double()
        gram_DD = young_DD.double().contiguous()
        if old_DD is not None:
            gram_DD += old_DD
        mean_D = total_D / n if n else total_D
        scatter_DD = gram_DD.addr_(total_D, mean_D, alpha=-1.0)
        cross_DM = cross_MD.T.double().addr_(mean_D, counts_M, alpha=-1.0)
        spread_M = counts_M - counts_M.square() / n if n else counts_M.clone()
        return Statistics(
            weight=n,
            squared_weight=float(self.squared_weight),
            mean=mean_D,
            scatter=scatter_DD,
            target_sum=counts_M,
            cross=cross_DM,
            target_scatter=spread_M,
            life_weight=n,
            life_mean=mean_D.clone(),
            life_scatter=scatter_DD.diagonal().clone(),
            life_targets=counts_M.clone(),
            rounding=torch.zeros_like(mean_D),
        )

    def read(self) -> dict[str, Tensor]:
        """Copies of all sums: "gram" (D, D), "cross" (M, D) and "counts" (M,), int64."""
        self._sum_up()
        gram_DD = self._young_DD.long()
        if self._old_DD is not None:
            gram_DD += self._old_DD
        gram_DD = gram_DD.triu() + gram_DD.triu(1).T
        return {"gram": gram_DD, "cross": self._cross_MD.clone(), "counts": self._counts_M.clone()}

    def grow(self, num_outputs: int) -> None:
        """Append classes that no example has; in place, exact."""
        extra = num_outputs - self.num_outputs
        if extra > 0:
            self._cross_MD = torch.nn.functional.pad(self._cross_MD, (0, 0, 0, extra))
            self._counts_M = torch.nn.functional.pad(self._counts_M, (0, extra))

    def add(self, codes_ND: Tensor, labels_N: Tensor, weight_N: Tensor) -> None:
        """Let a block arrive.

        Args:
            codes_ND: (N, D) int8, 0 to 127.
            labels_N: (N,) int64, below M.
            weight_N: (N,) int64 >= 0; all weights together stay below 2^38.
        """
        self._sum(codes_ND, labels_N, weight_N, 1)
        self.clock += len(codes_ND)

    def remove(self, codes_ND: Tensor, labels_N: Tensor, weight_N: Tensor, clock: int) -> None:
        """Take away a block that arrived from `clock` on; as if it had never been.

        Raises:
            DataError: more is taken than there is, of all or of one class or feature, or at a
                clock that has not been yet; nothing is changed then.
        """
        check_clock(clock, len(codes_ND), self.clock)
        taken_M = torch.zeros_like(self._counts_M).index_add_(0, labels_N, weight_N)
        short_M = taken_M > self._counts_M
        if bool(short_M.any()):
            label = int(short_M.nonzero()[0])
            raise DataError(
                f"remove of weight {int(taken_M[label])} of class {label}, of which the memory "
                f"holds {int(self._counts_M[label])}; remove only what was added"
            )
        self._sum_up()
        rest = self.copy()
        rest._sum(codes_ND, labels_N, weight_N, -1)
        diagonal_D = rest._young_DD.diagonal().long()
        if rest._old_DD is not None:
            diagonal_D = diagonal_D + rest._old_DD.diagonal()
        if bool((diagonal_D < 0).any()) or bool((rest._cross_MD < 0).any()):
            raise DataError("remove of examples that this memory never saw; give them as added")
        vars(self).update(vars(rest))

    def merge(self, other: "IntegerSums", may_grow: bool = True) -> None:
        """Add all that another has seen; both are brought to the later clock.

        Raises:
            MergeError: different M that may not grow.
        """
        if not may_grow and self.num_outputs != other.num_outputs:
            raise MergeError(
                f"cannot merge memories of {self.num_outputs} and {other.num_outputs} outputs"
            )
        most = max(self.num_outputs, other.num_outputs)
        self._sum_up()
        other._sum_up()
        self.grow(most)
        added = other.copy()
        added.grow(most)
        if self._num_young + added._num_young > MOST_IN_INT32:
            self._fold()
        if added._old_DD is not None:
            self._add_old(added._old_DD)
        self._young_DD += added._young_DD
        self._num_young += added._num_young
        self._cross_MD += added._cross_MD
        self._counts_M += added._counts_M
        self.weight += added.weight
        self.squared_weight += added.squared_weight
        self.clock = max(self.clock, other.clock)

    def copy(self) -> "IntegerSums":
        """The same in memory of its own."""
        twin = IntegerSums(0, 0)
        for name, value in vars(self).items():
            setattr(twin, name, value.clone() if isinstance(value, Tensor) else value)
        twin._waiting = list(self._waiting)
        return twin

    def state_dict(self) -> dict[str, object]:
        """Everything, of the symmetric matrix one triangle; equal sums give equal bits."""
        gram_DD = self.read()["gram"]
        rows, columns = _index_triangle(self.num_features)
        packed = gram_DD[rows, columns]
        # No product of two features is larger than the larger of their squares.
        is_small = not packed.numel() or int(packed.max()) < 2**31
        return {
            "clock": self.clock,
            "weight": self.weight,
            "squared_weight": self.squared_weight,
            "gram_triangle": packed.int() if is_small else packed,
            "cross": self._cross_MD.clone(),
            "counts": self._counts_M.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._waiting, self._num_waiting = [], 0
        rows, columns = _index_triangle(self.num_features)
        gram_DD = torch.zeros_like(self._young_DD, dtype=torch.int64)
        gram_DD[rows, columns] = state["gram_triangle"].long()
        gram_DD[columns, rows] = state["gram_triangle"].long()
        self.clock, self.weight = state["clock"], state["weight"]
        self.squared_weight = state["squared_weight"]
        self._cross_MD, self._counts_M = state["cross"].clone(), state["counts"].clone()
        if self.weight <= MOST_IN_INT32:
            self._young_DD, self._old_DD = gram_DD.int(), None
            self._num_young = self.weight
        else:
            self._young_DD, self._old_DD = torch.zeros_like(gram_DD, dtype=torch.int32), gram_DD
            self._num_young = 0

    def _sum(self, codes_ND: Tensor, labels_N: Tensor, weight_N: Tensor, sign: int) -> None:
        if bool((weight_N == 1).all()):
            for start in range(0, len(codes_ND), GATHERED_ROWS):
                chosen = slice(start, start + GATHERED_ROWS)
                if sign > 0:
                    self._gather(codes_ND[chosen], labels_N[chosen])
                else:
                    self._add_products(codes_ND[chosen], labels_N[chosen], sign)
        else:
            # Whole numbers below 2^53 are exact in float64.
            wide_ND = codes_ND.double()
            self._add_old(((wide_ND * weight_N[:, None]).T @ wide_ND).long(), sign)
            weighted_ND = codes_ND.long() * weight_N[:, None]
            self._cross_MD.index_add_(0, labels_N, weighted_ND, alpha=sign)
        self._counts_M.index_add_(0, labels_N, weight_N, alpha=sign)
        self.weight += sign * int(weight_N.sum())
        self.squared_weight += sign * int((weight_N * weight_N).sum())

    def _gather(self, codes_ND: Tensor, labels_N: Tensor) -> None:
        self._waiting.append((codes_ND.clone(), labels_N.clone()))
        self._num_waiting += len(codes_ND)
        if self._num_waiting >= GATHERED_ROWS:
            self._sum_up()

    def _sum_up(self) -> None:
        """Add what waits; no bit depends on when."""
        if self._waiting:
            codes, labels = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
            self._waiting, self._num_waiting = [], 0
            self._add_products(codes, labels, 1)

    def _add_products(self, codes_ND: Tensor, labels_N: Tensor, sign: int) -> None:
        if self._num_young + len(codes_ND) > MOST_IN_INT32:
            self._fold()
        # The upper triangle of blocks tells all, and is two thirds of the work.
        for start in range(0, self.num_features, TRIANGLE_COLUMNS):
            rows = slice(start, start + TRIANGLE_COLUMNS)
            products = multiply_codes(codes_ND[:, rows].T, codes_ND[:, start:])
            self._young_DD[rows, start:].add_(products, alpha=sign)
        self._num_young += len(codes_ND)
        hot_MN = labels_N == torch.arange(self.num_outputs, device="cpu")[:, None]
        self._cross_MD.add_(multiply_codes(hot_MN.char(), codes_ND), alpha=sign)

    def _fold(self) -> None:
        """Move what int32 holds into int64."""
        self._add_old(self._young_DD)
        self._young_DD.zero_()
        self._num_young = 0

    def _add_old(self, sums_DD: Tensor, sign: int = 1) -> None:
        if self._old_DD is None:
            self._old_DD = torch.zeros_like(self._young_DD, dtype=torch.int64)
        self._old_DD.add_(sums_DD, alpha=sign)


def is_whole(weight_N: Tensor, held: int) -> bool:
    """Whether weights are whole numbers that, with the weight that is held, stay below 2^38.

    >>> is_whole(torch.tensor([1.0, 2.0]), 0), is_whole(torch.tensor([0.5]), 0)
    (True, False)
    """
    total = float(weight_N.sum()) + held
    return total < LARGEST_WEIGHT and not bool((weight_N != weight_N.round()).any())


def _pick(sums_DD: Tensor, chosen: Tensor) -> Tensor:
    """Rows and columns of some features; a view of it where they are evenly spaced, and faster."""
    steps = chosen.diff().unique()
    if len(steps) == 1:
        spaced = slice(int(chosen[0]), int(chosen[-1]) + 1, int(steps[0]))
        return sums_DD[spaced, spaced]
    return sums_DD[chosen[:, None], chosen]


def _index_triangle(num_features: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.triu_indices(num_features, num_features, device="cpu", dtype=torch.long)
    return rows, columns
