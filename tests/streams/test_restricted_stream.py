"""Answers of some experts of a stream only."""

import numpy as np
import pytest

import nestling as nl
from nestling.core.errors import NotFitted, SettingError, UnknownLevel


def test_some_experts_answer_and_nothing_moves() -> None:
    learner = nl.StreamClassifier()
    events = [{"a": float(n % 7), "b": float(n % 3)} for n in range(200)]
    learner.learn_many(events, [n % 7 > 3 for n in range(200)])
    before = learner.levels.digests()
    whole = learner.predict_proba_many(events[:9])
    alone = learner.restricted_to(["spine"]).answer_many(events[:9])
    assert alone.shape == whole.shape
    np.testing.assert_allclose(alone.sum(axis=1), 1.0)
    pair = learner.restricted_to(["spine", "tree"]).answer_many(events[:9])
    tree = learner.restricted_to(["tree"]).answer_many(events[:9])
    low, high = np.minimum(alone, tree) - 1e-12, np.maximum(alone, tree) + 1e-12
    assert ((pair >= low) & (pair <= high)).all()
    assert learner.levels.digests() == before
    np.testing.assert_array_equal(learner.predict_proba_many(events[:9]), whole)


def test_values_are_on_their_own_scale() -> None:
    learner = nl.StreamRegressor()
    events = [{"hour": n % 24} for n in range(400)]
    learner.learn_many(events, [1000.0 + 20.0 * (n % 24) for n in range(400)])
    found = learner.restricted_to(["spine"]).answer_many([{"hour": 10}])
    assert found.shape == (1, 1)
    assert abs(float(found[0, 0]) - 1200.0) < 60.0


def test_bad_names_and_no_examples_are_refused() -> None:
    learner = nl.StreamClassifier()
    with pytest.raises(UnknownLevel, match="did you mean 'spine'"):
        learner.restricted_to(["spin"])
    with pytest.raises(SettingError, match="a list of levels' names works"):
        learner.restricted_to("spine")
    with pytest.raises(NotFitted, match="learned nothing yet"):
        learner.restricted_to(["spine"]).answer_many([{"a": 1.0}])
