"""Sums and solutions of a stream's ridge memories: decay, add what waits, solve.

Axes: P features, K classes, M examples that wait.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nestling.streams.kernels.weighed_rows import weigh_waiting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A factorisation that fails by rounding is tried again with so many times the ridge.
STRONGER = (1.0, 10.0, 1000.0)


def add_waiting(
    gram_PP: Floats,
    cross_PK: Floats,
    waiting_MP: Floats,
    target_M: Floats,
    weight_M: Floats,
    half_life: float,
    *,
    classify: bool,
) -> None:
    """Decay the sums of a ridge memory by each example that waited, and add them.

    A <- lambda A + w phi phi', B <- lambda B + w phi y', lambda = 2^(-1/h), in order of arrival.

    Args:
        gram_PP: sum of phi phi', moved.
        cross_PK: sum of phi y', moved.
        waiting_MP: features, the oldest first.
        target_M: classes by number, or values.
        weight_M: how often each counts.
        half_life: in examples; infinite for sums that never decay.
        classify: whether targets are classes.

    >>> gram, cross = np.eye(1), np.zeros((1, 1))
    >>> add_waiting(
    ...     gram, cross, np.array([[2.0]]), np.array([1.0]), np.ones(1), 1.0, classify=False
    ... )
    >>> gram.item(), cross.item()
    (4.5, 2.0)
    """
    decay = 1.0 if math.isinf(half_life) else 2.0 ** (-1.0 / half_life)
    scaled_MP = np.empty_like(waiting_MP)
    before = weigh_waiting(waiting_MP, target_M, weight_M, decay, classify, scaled_MP, cross_PK)
    scaled = torch.from_numpy(scaled_MP)
    torch.from_numpy(gram_PP).addmm_(scaled.T, scaled, beta=before)


def solve_sums(gram_PP: Floats, cross_PK: Floats, strength: float) -> Floats | None:
    """Weights of a ridge memory, (A + rho I)^-1 B; rho never decays, so nothing winds up.

    Args:
        gram_PP: sum of phi phi'.
        cross_PK: sum of phi y'.
        strength: rho.

    Returns:
        (K, P); None if the sums cannot be factorised.

    >>> solve_sums(np.array([[3.0]]), np.array([[2.0]]), 1.0)
    array([[0.5]])
    """
    cross = torch.from_numpy(cross_PK)
    for times in STRONGER:
        ridged_PP = gram_PP.copy()
        ridged_PP.reshape(-1)[:: len(ridged_PP) + 1] += strength * times
        lower, failed = torch.linalg.cholesky_ex(torch.from_numpy(ridged_PP))
        if not failed.item():
            weights_KP = torch.cholesky_solve(cross, lower).numpy().T
            if np.isfinite(weights_KP).all():
                return weights_KP
    return None


def solve_memory(
    part: Mapping[str, NDArray[Any]],
    num_waiting: int,
    half_life: float,
    strength: float,
    *,
    classify: bool,
) -> None:
    """Add what waits to the sums of a memory, solve it, and keep none of what waited.

    Args:
        part: its arrays; moved.
        num_waiting: examples that wait.
        half_life: in examples.
        strength: rho.
        classify: whether targets are classes.
    """
    add_waiting(
        part["gram"],
        part["cross"],
        part["waiting"][:num_waiting],
        part["targets"][:num_waiting],
        part["example_weights"][:num_waiting],
        half_life,
        classify=classify,
    )
    for waited in ("waiting", "targets", "example_weights"):
        part[waited][:num_waiting] = 0.0  # what is summed is kept nowhere else
    weights = solve_sums(part["gram"], part["cross"], strength)
    if weights is not None:
        part["weights"][:] = weights
