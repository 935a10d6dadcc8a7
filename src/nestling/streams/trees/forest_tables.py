"""Forests by the addresses of their arrays, and whether they have room for one more event."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.addresses import array_1, array_2, array_3, array_4
from nestling.streams.kernels.compiled import compiled
from nestling.streams.trees.concept_trees import Pool
from nestling.streams.trees.forest import (
    FREE,
    LEAF_SUMS,
    MAX_LEAVES,
    SETTINGS,
    TREES,
    Forest,
)

Ints = NDArray[np.int64]
# One event may split a leaf and have a tree begin anew.
MOST_NEW_LEAVES = 3


@compiled
def lacks_room(forest: Forest) -> bool:
    """Whether there is no room for what one more event may split."""
    most = forest[TREES].shape[0] * int(forest[SETTINGS][MAX_LEAVES])
    return bool(forest[FREE][0] < MOST_NEW_LEAVES and forest[LEAF_SUMS].shape[0] < most)


@compiled
def open_forest(table: Ints, counts_LFBS: NDArray[Any]) -> Forest:
    """The arrays of a forest, of which the table holds the addresses in their order."""
    return (
        array_3(table, 0, np.int32),
        array_2(table, 1, np.float64),
        array_2(table, 2, np.int64),
        array_1(table, 3, np.int32),
        array_2(table, 4, np.float64),
        array_2(table, 5, np.float64),
        array_2(table, 6, np.int32),
        array_1(table, 7, np.int32),
        array_2(table, 8, np.float64),
        array_2(table, 9, np.int32),
        array_3(table, 10, np.float32),
        array_3(table, 11, np.float32),
        counts_LFBS,
        array_1(table, 13, np.uint64),
        array_1(table, 14, np.float64),
        array_2(table, 15, np.float64),
        array_1(table, 16, np.float64),
        array_1(table, 17, np.int64),
        array_3(table, 18, np.float64),
    )


@compiled
def open_tree(table: Ints) -> Forest:
    """The arrays of `hoeffding.make_tree`."""
    return open_forest(table, array_4(table, 12, np.float32))


@compiled
def open_pool(table: Ints) -> Pool:
    """The arrays of `concept_trees.make_pool`."""
    of_pool = (
        array_1(table, 19, np.float64),
        array_2(table, 20, np.int64),
        array_1(table, 21, np.int64),
    )
    return open_forest(table, array_4(table, 12, np.float32)) + of_pool


@compiled
def open_value_tree(table: Ints) -> Forest:
    """The arrays of `value_trees.make_value_tree`."""
    targets = (array_1(table, 19, np.float64),)
    return open_forest(table, array_4(table, 12, np.float64)) + targets
