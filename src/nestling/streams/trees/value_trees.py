"""Hoeffding trees of numbers: leaves answer by their mean, or by what their best feature tells.

Axis letters as in `forest`; statistics are weight, sum and squares of the targets.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled
from nestling.streams.trees.branches import (
    adwin_of,
    find_node,
    histograms_of,
    insert_event,
    plant_tree,
    split_where_due,
)
from nestling.streams.trees.centroids import SQUARES, SUM, WEIGHT
from nestling.streams.trees.error_windows import clear_adwin, update_adwin
from nestling.streams.trees.forest import (
    BEST,
    COUNTS,
    ERRORS_FINE,
    ERRORS_PLAIN,
    FOREST_END,
    LEAF_COLUMNS,
    LEAF_NUMBERS,
    LEAF_SUMS,
    LEAST_WEIGHT,
    LOW,
    MOST_WEIGHT,
    NODES,
    RESTARTS,
    TREES,
    Forest,
    grow_forest,
    make_forest,
)
from nestling.streams.trees.hoeffding import ERROR_DECAY, find_bins

# Events that a bin pretends to have seen at the mean of its leaf.
PRIOR_VALUES = 2.0
# ADWIN hears of errors up to this many standard deviations of the targets.
LARGEST_ERROR = 4.0
# After the arrays of the forest.
TARGETS = FOREST_END
# Places in `targets`: what is taken off each target, then weight, sum and squares of the rest.
ORIGIN = 0


def make_value_tree(
    num_columns: int,
    *,
    max_leaves: int = 64,
    check_every: int = 50,
    delta: float = 1e-3,
    adwin_delta: float = 0.002,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Arrays of a Hoeffding tree for a stream of numbers.

    Args:
        num_columns: of the events, >= 1.
        max_leaves: the tree grows no further.
        check_every: events at a leaf between two looks for a split.
        delta: chance of a wrong split that each check allows.
        adwin_delta: of the ADWIN on the tree's errors whose rise restarts it.
        seed: chooses the columns of leaves where there are more than 40.

    Returns:
        arrays by name; `tuple(arrays.values())` is what kernels take.
    """
    arrays = make_forest(
        1,
        num_columns,
        3,
        max_leaves=max_leaves,
        check_every=check_every,
        delta=delta,
        mean_weight=0.0,
        adwin_delta=adwin_delta,
        seed=seed,
        dtype=np.float64,
    )
    plant_tree(tuple(arrays.values()), 0, num_columns)
    arrays["targets"] = np.zeros(4)
    return arrays


def grow_value_tree(arrays: dict[str, NDArray[Any]], num_columns: int) -> dict[str, NDArray[Any]]:
    """The same tree with room for columns that appeared later; answers stay."""
    return grow_forest(arrays, num_columns, 3)


@compiled
def _answer_plain(tree: Forest, leaf: int) -> float:
    """Mean of a leaf, less the origin."""
    sums_LS, targets = tree[LEAF_SUMS], tree[TARGETS]
    weight, total = sums_LS[leaf, WEIGHT], sums_LS[leaf, SUM]
    if weight <= 0.0:
        weight, total = targets[1 + WEIGHT], targets[1 + SUM]
    return float(total / weight) if weight > 0.0 else 0.0


@compiled
def _answer_fine(
    tree: Forest,
    leaf: int,
    x_C: NDArray[np.float64],
    kinds_C: NDArray[np.int64],
    plain: float,
) -> float:
    """Mean of the events near x by the leaf's best feature, drawn a little to the leaf's mean."""
    counts_LFBS = tree[COUNTS]
    feature = int(tree[LEAF_NUMBERS][leaf, BEST])
    if feature < 0:
        return plain
    low, high, part = find_bins(
        histograms_of(tree), leaf, feature, tree[LEAF_COLUMNS], x_C, kinds_C
    )
    if low < 0:
        return plain
    weight, total = PRIOR_VALUES, PRIOR_VALUES * plain
    for side in range(2):
        place = low if side == 0 else high
        share = 1.0 - part if side == 0 else part
        weight += share * counts_LFBS[leaf, feature, place, WEIGHT]
        total += share * counts_LFBS[leaf, feature, place, SUM]
    return float(total / weight)


