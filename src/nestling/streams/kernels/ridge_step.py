"""Ridge memories and concept slots of a stream, for one event.

Axes: C columns, V inputs of a view, E experts that take part, K outputs.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.addresses import array_1, array_2, array_3
from nestling.streams.kernels.compiled import compiled
from nestling.streams.kernels.ridge_answers import (
    DenseUnits,
    Ridge,
    Slots,
    SparseUnits,
    answer_ridge,
    answer_slots,
    learn_ridge,
    learn_slots,
    write_dense_units,
    write_sparse_units,
)
from nestling.streams.kernels.views import ANSWER, LEARN

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Units = tuple[SparseUnits, DenseUnits]
Ridges = tuple[Ridge, Ridge, Ridge, Slots]
# phi_spine_P, phi_quick_P, phi_middle_P, scores_RK, scores_SK, p_SK: what the last answer went
# through
Work = tuple[Floats, Floats, Floats, Floats, Floats, Floats]

SPINE, QUICK, MIDDLE, CONCEPTS = 0, 1, 2, 3


@compiled
def write_features(
    units: Units,
    work: Work,
    kinds_C: Ints,
    place_C: Ints,
    x_C: Floats,
    view_V: Floats,
    num_inputs: int,
) -> None:
    """Write the features of the three ridge memories and of the slots.

    Spine: [1, Z, sparse units]; quick, and the slots: [1, Z, dense units]; middle: [1, Z, R, L].
    Which parts a memory has is said by its width.
    """
    phi_spine_P, phi_quick_P, phi_middle_P = work[0], work[1], work[2]
    sparse, dense = units
    num_units = sparse[2].shape[0]
    offset = phi_spine_P.shape[0] - num_units
    phi_spine_P[0] = 1.0
    if offset > 1:
        phi_spine_P[1:offset] = view_V[:num_inputs]
    write_sparse_units(sparse, x_C, kinds_C, place_C, view_V, phi_spine_P[offset:])
    num_units = dense[1].shape[0]
    offset = phi_quick_P.shape[0] - num_units
    phi_quick_P[0] = 1.0
    if offset > 1:
        phi_quick_P[1:offset] = view_V[:num_inputs]
    write_dense_units(dense, view_V[:num_inputs], phi_quick_P[offset:])
    phi_middle_P[0] = 1.0
    phi_middle_P[1:] = view_V[view_V.shape[0] + 1 - phi_middle_P.shape[0] :]


@compiled
def answer_ridges(ridges: Ridges, work: Work, rows_4: Ints, classify: bool, p_EK: Floats) -> None:
    """Write the answers of the three ridge memories and of the concept slots."""
    spine, quick, middle, slots = ridges
    scores_RK, scores_SK, p_SK = work[3], work[4], work[5]
    if rows_4[SPINE] >= 0:
        answer_ridge(spine, work[0], classify, scores_RK[0], p_EK[rows_4[SPINE]])
    if rows_4[QUICK] >= 0:
        answer_ridge(quick, work[1], classify, scores_RK[1], p_EK[rows_4[QUICK]])
    if rows_4[MIDDLE] >= 0:
        answer_ridge(middle, work[2], classify, scores_RK[2], p_EK[rows_4[MIDDLE]])
    if rows_4[CONCEPTS] >= 0:
        answer_slots(slots, work[1], classify, scores_SK, p_SK, p_EK[rows_4[CONCEPTS]])


@compiled
def learn_ridges(
    ridges: Ridges,
    work: Work,
    rows_4: Ints,
    learning_4: Ints,
    due_4: Ints,
    clock_2: Ints,
    p_EK: Floats,
    target: float,
    weight: float,
    classify: bool,
) -> None:
    """Let an example wait in each memory; note what is to be solved."""
    spine, quick, middle, slots = ridges
    scores_RK, p_SK = work[3], work[5]
    if rows_4[SPINE] >= 0 and learning_4[SPINE]:
        p_K = p_EK[rows_4[SPINE]]
        if learn_ridge(spine, work[0], scores_RK[0], p_K, target, weight, classify):
            due_4[0] = 1
    if rows_4[QUICK] >= 0 and learning_4[QUICK]:
        p_K = p_EK[rows_4[QUICK]]
        if learn_ridge(quick, work[1], scores_RK[1], p_K, target, weight, classify):
            due_4[1] = 1
    if rows_4[MIDDLE] >= 0 and learning_4[MIDDLE]:
        p_K = p_EK[rows_4[MIDDLE]]
        if learn_ridge(middle, work[2], scores_RK[2], p_K, target, weight, classify):
            due_4[2] = 1
    if rows_4[CONCEPTS] >= 0 and learning_4[CONCEPTS]:
        found = learn_slots(slots, work[1], p_SK, target, weight, clock_2[0], classify)
        if found >= 0:
            due_4[3] = 1 + found // 2
            clock_2[1] += found % 2
        else:
            clock_2[1] += -1 - found


@compiled
def _open_ridge(table: Ints, at: int) -> Ridge:
    return (
        array_2(table, at, np.float64),
        array_2(table, at + 1, np.float64),
        array_1(table, at + 2, np.float64),
        array_1(table, at + 3, np.float64),
        array_1(table, at + 4, np.float64),
        array_1(table, at + 5, np.int64),
        array_1(table, at + 6, np.float64),
    )


@compiled
def open_ridges(table: Ints) -> tuple[Units, Ridges, Work]:
    """Units, memories, and room for an answer, of which the table holds the addresses."""
    sparse = (
        array_2(table, 0, np.int64),
        array_2(table, 1, np.float64),
        array_1(table, 2, np.float64),
    )
    dense = (array_2(table, 3, np.float64), array_1(table, 4, np.float64))
    slots = (
        array_3(table, 26, np.float64),
        array_3(table, 27, np.float64),
        array_2(table, 28, np.float64),
        array_2(table, 29, np.float64),
        array_2(table, 30, np.int64),
        array_1(table, 31, np.float64),
        array_1(table, 32, np.int64),
        array_1(table, 33, np.float64),
    )
    work = (
        array_1(table, 34, np.float64),
        array_1(table, 35, np.float64),
        array_1(table, 36, np.float64),
        array_2(table, 37, np.float64),
        array_2(table, 38, np.float64),
        array_2(table, 39, np.float64),
    )
    memories = _open_ridge(table, 5), _open_ridge(table, 12), _open_ridge(table, 19), slots
    return (sparse, dense), memories, work


@compiled
def step_ridges(
    mode: int,
    table: Ints,
    rows_4: Ints,
    learning_4: Ints,
    due_4: Ints,
    clock_2: Ints,
    kinds_C: Ints,
    place_C: Ints,
    num_inputs: int,
    classify: bool,
    x_C: Floats,
    view_V: Floats,
    target: float,
    weight: float,
    p_EK: Floats,
) -> None:
    """Answer an event, let it wait to be summed, or both; say which memory is to be solved.

    Args:
        mode: ANSWER, LEARN or both; see `network_step.step_networks`.
        table: addresses of units, memories, slots, and what an answer goes through.
        rows_4: row of each in the answers, -1 where it takes no part.
        learning_4: 0 where it stands still.
        due_4: written, 1 where a memory is to be solved, 1 + slot of the slots.
        clock_2: events learned, concepts opened; moved.
        kinds_C, place_C: kinds of the columns, and their places in a view.
        num_inputs: D, the first part of a view.
        classify: whether targets are classes.
        x_C, view_V, target, weight, p_EK: the event, and what is known of it.
    """
    units, ridges, work = open_ridges(table)
    if mode & ANSWER:
        write_features(units, work, kinds_C, place_C, x_C, view_V, num_inputs)
        answer_ridges(ridges, work, rows_4, classify, p_EK)
    if mode & LEARN:
        learn_ridges(
            ridges,
            work,
            rows_4,
            learning_4,
            due_4,
            clock_2,
            p_EK,
            target,
            weight,
            classify,
        )
        clock_2[0] += 1
