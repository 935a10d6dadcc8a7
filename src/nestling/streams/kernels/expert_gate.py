"""The gate of a stream: whom to believe, learned from every label.

Axes: E experts, K classes, X mixers. The same mathematics as `memory.mixing`, over arrays.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled
from nestling.streams.kernels.network import MOST_STEPS, softmax_into

Floats = NDArray[np.float64]
# weights_XE of the mixers, shares_E of the experts, top_4 (mixers, then the shared answer),
# recent_K (decayed counts of labels), guard_2 (D, V); of values errors_E and errors_4
Gate = tuple[Floats, Floats, Floats, Floats, Floats, Floats, Floats]
# by_mixer_4K, logs_EK, plain_K, mixed_K: what the last answer went through
Heard = tuple[Floats, Floats, Floats, Floats]

MIXER_RATES = (0.002, 0.008, 0.03)
SHARE = 0.002
LEAST_LIKELIHOOD = 0.01
LEAST_LOG = -7.0
RECENT_HALF_LIFE = 60.0
ABSENT = 2.0**-5
GUARD_HALF_LIFE = 2000.0
SIGNIFICANT = 3.0


@compiled
def mix_answers(gate: Gate, p_EK: Floats, spine: int, heard: Heard) -> None:
    """Write the mixture of the experts' answers, with and without what absent classes keep.

    z_k = sum_e w_e max(log p_ek, -7), p = softmax(z) of each mixer; a fixed share over the experts;
    on top a fixed share over these four. Classes that have not come lately keep what the spine says
    of them, and the present ones share what it leaves.

    Args:
        gate: weights.
        p_EK: answers.
        spine: which expert keeps the absent classes.
        heard: written.
    """
    weights_XE, shares_E, top_4, recent_K = gate[:4]
    by_mixer_4K, logs_EK, plain_K, mixed_K = heard
    num_experts, num_classes = p_EK.shape
    num_mixers = weights_XE.shape[0]
    for e in range(num_experts):
        for k in range(num_classes):
            logs_EK[e, k] = max(np.log(p_EK[e, k]), LEAST_LOG)
    by_mixer_4K[:] = 0.0
    for x in range(num_mixers):
        for e in range(num_experts):
            weight = weights_XE[x, e]
            for k in range(num_classes):
                by_mixer_4K[x, k] += weight * logs_EK[e, k]
        softmax_into(by_mixer_4K[x], by_mixer_4K[x])
    for e in range(num_experts):
        for k in range(num_classes):
            by_mixer_4K[num_mixers, k] += shares_E[e] * p_EK[e, k]
    plain_K[:] = 0.0
    for x in range(num_mixers + 1):
        for k in range(num_classes):
            plain_K[k] += top_4[x] * by_mixer_4K[x, k]
    kept, present = 0.0, 0.0
    for k in range(num_classes):
        if recent_K[k] < ABSENT:
            kept += p_EK[spine, k] if spine >= 0 else 0.0
        else:
            present += plain_K[k]
    if kept == 0.0 or present <= 0.0:
        mixed_K[:] = plain_K
        return
    for k in range(num_classes):
        if recent_K[k] < ABSENT:
            mixed_K[k] = p_EK[spine, k]
        else:
            mixed_K[k] = plain_K[k] / present * (1.0 - kept)


@compiled
def is_plain(guard_2: Floats) -> bool:
    """Whether keeping absent classes has done significant harm, D / sqrt(V + 4) >= 3."""
    return bool(guard_2[0] >= SIGNIFICANT * np.sqrt(guard_2[1] + 4.0))


@compiled
def _share_again(shares: Floats, likelihoods: Floats, slower: float, power: float) -> None:
    """Fixed share (Herbster and Warmuth 1998): by likelihood, then a little to everybody.

    Over the four ways to mix, likelihoods count to the power 1 / slower: late labels tell of a
    world that may be gone, and counted in full they gave all to one way.
    """
    total, share = 0.0, SHARE / slower
    for e in range(shares.shape[0]):
        likelihood = max(likelihoods[e], LEAST_LIKELIHOOD)
        shares[e] *= likelihood if power == 1.0 else likelihood**power
        total += shares[e]
    for e in range(shares.shape[0]):
        shares[e] = (1.0 - share) * shares[e] / total + share / shares.shape[0]


@compiled
def learn_gate(
    gate: Gate, p_EK: Floats, heard: Heard, label: int, weight: float, slower: float
) -> None:
    """Let the gate hear of a label, by the answers that stood before it.

    Args:
        gate: weights, moved.
        p_EK: answers.
        heard: what `mix_answers` wrote of them.
        label: the class that came.
        weight: of the example.
        slower: 1 + d / 100 for labels that come d events late; divides rates, shares and
            log-likelihoods.
    """
    weights_XE, shares_E, top_4, recent_K, guard_2, _, _ = gate
    by_mixer_4K, logs_EK, plain_K, mixed_K = heard
    num_experts, num_classes = p_EK.shape
    num_mixers = weights_XE.shape[0]
    for x in range(num_mixers):
        rate = MIXER_RATES[x] * min(weight, MOST_STEPS) / slower
        for e in range(num_experts):
            expected = 0.0
            for k in range(num_classes):
                expected += by_mixer_4K[x, k] * logs_EK[e, k]
            weights_XE[x, e] += rate * (logs_EK[e, label] - expected)
    likelihoods = np.empty(num_experts)
    for e in range(num_experts):
        likelihoods[e] = p_EK[e, label]
    _share_again(shares_E, likelihoods, slower, 1.0)
    of_mixers = np.empty(num_mixers + 1)
    for x in range(num_mixers + 1):
        of_mixers[x] = by_mixer_4K[x, label]
    _share_again(top_4, of_mixers, slower, 1.0 / slower)
    decay = 2.0 ** (-1.0 / GUARD_HALF_LIFE)
    plain_right = np.argmax(plain_K) == label
    mixed_right = np.argmax(mixed_K) == label
    difference = 0.0
    if plain_right != mixed_right:
        difference = 1.0 if plain_right else -1.0
    guard_2[0] = decay * guard_2[0] + difference
    guard_2[1] = decay * guard_2[1] + difference * difference
    fade = 2.0 ** (-1.0 / RECENT_HALF_LIFE)
    for k in range(num_classes):
        recent_K[k] *= fade
    recent_K[label] += 1.0
