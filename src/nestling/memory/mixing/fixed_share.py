"""Weights of experts of which the best may change: one update of a fixed share.

Letters: E experts, N examples (rows), Z zones of inputs.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def share_weights(
    log_weights_ZE: Floats,
    losses_NE: Floats,
    scales_NZ: Floats,
    switch_rate: float,
    log_prior_ZE: Floats,
) -> Floats:
    """One fixed-share update of the weights of each zone, for examples that came together.

    v_i = w_i exp(-sum_n s_n l_ni) / sum_j ...,   w_i' = (1 - a)^S v_i + (1 - (1 - a)^S) prior_i,
    S = sum_n s_n   [Herbster & Warmuth 1998, Fig. 1, eta = 1]

    Differs: from the paper in that what is shared returns to the prior, itself included; and in
    that N examples are one trial, of the sum of their losses, after which N trials' worth is
    shared. With N = 1 and s = 1 it is the paper's.

    Args:
        log_weights_ZE: (Z, E) logarithms of weights, each row of which sums to 1.
        losses_NE: (N, E) finite nats.
        scales_NZ: (N, Z) s >= 0, how much an example counts in a zone.
        switch_rate: a, probability per example that the best expert changes, in [0, 1).
        log_prior_ZE: (Z, E).

    Returns: (Z, E).

    >>> even = np.log(np.full((1, 2), 0.5))
    >>> losses, one = np.array([[0.0, 50.0]]), np.ones((1, 1))
    >>> np.exp(share_weights(even, losses, one, 0.1, even)).round(2).tolist()
    [[0.95, 0.05]]
    """
    joint_ZE = log_weights_ZE - scales_NZ.T @ losses_NE
    joint_ZE = joint_ZE - np.logaddexp.reduce(joint_ZE, axis=1, keepdims=True)
    if switch_rate == 0.0:
        return joint_ZE
    stays_Z1 = scales_NZ.sum(axis=0)[:, None] * math.log1p(-switch_rate)
    returned_Z1 = np.log(np.maximum(-np.expm1(stays_Z1), 1e-300))
    shared_ZE: Floats = np.logaddexp(joint_ZE + stays_Z1, log_prior_ZE + returned_Z1)
    return shared_ZE
