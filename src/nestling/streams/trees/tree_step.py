"""Trees of a stream, event after event.

Axes: B events of a block, C columns, Q columns of the trees that see the recent past, E experts
that take part, K outputs.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.addresses import array_1, array_2, array_3, array_4
from nestling.streams.kernels.compiled import compiled
from nestling.streams.kernels.views import ANSWER, LEARN
from nestling.streams.trees.concept_trees import Pool, answer_pool, learn_pool
from nestling.streams.trees.forest import (
    FREE,
    LEAF_SUMS,
    MAX_LEAVES,
    SETTINGS,
    TREES,
    Forest,
)
from nestling.streams.trees.hoeffding import answer_tree, learn_tree
from nestling.streams.trees.value_trees import answer_value_tree, learn_value_tree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# One event may split a leaf and have a tree begin anew.
MOST_NEW_LEAVES = 3


@compiled
def write_recent_columns(
    source_Q: Ints,
    rank_Q: Ints,
    num_inputs: int,
    x_BC: Floats,
    view_BV: Floats,
    x_BQ: Floats,
) -> None:
    """Write the columns of the trees that see the recent past: raw values, and R of numbers.

    Args:
        source_Q: column that each looks at.
        rank_Q: its place in R; -1 for the raw value.
        num_inputs: D, where R begins in a view.
        x_BC, view_BV: of the events.
        x_BQ: written.
    """
    for b in range(x_BC.shape[0]):
        for q in range(source_Q.shape[0]):
            x = x_BC[b, source_Q[q]]
            if rank_Q[q] >= 0 and not np.isnan(x):
                x = view_BV[b, num_inputs + rank_Q[q]]
            x_BQ[b, q] = x


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


@compiled
def process_tree(
    mode: int,
    table: Ints,
    row: int,
    kinds_C: Ints,
    at: int,
    anew: Ints,
    x_BC: Floats,
    target_B: Floats,
    weight_B: Floats,
    p_BEK: Floats,
) -> None:
    """Answer and learn events by a Hoeffding tree.

    Args:
        mode: ANSWER, LEARN or both; see `network_step.process_networks`.
        table: addresses of the arrays.
        row: in the answers.
        kinds_C: of the columns.
        at: its place in `anew`.
        anew: how often each began anew; moved.
        x_BC, target_B, weight_B, p_BEK: events, and what is known of them.
    """
    forest = open_tree(table)
    for b in range(x_BC.shape[0]):
        if mode & ANSWER:
            answer_tree(forest, x_BC[b], kinds_C, p_BEK[b, row])
        if mode & LEARN:
            anew[at] += int(learn_tree(forest, x_BC[b], kinds_C, int(target_B[b]), weight_B[b]))


@compiled
def process_pool(
    mode: int,
    table: Ints,
    row: int,
    kinds_C: Ints,
    at: int,
    anew: Ints,
    x_BC: Floats,
    target_B: Floats,
    weight_B: Floats,
    p_BEK: Floats,
) -> None:
    """Answer and learn events by a pool of concept trees.

    Args:
        mode: ANSWER, LEARN or both; see `network_step.process_networks`.
        table: addresses of the arrays.
        row: in the answers.
        kinds_C: of the columns.
        at: its place in `anew`.
        anew: how often each began anew; moved.
        x_BC, target_B, weight_B, p_BEK: events, and what is known of them.
    """
    forest = open_pool(table)
    for b in range(x_BC.shape[0]):
        if mode & ANSWER:
            answer_pool(forest, x_BC[b], kinds_C, p_BEK[b, row])
        if mode & LEARN:
            label = int(target_B[b])
            anew[at] += learn_pool(forest, x_BC[b], kinds_C, label, weight_B[b]) == 1


@compiled
def process_value_tree(
    mode: int,
    table: Ints,
    row: int,
    kinds_C: Ints,
    at: int,
    anew: Ints,
    x_BC: Floats,
    target_B: Floats,
    weight_B: Floats,
    p_BEK: Floats,
) -> None:
    """Answer and learn events by a tree of values.

    Args:
        mode: ANSWER, LEARN or both; see `network_step.process_networks`.
        table: addresses of the arrays.
        row: in the answers.
        kinds_C: of the columns.
        at: its place in `anew`.
        anew: how often each began anew; moved.
        x_BC, target_B, weight_B, p_BEK: events, and what is known of them.
    """
    forest = open_value_tree(table)
    for b in range(x_BC.shape[0]):
        if mode & ANSWER:
            p_BEK[b, row, 0] = answer_value_tree(forest, x_BC[b], kinds_C)
        if mode & LEARN:
            anew[at] += int(learn_value_tree(forest, x_BC[b], kinds_C, target_B[b], weight_B[b]))
