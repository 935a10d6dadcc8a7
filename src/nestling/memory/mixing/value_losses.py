"""Log-losses of experts that answer values, each a Gaussian of its running squared error.

Letters: E experts, N examples, K outputs.
"""

import math

import numpy as np

from nestling.memory.exact.statistics import decay_factor
from nestling.memory.mixing.fixed_share import Floats

# By how many nats one value may be worse than expected: bounds the cost of one mistake.
MOST_NATS = 3.0
# Of the running squared error.
ERROR_HALF_LIFE = 50.0
SMALLEST_VARIANCE = 1e-12


def score_values(
    values: Floats, target: Floats, heard_N: Floats, errors_E: Floats | None
) -> tuple[Floats, Floats, Floats]:
    """Gaussian log-losses with each expert's running squared error as variance.

    Args:
        values: (E, N, K).
        target: (N, K).
        heard_N: (N,) how much each counts.
        errors_E: (E,) running squared errors; None before the first.

    Returns: the new running errors (E,), squared errors (E, N), and nats (N, E).
    """
    squares_EN = np.square(values - target[None]).mean(axis=-1)
    weight = float(heard_N.sum())
    now_E = squares_EN @ heard_N / weight
    stays = decay_factor(weight, ERROR_HALF_LIFE)
    errors_E = now_E if errors_E is None else stays * errors_E + (1.0 - stays) * now_E
    variance_E1 = np.maximum(errors_E, SMALLEST_VARIANCE)[:, None]
    losses_EN = 0.5 * (np.log(2 * math.pi * variance_E1) + squares_EN / variance_E1)
    best_N = losses_EN.min(axis=0)
    return errors_E, squares_EN, np.minimum(losses_EN, best_N + MOST_NATS).T
