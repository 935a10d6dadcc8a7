"""Memories of streams: sums in one go, temperatures, the filter over concepts, written plainly."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.streams.experts.expert_arrays import make_dense_units, make_ridge, make_slots
from nestling.streams.experts.solving import add_waiting, solve_sums
from nestling.streams.kernels.ridge_answers import (
    answer_ridge,
    answer_slots,
    hash_weight,
    learn_ridge,
    learn_slots,
    move_temper,
    write_dense_units,
)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.sampled_from([1.0, 5.0, 300.0, math.inf]),
    st.booleans(),
)
def test_sums_are_those_of_all_examples_at_once(
    lengths: list[int], half_life: float, classify: bool
) -> None:
    num_events, num_features, num_classes = sum(lengths), 6, 3 if classify else 1
    generator = np.random.default_rng(num_events)
    phi = generator.normal(size=(num_events, num_features))
    labels = generator.integers(0, 3, num_events)
    targets = labels.astype(float) if classify else generator.normal(size=num_events)
    weights = generator.random(num_events)
    gram, cross = np.zeros((num_features,) * 2), np.zeros((num_features, num_classes))
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        add_waiting(
            gram, cross, phi[rows], targets[rows], weights[rows], half_life, classify=classify
        )
        start += length
    ages = np.arange(num_events)[::-1]
    counts = weights * 2.0 ** (-ages / half_life)
    outputs = np.eye(3)[labels] if classify else targets[:, None]
    np.testing.assert_allclose(gram, phi.T @ (counts[:, None] * phi), atol=1e-10)
    np.testing.assert_allclose(cross, phi.T @ (counts[:, None] * outputs), atol=1e-10)
    solved = np.linalg.solve(gram + 3.0 * np.eye(num_features), cross).T
    np.testing.assert_allclose(solve_sums(gram, cross, 3.0), solved, atol=1e-9)


def test_sums_that_cannot_be_solved_are_left() -> None:
    assert solve_sums(np.full((2, 2), np.nan), np.ones((2, 1)), 1.0) is None
    indefinite = np.diag([-5.0, 1.0])  # rounding can do that to huge sums; ten times the ridge
    np.testing.assert_allclose(
        solve_sums(indefinite, np.ones((2, 1)), 1.0), np.array([[1 / 5, 1 / 11]])
    )


def find_temper(temper: np.ndarray, scores: np.ndarray, label: int) -> np.ndarray:
    ln_tau, square, count = temper
    p = np.exp(math.exp(ln_tau) * scores)
    slope = scores[label] - (p / p.sum()) @ scores
    square = 0.99 * square + 0.01 * slope**2
    rate = 0.3 * max(0.01, 0.3 / math.sqrt(count + 10))
    moved = ln_tau + rate * slope / math.sqrt(square + 0.1)
    return np.array([min(max(moved, 0.0), 3.5), square, count + 1])


def test_temperatures_climb_the_likelihood() -> None:
    temper = np.array([math.log(4.0), 0.0, 0.0])
    generator = np.random.default_rng(0)
    for n in range(300):
        scores = generator.uniform(-1, 2, 3)
        p = np.exp(math.exp(temper[0]) * scores)
        wanted = find_temper(temper, scores, n % 3)
        move_temper(temper, scores, p / p.sum(), n % 3)
        np.testing.assert_allclose(temper, wanted)


def test_a_memory_is_due_early_often_and_when_a_class_has_told_something() -> None:
    arrays = make_ridge(2, 2, 16)
    ridge = tuple(array for name, array in arrays.items() if name not in ("gram", "cross"))
    due, scores, p = [], np.zeros(2), np.full(2, 0.5)
    for n in range(200):
        answer_ridge(ridge, np.ones(2), True, scores, p)
        if learn_ridge(ridge, np.ones(2), scores, p, float(n >= 100), 1.0, True):
            due.append(n + 1)
            arrays["counts"][0] = 0
    assert due[:8] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {104, 116} <= set(due)  # the second class has 4, then 16 examples
    assert np.diff(due)[-3:].tolist() == [16, 16, 16]


def test_dense_units_are_rectified_products() -> None:
    units = tuple(make_dense_units(7, 0).values())
    x = np.random.default_rng(1).normal(size=7)
    found = np.zeros(128)
    write_dense_units(units, x, found)
    np.testing.assert_allclose(found, np.maximum(units[0] @ x + units[1], 0.0), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(units[0], axis=1), 2.0)


def test_hashed_weights_have_mean_zero_and_variance_one() -> None:
    drawn = np.array([hash_weight(unit, code) for unit in range(200) for code in range(50)])
    assert abs(drawn.mean()) < 0.03
    assert drawn.var() == pytest.approx(1.0, abs=0.03)
    assert len(set(drawn.tolist())) == len(drawn)


class PlainSlots:
    """The filter as it is written down: pi over used slots, and the blank's share."""

    def __init__(self, num_slots: int = 6) -> None:
        self.most = num_slots
        self.shares: list[float] = []
        self.blank = 1.0
        self.last: list[int] = []
        self.opened_at = 0

    def learn(self, p_S: list[float], num_classes: int, now: int) -> int:
        """The slot that learns, by the probabilities of the label."""
        joint = [pi * math.sqrt(p) for pi, p in zip(self.shares, p_S, strict=True)]
        blank = self.blank * math.sqrt(1.0 / num_classes)
        total = sum(joint) + blank
        r = [one / total for one in joint]
        blank /= total
        best = max(range(len(r)), key=r.__getitem__) if r else 0
        if not r or (blank > 0.9 and now - self.opened_at >= 20):
            if len(r) < self.most:
                best = len(r)
                r.append(blank)
                self.last.append(now)
            else:
                best = self.last.index(min(self.last))
                r[best] = blank
            blank, self.opened_at = 0.0, now
        self.shares = [0.989 * one + 0.01 / len(r) for one in r]
        self.blank = 0.989 * blank + 0.001
        self.last[best] = now
        return best


