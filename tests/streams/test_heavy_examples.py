"""Sample weights of rare classes: an expert that blows up would answer NaN for all."""

import math

import numpy as np
import pytest

pytest.importorskip("numba")

from nestling import StreamClassifier


def test_rare_examples_of_great_weight_leave_answers_finite() -> None:
    drawn = np.random.default_rng(0)
    learner = StreamClassifier()
    for _ in range(3_000):
        x_20 = drawn.normal(size=20)
        is_rare = bool(drawn.random() < 0.02)
        learner.learn_one(x_20 + 0.7 * is_rare, is_rare, weight=50.0 if is_rare else 1.0)
    assert all(math.isfinite(p) for p in learner.predict_proba_one(np.zeros(20)).values())
    assert learner.predict_proba_one(np.full(20, 0.7))[True] > 0.5
