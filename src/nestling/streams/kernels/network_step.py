"""Networks and regressions of a stream, event after event.

Axes: B events of a block, V = D + N + 3 K inputs of a view, E experts that take part, K outputs.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled
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
from nestling.streams.kernels.views import FORESEE, LARGEST, LEARN

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]
Networks = tuple[Network, Network, AdamNetwork, AdamNetwork, Linear, Linear]

# Experts by number.
SGD_VALUES, SGD_ALL, ADAM_VALUES, ADAM_ALL, LINEAR_VALUES, LINEAR_ALL = 0, 1, 2, 3, 4, 5
# Of values: how many deviations an error counts at most, so that one event moves little.
MOST_MISSED = 3.0
# How often an event counts at most in a step of plain SGD: with more the weights blow up (at a
# weight of 10 on 0.8 % of the events they were NaN after 5,000). AdamW divides it out.
MOST_WEIGHT = 2.0


@compiled
def _answer_by(z_K: Floats, classify: bool, p_K: Floats) -> None:
    """What outputs say: probabilities of classes, or a value within 8 deviations."""
    if classify:
        softmax_into(z_K, p_K)
    else:
        p_K[0] = min(max(z_K[0], -LARGEST), LARGEST)


@compiled
def answer_networks(
    networks: Networks,
    rows_6: Ints,
    view_V: Floats,
    num_inputs: int,
    classify: bool,
    p_EK: Floats,
) -> None:
    """Write the answers of networks and regressions, and what these went through."""
    z_K = np.empty(p_EK.shape[1])
    view_D = view_V[:num_inputs]
    values, everything, adam_values, adam_all, linear_values, linear_all = networks
    if rows_6[SGD_VALUES] >= 0:
        answer_network(values[0], values[2], values[3], values[4], view_D, z_K)
        _answer_by(z_K, classify, p_EK[rows_6[SGD_VALUES]])
    if rows_6[SGD_ALL] >= 0:
        answer_network(everything[0], everything[2], everything[3], everything[4], view_V, z_K)
        _answer_by(z_K, classify, p_EK[rows_6[SGD_ALL]])
    if rows_6[ADAM_VALUES] >= 0:
        net = adam_values
        answer_network(net[0], net[4], net[5], net[6], view_D, z_K)
        _answer_by(z_K, classify, p_EK[rows_6[ADAM_VALUES]])
    if rows_6[ADAM_ALL] >= 0:
        net = adam_all
        answer_network(net[0], net[4], net[5], net[6], view_V, z_K)
        _answer_by(z_K, classify, p_EK[rows_6[ADAM_ALL]])
    if rows_6[LINEAR_VALUES] >= 0:
        answer_linear(linear_values[0], view_D, z_K)
        _answer_by(z_K, classify, p_EK[rows_6[LINEAR_VALUES]])
    if rows_6[LINEAR_ALL] >= 0:
        answer_linear(linear_all[0], view_V, z_K)
        _answer_by(z_K, classify, p_EK[rows_6[LINEAR_ALL]])


@compiled
def _write_error(
    p_K: Floats, target: float, weight: float, classify: bool, error_K: Singles
) -> None:
    """Derivative of the loss by the outputs: of log-loss, or of Huber's."""
    if not classify:
        error_K[0] = weight * min(max(p_K[0] - target, -MOST_MISSED), MOST_MISSED)
        return
    for k in range(p_K.shape[0]):
        error_K[k] = p_K[k] * weight
    error_K[int(target)] -= weight


@compiled
def learn_networks(
    networks: Networks,
    rows_6: Ints,
    learning_6: Ints,
    rates_7: Floats,
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
    sgd_weight = min(weight, MOST_WEIGHT)
    view_D = view_V[:num_inputs]
    values, everything, adam_values, adam_all, linear_values, linear_all = networks
    if rows_6[SGD_VALUES] >= 0 and learning_6[SGD_VALUES]:
        net = values
        _write_error(p_EK[rows_6[SGD_VALUES]], target, sgd_weight, classify, error_K)
        rate = rates_7[SGD_VALUES] * follow_square(net[1], net[4], num_seen)
        learn_by_sgd(net[0], net[2], net[3], net[4], error_K, rate)
    if rows_6[SGD_ALL] >= 0 and learning_6[SGD_ALL]:
        net = everything
        _write_error(p_EK[rows_6[SGD_ALL]], target, sgd_weight, classify, error_K)
        rate = rates_7[SGD_ALL] * follow_square(net[1], net[4], num_seen)
        learn_by_sgd(net[0], net[2], net[3], net[4], error_K, rate)
    if rows_6[ADAM_VALUES] >= 0 and learning_6[ADAM_VALUES]:
        slow = adam_values
        _write_error(p_EK[rows_6[ADAM_VALUES]], target, weight, classify, error_K)
        rate = rates_7[ADAM_VALUES] * follow_square(slow[1], slow[6], num_seen)
        learn_by_adamw(
            slow[0], slow[4], slow[5], slow[6], slow[2], slow[3], error_K, rate, rates_7[6]
        )
    if rows_6[ADAM_ALL] >= 0 and learning_6[ADAM_ALL]:
        slow = adam_all
        _write_error(p_EK[rows_6[ADAM_ALL]], target, weight, classify, error_K)
        rate = rates_7[ADAM_ALL] * follow_square(slow[1], slow[6], num_seen)
        learn_by_adamw(
            slow[0], slow[4], slow[5], slow[6], slow[2], slow[3], error_K, rate, rates_7[6]
        )
    if rows_6[LINEAR_VALUES] >= 0 and learning_6[LINEAR_VALUES]:
        _write_error(p_EK[rows_6[LINEAR_VALUES]], target, weight, classify, error_K)
        learn_linear(linear_values[0], view_D, error_K, rates_7[LINEAR_VALUES])
    if rows_6[LINEAR_ALL] >= 0 and learning_6[LINEAR_ALL]:
        _write_error(p_EK[rows_6[LINEAR_ALL]], target, weight, classify, error_K)
        learn_linear(linear_all[0], view_V, error_K, rates_7[LINEAR_ALL])


@compiled
def process_networks(
    mode: int,
    networks: Networks,
    rows_6: Ints,
    learning_6: Ints,
    rates_7: Floats,
    num_seen: int,
    num_inputs: int,
    classify: bool,
    view_BV: Floats,
    target_B: Floats,
    weight_B: Floats,
    p_BEK: Floats,
) -> None:
    """Answer and learn events one after the other.

    Args:
        mode: FORESEE (answers are written), LEARN (targets are learned, by the answers that were
            foreseen last), or both.
        networks: weights.
        rows_6: row of each in the answers, -1 where it takes no part.
        learning_6: 0 where it stands still.
        rates_7: learning rates, and weight decay.
        num_seen: events learned before.
        num_inputs: D, the first part of a view.
        classify: whether targets are classes.
        view_BV: views of the events.
        target_B: classes by number, or values.
        weight_B: how often each event counts.
        p_BEK: answers.
    """
    for b in range(view_BV.shape[0]):
        view_V, p_EK = view_BV[b], p_BEK[b]
        if mode & FORESEE:
            answer_networks(networks, rows_6, view_V, num_inputs, classify, p_EK)
        if mode & LEARN:
            learn_networks(
                networks,
                rows_6,
                learning_6,
                rates_7,
                num_seen + b,
                view_V,
                num_inputs,
                p_EK,
                target_B[b],
                weight_B[b],
                classify,
            )
