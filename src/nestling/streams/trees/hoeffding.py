"""Hoeffding trees of classes: leaves answer by naive Bayes or by class counts; drift restarts them.

Axis letters as in `forest`; K classes.
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
from nestling.streams.trees.centroids import (
    CATEGORY,
    NUM_BINS,
    Histograms,
    count_below,
    find_code,
    relative_value,
)
from nestling.streams.trees.error_windows import clear_adwin, update_adwin
from nestling.streams.trees.forest import (
    COUNTS,
    ERRORS_FINE,
    ERRORS_PLAIN,
    LEAF_COLUMNS,
    LEAF_NUMBERS,
    LEAF_SUMS,
    LEAST_WEIGHT,
    LOW,
    MOST_WEIGHT,
    NODES,
    NUM_FEATURES,
    RESTARTS,
    SCRATCH,
    SEEN,
    TREES,
    Forest,
    grow_forest,
    make_forest,
)

# Errors of the two ways to answer are forgotten by this factor at each event of a leaf.
ERROR_DECAY = 0.998
# Events that naive Bayes pretends to have seen of each class, spread as all events are.
PRIOR_EVENTS = 1.0
# Products of likelihoods are brought back to 1 every so many features.
RESCALE_EVERY = 8


def make_tree(
    num_columns: int,
    num_classes: int,
    *,
    max_leaves: int = 64,
    check_every: int = 50,
    delta: float = 1e-2,
    adwin_delta: float = 0.002,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Arrays of a Hoeffding tree for a stream of classes.

    Args:
        num_columns: of the events, >= 1.
        num_classes: K >= 1.
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
        num_classes,
        max_leaves=max_leaves,
        check_every=check_every,
        delta=delta,
        mean_weight=0.0,
        adwin_delta=adwin_delta,
        seed=seed,
    )
    plant_tree(tuple(arrays.values()), 0, num_columns)
    return arrays


def grow_tree(
    arrays: dict[str, NDArray[Any]], num_columns: int, num_classes: int
) -> dict[str, NDArray[Any]]:
    """The same tree with room for columns and classes that appeared later.

    Args:
        arrays: of `make_tree`; not changed.
        num_columns: at least as many as before.
        num_classes: at least as many as before.

    Returns:
        new arrays; answers stay, but for the little that each new class is given.
    """
    return grow_forest(arrays, num_columns, num_classes)


@compiled
def _score_counts(forest: Forest, leaf: int, p_K: NDArray[np.float64]) -> None:
    """Class counts of a leaf, not normalised."""
    sums_LS = forest[LEAF_SUMS]
    for k in range(p_K.shape[0]):
        p_K[k] = sums_LS[leaf, k] if k < sums_LS.shape[1] else 0.0


@compiled
def find_bins(
    histograms: Histograms,
    leaf: int,
    feature: int,
    columns_LF: NDArray[np.int32],
    x_C: NDArray[np.float64],
    kinds_C: NDArray[np.int64],
) -> tuple[int, int, np.float32]:
    """The two bins beside the value of a feature (-1: unknown), and how near it is to the second.

    A category has one bin, named twice.
    """
    origins_LF, sizes_LF, centres_LFB, _, _ = histograms
    column = columns_LF[leaf, feature]
    size = sizes_LF[leaf, feature]
    part = np.float32(0.0)
    if column >= x_C.shape[0] or size == 0 or not math.isfinite(x_C[column]):
        return -1, -1, part
    if kinds_C[column] == CATEGORY:
        low = find_code(centres_LFB, leaf, feature, size, np.float32(x_C[column]))
        return low, low, part
    value = relative_value(x_C[column], origins_LF[leaf, feature])
    high = count_below(centres_LFB, leaf, feature, value)
    low = max(high - 1, 0)
    high = min(high, size - 1)
    if high > low:
        start = centres_LFB[leaf, feature, low]
        part = (value - start) / (centres_LFB[leaf, feature, high] - start)
    return low, high, part


@compiled
def _score_bayes(
    forest: Forest,
    leaf: int,
    x_C: NDArray[np.float64],
    kinds_C: NDArray[np.int64],
    p_K: NDArray[np.float64],
) -> None:
    """Naive Bayes on the histograms of a leaf, not normalised.

    p_k ~ n_k prod_f (n_fk(x) + m q_f(x)) / ((n_fk + m) q_f(x)), q_f(x) the share of all classes'
    events near x, read between the two centres beside x; m PRIOR_EVENTS.
    """
    _score_counts(forest, leaf, p_K)
    histograms = histograms_of(forest)
    counts_LFBS, columns_LF = forest[COUNTS], forest[LEAF_COLUMNS]
    num_classes = min(p_K.shape[0], counts_LFBS.shape[3])
    since = 0
    for feature in range(forest[NUM_FEATURES][leaf]):
        low, high, part = find_bins(histograms, leaf, feature, columns_LF, x_C, kinds_C)
        if low < 0:
            continue
        rest = np.float32(1.0) - part
        here = np.float32(0.0)
        whole = np.float32(0.0)
        for k in range(num_classes):
            here += (
                rest * counts_LFBS[leaf, feature, low, k]
                + part * counts_LFBS[leaf, feature, high, k]
            )
            whole += counts_LFBS[leaf, feature, NUM_BINS, k]
        if here <= 0.0:
            continue
        scale = whole / here
        for k in range(num_classes):
            near = (
                rest * counts_LFBS[leaf, feature, low, k]
                + part * counts_LFBS[leaf, feature, high, k]
            )
            p_K[k] *= (near * scale + PRIOR_EVENTS) / (
                counts_LFBS[leaf, feature, NUM_BINS, k] + PRIOR_EVENTS
            )
        since += 1
        if since == RESCALE_EVERY:
            since = 0
            largest = 0.0
            for k in range(num_classes):
                largest = max(largest, p_K[k])
            if largest > 0.0:
                for k in range(num_classes):
                    p_K[k] /= largest


@compiled
def _normalise(p_K: NDArray[np.float64], seen: float) -> None:
    """Scores become probabilities, all above zero: (n p + 1)/(n + K) after n events."""
    total = 0.0
    for k in range(p_K.shape[0]):
        total += p_K[k]
    share = seen / total if total > 0.0 else 0.0
    divisor = (seen if total > 0.0 else 0.0) + p_K.shape[0]
    for k in range(p_K.shape[0]):
        p_K[k] = (p_K[k] * share + 1.0) / divisor


@compiled
def find_largest(p_K: NDArray[np.float64]) -> int:
    """The first of the largest."""
    best = 0
    for k in range(1, p_K.shape[0]):
        if p_K[k] > p_K[best]:
            best = k
    return best


@compiled
def answer_one_tree(
    forest: Forest,
    tree: int,
    x_C: NDArray[np.float64],
    kinds_C: NDArray[np.int64],
    p_K: NDArray[np.float64],
) -> None:
    """Probabilities by one tree of a forest, written to `p_K`."""
    numbers_L5 = forest[LEAF_NUMBERS]
    leaf = forest[NODES][tree, find_node(forest, tree, x_C), LOW]
    seen = 0.0
    if numbers_L5[leaf, ERRORS_FINE] < numbers_L5[leaf, ERRORS_PLAIN]:
        _score_bayes(forest, leaf, x_C, kinds_C, p_K)
        seen = numbers_L5[leaf, SEEN]
    else:
        _score_counts(forest, leaf, p_K)
        for k in range(p_K.shape[0]):
            seen += p_K[k]
    _normalise(p_K, seen)


@compiled
def learn_one_tree(
    forest: Forest,
    tree: int,
    x_C: NDArray[np.float64],
    kinds_C: NDArray[np.int64],
    label: int,
    weight: float,
) -> bool:
    """One tree of a forest learns an event; whether it would have answered wrongly."""
    sums_LS, numbers_L5, scratch_6S = forest[LEAF_SUMS], forest[LEAF_NUMBERS], forest[SCRATCH]
    node = find_node(forest, tree, x_C)
    leaf = forest[NODES][tree, node, LOW]
    p_K = scratch_6S[3]
    _score_counts(forest, leaf, p_K)
    wrong_plain = find_largest(p_K) != label
    _score_bayes(forest, leaf, x_C, kinds_C, p_K)
    wrong_fine = find_largest(p_K) != label
    by_fine = numbers_L5[leaf, ERRORS_FINE] < numbers_L5[leaf, ERRORS_PLAIN]
    wrong = wrong_fine if by_fine else wrong_plain
    if weight <= 0.0:
        return wrong
    weight = min(max(weight, LEAST_WEIGHT), MOST_WEIGHT)
    numbers_L5[leaf, ERRORS_PLAIN] = ERROR_DECAY * numbers_L5[leaf, ERRORS_PLAIN] + wrong_plain
    numbers_L5[leaf, ERRORS_FINE] = ERROR_DECAY * numbers_L5[leaf, ERRORS_FINE] + wrong_fine
    sums_LS[leaf, label] += weight
    insert_event(forest, leaf, x_C, kinds_C, label, 0.0, weight)
    num_present = 0
    for k in range(sums_LS.shape[1]):
        num_present += sums_LS[leaf, k] > 0.0
    split_where_due(forest, tree, node, kinds_C, True, math.log2(num_present))
    return wrong


@compiled
def answer_tree(
    tree: Forest,
    x_C: NDArray[np.float64],
    kinds_C: NDArray[np.int64],
    p_K: NDArray[np.float64],
) -> None:
    """Class probabilities of an event by the tree, written to `p_K`; nothing is learned.

    Args:
        tree: `tuple(make_tree(...).values())`.
        x_C: values of the event, NaN where missing; columns beyond its end are missing.
        kinds_C: 0: number, 1: category with codes 0, 1, 2.
        p_K: filled; sums to 1, all above 0.
    """
    answer_one_tree(tree, 0, x_C, kinds_C, p_K)


@compiled
def learn_tree(
    tree: Forest,
    x_C: NDArray[np.float64],
    kinds_C: NDArray[np.int64],
    label: int,
    weight: float,
) -> bool:
    """The tree learns one event, and starts anew where ADWIN says that its errors rose.

    Args:
        tree: `tuple(make_tree(...).values())`; changed in place; see `forest_tables.lacks_room`.
        x_C: values of the event, NaN where missing.
        kinds_C: 0: number, 1: category with codes 0, 1, 2.
        label: class, below the number of classes.
        weight: of the event; 0 learns nothing.

    Returns:
        whether the tree was restarted.
    """
    wrong = learn_one_tree(tree, 0, x_C, kinds_C, label, weight)
    if weight <= 0.0:
        return False
    adwin = adwin_of(tree)
    if update_adwin(adwin, 1.0 if wrong else 0.0) <= 0:
        return False
    clear_adwin(adwin)
    plant_tree(tree, 0, kinds_C.shape[0])
    tree[TREES][0, RESTARTS] += 1
    return True
