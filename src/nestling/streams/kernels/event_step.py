"""One event through all experts of a stream: foresee, mix, take in its values, learn its label.

Axes: B events of a block, C columns, D inputs, V = D + N + 3 K, E experts that take part, K
classes, Q columns of the recent trees.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled
from nestling.streams.kernels.expert_gate import (
    Gate,
    Heard,
    is_plain,
    learn_gate,
    mix_answers,
)
from nestling.streams.kernels.network import (
    AdamNetwork,
    Linear,
    Network,
    answer_linear,
    answer_network,
    follow_square,
    learn_by_adamw,
    learn_by_sgd,
    learn_linear,
    softmax_into,
)
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
from nestling.streams.kernels.views import (
    LabelPast,
    Scaling,
    answer_label_average,
    take_in_label,
    take_in_values,
    view_event,
)

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

# What is to be done with an event.
FORESEE, MIX, TAKE_IN, LEARN = 1, 2, 4, 8

# Experts by number; `rows` says at which row of the answers each stands, -1 where it takes no part.
SGD_VALUES, SGD_ALL, ADAM_VALUES, ADAM_ALL, LINEAR_VALUES, LINEAR_ALL = 0, 1, 2, 3, 4, 5
SPINE, QUICK, MIDDLE, CONCEPTS, TREE, TREES_RAW, TREES_RECENT, LABELS = 6, 7, 8, 9, 10, 11, 12, 13
NUM_EXPERTS = 14

# phi_spine_P, phi_quick_P, phi_middle_P, scores_RK, scores_SK, p_SK, z_K, error_K, x_Q, kinds_Q
Work = tuple[Floats, Floats, Floats, Floats, Floats, Floats, Floats, Singles, Floats, Ints]
# sparse, dense
Units = tuple[SparseUnits, DenseUnits]
Networks = tuple[Network, Network, AdamNetwork, AdamNetwork, Linear, Linear]
Ridges = tuple[Ridge, Ridge, Ridge, Slots]
# rows_X: row of each expert in the answers, -1 where it takes no part; learning_X: 1, 0 where it
# stands still; due_4: 1 + what is to be solved of spine, quick, middle, slots (0: nothing);
# clock_3: events foreseen as events, events learned, concepts opened
Switches = tuple[Ints, Ints, Ints, Ints]
# rates_6 of networks and regressions, then weight decay
Rates = Floats


@compiled
def write_features(
    scaling: Scaling, units: Units, work: Work, x_C: Floats, view_V: Floats, num_inputs: int
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
    write_sparse_units(sparse, x_C, scaling[5], scaling[6], view_V, phi_spine_P[offset:])
    num_units = dense[1].shape[0]
    offset = phi_quick_P.shape[0] - num_units
    phi_quick_P[0] = 1.0
    if offset > 1:
        phi_quick_P[1:offset] = view_V[:num_inputs]
    write_dense_units(dense, view_V[:num_inputs], phi_quick_P[offset:])
    phi_middle_P[0] = 1.0
    phi_middle_P[1:] = view_V[view_V.shape[0] + 1 - phi_middle_P.shape[0] :]


@compiled
def answer_networks(
    networks: Networks,
    work: Work,
    rows_X: Ints,
    view_V: Floats,
    num_inputs: int,
    p_EK: Floats,
) -> None:
    """Write the answers of networks and regressions, and what these went through."""
    z_K = work[6]
    view_D = view_V[:num_inputs]
    values, everything, adam_values, adam_all, linear_values, linear_all = networks
    if rows_X[SGD_VALUES] >= 0:
        answer_network(values[0], values[2], values[3], values[4], view_D, z_K)
        softmax_into(z_K, p_EK[rows_X[SGD_VALUES]])
    if rows_X[SGD_ALL] >= 0:
        answer_network(everything[0], everything[2], everything[3], everything[4], view_V, z_K)
        softmax_into(z_K, p_EK[rows_X[SGD_ALL]])
    if rows_X[ADAM_VALUES] >= 0:
        net = adam_values
        answer_network(net[0], net[2], net[3], net[4], view_D, z_K)
        softmax_into(z_K, p_EK[rows_X[ADAM_VALUES]])
    if rows_X[ADAM_ALL] >= 0:
        net = adam_all
        answer_network(net[0], net[2], net[3], net[4], view_V, z_K)
        softmax_into(z_K, p_EK[rows_X[ADAM_ALL]])
    if rows_X[LINEAR_VALUES] >= 0:
        answer_linear(linear_values[0], view_D, z_K)
        softmax_into(z_K, p_EK[rows_X[LINEAR_VALUES]])
    if rows_X[LINEAR_ALL] >= 0:
        answer_linear(linear_all[0], view_V, z_K)
        softmax_into(z_K, p_EK[rows_X[LINEAR_ALL]])


@compiled
def _write_error(p_K: Floats, label: int, weight: float, error_K: Singles) -> None:
    for k in range(p_K.shape[0]):
        error_K[k] = p_K[k] * weight
    error_K[label] -= weight


@compiled
def learn_networks(
    networks: Networks,
    work: Work,
    switches: Switches,
    rates: Rates,
    view_V: Floats,
    num_inputs: int,
    p_EK: Floats,
    label: int,
    weight: float,
) -> None:
    """One step of each network and regression on the error of what it answered last."""
    error_K = work[7]
    view_D = view_V[:num_inputs]
    rows_X, learning_X, _, clock_3 = switches
    values, everything, adam_values, adam_all, linear_values, linear_all = networks
    num_seen = clock_3[1]
    if rows_X[SGD_VALUES] >= 0 and learning_X[SGD_VALUES]:
        net = values
        _write_error(p_EK[rows_X[SGD_VALUES]], label, weight, error_K)
        rate = rates[SGD_VALUES] * follow_square(net[1], net[4], num_seen)
        learn_by_sgd(net[0], net[2], net[3], net[4], error_K, rate)
    if rows_X[SGD_ALL] >= 0 and learning_X[SGD_ALL]:
        net = everything
        _write_error(p_EK[rows_X[SGD_ALL]], label, weight, error_K)
        rate = rates[SGD_ALL] * follow_square(net[1], net[4], num_seen)
        learn_by_sgd(net[0], net[2], net[3], net[4], error_K, rate)
    if rows_X[ADAM_VALUES] >= 0 and learning_X[ADAM_VALUES]:
        slow = adam_values
        _write_error(p_EK[rows_X[ADAM_VALUES]], label, weight, error_K)
        rate = rates[ADAM_VALUES] * follow_square(slow[1], slow[4], num_seen)
        learn_by_adamw(
            slow[0], slow[2], slow[3], slow[4], slow[5], slow[6], error_K, rate, rates[6]
        )
    if rows_X[ADAM_ALL] >= 0 and learning_X[ADAM_ALL]:
        slow = adam_all
        _write_error(p_EK[rows_X[ADAM_ALL]], label, weight, error_K)
        rate = rates[ADAM_ALL] * follow_square(slow[1], slow[4], num_seen)
        learn_by_adamw(
            slow[0], slow[2], slow[3], slow[4], slow[5], slow[6], error_K, rate, rates[6]
        )
    if rows_X[LINEAR_VALUES] >= 0 and learning_X[LINEAR_VALUES]:
        _write_error(p_EK[rows_X[LINEAR_VALUES]], label, weight, error_K)
        learn_linear(linear_values[0], view_D, error_K, rates[LINEAR_VALUES])
    if rows_X[LINEAR_ALL] >= 0 and learning_X[LINEAR_ALL]:
        _write_error(p_EK[rows_X[LINEAR_ALL]], label, weight, error_K)
        learn_linear(linear_all[0], view_V, error_K, rates[LINEAR_ALL])


@compiled
def answer_ridges(ridges: Ridges, work: Work, rows_X: Ints, p_EK: Floats) -> None:
    """Write the answers of the three ridge memories and of the concept slots."""
    spine, quick, middle, slots = ridges
    scores_RK, scores_SK, p_SK = work[3], work[4], work[5]
    if rows_X[SPINE] >= 0:
        answer_ridge(spine, work[0], scores_RK[0], p_EK[rows_X[SPINE]])
    if rows_X[QUICK] >= 0:
        answer_ridge(quick, work[1], scores_RK[1], p_EK[rows_X[QUICK]])
    if rows_X[MIDDLE] >= 0:
        answer_ridge(middle, work[2], scores_RK[2], p_EK[rows_X[MIDDLE]])
    if rows_X[CONCEPTS] >= 0:
        answer_slots(slots, work[1], scores_SK, p_SK, p_EK[rows_X[CONCEPTS]])


@compiled
def learn_ridges(
    ridges: Ridges, work: Work, switches: Switches, p_EK: Floats, label: int, weight: float
) -> None:
    """Let an example wait in each memory; note what is to be solved."""
    spine, quick, middle, slots = ridges
    scores_RK, p_SK = work[3], work[5]
    rows_X, learning_X, due_4, clock_3 = switches
    if rows_X[SPINE] >= 0 and learning_X[SPINE]:
        p_K = p_EK[rows_X[SPINE]]
        if learn_ridge(spine, work[0], scores_RK[0], p_K, label, weight):
            due_4[0] = 1
    if rows_X[QUICK] >= 0 and learning_X[QUICK]:
        p_K = p_EK[rows_X[QUICK]]
        if learn_ridge(quick, work[1], scores_RK[1], p_K, label, weight):
            due_4[1] = 1
    if rows_X[MIDDLE] >= 0 and learning_X[MIDDLE]:
        p_K = p_EK[rows_X[MIDDLE]]
        if learn_ridge(middle, work[2], scores_RK[2], p_K, label, weight):
            due_4[2] = 1
    if rows_X[CONCEPTS] >= 0 and learning_X[CONCEPTS]:
        found = learn_slots(slots, work[1], p_SK, label, weight, clock_3[1])
        if found >= 0:
            due_4[3] = 1 + found // 2
            clock_3[2] += found % 2
        else:
            clock_3[2] += -1 - found


@compiled
def foresee(
    scaling: Scaling,
    past: LabelPast,
    units: Units,
    networks: Networks,
    ridges: Ridges,
    switches: Switches,
    work: Work,
    x_C: Floats,
    view_V: Floats,
    num_inputs: int,
    p_EK: Floats,
) -> None:
    """Write the answers of all experts to an event whose views stand."""
    rows_X = switches[0]
    write_features(scaling, units, work, x_C, view_V, num_inputs)
    answer_networks(networks, work, rows_X, view_V, num_inputs, p_EK)
    answer_ridges(ridges, work, rows_X, p_EK)
    if rows_X[LABELS] >= 0:
        answer_label_average(past, p_EK[rows_X[LABELS]])


@compiled
def process_events(
    mode: int,
    start: int,
    scaling: Scaling,
    past: LabelPast,
    units: Units,
    networks: Networks,
    ridges: Ridges,
    gate: Gate,
    heard: Heard,
    switches: Switches,
    rates: Rates,
    work: Work,
    num_inputs: int,
    slower: float,
    is_fresh: bool,
    x_BC: Floats,
    view_BV: Floats,
    p_BEK: Floats,
    mixed_BK: Floats,
    label_B: Ints,
    weight_B: Floats,
) -> int:
    """Process events one after the other; stops behind one after which a memory is to be solved.

    Args:
        mode: sum of FORESEE (views and answers are written), MIX (the mixture is), TAKE_IN (the
            values move scaling and recent past), LEARN (the label is learned).
        start: first event to be processed.
        num_inputs: D.
        slower: of the gate, 1 + delay / 100.
        is_fresh: the last event foreseen is the one to be learned, and nothing has moved since.
        x_BC, view_BV, p_BEK, mixed_BK, label_B, weight_B: events, and what is known of them.

    Returns:
        the next event to be processed, B if none.
    """
    rows_X, _, due_4, clock_3 = switches
    for b in range(start, x_BC.shape[0]):
        x_C, view_V, p_EK, mixed_K = x_BC[b], view_BV[b], p_BEK[b], mixed_BK[b]
        if mode & FORESEE:
            view_event(scaling, past, x_C, view_V)
            foresee(
                scaling,
                past,
                units,
                networks,
                ridges,
                switches,
                work,
                x_C,
                view_V,
                num_inputs,
                p_EK,
            )
        if mode & MIX:
            mix_answers(gate, p_EK, rows_X[SPINE], heard)
            mixed_K[:] = heard[2] if is_plain(gate[4]) else heard[3]
        if mode & TAKE_IN:
            take_in_values(scaling, x_C)
            clock_3[0] += 1
        if mode & LEARN:
            label, weight = label_B[b], weight_B[b]
            if not (is_fresh or mode & FORESEE):
                # The answers by which the gate judges are kept; what the experts learn from is not.
                mix_answers(gate, p_EK, rows_X[SPINE], heard)
                learn_gate(gate, p_EK, heard, label, weight, slower)
                again_EK = np.empty_like(p_EK)
                foresee(
                    scaling,
                    past,
                    units,
                    networks,
                    ridges,
                    switches,
                    work,
                    x_C,
                    view_V,
                    num_inputs,
                    again_EK,
                )
                learn_networks(
                    networks, work, switches, rates, view_V, num_inputs, again_EK, label, weight
                )
                learn_ridges(ridges, work, switches, again_EK, label, weight)
            else:
                learn_gate(gate, p_EK, heard, label, weight, slower)
                learn_networks(
                    networks, work, switches, rates, view_V, num_inputs, p_EK, label, weight
                )
                learn_ridges(ridges, work, switches, p_EK, label, weight)
            take_in_label(past, label)
            clock_3[1] += 1
            if due_4[0] + due_4[1] + due_4[2] + due_4[3] > 0:
                return b + 1
    return int(x_BC.shape[0])
