"""What every closed-form classifier is, and the checks that they share.

Letters: N examples of a block, D inputs, K classes, B classes of a block.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from nestling.core.errors import DataError, NotFitted, SettingError, ShapeMismatch
from nestling.memory.checks import check_inputs, check_labels


class ClosedForm(Protocol):
    """Protocol of classifiers in closed form: one pass over the data, no gradients."""

    @property
    def num_classes(self) -> int:
        """K, the largest label so far + 1."""
        ...

    def add(self, x: Tensor, y: Tensor) -> None:
        """Learn a block: x (N, D) floats, y (N,) integers of 0 or more; N = 0 is a no-op."""
        ...

    def predict(self, x: Tensor) -> Tensor:
        """Scores (N, K), higher is likelier; -inf for a label below K that was never seen."""
        ...

    def count_bytes(self) -> int:
        """Size of what is kept; it grows with the classes, not with the examples."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that it knows and how it was built."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the classifier that was saved; ForeignSnapshot if it was built otherwise."""
        ...


# Inputs that lie farther from zero than this are measured from their mean in the first block:
# squares of Unix times (1.7e9) have no digits left for what varies.
FAR_INPUT = 1e5


@dataclass(frozen=True)
class BlockMeans:
    """A block, class by class.

    Args:
        labels: (B,) the labels that occur, ascending.
        index: (N,) position of each example's label in `labels`.
        counts: (B,) examples of each, float64.
        means: (B, D) float64.
    """

    labels: Tensor
    index: Tensor
    counts: Tensor
    means: Tensor


def check_width(num_inputs: int) -> int:
    """The number of inputs; SettingError unless it is 1 or more."""
    if num_inputs < 1:
        raise SettingError(f"{num_inputs} inputs; 1 or more works")
    return num_inputs


def check_block(x: Tensor, y: Tensor, num_inputs: int, num_known: int = 0) -> tuple[Tensor, Tensor]:
    """x as (N, D) float64 and y as (N,) int64 on the CPU.

    Args:
        x, y: a block.
        num_inputs: D.
        num_known: classes so far.

    Raises:
        ShapeMismatch, NonFiniteInput, UnknownLabel: as their names say.
    """
    x = check_inputs(x, num_inputs).to(torch.float64)
    y = check_labels(y, None, num_known)
    if len(x) != len(y):
        raise ShapeMismatch(f"{len(x)} inputs and {len(y)} labels; one label each works")
    return x, y


def check_query(x: Tensor, num_inputs: int, counts_K: Tensor) -> Tensor:
    """x as (N, D) float64; NotFitted if no class was seen yet."""
    if not len(counts_K):
        raise NotFitted("no class was seen yet; add(x, y) first")
    return check_inputs(x, num_inputs).to(torch.float64)


def check_sums(sums: Iterable[Tensor]) -> None:
    """Raise DataError if adding a block made a sum overflow; call it before keeping them."""
    if not all(bool(values.isfinite().all()) for values in sums):
        raise DataError("inputs so large that their squares overflow; scale them down")


def choose_origin(x_ND: Tensor) -> Tensor:
    """Where inputs are measured from, (D,): zero, or the mean of those that lie far off.

    Args:
        x_ND: the first block of all, one example or more.

    >>> choose_origin(torch.tensor([[1.0, 1.6e9], [2.0, 1.8e9]], dtype=torch.float64)).tolist()
    [0.0, 1700000000.0]
    """
    mean_D = x_ND.mean(0)
    return mean_D.where(mean_D.abs() > FAR_INPUT, 0.0)


def add_constant(phi_NF: Tensor, origin_D: Tensor) -> Tensor:
    """Features with a column of ones where inputs are measured from anywhere but zero.

    Without it every border between classes would pass through the origin, which is where it is by
    the chance of the first block.
    """
    if not bool(origin_D.any()):
        return phi_NF
    return torch.cat((phi_NF, phi_NF.new_ones(len(phi_NF), 1)), dim=1)


def measure_block(x_ND: Tensor, y_N: Tensor) -> BlockMeans:
    """Count and mean of each class of a block of one or more examples."""
    labels_B, index_N, counts_B = torch.unique(y_N, return_inverse=True, return_counts=True)
    sums_BD = torch.zeros(len(labels_B), x_ND.shape[1], dtype=torch.float64, device="cpu")
    sums_BD.index_add_(0, index_N, x_ND)
    wide_B = counts_B.to(torch.float64)
    return BlockMeans(labels_B, index_N, wide_B, sums_BD / wide_B[:, None])


def grow_rows(values: Tensor, num_rows: int) -> Tensor:
    """A copy of (K, ...) with zero rows appended up to `num_rows`.

    >>> grow_rows(torch.ones(1), 2)
    tensor([1., 0.])
    """
    grown = values.new_zeros(max(num_rows, len(values)), *values.shape[1:])
    grown[: len(values)] = values
    return grown


def encode_block(y_N: Tensor, num_classes: int) -> Tensor:
    """One-hot targets (N, K) float64."""
    one_hot_NK = torch.zeros(len(y_N), num_classes, dtype=torch.float64, device="cpu")
    return one_hot_NK.scatter_(1, y_N[:, None], 1.0)


def mask_unseen(scores_NK: Tensor, counts_K: Tensor) -> Tensor:
    """Scores with -inf in the columns of classes that were never seen."""
    return scores_NK.masked_fill(counts_K == 0, -torch.inf)


def count_tensors(values: Iterable[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(value.numel() * value.element_size() for value in values)


def copy_sums(state: Mapping[str, Any], names: Iterable[str]) -> dict[str, Tensor]:
    """The named tensors of a saved state, in memory of their own."""
    return {name: torch.as_tensor(state[name], device="cpu").clone() for name in names}
