"""Sufficient statistics of weighted, slowly forgotten examples: mathematics of ridge regression.

Letters: N examples of a block, D features, M outputs.

An example that was the i-th (from 0) to arrive has the age T - 1 - i at clock T and counts
w 2^(-age/h) there, h being the half-life in examples. Sums are kept about their means [Chan,
Golub & LeVeque 1979], because sums about zero lose all digits when features have an offset, and
they are decayed block by block, so that no power of two of a clock is ever computed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

# Rows of the scatter that are updated at once; fewer would be slower, more would save less.
TRIANGLE_ROWS = 256
# After this many half-lives entries below TINY are set to zero: numbers on their way to
# underflow ("denormal") make every later product many times slower.
SWEEP_HALF_LIVES = 64.0
TINY = 1e-200


@dataclass
class Statistics:
    """What is kept of all examples; about their own weighted mean; float64, on the CPU.

    Args:
        weight: sum_i w_i.
        squared_weight: sum_i w_i^2, for the effective number of examples.
        mean: weighted mean of the features.
        scatter: sum_i w_i (phi_i - mean)(phi_i - mean)^T, upper triangle of blocks only; see
            `mirror_scatter`.
        target_sum: sum_i w_i y_i.
        cross: sum_i w_i (phi_i - mean)(y_i - mean y)^T.
        target_scatter: sum_i w_i (y_i - mean y)^2.
        life_weight: as `weight`, never decayed.
        life_mean: as `mean`, never decayed.
        life_scatter: the diagonal of an undecayed scatter: it gives the features' scale.
        life_targets: as `target_sum`, never decayed.
        rounding: below this a feature's `life_scatter` is rounding left over by `remove`.
    """

    weight: float
    squared_weight: float
    mean: Tensor
    scatter: Tensor
    target_sum: Tensor
    cross: Tensor
    target_scatter: Tensor
    life_weight: float
    life_mean: Tensor
    life_scatter: Tensor
    life_targets: Tensor
    rounding: Tensor

    @property
    def num_features(self) -> int:
        """D."""
        return self.mean.shape[0]

    @property
    def num_outputs(self) -> int:
        """M."""
        return self.target_sum.shape[0]

    @property
    def num_effective(self) -> float:
        """(sum w)^2 / sum w^2, the number of equally weighted examples that know as much."""
        return self.weight**2 / self.squared_weight if self.squared_weight > 0 else 0.0

    @property
    def num_bytes(self) -> int:
        """Size of all sums."""
        values = vars(self).values()
        return sum(v.numel() * v.element_size() if isinstance(v, Tensor) else 8 for v in values)

    def copy(self) -> "Statistics":
        """The same values in memory of their own."""
        return import_statistics(export_statistics(self))


def make_statistics(num_features: int, num_outputs: int) -> Statistics:
    """Statistics of no examples.

    >>> make_statistics(3, 2).cross.shape
    torch.Size([3, 2])
    """
    D, M, wide = num_features, num_outputs, torch.float64
    return Statistics(
        weight=0.0,
        squared_weight=0.0,
        mean=torch.zeros(D, dtype=wide, device="cpu"),
        scatter=torch.zeros(D, D, dtype=wide, device="cpu"),
        target_sum=torch.zeros(M, dtype=wide, device="cpu"),
        cross=torch.zeros(D, M, dtype=wide, device="cpu"),
        target_scatter=torch.zeros(M, dtype=wide, device="cpu"),
        life_weight=0.0,
        life_mean=torch.zeros(D, dtype=wide, device="cpu"),
        life_scatter=torch.zeros(D, dtype=wide, device="cpu"),
        life_targets=torch.zeros(M, dtype=wide, device="cpu"),
        rounding=torch.zeros(D, dtype=wide, device="cpu"),
    )


def export_statistics(stats: Statistics) -> dict[str, object]:
    """Name -> value for a `state_dict`; nothing is shared."""
    values = ((item.name, getattr(stats, item.name)) for item in fields(stats))
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in values}


def import_statistics(values: Mapping[str, Any]) -> Statistics:
    """Undo `export_statistics`; nothing is shared."""
    own: dict[str, Any] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in values.items()}
    return Statistics(**own)


def grow_outputs(stats: Statistics, num_outputs: int) -> None:
    """Append outputs that were zero for every example so far; in place, exact."""
    extra = num_outputs - stats.num_outputs
    if extra <= 0:
        return
    pad = torch.zeros(extra, dtype=torch.float64, device="cpu")
    stats.target_sum = torch.cat((stats.target_sum, pad))
    stats.target_scatter = torch.cat((stats.target_scatter, pad))
    stats.life_targets = torch.cat((stats.life_targets, pad))
    columns = torch.zeros(stats.num_features, extra, dtype=torch.float64, device="cpu")
    stats.cross = torch.cat((stats.cross, columns), dim=1)


def space_evenly(num: int, most: int) -> Tensor:
    """Indices of at most so many of `num` things, evenly spaced, rising.

    >>> space_evenly(9, 3), space_evenly(2, 3)
    (tensor([0, 4, 8]), tensor([0, 1]))
    """
    if num <= most:
        return torch.arange(num, device="cpu")
    return torch.linspace(0, num - 1, most, dtype=torch.float64, device="cpu").round().long()


def select_features(stats: Statistics, chosen: Tensor) -> Statistics:
    """What the statistics would be if only some of the features had been seen.

    Args:
        stats: of D features; unchanged.
        chosen: rising indices of features.
    """
    if len(chosen) == stats.num_features:
        return stats
    return replace(
        stats,
        mean=stats.mean[chosen],
        scatter=stats.scatter[chosen[:, None], chosen],
        cross=stats.cross[chosen],
        life_mean=stats.life_mean[chosen],
        life_scatter=stats.life_scatter[chosen],
        rounding=stats.rounding[chosen],
    )


def decay_factor(num_examples: float, half_life: float) -> float:
    """2^(-num_examples / half_life); 1 for an infinite half-life, 0 after a very long time.

    >>> decay_factor(30, 30.0), decay_factor(10**9, 30.0), decay_factor(5, math.inf)
    (0.5, 0.0, 1.0)
    """
    return 1.0 if math.isinf(half_life) else math.pow(2.0, -num_examples / half_life)


def decay_weights(weight_N: Tensor, first_age: int, half_life: float) -> Tensor:
    """Weights of a block's examples whose last one has the age `first_age`.

    Args:
        weight_N: (N,) weights when they were new.
        first_age: examples that came after the last of the block.
        half_life: in examples.

    Returns: (N,) w_j 2^(-(first_age + N - 1 - j)/h).

    >>> decay_weights(torch.ones(3), 0, 1.0)
    tensor([0.2500, 0.5000, 1.0000])
    """
    if math.isinf(half_life):
        return weight_N
    N = weight_N.shape[0]
    ages_N = torch.arange(first_age + N - 1, first_age - 1, -1, dtype=torch.float64, device="cpu")
    return weight_N * torch.exp2(-ages_N / half_life).to(weight_N.dtype)


def decay(stats: Statistics, factor: float) -> None:
    """All weights so far times `factor`; in place; what is kept for life stays."""
    if factor == 1.0:
        return
    stats.weight *= factor
    stats.squared_weight *= factor * factor
    for sums in (
        stats.scatter,
        stats.target_sum,
        stats.cross,
        stats.target_scatter,
    ):
        sums.mul_(factor)


def add_block(
    stats: Statistics, phi_ND: Tensor, y_NM: Tensor, weight_N: Tensor, factor: float
) -> None:
    """Decay by `factor`, then add a block; negative weights take one away; in place.

    S <- f S + sum_i w_i (phi_i - m)(phi_i - m)^T + (f W) w/(f W + w) (m - mean)(m - mean)^T

    with m the block's weighted mean and w its total weight [Chan et al. 1979, Eq. 2.1b; it holds
    for negative w too]. The last term is one more row of the product.

    Args:
        stats: changed.
        phi_ND: (N, D) float64.
        y_NM: (N, M) float64.
        weight_N: (N,) float64, already decayed within the block.
        factor: of what was there before.
    """
    total = float(weight_N.sum())
    before = stats.weight * factor
    after = before + total
    rows_D, rows_M, weights = _centre_rows(stats, phi_ND, y_NM, weight_N, before, total)
    weighted_RD = rows_D * weights[:, None]
    add_upper_product(stats.scatter, weighted_RD, rows_D, factor)
    stats.cross.addmm_(weighted_RD.T, rows_M, beta=factor)
    stats.target_scatter.mul_(factor).add_(weights @ rows_M.square())
    if after != 0.0:
        stats.mean.add_(rows_D[-1], alpha=total / after)
    stats.target_sum.mul_(factor).add_(weight_N @ y_NM)
    stats.weight = after
    stats.squared_weight *= factor * factor
    squares = float(weight_N @ weight_N)
    stats.squared_weight += squares if total >= 0 else -squares


def _centre_rows(
    stats: Statistics, phi_ND: Tensor, y_NM: Tensor, weight_N: Tensor, before: float, total: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows about the block's mean, and as the last row the shift between the two means."""
    share_N = weight_N / total if total != 0.0 else torch.zeros_like(weight_N)
    mean_D, mean_M = share_N @ phi_ND, share_N @ y_NM
    after = before + total
    shift_D = mean_D - stats.mean
    shift_M = mean_M if stats.weight == 0.0 else mean_M - stats.target_sum / stats.weight
    coupling = before * total / after if after != 0.0 else 0.0
    weights = torch.cat((weight_N, weight_N.new_tensor([coupling])))
    if phi_ND.shape[0] == 1:  # its own distance to its own mean is zero: leave that row out
        return shift_D[None], shift_M[None], weights[1:]
    rows_D = torch.cat((phi_ND - mean_D, shift_D[None]))
    rows_M = torch.cat((y_NM - mean_M, shift_M[None]))
    return rows_D, rows_M, weights


