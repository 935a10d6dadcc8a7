"""Events through all that a stream learner has, one after the other, in one compiled call.

Axes: B events of a block, C columns, V inputs of a view, Q columns of the tree that sees the recent
past, E experts that take part, K outputs.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.addresses import ROW, array_1
from nestling.streams.kernels.compiled import compiled
from nestling.streams.kernels.gate_step import step_gate
from nestling.streams.kernels.network_step import step_networks
from nestling.streams.kernels.ridge_step import step_ridges
from nestling.streams.kernels.views import (
    ANSWER,
    HEAR,
    LEARN,
    MIX,
    step_views,
    write_recent_columns,
)
from nestling.streams.trees.concept_trees import OPENED, answer_pool, learn_pool
from nestling.streams.trees.forest_tables import lacks_room, open_pool, open_tree, open_value_tree
from nestling.streams.trees.hoeffding import answer_tree, learn_tree
from nestling.streams.trees.value_trees import answer_value_tree, learn_value_tree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Sections of the table, and the array that each starts with is `starts[section]`.
VIEWS, NETWORKS, RIDGES, GATE, SWITCHES, TREE, TREES, TREES_RECENT = range(8)
# Arrays of the section of switches: rows and flags of all experts, rates, what is due, counters,
# settings, and the columns of the tree that sees the recent past.
ROWS, LEARNING, RATES, DUE, CLOCK, ANEW, SETTINGS, SOURCE, RANK, KINDS = range(10)
# Places among all experts: of networks, of memories (the first of which is the spine), and of those
# that stand alone.
FIRST_NETWORK, FIRST_RIDGE, TREE_AT, TREES_AT, RECENT_AT, LABELS_AT = 0, 4, 8, 9, 10, 11
SPINE_AT = FIRST_RIDGE
# Places among the arrays of the views.
KINDS_OF_COLUMNS, PLACES_OF_COLUMNS = 5, 6


@compiled
def _section(table: Ints, starts: Ints, section: int) -> Ints:
    return table[starts[section] * ROW :]


@compiled
def _count_changes(switches: Ints) -> int:
    """How often a tree began anew or a concept was opened."""
    opened = array_1(switches, CLOCK, np.int64)[1]
    return int(array_1(switches, ANEW, np.int64).sum() + opened)


@compiled
def _step_but_trees(
    mode: int,
    table: Ints,
    starts: Ints,
    num_inputs: int,
    num_learned: int,
    classify: bool,
    x_C: Floats,
    view_V: Floats,
    target: float,
    weight: float,
    p_EK: Floats,
) -> float:
    """View one event, let networks and memories answer and learn it; its target as they see it."""
    switches, of_views = _section(table, starts, SWITCHES), _section(table, starts, VIEWS)
    rows, learning = array_1(switches, ROWS, np.int64), array_1(switches, LEARNING, np.int64)
    target = step_views(
        mode,
        of_views,
        rows[LABELS_AT],
        learning[LABELS_AT],
        classify,
        x_C,
        target,
        view_V,
        p_EK,
    )
    if mode & (ANSWER | LEARN):
        step_networks(
            mode,
            _section(table, starts, NETWORKS),
            rows[FIRST_NETWORK:FIRST_RIDGE],
            learning[FIRST_NETWORK:FIRST_RIDGE],
            array_1(switches, RATES, np.float64),
            num_learned,
            num_inputs,
            classify,
            view_V,
            target,
            weight,
            p_EK,
        )
        step_ridges(
            mode,
            _section(table, starts, RIDGES),
            rows[FIRST_RIDGE:TREE_AT],
            learning[FIRST_RIDGE:TREE_AT],
            array_1(switches, DUE, np.int64),
            array_1(switches, CLOCK, np.int64),
            array_1(of_views, KINDS_OF_COLUMNS, np.int64),
            array_1(of_views, PLACES_OF_COLUMNS, np.int64),
            num_inputs,
            classify,
            x_C,
            view_V,
            target,
            weight,
            p_EK,
        )
    return target


@compiled
def _mix_and_hear(
    mode: int,
    table: Ints,
    starts: Ints,
    slower: float,
    target: float,
    weight: float,
    p_EK: Floats,
    mixed_K: Floats,
) -> bool:
    """Let the gate mix and hear of one event; whether a memory is to be solved."""
    switches = _section(table, starts, SWITCHES)
    if mode & (MIX | HEAR):
        step_gate(
            mode,
            _section(table, starts, GATE),
            array_1(switches, SETTINGS, np.float64),
            array_1(switches, ROWS, np.int64)[SPINE_AT],
            slower,
            target,
            weight,
            p_EK,
            mixed_K,
        )
    return bool(array_1(switches, DUE, np.int64).any())


@compiled
def process_events(
    mode: int,
    start: int,
    table: Ints,
    starts: Ints,
    num_inputs: int,
    num_learned: int,
    slower: float,
    values: Floats,
    views: Floats,
    recent: Floats,  # noqa: ARG001  # as of values
    targets: Floats,
    weights: Floats,
    answers: Floats,
    mixed: Floats,
) -> int:
    """Process events and their classes one after the other.

    Stops where Python is needed: behind an event after which a memory is to be solved or a tree
    began anew, and before one for which a tree has no room.

    Args:
        mode: sum of what is to be done; see `views`.
        start: first event to be processed.
        table: addresses of all arrays.
        starts: number of the first array of each section.
        num_inputs: D, the first part of a view.
        num_learned: events learned before this call.
        slower: of the gate, 1 + delay / 100.
        values: (B, C); views: (B, V); recent: (B, Q), of values only; targets: (B,);
            weights: (B,); answers: (B, E, K); mixed: (B, K): of the events.

    Returns:
        the next event to be processed, B if none; negative where it stopped behind an event.
    """
    switches = _section(table, starts, SWITCHES)
    rows, learning = array_1(switches, ROWS, np.int64), array_1(switches, LEARNING, np.int64)
    anew = array_1(switches, ANEW, np.int64)
    kinds_C = array_1(_section(table, starts, VIEWS), KINDS_OF_COLUMNS, np.int64)
    tree, pool = open_tree(_section(table, starts, TREE)), open_pool(_section(table, starts, TREES))
    of_tree, of_pool = rows[TREE_AT], rows[TREES_AT]
    changes = _count_changes(switches)
    for b in range(start, values.shape[0]):
        if mode & LEARN and (
            (of_tree >= 0 and lacks_room(tree)) or (of_pool >= 0 and lacks_room(pool))
        ):
            return b
        x_C, p_EK, weight, label = values[b], answers[b], weights[b], int(targets[b])
        _step_but_trees(
            mode,
            table,
            starts,
            num_inputs,
            num_learned + b - start,
            True,
            x_C,
            views[b],
            targets[b],
            weight,
            p_EK,
        )
        if of_tree >= 0:
            if mode & ANSWER:
                answer_tree(tree, x_C, kinds_C, p_EK[of_tree])
            if mode & LEARN and learning[TREE_AT]:
                anew[0] += int(learn_tree(tree, x_C, kinds_C, label, weight))
        if of_pool >= 0:
            if mode & ANSWER:
                answer_pool(pool, x_C, kinds_C, p_EK[of_pool])
            if mode & LEARN and learning[TREES_AT]:
                anew[1] += int(learn_pool(pool, x_C, kinds_C, label, weight) == OPENED)
        is_due = _mix_and_hear(mode, table, starts, slower, targets[b], weight, p_EK, mixed[b])
        if is_due or _count_changes(switches) != changes:
            return -b - 1
    return int(values.shape[0])


@compiled
def process_value_events(
    mode: int,
    start: int,
    table: Ints,
    starts: Ints,
    num_inputs: int,
    num_learned: int,
    slower: float,
    values: Floats,
    views: Floats,
    recent: Floats,
    targets: Floats,
    weights: Floats,
    answers: Floats,
    mixed: Floats,
) -> int:
    """Process events and their values one after the other.

    As `process_events`, with two trees of values, one of which sees the recent past. Targets that
    are taken in are written over in running deviations.
    """
    switches = _section(table, starts, SWITCHES)
    rows, learning = array_1(switches, ROWS, np.int64), array_1(switches, LEARNING, np.int64)
    anew, kinds_Q = array_1(switches, ANEW, np.int64), array_1(switches, KINDS, np.int64)
    source_Q, rank_Q = array_1(switches, SOURCE, np.int64), array_1(switches, RANK, np.int64)
    kinds_C = array_1(_section(table, starts, VIEWS), KINDS_OF_COLUMNS, np.int64)
    raw = open_value_tree(_section(table, starts, TREE))
    near = open_value_tree(_section(table, starts, TREES_RECENT))
    of_raw, of_near = rows[TREE_AT], rows[RECENT_AT]
    changes = _count_changes(switches)
    for b in range(start, values.shape[0]):
        if mode & LEARN and (
            (of_raw >= 0 and lacks_room(raw)) or (of_near >= 0 and lacks_room(near))
        ):
            return b
        x_C, x_Q, p_EK, weight = values[b], recent[b], answers[b], weights[b]
        targets[b] = _step_but_trees(
            mode,
            table,
            starts,
            num_inputs,
            num_learned + b - start,
            False,
            x_C,
            views[b],
            targets[b],
            weight,
            p_EK,
        )
        if of_raw >= 0:
            if mode & ANSWER:
                p_EK[of_raw, 0] = answer_value_tree(raw, x_C, kinds_C)
            if mode & LEARN and learning[TREE_AT]:
                anew[0] += int(learn_value_tree(raw, x_C, kinds_C, targets[b], weight))
        if of_near >= 0:
            if mode & ANSWER:
                write_recent_columns(source_Q, rank_Q, num_inputs, x_C, views[b], x_Q)
                p_EK[of_near, 0] = answer_value_tree(near, x_Q, kinds_Q)
            if mode & LEARN and learning[RECENT_AT]:
                anew[2] += int(learn_value_tree(near, x_Q, kinds_Q, targets[b], weight))
        is_due = _mix_and_hear(mode, table, starts, slower, targets[b], weight, p_EK, mixed[b])
        if is_due or _count_changes(switches) != changes:
            return -b - 1
    return int(values.shape[0])
