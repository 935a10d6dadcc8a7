"""Examples that wait to be solved, made ready for the sums of a ridge memory.

Axes: P features, K outputs, M examples that wait.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled

Floats = NDArray[np.float64]


@compiled
def weigh_waiting(
    waiting_MP: Floats,
    target_M: Floats,
    weight_M: Floats,
    decay: float,
    classify: bool,
    scaled_MP: Floats,
    cross_PK: Floats,
) -> float:
    """Scale the rows that wait by the root of their weights, and add phi y' to its decayed sum.

    B <- lambda B + w phi y' for each example in order of arrival.

    Args:
        waiting_MP: features, the oldest first.
        target_M: classes by number, or values.
        weight_M: how often each counts.
        decay: lambda.
        classify: whether targets are classes.
        scaled_MP: written, sqrt(w lambda^age) phi.
        cross_PK: sum of phi y', moved.

    Returns:
        lambda^M, by which older sums decay.
    """
    num_waiting, num_features = waiting_MP.shape
    before = decay**num_waiting
    if decay < 1.0:
        for p in range(num_features):
            for k in range(cross_PK.shape[1]):
                cross_PK[p, k] *= before
    share = 1.0
    for m in range(num_waiting - 1, -1, -1):
        weight = weight_M[m] * share
        share *= decay
        root = np.sqrt(weight)
        k = int(target_M[m]) if classify else 0
        amount = weight if classify else weight * target_M[m]
        for p in range(num_features):
            phi = waiting_MP[m, p]
            scaled_MP[m, p] = root * phi
            cross_PK[p, k] += amount * phi
    return float(before)