def add_life(stats: Statistics, phi_ND: Tensor, y_NM: Tensor, weight_N: Tensor) -> None:
    """Add a block (weights as given, never decayed) to what is kept for life; in place."""
    total = float(weight_N.sum())
    before, after = stats.life_weight, stats.life_weight + total
    share_N = weight_N / total if total != 0.0 else torch.zeros_like(weight_N)
    mean_D = share_N @ phi_ND
    shift_D = mean_D - stats.life_mean
    coupling = before * total / after if after != 0.0 else 0.0
    stats.life_scatter.add_(weight_N @ (phi_ND - mean_D).square_())
    stats.life_scatter.add_(shift_D.square(), alpha=coupling)
    if after != 0.0:
        stats.life_mean.add_(shift_D, alpha=total / after)
    stats.life_targets.add_(weight_N @ y_NM)
    stats.life_weight = after


def add_upper_product(sums_DD: Tensor, left_RD: Tensor, right_RD: Tensor, factor: float) -> None:
    """sums <- factor sums + left^T right, on the upper triangle of blocks only; in place.

    The product is symmetric, so nearly half of it need not be computed.
    """
    D = sums_DD.shape[0]
    is_small = D <= 2 * TRIANGLE_ROWS or (D <= 8 * TRIANGLE_ROWS and left_RD.shape[0] <= 16)
    step = D if is_small else TRIANGLE_ROWS
    for start in range(0, D, step):
        rows = slice(start, start + step)
        sums_DD[rows, start:].addmm_(left_RD[:, rows].T, right_RD[:, start:], beta=factor)


def mirror_scatter(stats: Statistics) -> Tensor:
    """The whole symmetric scatter matrix (D, D), in memory of its own."""
    upper_DD = stats.scatter.triu()
    return upper_DD + upper_DD.T - torch.diag(upper_DD.diagonal())


def sweep(stats: Statistics) -> None:
    """Set sums that have faded away to zero; in place."""
    for sums in (stats.scatter, stats.cross, stats.target_sum, stats.target_scatter):
        sums.masked_fill_(sums.abs() < TINY, 0.0)
    if stats.weight < TINY:
        stats.weight = stats.squared_weight = 0.0
