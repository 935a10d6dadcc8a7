"""Networks and regression of a stream, for one event.

Axes: V = D + N + 3 K inputs of a view, E experts that take part, K outputs.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.addresses import array_1, array_2
from nestling.streams.kernels.compiled import compiled
from nestling.streams.kernels.network import (
    MOST_STEPS,
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
from nestling.streams.kernels.views import ANSWER, LARGEST, LEARN

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]
Networks = tuple[Network, AdamNetwork, AdamNetwork, Linear]

# Experts by number.
SGD, ADAM_VALUES, ADAM_ALL, LINEAR = 0, 1, 2, 3
# Of values: how many deviations an error counts at most, so that one event moves little.
MOST_MISSED = 3.0


@compiled
def _answer_by(z_K: Floats, classify: bool, p_K: Floats) -> None:
    """What outputs say: probabilities of classes, or a value within 8 deviations.

    A network that a learning rate of somebody's choice has blown up says nothing: the gate, which
    hears all, must stay finite.
    """
    if classify:
        softmax_into(z_K, p_K)
        if not np.isfinite(p_K[0]):
            p_K[:] = 1.0 / p_K.shape[0]
    else:
        p_K[0] = min(max(z_K[0], -LARGEST), LARGEST) if np.isfinite(z_K[0]) else 0.0


@compiled
def answer_networks(
    networks: Networks,
    rows_4: Ints,
    view_V: Floats,
    num_inputs: int,
    classify: bool,
    p_EK: Floats,
) -> None:
    """Write the answers of networks and regressions, and what these went through."""
    z_K = np.empty(p_EK.shape[1])
    view_D = view_V[:num_inputs]
    sgd, adam_values, adam_all, linear = networks
    if rows_4[SGD] >= 0:
        answer_network(sgd[0], sgd[2], sgd[3], sgd[4], view_D, z_K)
        _answer_by(z_K, classify, p_EK[rows_4[SGD]])
    if rows_4[ADAM_VALUES] >= 0:
        net = adam_values
        answer_network(net[0], net[4], net[5], net[6], view_D, z_K)
        _answer_by(z_K, classify, p_EK[rows_4[ADAM_VALUES]])
    if rows_4[ADAM_ALL] >= 0:
        net = adam_all
        answer_network(net[0], net[4], net[5], net[6], view_V, z_K)
        _answer_by(z_K, classify, p_EK[rows_4[ADAM_ALL]])
    if rows_4[LINEAR] >= 0:
        answer_linear(linear[0], view_D, z_K)
        _answer_by(z_K, classify, p_EK[rows_4[LINEAR]])


@compiled
def _write_error(
    p_K: Floats, target: float, weight: float, classify: bool, error_K: Singles
) -> None:
    """Derivative of the loss by the outputs: of log-loss, or of Huber's."""
    weight = min(weight, MOST_STEPS)
    if not classify:
        error_K[0] = weight * min(max(p_K[0] - target, -MOST_MISSED), MOST_MISSED)
        return
    for k in range(p_K.shape[0]):
        error_K[k] = p_K[k] * weight
    error_K[int(target)] -= weight


@compiled
def learn_networks(
    networks: Networks,
    rows_4: Ints,
    learning_4: Ints,
    rates_6: Floats,
    num_seen: int,
    view_V: Floats,
    num_inputs: int,
    p_EK: Floats,
    target: float,
    weight: float,
    classify: bool,
) -> None:
    """One step of each network and regression on the error of what it answered last."""
    error_K = np.empty(p_EK.shape[1], dtype=np.float32)
    view_D = view_V[:num_inputs]
    sgd, adam_values, adam_all, linear = networks
    if rows_4[SGD] >= 0 and learning_4[SGD]:
        net = sgd
        _write_error(p_EK[rows_4[SGD]], target, weight, classify, error_K)
        rate = rates_6[SGD] * follow_square(net[1], net[4], num_seen)
        learn_by_sgd(net[0], net[2], net[3], net[4], error_K, rate)
    if rows_4[ADAM_VALUES] >= 0 and learning_4[ADAM_VALUES]:
        slow = adam_values
        _write_error(p_EK[rows_4[ADAM_VALUES]], target, weight, classify, error_K)
        rate = rates_6[ADAM_VALUES] * follow_square(slow[1], slow[6], num_seen)
        learn_by_adamw(
            slow[0], slow[4], slow[5], slow[6], slow[2], slow[3], error_K, rate, rates_6[4]
        )
    if rows_4[ADAM_ALL] >= 0 and learning_4[ADAM_ALL]:
        slow = adam_all
        _write_error(p_EK[rows_4[ADAM_ALL]], target, weight, classify, error_K)
        rate = rates_6[ADAM_ALL] * follow_square(slow[1], slow[6], num_seen)
        learn_by_adamw(
            slow[0], slow[4], slow[5], slow[6], slow[2], slow[3], error_K, rate, rates_6[5]
        )
    if rows_4[LINEAR] >= 0 and learning_4[LINEAR]:
        _write_error(p_EK[rows_4[LINEAR]], target, weight, classify, error_K)
        learn_linear(linear[0], view_D, error_K, rates_6[LINEAR])


@compiled
def _open_network(table: Ints, at: int) -> Network:
    return (
        array_1(table, at, np.float32),
        array_1(table, at + 1, np.float64),
        array_1(table, at + 2, np.float32),
        array_1(table, at + 3, np.float32),
        array_1(table, at + 4, np.float32),
    )


@compiled
def _open_adam_network(table: Ints, at: int) -> AdamNetwork:
    return (
        array_1(table, at, np.float32),
        array_1(table, at + 1, np.float64),
        array_1(table, at + 2, np.float32),
        array_2(table, at + 3, np.float64),
        array_1(table, at + 4, np.float32),
        array_1(table, at + 5, np.float32),
        array_1(table, at + 6, np.float32),
    )


@compiled
def open_networks(table: Ints) -> Networks:
    """The arrays of all networks and regressions, of which the table holds the addresses."""
    return (
        _open_network(table, 0),
        _open_adam_network(table, 5),
        _open_adam_network(table, 12),
        (array_2(table, 19, np.float64),),
    )


@compiled
def step_networks(
    mode: int,
    table: Ints,
    rows_4: Ints,
    learning_4: Ints,
    rates_6: Floats,
    num_seen: int,
    num_inputs: int,
    classify: bool,
    view_V: Floats,
    target: float,
    weight: float,
    p_EK: Floats,
) -> None:
    """Answer an event, learn it, or both.

    Args:
        mode: ANSWER (answers are written), LEARN (the target is learned, by the answers that were
            given last), or both.
        table: addresses of the weights.
        rows_4: row of each in the answers, -1 where it takes no part.
        learning_4: 0 where it stands still.
        rates_6: learning rates, and weight decay of both AdamW networks.
        num_seen: events learned before.
        num_inputs: D, the first part of a view.
        classify: whether targets are classes.
        view_V: what is seen of the event.
        target: class by number, or value.
        weight: how often the event counts.
        p_EK: answers.
    """
    networks = open_networks(table)
    if mode & ANSWER:
        answer_networks(networks, rows_4, view_V, num_inputs, classify, p_EK)
    if mode & LEARN:
        learn_networks(
            networks,
            rows_4,
            learning_4,
            rates_6,
            num_seen,
            view_V,
            num_inputs,
            p_EK,
            target,
            weight,
            classify,
        )
