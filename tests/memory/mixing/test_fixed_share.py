"""Fixed share: as in the paper, and what is shared is a distribution."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.memory.mixing.fixed_share import share_weights

losses_of_three = st.lists(st.tuples(*[st.floats(0.0, 50.0)] * 3), min_size=1, max_size=30)
PRIOR = np.log(np.array([[0.6, 0.3, 0.1]]))


def test_one_step_as_in_the_paper() -> None:
    start, losses = np.array([[0.7, 0.2, 0.1]]), np.array([[2.0, 0.5, 1.0]])
    posterior = start * np.exp(-losses)
    wanted = 0.8 * posterior / posterior.sum() + 0.2 * np.exp(PRIOR)
    found = share_weights(np.log(start), losses, np.ones((1, 1)), 0.2, PRIOR)
    assert np.exp(found)[0].tolist() == pytest.approx(wanted[0].tolist())


def test_without_switches_it_is_bayes_rule() -> None:
    losses = np.random.default_rng(0).random((20, 3))
    found = share_weights(PRIOR, losses, np.ones((20, 1)), 0.0, PRIOR)
    wanted = np.exp(PRIOR[0] - losses.sum(axis=0))
    assert np.exp(found)[0].tolist() == pytest.approx((wanted / wanted.sum()).tolist())


@given(losses_of_three, st.floats(0.0, 0.9))
def test_weights_stay_a_distribution(rows: list[tuple[float, ...]], switch_rate: float) -> None:
    weights = PRIOR
    for row in rows:
        weights = share_weights(weights, np.array([row]), np.ones((1, 1)), switch_rate, PRIOR)
    assert float(np.exp(weights).sum()) == pytest.approx(1.0)
    assert bool((np.exp(weights) >= switch_rate * np.exp(PRIOR) * (1 - 1e-12)).all())


@given(losses_of_three)
def test_examples_count_by_their_scales(rows: list[tuple[float, ...]]) -> None:
    """Twice the scale is the same example twice; none is none; zones do not touch each other."""
    losses, both = np.array(rows), np.concatenate((PRIOR, PRIOR))
    num = len(rows)
    scales = np.stack((np.zeros(num), np.full(num, 2.0)), axis=1)
    found = share_weights(both, losses, scales, 0.1, both)
    twice = share_weights(PRIOR, np.repeat(losses, 2, axis=0), np.ones((2 * num, 1)), 0.1, PRIOR)
    assert np.exp(found[0]).tolist() == pytest.approx(np.exp(PRIOR[0]).tolist())
    assert np.exp(found[1]).tolist() == pytest.approx(np.exp(twice[0]).tolist())


def test_who_was_utterly_wrong_comes_back() -> None:
    weights, one = PRIOR, np.ones((1, 1))
    weights = share_weights(weights, np.array([[0.0, 0.0, 1e6]]), one, 0.01, PRIOR)
    assert math.exp(weights[0, 2]) == pytest.approx(0.001)
    for _ in range(20):
        weights = share_weights(weights, np.array([[5.0, 5.0, 0.0]]), one, 0.01, PRIOR)
    assert math.exp(weights[0, 2]) > 0.98
