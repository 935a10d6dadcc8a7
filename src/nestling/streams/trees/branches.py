"""Trees that grow: nodes, leaves, and how one becomes the other, as arrays; of classes or numbers.

A forest is T trees that share one store of leaves, so that trees that are not in use cost nothing.

Axis letters: T trees, N nodes of a tree, L leaves of all trees, F features of a leaf, C columns,
S statistics (K classes, or weight, sum and squares of the target), B bins.
"""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled
from nestling.streams.trees.adwin import make_adwin
from nestling.streams.trees.centroids import (
    ANY_SIDE,
    CATEGORY,
    CODE_SIDES,
    NUMERIC,
    Histograms,
    clear_histograms,
    inherit_histogram,
    insert_value,
    make_histograms,
)
from nestling.streams.trees.splitting import find_split, sum_side

# The arrays of `make_forest` in their order.
Forest: TypeAlias = tuple[NDArray[Any], ...]

# A leaf looks at this many columns, chosen at random where there are more.
MAX_FEATURES = 40
# Two splits that differ by less than this are as good as one another.
TIE = 0.05
# A new leaf takes over what its parent saw as if it were at most this many events.
INHERITED = 200.0
# Sample weights beyond these would leave what float32 can hold.
LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6

# Places in the last axis of `nodes`. A leaf tests no column (-1) and names its row at LOW.
COLUMN, KIND, LOW, HIGH, MISSING = range(5)
# Places in the last axis of `trees`.
NUM_NODES, NUM_LEAVES, RESTARTS = range(3)
# Places in the last axis of `leaf_numbers`: weight and events since the leaf was made, events since
# it was last checked, decayed errors of its two ways to answer.
SEEN, UNCHECKED, ERRORS_PLAIN, ERRORS_FINE = range(4)
# Places in `settings`.
MAX_LEAVES, CHECK_EVERY, DOUBT, MEAN_WEIGHT = range(4)

NODES, THRESHOLDS, TREES, FREE, SUMS, NUMBERS, COLUMNS, NUM_FEATURES = range(8)
ORIGINS, SIZES, CENTRES, COSTS, COUNTS = range(8, 13)
GENERATOR, SETTINGS, SCRATCH, ADWIN_NUMBERS, ADWIN_SIZES, ADWIN_BUCKETS = range(13, 19)

LEAF_ARRAYS = (
    *("leaf_sums", "leaf_numbers", "leaf_columns", "num_features"),
    *("origins", "sizes", "centres", "costs", "counts"),
)


def _make_leaves(num_leaves: int, num_columns: int, num_statistics: int) -> dict[str, NDArray[Any]]:
    """Empty leaves, by the names of their arrays."""
    num_features = min(num_columns, MAX_FEATURES)
    origins, sizes, centres, costs, counts = make_histograms(
        num_leaves, num_features, num_statistics
    )
    return {
        "leaf_sums": np.zeros((num_leaves, num_statistics)),
        "leaf_numbers": np.zeros((num_leaves, 4)),
        "leaf_columns": np.zeros((num_leaves, num_features), np.int32),
        "num_features": np.zeros(num_leaves, np.int32),
        "origins": origins,
        "sizes": sizes,
        "centres": centres,
        "costs": costs,
        "counts": counts,
    }


def make_forest(
    num_trees: int,
    num_columns: int,
    num_statistics: int,
    *,
    max_leaves: int,
    check_every: int,
    delta: float,
    mean_weight: float,
    adwin_delta: float,
    seed: int,
) -> dict[str, NDArray[Any]]:
    """Arrays of a number of trees, none of which is planted yet.

    Args:
        num_trees: how many there may be.
        num_columns: of the events.
        num_statistics: number of classes, or 3 for trees of numbers.
        max_leaves: of each tree.
        check_every: events at a leaf between two looks for a split.
        delta: chance of a wrong split that each check allows.
        mean_weight: each event is learned as often as a Poisson number of this mean; 0: once.
        adwin_delta: of each tree's ADWIN.
        seed: of columns and Poisson numbers.

    Returns:
        arrays by name, in the order in which kernels take them.
    """
    max_nodes = 2 * max_leaves - 1
    num_leaves = min(num_trees + 3, num_trees * max_leaves + 1)
    numbers, sizes_R, buckets = make_adwin(adwin_delta)
    nodes = np.zeros((num_trees, max_nodes, 5), np.int32)
    nodes[:, :, COLUMN] = -1
    free = np.zeros(num_leaves + 1, np.int32)
    free[0] = num_leaves
    free[1:] = np.arange(num_leaves)[::-1]
    return {
        "nodes": nodes,
        "thresholds": np.zeros((num_trees, max_nodes)),
        "trees": np.zeros((num_trees, 3), np.int64),
        "free": free,
        **_make_leaves(num_leaves, num_columns, num_statistics),
        "generator": np.array([seed], np.uint64),
        "settings": np.array([max_leaves, check_every, -math.log(delta), mean_weight]),
        "scratch": np.zeros((6, num_statistics)),
        "adwin_numbers": np.tile(numbers, (num_trees, 1)),
        "adwin_sizes": np.tile(sizes_R, (num_trees, 1)),
        "adwin_buckets": np.tile(buckets, (num_trees, 1, 1, 1)),
    }


