"""The gate of a stream, for one event: whose answer is given, and who was right.

Axes: E experts, K outputs.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.addresses import array_1, array_2
from nestling.streams.kernels.compiled import compiled
from nestling.streams.kernels.expert_gate import Gate, Heard, is_plain, learn_gate, mix_answers
from nestling.streams.kernels.value_gate import (
    Spread,
    learn_value_gate,
    mix_values,
)
from nestling.streams.kernels.views import HEAR, MIX

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@compiled
def open_gate(table: Ints) -> tuple[Gate, Spread, Heard]:
    """Weights, and what a mixture goes through, of which the table holds the addresses."""
    gate = (
        array_2(table, 0, np.float64),
        array_1(table, 1, np.float64),
        array_1(table, 2, np.float64),
        array_1(table, 3, np.float64),
        array_1(table, 4, np.float64),
        array_1(table, 5, np.float64),
        array_1(table, 6, np.float64),
    )
    spread = array_1(table, 7, np.float64), array_1(table, 8, np.float64)
    heard = (
        array_2(table, 9, np.float64),
        array_2(table, 10, np.float64),
        array_1(table, 11, np.float64),
        array_1(table, 12, np.float64),
    )
    return gate, spread, heard


@compiled
def step_gate(
    mode: int,
    table: Ints,
    settings_2: Floats,
    spine: int,
    slower: float,
    target: float,
    weight: float,
    p_EK: Floats,
    mixed_K: Floats,
) -> None:
    """Mix the answers to an event, hear of its target, or both.

    Args:
        mode: MIX (the mixture is written), HEAR (the gate hears of the target), or both.
        table: addresses of weights, which move, and of what a mixture goes through.
        settings_2: 1 for classes, 0 for values; the quantile that is wanted, 0 for the mean.
        spine: row of the expert that keeps absent classes, -1 for none.
        slower: 1 + d / 100 for targets that come d events late.
        target, weight, p_EK: of the event.
        mixed_K: written.
    """
    gate, spread, heard = open_gate(table)
    classify, quantile = settings_2[0] == 1.0, settings_2[1]
    by_quantile = quantile > 0.0
    if mode & MIX:
        if classify:
            mix_answers(gate, p_EK, spine, heard)
            chosen_K = heard[2] if is_plain(gate[4]) else heard[3]
            # Divided by their sum none is above 1, not by a rounding either.
            mixed_K[:] = chosen_K / chosen_K.sum()
        else:
            mix_values(gate, spread, p_EK, by_quantile, heard)
            mixed_K[0] = heard[3][0]
    if mode & HEAR:
        if classify:
            learn_gate(gate, p_EK, heard, int(target), weight, slower)
        else:
            learn_value_gate(gate, spread, heard, target, weight, slower, quantile, by_quantile)