@compiled
def answer_value_tree(tree: Forest, x_C: NDArray[np.float64], kinds_C: NDArray[np.int64]) -> float:
    """The number that the tree expects of an event; nothing is learned.

    Args:
        tree: `tuple(make_value_tree(...).values())`.
        x_C: values of the event, NaN where missing; columns beyond its end are missing.
        kinds_C: 0: number, 1: category with codes 0, 1, 2.

    Returns:
        the answer, 0 before the first event.
    """
    leaf = tree[NODES][0, find_node(tree, 0, x_C), LOW]
    answer = _answer_plain(tree, leaf)
    if tree[LEAF_NUMBERS][leaf, ERRORS_FINE] < tree[LEAF_NUMBERS][leaf, ERRORS_PLAIN]:
        answer = _answer_fine(tree, leaf, x_C, kinds_C, answer)
    return float(answer + tree[TARGETS][ORIGIN])


@compiled
def learn_value_tree(
    tree: Forest,
    x_C: NDArray[np.float64],
    kinds_C: NDArray[np.int64],
    target: float,
    weight: float,
) -> bool:
    """The tree learns one event, and starts anew where ADWIN says that its errors rose.

    Args:
        tree: `tuple(make_value_tree(...).values())`; changed in place. It needs room:
            see `forest_tables.lacks_room`.
        x_C: values of the event, NaN where missing.
        kinds_C: 0: number, 1: category with codes 0, 1, 2.
        target: finite.
        weight: of the event; 0 learns nothing.

    Returns:
        whether the tree was restarted.
    """
    sums_LS, numbers_L5, targets = tree[LEAF_SUMS], tree[LEAF_NUMBERS], tree[TARGETS]
    if weight <= 0.0:
        return False
    weight = min(max(weight, LEAST_WEIGHT), MOST_WEIGHT)
    if targets[1 + WEIGHT] == 0.0:
        targets[ORIGIN] = target
    rest = target - targets[ORIGIN]
    node = find_node(tree, 0, x_C)
    leaf = tree[NODES][0, node, LOW]
    plain = _answer_plain(tree, leaf)
    fine = _answer_fine(tree, leaf, x_C, kinds_C, plain)
    by_fine = numbers_L5[leaf, ERRORS_FINE] < numbers_L5[leaf, ERRORS_PLAIN]
    error_plain, error_fine = abs(rest - plain), abs(rest - fine)
    error = error_fine if by_fine else error_plain
    numbers_L5[leaf, ERRORS_PLAIN] = ERROR_DECAY * numbers_L5[leaf, ERRORS_PLAIN] + error_plain
    numbers_L5[leaf, ERRORS_FINE] = ERROR_DECAY * numbers_L5[leaf, ERRORS_FINE] + error_fine
    for sums in (sums_LS[leaf], targets[1:]):
        sums[WEIGHT] += weight
        sums[SUM] += weight * rest
        sums[SQUARES] += weight * rest * rest
    insert_event(tree, leaf, x_C, kinds_C, -1, rest, weight)
    split_where_due(tree, 0, node, kinds_C, False, 1.0)
    mean = targets[1 + SUM] / targets[1 + WEIGHT]
    variance = targets[1 + SQUARES] / targets[1 + WEIGHT] - mean * mean
    if variance <= 0.0:
        return False
    adwin = adwin_of(tree)
    scaled = min(error / (LARGEST_ERROR * math.sqrt(variance)), 1.0)
    if update_adwin(adwin, scaled) <= 0:
        return False
    clear_adwin(adwin)
    plant_tree(tree, 0, kinds_C.shape[0])
    tree[TREES][0, RESTARTS] += 1
    targets[:] = 0.0
    return True