def _put_leaves(
    arrays: dict[str, NDArray[Any]], num_leaves: int, num_columns: int, num_statistics: int
) -> dict[str, NDArray[Any]]:
    """The same forest with room for more leaves, columns or statistics."""
    grown = dict(arrays)
    for name, room in _make_leaves(num_leaves, num_columns, num_statistics).items():
        old = arrays[name]
        room[tuple(slice(0, length) for length in old.shape)] = old
        grown[name] = room
    before = len(arrays["leaf_sums"])
    if num_leaves > before:
        free = np.zeros(num_leaves + 1, np.int32)
        # Rows that were free stay on top, so that room never changes which row a leaf takes.
        held = int(arrays["free"][0])
        free[0] = held + num_leaves - before
        free[1 : 1 + num_leaves - before] = np.arange(before, num_leaves)[::-1]
        free[1 + num_leaves - before : 1 + free[0]] = arrays["free"][1 : 1 + held]
        grown["free"] = free
    grown["scratch"] = np.zeros((6, num_statistics))
    return grown


def add_leaves(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The same forest with room for half as many leaves again, as far as it may have more.

    Args:
        arrays: of `make_forest`; not changed.
    """
    num_leaves, num_statistics = arrays["leaf_sums"].shape
    most = len(arrays["trees"]) * int(arrays["settings"][MAX_LEAVES])
    more = min(max(num_leaves + 3, num_leaves * 3 // 2), most)
    return _put_leaves(arrays, more, arrays["leaf_columns"].shape[1], num_statistics)


def make_room(arrays: dict[str, NDArray[Any]], num_events: int) -> dict[str, NDArray[Any]]:
    """A forest in which the next events can split all leaves that they may split.

    Call it before each kernel that learns: leaves then split at the same events whether these come
    one by one or in blocks. Without room a split waits for the leaf's next check.

    Args:
        arrays: of `make_forest`; not changed.
        num_events: how many will be learned by the next call of a kernel.

    Returns:
        the same arrays, or the forest with more of them.
    """
    free = int(arrays["free"][0])
    if free >= 2 * num_events + 2:
        return arrays
    check_every = arrays["settings"][CHECK_EVERY]
    unchecked_L = arrays["leaf_numbers"][:, UNCHECKED]
    splits = int(((unchecked_L + num_events) // check_every).sum())
    # New leaves may split too; a tree may be planted at each check of ADWIN, every 32 events.
    needed = splits + num_events // int(check_every) + num_events // 32 + 2
    num_leaves = len(unchecked_L)
    most = len(arrays["trees"]) * int(arrays["settings"][MAX_LEAVES]) + 1
    if free >= needed or num_leaves == most:
        return arrays
    num_leaves = min(max(num_leaves + needed - free, num_leaves * 3 // 2), most)
    num_columns = arrays["leaf_columns"].shape[1]
    return _put_leaves(arrays, num_leaves, num_columns, arrays["leaf_sums"].shape[1])


def grow_forest(
    arrays: dict[str, NDArray[Any]], num_columns: int, num_statistics: int
) -> dict[str, NDArray[Any]]:
    """The same forest for events with more columns and more classes.

    Leaves that look at fewer columns than they may look at the new ones too.
    """
    before = arrays["leaf_columns"].shape[1]
    num_leaves = len(arrays["leaf_sums"])
    grown = _put_leaves(
        arrays,
        num_leaves,
        max(num_columns, before),
        max(num_statistics, arrays["leaf_sums"].shape[1]),
    )
    after = grown["leaf_columns"].shape[1]
    if after > before:
        grown["leaf_columns"][:, before:] = np.arange(before, after)
        # Rows without a leaf hold no features.
        grown["num_features"][grown["num_features"] > 0] = after
    return grown


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
    return forest[8], forest[9], forest[10], forest[11], forest[12]


@compiled
def _open_leaf(forest: Forest, tree: int, node: int, num_columns: int) -> int:
    """A node becomes a new, empty leaf; its row. There must be a free one."""
    nodes_TN5, free, columns_LF, generator = forest[0], forest[3], forest[6], forest[13]
    leaf = free[free[0]]
    free[0] -= 1
    nodes_TN5[tree, node, COLUMN] = -1
    nodes_TN5[tree, node, LOW] = leaf
    forest[4][leaf] = 0.0
    forest[5][leaf] = 0.0
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
    forest[7][leaf] = wanted
    return int(leaf)


@compiled
def fell_tree(forest: Forest, tree: int) -> None:
    """Give back all leaves of a tree."""
    nodes_TN5, trees_T3, free = forest[0], forest[2], forest[3]
    for node in range(trees_T3[tree, NUM_NODES]):
        if nodes_TN5[tree, node, COLUMN] < 0:
            free[0] += 1
            free[free[0]] = nodes_TN5[tree, node, LOW]
            # `make_room` looks at all rows.
            forest[5][nodes_TN5[tree, node, LOW], UNCHECKED] = 0.0
            forest[7][nodes_TN5[tree, node, LOW]] = 0
        nodes_TN5[tree, node, COLUMN] = -1
    trees_T3[tree, NUM_NODES] = 0
    trees_T3[tree, NUM_LEAVES] = 0


@compiled
def plant_tree(forest: Forest, tree: int, num_columns: int) -> bool:
    """A tree of one empty leaf; what stood there before goes. False: there was no room."""
    fell_tree(forest, tree)
    if forest[3][0] == 0:
        return False
    _open_leaf(forest, tree, 0, num_columns)
    forest[2][tree, NUM_NODES] = 1
    forest[2][tree, NUM_LEAVES] = 1
    return True


@compiled
def find_node(forest: Forest, tree: int, x_C: NDArray[np.float64]) -> int:
    """The leaf node to which an event falls."""
    nodes_TN5, thresholds_TN = forest[0], forest[1]
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
    columns_LF, histograms = forest[6], histograms_of(forest)
    for feature in range(forest[7][leaf]):
        column = columns_LF[leaf, feature]
        if column < x_C.shape[0] and math.isfinite(x_C[column]):
            insert_value(
                histograms, leaf, feature, kinds_C[column], x_C[column], label, target, weight
            )
    forest[5][leaf, SEEN] += weight
    forest[5][leaf, UNCHECKED] += 1.0


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
    columns_LF, histograms, shares_S = forest[6], histograms_of(forest), forest[15][0]
    seen = 0.0
    for k in range(shares_S.shape[0]):
        seen += forest[4][child, k]
    fade = min(1.0, INHERITED / seen) if seen > 0.0 else 0.0
    for k in range(shares_S.shape[0]):
        before = forest[15][4, k] + forest[15][5, k]
        shares_S[k] = fade * forest[4][child, k] / before if before > 0.0 else 0.0
    known = 0
    for feature in range(forest[7][child]):
        while known < forest[7][leaf] and columns_LF[leaf, known] < columns_LF[child, feature]:
            known += 1
        if known == forest[7][leaf] or columns_LF[leaf, known] != columns_LF[child, feature]:
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
    nodes_TN5, trees_T3, numbers_L4, settings = forest[0], forest[2], forest[5], forest[14]
    leaf = nodes_TN5[tree, node, LOW]
    if numbers_L4[leaf, UNCHECKED] < settings[CHECK_EVERY]:
        return False
    numbers_L4[leaf, UNCHECKED] = 0.0
    if trees_T3[tree, NUM_LEAVES] >= settings[MAX_LEAVES] or forest[3][0] < 2:
        return False
    if largest_gain <= 0.0:
        return False
    histograms, scratch_6S = histograms_of(forest), forest[15]
    feature, threshold, gain, second = find_split(
        histograms, leaf, forest[7][leaf], forest[6], kinds_C, by_class, scratch_6S[:3]
    )
    if feature < 0:
        return False
    eps = math.sqrt(settings[DOUBT] / (2.0 * numbers_L4[leaf, SEEN]))
    if (gain - second) / largest_gain <= eps and eps * largest_gain >= TIE:
        return False
    column = forest[6][leaf, feature]
    low_S, high_S = scratch_6S[4], scratch_6S[5]
    sum_side(histograms, leaf, feature, kinds_C[column], threshold, low_S, high_S)
    low, high = trees_T3[tree, NUM_NODES], trees_T3[tree, NUM_NODES] + 1
    trees_T3[tree, NUM_NODES] += 2
    trees_T3[tree, NUM_LEAVES] += 1
    middle = threshold
    if kinds_C[column] != CATEGORY:
        middle -= histograms[0][leaf, feature]
    for side in range(2):
        child = _open_leaf(forest, tree, low if side == 0 else high, kinds_C.shape[0])
        forest[4][child] = low_S if side == 0 else high_S
        if by_class:
            _inherit(forest, leaf, feature, kinds_C[column], child, side, middle)
    # The row of the leaf is free again.
    forest[3][0] += 1
    forest[3][forest[3][0]] = leaf
    numbers_L4[leaf] = 0.0
    nodes_TN5[tree, node, COLUMN] = column
    nodes_TN5[tree, node, KIND] = kinds_C[column]
    nodes_TN5[tree, node, LOW] = low
    nodes_TN5[tree, node, HIGH] = high
    heavier = low_S.sum() > high_S.sum() if by_class else low_S[0] > high_S[0]
    nodes_TN5[tree, node, MISSING] = low if heavier else high
    forest[1][tree, node] = threshold
    return True
