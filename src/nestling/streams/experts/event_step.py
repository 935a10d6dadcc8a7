"""Events through all that a stream learner has, one after the other, in one compiled call.

Axes: B events of a block, C columns, V inputs of a view, Q columns of the trees that see the recent
past, E experts that take part, K outputs.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.addresses import ROW, array_1
from nestling.streams.kernels.compiled import compiled
from nestling.streams.kernels.gate_step import process_gate
from nestling.streams.kernels.network_step import process_networks
from nestling.streams.kernels.ridge_step import process_ridges
from nestling.streams.kernels.views import ANSWER, HEAR, LEARN, MIX, process_views
from nestling.streams.trees.tree_step import (
    lacks_room,
    open_pool,
    open_tree,
    open_value_tree,
    process_pool,
    process_tree,
    process_value_tree,
    write_recent_columns,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Sections of the table, and the array that each starts with is `starts[section]`.
VIEWS, NETWORKS, RIDGES, GATE, SWITCHES, TREE, TREES, TREES_RECENT = range(8)
# Arrays of the section of switches: rows and flags of all experts, rates, what is due, counters,
# settings, and the columns of the trees that see the recent past.
ROWS, LEARNING, RATES, DUE, CLOCK, ANEW, SETTINGS, SOURCE, RANK, KINDS = range(10)
SPINE_ROW, LABELS_ROW = 4, 11


@compiled
def _section(table: Ints, starts: Ints, section: int) -> Ints:
    return table[starts[section] * ROW :]


@compiled
def _process_but_trees(
    mode: int,
    table: Ints,
    starts: Ints,
    num_inputs: int,
    num_learned: int,
    classify: bool,
    values: Floats,
    views: Floats,
    recent: Floats,
    targets: Floats,
    weights: Floats,
    answers: Floats,
) -> None:
    """View one event, and let networks and memories answer and learn it."""
    switches, of_views = _section(table, starts, SWITCHES), _section(table, starts, VIEWS)
    rows, learning = array_1(switches, ROWS, np.int64), array_1(switches, LEARNING, np.int64)
    process_views(
        mode,
        of_views,
        rows[LABELS_ROW],
        learning[LABELS_ROW],
        classify,
        values,
        targets,
        views,
        answers,
    )
    if mode & (ANSWER | LEARN):
        process_networks(
            mode,
            _section(table, starts, NETWORKS),
            rows[:4],
            learning[:4],
            array_1(switches, RATES, np.float64),
            num_learned,
            num_inputs,
            classify,
            views,
            targets,
            weights,
            answers,
        )
        process_ridges(
            mode,
            _section(table, starts, RIDGES),
            rows[4:8],
            learning[4:8],
            array_1(switches, DUE, np.int64),
            array_1(switches, CLOCK, np.int64),
            array_1(of_views, 5, np.int64),
            array_1(of_views, 6, np.int64),
            num_inputs,
            classify,
            values,
            views,
            targets,
            weights,
            answers,
        )
    if mode & ANSWER and rows[10] >= 0:
        source, rank = array_1(switches, SOURCE, np.int64), array_1(switches, RANK, np.int64)
        write_recent_columns(source, rank, num_inputs, values, views, recent)


@compiled
def _mix_and_hear(
    mode: int,
    table: Ints,
    starts: Ints,
    slower: float,
    targets: Floats,
    weights: Floats,
    answers: Floats,
    mixed: Floats,
) -> bool:
    """Let the gate mix and hear of one event; whether a memory is to be solved."""
    switches = _section(table, starts, SWITCHES)
    if mode & (MIX | HEAR):
        spine = array_1(switches, ROWS, np.int64)[SPINE_ROW]
        settings = array_1(switches, SETTINGS, np.float64)
        process_gate(
            mode,
            _section(table, starts, GATE),
            settings,
            spine,
            slower,
            targets,
            weights,
            answers,
            mixed,
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
    recent: Floats,
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
        values: (B, C); views: (B, V); recent: (B, Q); targets: (B,); weights: (B,);
            answers: (B, E, K); mixed: (B, K): of the events.

    Returns:
        the next event to be processed, B if none; negative where it stopped behind an event.
    """
    switches = _section(table, starts, SWITCHES)
    rows, learning = array_1(switches, ROWS, np.int64), array_1(switches, LEARNING, np.int64)
    anew = array_1(switches, ANEW, np.int64)
    clock = array_1(switches, CLOCK, np.int64)
    kinds_C = array_1(_section(table, starts, VIEWS), 5, np.int64)
    began = anew.sum() + clock[1]
    for b in range(start, values.shape[0]):
        if mode & LEARN and (
            (rows[8] >= 0 and lacks_room(open_tree(_section(table, starts, TREE))))
            or (rows[9] >= 0 and lacks_room(open_pool(_section(table, starts, TREES))))
        ):
            return b
        value, view, near = values[b : b + 1], views[b : b + 1], recent[b : b + 1]
        target, weight, answer = targets[b : b + 1], weights[b : b + 1], answers[b : b + 1]
        _process_but_trees(
            mode,
            table,
            starts,
            num_inputs,
            num_learned + b - start,
            True,
            value,
            view,
            near,
            target,
            weight,
            answer,
        )
        if rows[8] >= 0:
            wanted = mode if learning[8] else mode & ANSWER
            process_tree(
                wanted,
                _section(table, starts, TREE),
                rows[8],
                kinds_C,
                0,
                anew,
                value,
                target,
                weight,
                answer,
            )
        if rows[9] >= 0:
            wanted = mode if learning[9] else mode & ANSWER
            process_pool(
                wanted,
                _section(table, starts, TREES),
                rows[9],
                kinds_C,
                1,
                anew,
                value,
                target,
                weight,
                answer,
            )
        is_due = _mix_and_hear(
            mode, table, starts, slower, target, weight, answer, mixed[b : b + 1]
        )
        if is_due or anew.sum() + clock[1] != began:
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

    As `process_events`, with trees of values.
    """
    switches = _section(table, starts, SWITCHES)
    rows, learning = array_1(switches, ROWS, np.int64), array_1(switches, LEARNING, np.int64)
    anew, kinds_Q = array_1(switches, ANEW, np.int64), array_1(switches, KINDS, np.int64)
    clock = array_1(switches, CLOCK, np.int64)
    kinds_C = array_1(_section(table, starts, VIEWS), 5, np.int64)
    began = anew.sum() + clock[1]
    for b in range(start, values.shape[0]):
        if mode & LEARN and (
            (rows[8] >= 0 and lacks_room(open_value_tree(_section(table, starts, TREE))))
            or (
                rows[10] >= 0 and lacks_room(open_value_tree(_section(table, starts, TREES_RECENT)))
            )
        ):
            return b
        value, view, near = values[b : b + 1], views[b : b + 1], recent[b : b + 1]
        target, weight, answer = targets[b : b + 1], weights[b : b + 1], answers[b : b + 1]
        _process_but_trees(
            mode,
            table,
            starts,
            num_inputs,
            num_learned + b - start,
            False,
            value,
            view,
            near,
            target,
            weight,
            answer,
        )
        if rows[8] >= 0:
            wanted = mode if learning[8] else mode & ANSWER
            process_value_tree(
                wanted,
                _section(table, starts, TREE),
                rows[8],
                kinds_C,
                0,
                anew,
                value,
                target,
                weight,
                answer,
            )
        if rows[10] >= 0:
            wanted = mode if learning[10] else mode & ANSWER
            process_value_tree(
                wanted,
                _section(table, starts, TREES_RECENT),
                rows[10],
                kinds_Q,
                2,
                anew,
                near,
                target,
                weight,
                answer,
            )
        is_due = _mix_and_hear(
            mode, table, starts, slower, target, weight, answer, mixed[b : b + 1]
        )
        if is_due or anew.sum() + clock[1] != began:
            return -b - 1
    return int(values.shape[0])
