"""Integer sums of each class: from them examples like those that came can be drawn again.

Axis letters: N examples, D values of an input, K classes, C codes, T = D (D + 1) / 2 pairs.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import DataError, ForeignSnapshot, MergeError, ShapeMismatch

# Codes are 0 ... 127: two of them multiply to less than 2^14.
NUM_CODES = 128
# 127^2 n < 2^24: so many products are summed exactly in float32.
MOST_ROWS = 1_040
# Rows that wait as codes until they are summed: a product of few rows costs as one of many.
NUM_GATHERED = 256
# Columns of a product that are computed at once.
_WIDTH = 256


class ClassSums:
    """Exact integer sums of each class's codes: counts, histograms and second moments.

    n_k = sum 1,  h_kdc = sum [code_d = c],  S_k = sum code code^T,  over the examples of class k

    All are sums of integers, so any order, any cutting into blocks, merging and removal give the
    same bits, up to 5e14 examples. Second moments are computed in float32 on bounded blocks, where
    they are exact, and folded into 64-bit totals. Up to 256 rows wait as codes before they are
    summed; asking for the sums sums them up.

    Args:
        num_inputs: D.

    >>> sums = ClassSums(2)
    >>> sums.add(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8), torch.tensor([0, 0]))
    >>> sums.sum_up()
    >>> sums.counts.tolist(), sums.moments.tolist()
    ([2], [[10, 14, 20]])
    """

    def __init__(self, num_inputs: int) -> None:
        self.num_inputs = num_inputs
        self.counts = torch.zeros(0, dtype=torch.int64, device="cpu")
        self.histograms = torch.zeros(0, num_inputs, NUM_CODES, dtype=torch.int64, device="cpu")
        self.moments = torch.zeros(0, _count_pairs(num_inputs), dtype=torch.int64, device="cpu")
        # Products of at most MOST_ROWS rows by class, (D, D) float32, and how many rows.
        self._products: dict[int, Tensor] = {}
        self._num_rows: dict[int, int] = {}
        self._gathered: list[tuple[Tensor, Tensor]] = []

    @property
    def num_examples(self) -> int:
        """Examples so far, those that wait included."""
        return int(self.counts.sum()) + sum(len(labels_N) for _, labels_N in self._gathered)

    def add(self, codes_ND: Tensor, labels_N: Tensor) -> None:
        """Add examples.

        Args:
            codes_ND: (N, D) uint8, 0 to 127.
            labels_N: (N,) int64, 0 or more.

        Raises:
            ShapeMismatch: they do not fit each other or `num_inputs`; nothing is changed.
            DataError: a code beyond 127 or a label below 0; nothing is changed.
        """
        self._check(codes_ND, labels_N)
        if len(labels_N) == 0:
            return
        for codes, labels in zip(codes_ND.split(MOST_ROWS), labels_N.split(MOST_ROWS), strict=True):
            self._gathered.append((codes.clone(), labels.clone()))
            if sum(len(waiting) for _, waiting in self._gathered) >= NUM_GATHERED:
                self._take_gathered()

    def sum_up(self) -> None:
        """Sum what waits, so that `counts`, `histograms` and `moments` say everything."""
        self._take_gathered()
        for label in self._products:
            self._fold(label)
        self._products.clear()
        self._num_rows.clear()

    def remove(self, codes_ND: Tensor, labels_N: Tensor) -> None:
        """Take examples out again: what is left is equal, bit for bit, to never having seen them.

        Raises:
            DataError: they were not all among the examples; nothing is changed.
        """
        gone = ClassSums(self.num_inputs)
        gone.add(codes_ND, labels_N)
        gone.sum_up()
        self.sum_up()
        num = len(gone.counts)
        if num > len(self.counts) or bool((self.histograms[:num] < gone.histograms).any()):
            raise DataError(
                "some of these examples were not summed, so they cannot be removed; give those "
                "that were added, with their labels"
            )
        self.counts[:num] -= gone.counts
        self.histograms[:num] -= gone.histograms
        self.moments[:num] -= gone.moments
        left = self.counts.nonzero()
        num_left = int(left[-1]) + 1 if len(left) else 0
        self.counts, self.histograms, self.moments = (
            sums[:num_left].clone() for sums in (self.counts, self.histograms, self.moments)
        )

    def merge(self, other: "ClassSums") -> None:
        """Add the sums of other examples, e.g. of another device; `other` stays what it says.

        Raises:
            MergeError: the other sums are of inputs of another size.
        """
        if other.num_inputs != self.num_inputs:
            raise MergeError(
                f"cannot merge sums of inputs of {other.num_inputs} values into sums of "
                f"{self.num_inputs}; merge those of the same input"
            )
        other.sum_up()
        self.sum_up()
        num = len(other.counts)
        self._grow(num)
        self.counts[:num] += other.counts
        self.histograms[:num] += other.histograms
        self.moments[:num] += other.moments

    def state_dict(self) -> dict[str, Any]:
        """The sums, second moments as a packed triangle; tensors are copies."""
        self.sum_up()
        return {
            "num_inputs": self.num_inputs,
            "counts": self.counts.clone(),
            "histograms": self.histograms.clone(),
            "moments": self.moments.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the sums that were saved.

        Raises:
            ForeignSnapshot: they are of inputs of another size; nothing is changed.
        """
        if state["num_inputs"] != self.num_inputs:
            raise ForeignSnapshot(
                f"the state is of inputs of {state['num_inputs']} values, these sums of "
                f"{self.num_inputs}; load it where the inputs are alike"
            )
        self._products, self._num_rows, self._gathered = {}, {}, []
        self.counts = state["counts"].clone()
        self.histograms = state["histograms"].clone()
        self.moments = state["moments"].clone()

    def _check(self, codes_ND: Tensor, labels_N: Tensor) -> None:
        if codes_ND.ndim != 2 or codes_ND.shape != (len(labels_N), self.num_inputs):
            raise ShapeMismatch(
                f"codes {tuple(codes_ND.shape)} and {len(labels_N)} labels; codes of shape "
                f"({len(labels_N)}, {self.num_inputs}) work"
            )
        if codes_ND.dtype != torch.uint8 or (len(codes_ND) and int(codes_ND.max()) >= NUM_CODES):
            raise DataError(
                f"codes of {codes_ND.dtype}, up to {codes_ND.max()}; uint8 up to 127 works"
            )
        if len(labels_N) and int(labels_N.min()) < 0:
            raise DataError(f"label {int(labels_N.min())}; classes are 0, 1, ...")

    def _take_gathered(self) -> None:
        if not self._gathered:
            return
        codes_ND, labels_N = (torch.cat(parts) for parts in zip(*self._gathered, strict=True))
        self._gathered = []
        self._grow(int(labels_N.max()) + 1)
        labels_N, order_N = labels_N.sort(stable=True)
        codes_ND = codes_ND[order_N]
        # Place by place, so that the counts that are written lie close together.
        places_D = torch.arange(self.num_inputs, dtype=torch.int64, device="cpu") * NUM_CODES
        places_DN = places_D[:, None] + labels_N * (self.num_inputs * NUM_CODES)
        places = places_DN.add_(codes_ND.T).reshape(-1)
        ones = torch.ones(1, dtype=torch.int64, device="cpu").expand(len(places))
        self.histograms.view(-1).scatter_add_(0, places, ones)
        nums_K = torch.bincount(labels_N, minlength=len(self.counts))
        self.counts += nums_K
        for label, rows_ND in enumerate(codes_ND.float().split(nums_K.tolist())):
            for block_ND in rows_ND.split(MOST_ROWS):
                if len(block_ND):
                    self._multiply(label, block_ND)

    def _multiply(self, label: int, rows_ND: Tensor) -> None:
        """Add products of at most MOST_ROWS rows of one class."""
        if self._num_rows.get(label, 0) + len(rows_ND) > MOST_ROWS:
            self._fold(label)
        if label not in self._products:
            shape = (self.num_inputs, self.num_inputs)
            self._products[label] = torch.zeros(shape, dtype=torch.float32, device="cpu")
        products_DD = self._products[label]
        for start in range(0, self.num_inputs, _WIDTH):  # what lies below the diagonal is spared
            stop = start + _WIDTH
            products_DD[start:stop, start:].addmm_(rows_ND[:, start:stop].T, rows_ND[:, start:])
        self._num_rows[label] = self._num_rows.get(label, 0) + len(rows_ND)

    def _fold(self, label: int) -> None:
        """Move the products of one class into its 64-bit totals."""
        products_DD = self._products[label]
        upper_T = _find_upper(self.num_inputs)
        self.moments[label] += products_DD.view(-1)[upper_T].to(torch.int64)
        products_DD.zero_()
        self._num_rows[label] = 0

    def _grow(self, num_classes: int) -> None:
        missing = num_classes - len(self.counts)
        if missing > 0:
            self.counts, self.histograms, self.moments = (
                torch.cat([sums, sums.new_zeros(missing, *sums.shape[1:])])
                for sums in (self.counts, self.histograms, self.moments)
            )


def unpack_triangle(moments_T: Tensor, num_inputs: int) -> Tensor:
    """The whole symmetric matrix of a packed upper triangle: (T,) -> (D, D).

    >>> unpack_triangle(torch.tensor([1, 2, 3]), 2).tolist()
    [[1, 2], [2, 3]]
    """
    whole_DD = moments_T.new_zeros(num_inputs, num_inputs)
    upper_T = _find_upper(num_inputs)
    whole_DD.view(-1)[upper_T] = moments_T
    return whole_DD + whole_DD.triu(1).T


def _count_pairs(num_inputs: int) -> int:
    return num_inputs * (num_inputs + 1) // 2


@functools.lru_cache(maxsize=2)
def _find_upper(num_inputs: int) -> Tensor:
    """Places of the upper triangle in a flattened (D, D): (T,) int64."""
    places_2T: Tensor = torch.triu_indices(num_inputs, num_inputs, device="cpu")
    return places_2T[0] * num_inputs + places_2T[1]
