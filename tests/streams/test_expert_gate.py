"""The gates of streams against `memory.mixing`, and against gradients that torch finds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.memory.mixing.fixed_share import share_weights
from nestling.memory.mixing.mixture import (
    MixtureWeights,
    keep_absent,
    pool_classes,
    pool_values,
)
from nestling.streams.kernels.expert_gate import (
    ABSENT,
    MIXER_RATES,
    SHARE,
    is_plain,
    learn_gate,
    mix_answers,
)
from nestling.streams.kernels.network import MOST_STEPS
from nestling.streams.kernels.value_gate import learn_value_gate, mix_values

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6))
ONE = torch.ones(1, 1, dtype=torch.float64)


def make_gate(num_experts: int, num_outputs: int, seed: int) -> tuple:
    generator = np.random.default_rng(seed)
    return (
        generator.random((3, num_experts)),
        generator.dirichlet(np.ones(num_experts)),
        generator.dirichlet(np.ones(4)),
        generator.random(num_outputs) * 4 * ABSENT,
        np.zeros(2),
        generator.random(num_experts) + 0.1,
        generator.random(4) + 0.1,
    )


def make_heard(num_experts: int, num_outputs: int) -> tuple:
    outputs = np.zeros(num_outputs), np.zeros(num_outputs)
    return (np.zeros((4, num_outputs)), np.zeros((num_experts, num_outputs)), *outputs)


def make_weights(gate: tuple) -> MixtureWeights:
    mixers, shares, top, errors = (torch.from_numpy(gate[at].copy()) for at in (0, 1, 2, 5))
    return MixtureWeights(mixers[:, None], shares[None], top, (errors.min() / errors)[None])


def make_answers(num_experts: int, num_classes: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed + 1)
    return generator.dirichlet(np.full(num_classes, 0.2), num_experts) * (1 - 1e-6) + (
        1e-6 / num_classes
    )


@given(SIZES)
def test_classes_are_mixed_as_in_memory(sizes: tuple[int, int, int]) -> None:
    num_experts, num_classes, seed = sizes
    gate, heard = make_gate(*sizes), make_heard(num_experts, num_classes)
    p_EK = make_answers(*sizes)
    spine = seed % num_experts
    mix_answers(gate, p_EK, spine, heard)
    pooled = pool_classes(torch.from_numpy(p_EK)[:, None], ONE, make_weights(gate))
    np.testing.assert_allclose(heard[0], pooled[:, 0], atol=1e-10)
    plain = torch.einsum("m,mnk->nk", make_weights(gate).top, pooled)
    np.testing.assert_allclose(heard[2], plain[0], atol=1e-10)
    present = torch.from_numpy(gate[3] >= ABSENT)
    if present.any():
        mixed = keep_absent(plain, torch.from_numpy(p_EK[spine])[None], present)
        np.testing.assert_allclose(heard[3], mixed[0], atol=1e-10)
        assert heard[3].sum() == pytest.approx(1.0)
    else:
        np.testing.assert_array_equal(heard[3], heard[2])


@given(SIZES, st.sampled_from([0.0, 0.5, 1.0, 1e6]), st.sampled_from([1.0, 11.0]))
def test_the_gate_of_classes_climbs_the_likelihood(
    sizes: tuple[int, int, int], weight: float, slower: float
) -> None:
    num_experts, num_classes, seed = sizes
    gate, heard = make_gate(*sizes), make_heard(num_experts, num_classes)
    before = [part.copy() for part in gate]
    p_EK, label = make_answers(*sizes), seed % num_classes
    mix_answers(gate, p_EK, 0, heard)
    mixers = torch.from_numpy(before[0].copy()).requires_grad_()
    logs = torch.from_numpy(np.maximum(np.log(p_EK), -7.0))
    torch.log_softmax(mixers @ logs, dim=1)[:, label].sum().backward()
    learn_gate(gate, p_EK, heard, label, weight, slower)
    rates = np.array(MIXER_RATES)[:, None] * min(weight, MOST_STEPS) / slower
    np.testing.assert_allclose(gate[0], before[0] + rates * mixers.grad.numpy(), atol=1e-10)
    for at, likelihoods in ((1, p_EK[:, label]), (2, heard[0][:, label])):
        even = np.full((1, len(likelihoods)), -math.log(len(likelihoods)))
        power = 1.0 if at == 1 else 1.0 / slower
        losses = -power * np.log(np.maximum(likelihoods, 0.01))[None]
        wanted = share_weights(
            np.log(before[at])[None], losses, np.ones((1, 1)), SHARE / slower, even
        )
        np.testing.assert_allclose(gate[at], np.exp(wanted[0]), atol=1e-10)
    recent = before[3] * 2.0 ** (-1 / 60)
    recent[label] += 1.0
    np.testing.assert_allclose(gate[3], recent)


def test_the_guard_lets_the_plain_gate_answer_after_significant_harm() -> None:
    gate, heard = make_gate(1, 2, 0), make_heard(1, 2)
    gate[3][:] = 0.0, 1.0
    gain, spread = 0.0, 0.0
    for n in range(30):
        heard[2][:], heard[3][:] = (0.9, 0.1), (0.1, 0.9)
        label = int(n % 10 == 0)
        learn_gate(gate, np.full((1, 2), 0.5), heard, label, 1.0, 1.0)
        decay = 2.0 ** (-1 / 2000)
        gain, spread = decay * gain + (1.0 if label == 0 else -1.0), decay * spread + 1.0
        assert is_plain(gate[4]) == (gain / math.sqrt(spread + 4.0) >= 3.0)
        np.testing.assert_allclose(gate[4], [gain, spread])
    assert is_plain(gate[4])


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_values_are_mixed_as_in_memory(num_experts: int, seed: int) -> None:
    gate, heard = make_gate(num_experts, 1, seed), make_heard(num_experts, 1)
    v_E1 = np.random.default_rng(seed + 1).normal(size=(num_experts, 1))
    spread = (np.zeros(num_experts), np.array([-2.0, 2.0, 1.0, 0.0, 0.0, 0.9]))
    mix_values(gate, spread, v_E1, False, heard)
    pooled = pool_values(torch.from_numpy(v_E1)[:, None], ONE, make_weights(gate))
    np.testing.assert_allclose(heard[0], pooled[:, 0], atol=1e-10)
    np.testing.assert_allclose(heard[3][0], gate[2] @ pooled[:, 0, 0].numpy(), atol=1e-10)


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_the_gate_of_values_climbs_the_likelihood(num_experts: int, seed: int) -> None:
    """Gaussian experts of precision tau_e: N(sum w tau mu / P, 1 / P), P = sum w tau."""
    gate, heard = make_gate(num_experts, 1, seed), make_heard(num_experts, 1)
    before = [part.copy() for part in gate]
    generator = np.random.default_rng(seed + 1)
    v_E1, target = 0.3 * generator.normal(size=(num_experts, 1)), float(generator.normal() * 0.3)
    spread = (np.zeros(num_experts), np.array([-2.0, 2.0, 1.0, 0.0, 0.0, 0.9]))
    mix_values(gate, spread, v_E1, False, heard)
    learn_value_gate(gate, spread, heard, target, 1.0, 1.0, 0.0, False)
    errors = before[5] + (1 - 2 ** (-1 / 50)) * ((v_E1[:, 0] - target) ** 2 - before[5])
    np.testing.assert_allclose(gate[5], errors)
    mixers = torch.from_numpy(before[0].copy()).requires_grad_()
    tau = torch.from_numpy(1.0 / errors)
    precision = mixers @ tau
    # The mean is that of the precisions before the event.
    means = torch.from_numpy(heard[0][:3, 0].copy())
    apart = torch.from_numpy(v_E1[:, 0]) - means[:, None]
    missed = torch.from_numpy((v_E1[:, 0] - target) ** 2)
    gained = 0.5 * tau * (1.0 / precision[:, None] + apart**2 - missed)
    moved = before[0] + np.array(MIXER_RATES)[:, None] * gained.detach().numpy().clip(-3, 3)
    np.testing.assert_allclose(gate[0], np.maximum(moved, 0.0), atol=1e-10)
    # With the errors as they were it is the gradient of the log-density.
    tau = torch.from_numpy(1.0 / before[5])
    precision = mixers @ tau
    mean = (mixers * tau) @ torch.from_numpy(v_E1[:, 0]) / precision
    log_density = 0.5 * precision.log() - 0.5 * precision * (target - mean) ** 2
    log_density.sum().backward()
    apart = torch.from_numpy(v_E1[:, 0]) - mean[:, None]
    gained = 0.5 * tau * (1.0 / precision[:, None] + apart**2 - missed)
    np.testing.assert_allclose(mixers.grad, gained.detach(), atol=1e-9)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_a_quantile_is_reached_and_intervals_hold_their_share(quantile: float) -> None:
    """One expert that always says 0, of normal values: its offset finds the quantile."""
    gate, heard = make_gate(1, 1, 0), make_heard(1, 1)
    gate[0][:], gate[1][:] = 1.0, 1.0
    spread = (np.zeros(1), np.array([-2.0, 2.0, 1.0, 0.0, -100.0, 0.8]))
    targets = np.random.default_rng(0).normal(size=4000).tolist()
    below = 0
    for n, target in enumerate(targets):
        mix_values(gate, spread, np.zeros((1, 1)), True, heard)
        below += n >= 1000 and target < heard[3][0]
        learn_value_gate(gate, spread, heard, target, 1.0, 1.0, quantile, True)
    assert below / 3000 == pytest.approx(quantile, abs=0.02)
    inside, judged = spread[1][3:5]
    assert judged == 3900
    assert inside / judged == pytest.approx(0.8, abs=0.02)
