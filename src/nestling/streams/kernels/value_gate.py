"""The gate of a stream of values: whom to believe, and how far off the answer may be.

Experts are Gaussians whose variance is their running squared error, as in `memory.mixing`; for a
quantile they are asymmetric Laplace densities.

Axes: E experts, X mixers.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled
from nestling.streams.kernels.expert_gate import MIXER_RATES, SHARE, Gate, Heard
from nestling.streams.kernels.network import MOST_STEPS

Floats = NDArray[np.float64]
# offsets_E from an expert's mean to its quantile; interval_6: lower and upper bound in running
# absolute errors, that error, events inside, events judged (below 0: bounds are still guesses),
# share that should lie inside
Spread = tuple[Floats, Floats]

ERROR_HALF_LIFE = 50.0
SMALLEST = 1e-12
MOST_NATS = 3.0
OFFSET_RATE = 0.02
BOUND_RATE = 0.05


@compiled
def mix_values(gate: Gate, spread: Spread, v_E1: Floats, by_quantile: bool, heard: Heard) -> None:
    """Write the mixture of the experts' values.

    mu_x = sum_e w_xe tau_e mu_e / sum_e w_xe tau_e, tau_e the precision (of a quantile: the squared
    inverse of the running loss); a fixed share over the experts, and one over these four.

    Args:
        gate: weights.
        spread: offsets of the experts.
        v_E1: their values.
        by_quantile: whether a quantile is wanted.
        heard: written.
    """
    weights_XE, shares_E, top_4, _, _, errors_E, _ = gate
    by_mixer_41, offset_E1, plain_1, mixed_1 = heard
    num_mixers, num_experts = weights_XE.shape
    for e in range(num_experts):
        offset_E1[e, 0] = v_E1[e, 0] + (spread[0][e] if by_quantile else 0.0)
    plain_1[0] = 0.0
    for x in range(num_mixers + 1):
        total, mean = 0.0, 0.0
        for e in range(num_experts):
            if x == num_mixers:
                weight = shares_E[e]
            else:
                error = max(errors_E[e], SMALLEST)
                weight = weights_XE[x, e] / (error * error if by_quantile else error) + SMALLEST
            total += weight
            mean += weight * offset_E1[e, 0]
        by_mixer_41[x, 0] = mean / total
        plain_1[0] += top_4[x] * by_mixer_41[x, 0]
    mixed_1[0] = plain_1[0]


@compiled
def _lose(value: float, target: float, quantile: float, by_quantile: bool) -> float:
    """Squared loss, or the pinball loss of a quantile."""
    error = target - value
    if by_quantile:
        return float(max(quantile * error, (quantile - 1.0) * error))
    return error * error


@compiled
def _count_nats(loss: float, error: float, by_quantile: bool) -> float:
    """Negative log density, up to what all share."""
    error = max(error, SMALLEST)
    if by_quantile:
        return float(np.log(error) + loss / error)
    return float(0.5 * (np.log(error) + loss / error))


@compiled
def _share_by_nats(shares: Floats, nats: Floats, share: float) -> None:
    least = nats.min()
    for e in range(shares.shape[0]):
        shares[e] *= np.exp(-min(nats[e] - least, MOST_NATS))
    total = shares.sum()
    for e in range(shares.shape[0]):
        shares[e] = (1.0 - share) * shares[e] / total + share / shares.shape[0]


@compiled
def learn_value_gate(
    gate: Gate,
    spread: Spread,
    heard: Heard,
    target: float,
    weight: float,
    slower: float,
    quantile: float,
    by_quantile: bool,
) -> None:
    """Let the gate hear of a value, by the answers that stood before it.

    Args:
        gate: weights and running losses, moved.
        spread: offsets and interval, moved.
        heard: what `mix_values` wrote.
        target: the value that came, in running deviations.
        weight: of the example.
        slower: 1 + d / 100 for targets that come d events late.
        quantile: that is wanted, in (0, 1).
        by_quantile: whether one is.
    """
    weights_XE, shares_E, top_4, _, _, errors_E, errors_4 = gate
    by_mixer_41, offset_E1, _, mixed_1 = heard
    num_mixers, num_experts = weights_XE.shape
    moves = 1.0 - 2.0 ** (-1.0 / ERROR_HALF_LIFE)
    nats_E, nats_4 = np.empty(num_experts), np.empty(num_mixers + 1)
    for e in range(num_experts):
        loss = _lose(offset_E1[e, 0], target, quantile, by_quantile)
        errors_E[e] += moves * (loss - errors_E[e])
        nats_E[e] = _count_nats(loss, errors_E[e], by_quantile)
    for x in range(num_mixers + 1):
        loss = _lose(by_mixer_41[x, 0], target, quantile, by_quantile)
        errors_4[x] += moves * (loss - errors_4[x])
        nats_4[x] = _count_nats(loss, errors_4[x], by_quantile)
    for x in range(num_mixers):
        mean = by_mixer_41[x, 0]
        precision = SMALLEST
        for e in range(num_experts):
            precision += weights_XE[x, e] / max(errors_E[e], SMALLEST)
        rate = MIXER_RATES[x] * min(weight, MOST_STEPS) / slower
        for e in range(num_experts):
            error = max(errors_E[e], SMALLEST)
            apart = offset_E1[e, 0] - mean
            if by_quantile:
                slope = quantile - (1.0 if target < mean else 0.0)
                gained = slope * apart / error
            else:
                missed = target - offset_E1[e, 0]
                gained = 0.5 / error * (1.0 / precision + apart * apart - missed * missed)
            gained = min(max(gained, -MOST_NATS), MOST_NATS)
            weights_XE[x, e] = max(weights_XE[x, e] + rate * gained, 0.0)
    _share_by_nats(shares_E, nats_E, SHARE / slower)
    _share_by_nats(top_4, nats_4, SHARE / slower)
    if by_quantile:
        for e in range(num_experts):
            below = 1.0 if target < offset_E1[e, 0] else 0.0
            spread[0][e] += OFFSET_RATE * (quantile - below)
    _follow_interval(spread[1], target - mixed_1[0])


@compiled
def _follow_interval(interval_6: Floats, missed: float) -> None:
    """Move the bounds so that the wanted share of answers lies inside [Gibbs and Candes 2021]."""
    scale = max(interval_6[2], SMALLEST)
    if interval_6[4] >= 0.0:
        interval_6[3] += 1.0 if interval_6[0] * scale <= missed <= interval_6[1] * scale else 0.0
    interval_6[4] += 1.0
    outside = 0.5 * (1.0 - interval_6[5])
    below = 1.0 if missed < interval_6[0] * scale else 0.0
    above = 1.0 if missed > interval_6[1] * scale else 0.0
    interval_6[0] += BOUND_RATE * (outside - below)
    interval_6[1] += BOUND_RATE * (above - outside)
    interval_6[2] += (1.0 - 2.0 ** (-1.0 / ERROR_HALF_LIFE)) * (abs(missed) - interval_6[2])
