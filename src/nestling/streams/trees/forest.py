"""Forests as arrays: T trees that share one store of leaves, of classes or of numbers.

Trees that are not in use cost nothing, and leaves are made room for as trees grow.

Axis letters: T trees, N nodes of a tree, L leaves of all trees, F features of a leaf, C columns,
S statistics (K classes, or weight, sum and squares of the target), B bins.
"""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nestling.streams.trees.centroids import make_histograms
from nestling.streams.trees.error_windows import make_adwin

# The arrays of `make_forest` in their order.
Forest: TypeAlias = tuple[NDArray[Any], ...]

# A leaf looks at this many columns, chosen at random where there are more.
MAX_FEATURES = 40
# Sample weights beyond these would leave what float32 can hold.
LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6

# Places in the last axis of `nodes`. A leaf tests no column (-1) and names its row at LOW.
COLUMN, KIND, LOW, HIGH, MISSING = range(5)
# Places in the last axis of `trees`.
NUM_NODES, NUM_LEAVES, RESTARTS = range(3)
# Places in the last axis of `leaf_numbers`: weight and events since the leaf was made, events since
# it was last checked, decayed errors of its two ways to answer, the feature that told most then.
SEEN, UNCHECKED, ERRORS_PLAIN, ERRORS_FINE, BEST = range(5)
# Places in `settings`.
MAX_LEAVES, CHECK_EVERY, DOUBT, MEAN_WEIGHT = range(4)

# Places of the arrays in a forest.
NODES, THRESHOLDS, TREES, FREE = range(4)
LEAF_SUMS, LEAF_NUMBERS, LEAF_COLUMNS, NUM_FEATURES = range(4, 8)
ORIGINS, SIZES, CENTRES, COSTS, COUNTS = range(8, 13)
GENERATOR, SETTINGS, SCRATCH, ADWIN_NUMBERS, ADWIN_SIZES, ADWIN_BUCKETS = range(13, 19)
FOREST_END = 19


def _make_leaves(
    num_leaves: int, num_columns: int, num_statistics: int, dtype: type[np.floating[Any]]
) -> dict[str, NDArray[Any]]:
    """Empty leaves, by the names of their arrays."""
    num_features = min(num_columns, MAX_FEATURES)
    origins, sizes, centres, costs, counts = make_histograms(
        num_leaves, num_features, num_statistics, dtype
    )
    return {
        "leaf_sums": np.zeros((num_leaves, num_statistics)),
        "leaf_numbers": np.zeros((num_leaves, 5)),
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
    dtype: type[np.floating[Any]] = np.float32,
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
        adwin_delta: of the ADWIN on errors.
        seed: of columns and Poisson numbers.
        dtype: of the counts in histograms.

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
        **_make_leaves(num_leaves, num_columns, num_statistics, dtype),
        "generator": np.array([seed], np.uint64),
        "settings": np.array([max_leaves, check_every, -math.log(delta), mean_weight]),
        "scratch": np.zeros((6, num_statistics)),
        "adwin_numbers": numbers,
        "adwin_sizes": sizes_R,
        "adwin_buckets": buckets,
    }


def _put_leaves(
    arrays: dict[str, NDArray[Any]], num_leaves: int, num_columns: int, num_statistics: int
) -> dict[str, NDArray[Any]]:
    """The same forest with room for more leaves, columns or statistics."""
    grown = dict(arrays)
    dtype = arrays["counts"].dtype.type
    leaves = _make_leaves(num_leaves, num_columns, num_statistics, dtype)
    for name, room in leaves.items():
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