def test_concepts_are_filtered_as_written_down() -> None:
    num_classes, num_features = 3, 4
    arrays = make_slots(num_features, num_classes, 16)
    slots = tuple(array for name, array in arrays.items() if name not in ("gram", "cross"))
    plain, generator = PlainSlots(), np.random.default_rng(0)
    scores, p_SK, mixed = np.zeros((6, num_classes)), np.zeros((6, num_classes)), np.zeros(3)
    opened = 0
    for now in range(600):
        phi = generator.normal(size=num_features)
        answer_slots(slots, phi, True, scores, p_SK, mixed)
        used = len(plain.shares)
        sharp = np.exp(8.0 * np.clip(arrays["weights"][:used] @ phi, -1, 2))
        wanted_SK = 0.95 * sharp / sharp.sum(axis=1, keepdims=True) + 0.05 / num_classes
        np.testing.assert_allclose(p_SK[:used], wanted_SK, atol=1e-12)
        wanted = plain.blank / num_classes + np.array(plain.shares) @ wanted_SK
        np.testing.assert_allclose(mixed, wanted, atol=1e-12)
        # Concepts of 60 events, in which the slots that there are err more and more.
        label = (now // 60) % num_classes
        found = learn_slots(slots, phi, p_SK, float(label), 1.0, now, True)
        best = plain.learn(wanted_SK[:, label].tolist(), num_classes, now)
        np.testing.assert_allclose(arrays["shares"][: len(plain.shares)], plain.shares, atol=1e-12)
        assert arrays["shares"][-1] == pytest.approx(plain.blank, abs=1e-12)
        assert arrays["counts"][best, 2] == now
        opened += found % 2 if found >= 0 else -1 - found
        if found >= 0:
            assert found // 2 == best
            arrays["counts"][best, 0] = 0
            # A solution that knows but its own concept, so that others open.
            arrays["weights"][best] = 0.0
            arrays["weights"][best, label, 0] = 1.0
    assert opened > len(plain.shares) == 6  # the one that was in force longest ago had to go
