"""How trees grow: events fall to leaves, and a leaf becomes a node with two leaves.

Axis letters as in `forest`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled
from nestling.streams.trees.centroids import (
    ANY_SIDE,
    CATEGORY,
    CODE_SIDES,
    NUMERIC,
    Histograms,
    clear_histograms,
    inherit_histogram,
    insert_value,
)
from nestling.streams.trees.error_windows import Adwin
from nestling.streams.trees.forest import (
    ADWIN_BUCKETS,
    ADWIN_NUMBERS,
    ADWIN_SIZES,
    BEST,
    CENTRES,
    CHECK_EVERY,
    COLUMN,
    COSTS,
    COUNTS,
    DOUBT,
    FREE,
    GENERATOR,
    HIGH,
    KIND,
    LEAF_COLUMNS,
    LEAF_NUMBERS,
    LEAF_SUMS,
    LOW,
    MAX_LEAVES,
    MISSING,
    NODES,
    NUM_FEATURES,
    NUM_LEAVES,
    NUM_NODES,
    ORIGINS,
    SCRATCH,
    SEEN,
    SETTINGS,
    SIZES,
    THRESHOLDS,
    TREES,
    UNCHECKED,
    Forest,
)
from nestling.streams.trees.splitting import find_split, sum_side

# Two splits that differ by less than this are as good as one another.
TIE = 0.05
# A new leaf takes over what its parent saw as if it were at most this many events.
INHERITED = 200.0


@compiled
def draw_unit(generator: NDArray[np.uint64]) -> float:
    """A number in [0, 1) by SplitMix64 [Steele 2014]."""
    generator[0] += np.uint64(0x9E3779B97F4A7C15)
    bits = generator[0]
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = bits ^ (bits >> np.uint64(31))
    return float(bits >> np.uint64(11)) * 2.0**-53


@compiled
def draw_poisson(generator: NDArray[np.uint64], mean: float) -> int:
    """A Poisson number of a small mean: how many uniform factors stay above e^-mean."""
    least = math.exp(-mean)
    product = draw_unit(generator)
    number = 0
    while product > least:
        product *= draw_unit(generator)
        number += 1
    return number


@compiled
def histograms_of(forest: Forest) -> Histograms:
    """The five arrays of the histograms."""
    return forest[ORIGINS], forest[SIZES], forest[CENTRES], forest[COSTS], forest[COUNTS]


@compiled
def adwin_of(forest: Forest) -> Adwin:
    """The three arrays of the ADWIN on errors."""
    return forest[ADWIN_NUMBERS], forest[ADWIN_SIZES], forest[ADWIN_BUCKETS]


@compiled
def _open_leaf(forest: Forest, tree: int, node: int, num_columns: int) -> int:
    """A node becomes a new, empty leaf; its row. There must be a free one."""
    nodes_TN5, free, columns_LF, generator = (
        forest[NODES],
        forest[FREE],
        forest[LEAF_COLUMNS],
        forest[GENERATOR],
    )
    leaf = free[free[0]]
    free[0] -= 1
    nodes_TN5[tree, node, COLUMN] = -1
    nodes_TN5[tree, node, LOW] = leaf
    forest[LEAF_SUMS][leaf] = 0.0
    forest[LEAF_NUMBERS][leaf] = 0.0
    forest[LEAF_NUMBERS][leaf, BEST] = -1.0
    clear_histograms(histograms_of(forest), leaf)
    wanted = min(num_columns, columns_LF.shape[1])
    chosen = 0
    for column in range(num_columns):
        left = num_columns - column
        if wanted == left or draw_unit(generator) * left < wanted - chosen:
            columns_LF[leaf, chosen] = column
            chosen += 1
        if chosen == wanted:
            break
    forest[NUM_FEATURES][leaf] = wanted
    return int(leaf)


@compiled
def fell_tree(forest: Forest, tree: int) -> None:
    """Give back all leaves of a tree."""
    nodes_TN5, trees_T3, free = forest[NODES], forest[TREES], forest[FREE]
    for node in range(trees_T3[tree, NUM_NODES]):
        if nodes_TN5[tree, node, COLUMN] < 0:
            free[0] += 1
            free[free[0]] = nodes_TN5[tree, node, LOW]
            # `lacks_room` looks at all rows.
            forest[LEAF_NUMBERS][nodes_TN5[tree, node, LOW], UNCHECKED] = 0.0
            forest[NUM_FEATURES][nodes_TN5[tree, node, LOW]] = 0
        nodes_TN5[tree, node, COLUMN] = -1
    trees_T3[tree, NUM_NODES] = 0
    trees_T3[tree, NUM_LEAVES] = 0


@compiled
def plant_tree(forest: Forest, tree: int, num_columns: int) -> bool:
    """A tree of one empty leaf; what stood there before goes. False: there was no room."""
    fell_tree(forest, tree)
    if forest[FREE][0] == 0:
        return False
    _open_leaf(forest, tree, 0, num_columns)
    forest[TREES][tree, NUM_NODES] = 1
    forest[TREES][tree, NUM_LEAVES] = 1
    return True


@compiled
def find_node(forest: Forest, tree: int, x_C: NDArray[np.float64]) -> int:
    """The leaf node to which an event falls."""
    nodes_TN5, thresholds_TN = forest[NODES], forest[THRESHOLDS]
    node = 0
    column = nodes_TN5[tree, 0, COLUMN]
    while column >= 0:
        value = x_C[column] if column < x_C.shape[0] else math.nan
        if not math.isfinite(value):
            side = MISSING
        elif nodes_TN5[tree, node, KIND] == CATEGORY:
            side = LOW if value == thresholds_TN[tree, node] else HIGH
        else:
            side = LOW if value <= thresholds_TN[tree, node] else HIGH
        node = nodes_TN5[tree, node, side]
        column = nodes_TN5[tree, node, COLUMN]
    return int(node)


@compiled
def insert_event(
    forest: Forest,
    leaf: int,
    x_C: NDArray[np.float64],
    kinds_C: NDArray[np.int64],
    label: int,
    target: float,
    weight: float,
) -> None:
    """Count an event in the histograms of a leaf; missing values are counted nowhere."""
    columns_LF, histograms = forest[LEAF_COLUMNS], histograms_of(forest)
    for feature in range(forest[NUM_FEATURES][leaf]):
        column = columns_LF[leaf, feature]
        if column < x_C.shape[0] and math.isfinite(x_C[column]):
            insert_value(
                histograms, leaf, feature, kinds_C[column], x_C[column], label, target, weight
            )
    forest[LEAF_NUMBERS][leaf, SEEN] += weight
    forest[LEAF_NUMBERS][leaf, UNCHECKED] += 1.0


@compiled
def _inherit(
    forest: Forest,
    leaf: int,
    split_feature: int,
    kind: int,
    child: int,
    side: int,
    middle: float,
) -> None:
    """A child begins with what its parent knows of each class, as naive Bayes would have it."""
    columns_LF, histograms, shares_S = (
        forest[LEAF_COLUMNS],
        histograms_of(forest),
        forest[SCRATCH][0],
    )
    seen = 0.0
    for k in range(shares_S.shape[0]):
        seen += forest[LEAF_SUMS][child, k]
    fade = min(1.0, INHERITED / seen) if seen > 0.0 else 0.0
    for k in range(shares_S.shape[0]):
        before = forest[SCRATCH][4, k] + forest[SCRATCH][5, k]
        shares_S[k] = fade * forest[LEAF_SUMS][child, k] / before if before > 0.0 else 0.0
    known = 0
    for feature in range(forest[NUM_FEATURES][child]):
        while (
            known < forest[NUM_FEATURES][leaf]
            and columns_LF[leaf, known] < columns_LF[child, feature]
        ):
            known += 1
        if (
            known == forest[NUM_FEATURES][leaf]
            or columns_LF[leaf, known] != columns_LF[child, feature]
        ):
            continue
        sides = ANY_SIDE
        if known == split_feature:
            sides = side if kind == NUMERIC else side + CODE_SIDES
        inherit_histogram(histograms, leaf, known, child, feature, shares_S, sides, middle)


@compiled
def split_where_due(
    forest: Forest,
    tree: int,
    node: int,
    kinds_C: NDArray[np.int64],
    by_class: bool,
    largest_gain: float,
) -> bool:
    """Check a leaf if it is time to, and split it if one split is surely, or hardly not, the best.

    gain_1 - gain_2 > eps, or eps < TIE, eps = R sqrt(ln(1/delta)/(2 n))   [Domingos 2000, Eq. 1]

    Args:
        forest: changed in place.
        tree: which tree.
        node: a leaf.
        kinds_C: NUMERIC or CATEGORY.
        by_class: entropy of classes, else variance of targets.
        largest_gain: R; gains are divided by it.

    Returns:
        whether it was split.
    """
    nodes_TN5, trees_T3, numbers_L5, settings = (
        forest[NODES],
        forest[TREES],
        forest[LEAF_NUMBERS],
        forest[SETTINGS],
    )
    leaf = nodes_TN5[tree, node, LOW]
    if numbers_L5[leaf, UNCHECKED] < settings[CHECK_EVERY]:
        return False
    numbers_L5[leaf, UNCHECKED] = 0.0
    if largest_gain <= 0.0:
        return False
    full = trees_T3[tree, NUM_LEAVES] >= settings[MAX_LEAVES] or forest[FREE][0] < 2
    if by_class and full:
        return False
    histograms, columns_LF = histograms_of(forest), forest[LEAF_COLUMNS]
    scratch_6S, num_features = forest[SCRATCH], forest[NUM_FEATURES][leaf]
    feature, threshold, gain, second = find_split(
        histograms, leaf, num_features, columns_LF, kinds_C, by_class, scratch_6S[:3]
    )
    numbers_L5[leaf, BEST] = feature
    if feature < 0:
        return False
    if full:
        return False
    eps = math.sqrt(settings[DOUBT] / (2.0 * numbers_L5[leaf, SEEN]))
    reach = largest_gain if by_class else gain
    if gain - second <= eps * reach and eps * largest_gain >= TIE:
        return False
    column = columns_LF[leaf, feature]
    low_S, high_S = scratch_6S[4], scratch_6S[5]
    sum_side(histograms, leaf, feature, kinds_C[column], threshold, low_S, high_S)
    low, high = trees_T3[tree, NUM_NODES], trees_T3[tree, NUM_NODES] + 1
    trees_T3[tree, NUM_NODES] += 2
    trees_T3[tree, NUM_LEAVES] += 1
    middle = threshold
    if kinds_C[column] != CATEGORY:
        middle -= forest[ORIGINS][leaf, feature]
    for side in range(2):
        child = _open_leaf(forest, tree, low if side == 0 else high, kinds_C.shape[0])
        forest[LEAF_SUMS][child] = low_S if side == 0 else high_S
        if by_class:
            _inherit(forest, leaf, feature, kinds_C[column], child, side, middle)
    # The row of the leaf is free again.
    forest[FREE][0] += 1
    forest[FREE][forest[FREE][0]] = leaf
    numbers_L5[leaf] = 0.0
    nodes_TN5[tree, node, COLUMN] = column
    nodes_TN5[tree, node, KIND] = kinds_C[column]
    nodes_TN5[tree, node, LOW] = low
    nodes_TN5[tree, node, HIGH] = high
    heavier = low_S.sum() > high_S.sum() if by_class else low_S[0] > high_S[0]
    nodes_TN5[tree, node, MISSING] = low if heavier else high
    forest[THRESHOLDS][tree, node] = threshold
    return True
