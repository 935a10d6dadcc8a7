"""Statistics of two sets of examples together, and of one set without another.

Letters: N examples of a block, D features, M outputs.
"""

import torch
from torch import Tensor

from nestling.core.errors import DataError
from nestling.memory.exact.statistics import (
    Statistics,
    add_block,
    add_life,
    add_upper_product,
    decay,
    decay_factor,
    grow_outputs,
    make_statistics,
)

# A share of a sum that is rounding and not data, when the rest was taken away again.
ROUNDING = 1e-12
# What may be taken beyond what is there: weights were summed in another order.
SLACK = 1e-9


def align_statistics(stats: Statistics, lag: int, half_life: float, num_outputs: int) -> Statistics:
    """A copy as it will stand when `lag` more examples of weight 0 have come; M grown."""
    aligned = stats.copy()
    grow_outputs(aligned, num_outputs)
    decay(aligned, decay_factor(lag, half_life))
    return aligned


def merge_statistics(stats: Statistics, other: Statistics) -> None:
    """Add all that `other` (equal D and M, equal clock) has seen; in place."""
    before, total = stats.weight, other.weight
    after = before + total
    if total != 0.0:
        shift_D = other.mean - stats.mean
        shift_M = other.target_sum / total
        if before != 0.0:
            shift_M = shift_M - stats.target_sum / before
        coupling = before * total / after
        stats.scatter.add_(other.scatter)
        add_upper_product(stats.scatter, coupling * shift_D[None], shift_D[None], 1.0)
        stats.cross.add_(other.cross).addr_(shift_D, shift_M, alpha=coupling)
        stats.target_scatter.add_(other.target_scatter).add_(coupling * shift_M.square())
        stats.mean.add_(shift_D, alpha=total / after)
        stats.target_sum.add_(other.target_sum)
        stats.weight = after
        stats.squared_weight += other.squared_weight
    life = stats.life_weight + other.life_weight
    if other.life_weight != 0.0:
        shift_D = other.life_mean - stats.life_mean
        coupling = stats.life_weight * other.life_weight / life
        stats.life_scatter.add_(other.life_scatter).add_(coupling * shift_D.square())
        stats.life_mean.add_(shift_D, alpha=other.life_weight / life)
        stats.life_targets.add_(other.life_targets)
        stats.life_weight = life
    stats.rounding.add_(other.rounding)


def remove_block(
    stats: Statistics,
    phi_ND: Tensor,
    y_NM: Tensor,
    weight_N: Tensor,
    aged_N: Tensor,
    one_hot: bool,
) -> Statistics:
    """Statistics without a block that was added before; the ones given are unchanged.

    What a difference leaves below ROUNDING of what was there counts as nothing: a feature that
    only the removed examples had is constant again, a class that only they had was never seen.

    Args:
        stats: with the block in them, M columns.
        phi_ND: (N, D) the block's features.
        y_NM: (N, M) its targets.
        weight_N: (N,) its weights as they were given.
        aged_N: (N,) its weights now, decayed.
        one_hot: targets are classes.

    Raises:
        DataError: the block weighs more than all there is, or than all of one class.
    """
    stats = stats.copy()
    grow_outputs(stats, y_NM.shape[1])
    check_removal(stats, y_NM, weight_N, one_hot)
    rest = stats.copy()
    rest.rounding = torch.maximum(rest.rounding, ROUNDING * stats.life_scatter)
    add_block(rest, phi_ND, y_NM, -aged_N, 1.0)
    add_life(rest, phi_ND, y_NM, -weight_N)
    if rest.life_weight <= ROUNDING * stats.life_weight:
        return make_statistics(stats.num_features, stats.num_outputs)
    if rest.weight <= ROUNDING * stats.weight:
        rest.weight = rest.squared_weight = 0.0
        for sums in (rest.mean, rest.scatter, rest.target_sum, rest.cross, rest.target_scatter):
            sums.zero_()
    if one_hot:
        gone_M = rest.life_targets <= ROUNDING * stats.life_targets
        rest.cross[:, gone_M] = 0.0
        for sums in (rest.target_sum, rest.target_scatter, rest.life_targets):
            sums[gone_M] = 0.0
    return rest


def check_removal(stats: Statistics, y_NM: Tensor, weight_N: Tensor, one_hot: bool) -> None:
    """Raise DataError if a block weighs more than there is, of all or of one class."""
    total = float(weight_N.sum())
    if total > stats.life_weight * (1.0 + SLACK):
        raise DataError(
            f"remove of weight {total:g} from a memory that holds {stats.life_weight:g}; "
            "remove only what was added"
        )
    taken_M = weight_N @ y_NM
    short_M = taken_M > stats.life_targets * (1.0 + SLACK)
    if one_hot and bool(short_M.any()):
        label = int(short_M.nonzero()[0])
        raise DataError(
            f"remove of weight {float(taken_M[label]):g} of class {label}, of which the "
            f"memory holds {float(stats.life_targets[label]):g}; remove only what was added"
        )
