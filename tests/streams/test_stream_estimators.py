"""Stream learners in scikit-learn: its checks, classes that come later, frames of all kinds."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import nestling as nl
from nestling.core.errors import DataError, SettingError, UnknownLabel

PAGE = (Path(__file__).parents[2] / "docs" / "streams-adapters.md").read_text()
CHECKS = {
    name: (outcome, reason)
    for name, outcome, reason in re.findall(r"^\| `(check_\w+)` \| (\w+) \| (.+) \|$", PAGE, re.M)
}
NUM_PARTS = 3

ORDER = np.random.default_rng(0).permutation(150)
X_IRIS, Y_IRIS = (values[ORDER] for values in load_iris(return_X_y=True))


@pytest.mark.parametrize("part", range(NUM_PARTS))
@pytest.mark.parametrize("name", ["NestedStreamClassifier", "NestedStreamRegressor"])
@pytest.mark.filterwarnings("ignore")  # what the checks themselves provoke
def test_checks_of_scikit_learn(name: str, part: int) -> None:
    from unittest import SkipTest

    ran, found = set(), {}
    checks = list(estimator_checks_generator(getattr(nl, name)()))
    assert len(checks) > 50
    for estimator, check in checks[part::NUM_PARTS]:
        check_name = getattr(check, "func", check).__name__
        ran.add(check_name)
        try:
            check(estimator)
        except SkipTest:
            found[check_name] = "skipped"
        except Exception as error:
            found[check_name] = "failed"
            if check_name not in CHECKS:
                raise AssertionError(check_name) from error
    assert found == {one: how for one, (how, _) in CHECKS.items() if one in ran}


def test_every_expected_failure_is_a_check() -> None:
    checks = estimator_checks_generator(nl.NestedStreamClassifier())
    assert {getattr(check, "func", check).__name__ for _, check in checks} >= CHECKS.keys()
    assert CHECKS


def test_fit_is_the_learner_event_by_event() -> None:
    model = nl.NestedStreamClassifier(random_state=0).fit(X_IRIS[:60], Y_IRIS[:60])
    learner = nl.StreamClassifier(seed=int(np.random.RandomState(0).randint(2**31 - 1)))
    for x, y in zip(X_IRIS[:60], Y_IRIS[:60], strict=True):
        learner.learn_one(x, int(y))
    by_arrival = learner.predict_proba_many(X_IRIS)
    assert_array_equal(model.predict_proba(X_IRIS), by_arrival[:, np.argsort(learner.classes)])
    parts = nl.NestedStreamClassifier(random_state=0)
    for rows in np.array_split(np.arange(60), 7):
        parts.partial_fit(X_IRIS[rows], Y_IRIS[rows])
    assert_array_equal(parts.predict_proba(X_IRIS), model.predict_proba(X_IRIS))
    assert parts.score(X_IRIS[60:], Y_IRIS[60:]) > 0.9


def test_new_labels_may_come_at_any_time() -> None:
    names = np.array(["virginica", "setosa", "a-versicolor"])[Y_IRIS]
    model = nl.NestedStreamClassifier(random_state=0)
    for label in ("virginica", "setosa", "a-versicolor"):
        rows = names == label
        model.partial_fit(X_IRIS[rows], names[rows].astype(object))
    assert model.classes_.tolist() == ["a-versicolor", "setosa", "virginica"]
    again = pickle.loads(pickle.dumps(model))
    for one in (model, again):
        one.partial_fit(X_IRIS, names.astype(object))
    proba = model.predict_proba(X_IRIS)
    assert_array_equal(again.predict_proba(X_IRIS), proba)
    assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)
    assert model.score(X_IRIS, names) > 0.9


def test_declared_labels_have_columns_before_they_come() -> None:
    model = nl.NestedStreamClassifier(random_state=0)
    with pytest.raises(UnknownLabel, match=r"label 2 is not in classes \[0, 1\]"):
        model.partial_fit(X_IRIS, Y_IRIS, classes=[0, 1])
    assert not hasattr(model, "learner_")
    few = Y_IRIS < 2
    model.partial_fit(X_IRIS[few], Y_IRIS[few], classes=[2, 0, 1, 7])
    proba = model.predict_proba(X_IRIS)
    assert proba.shape == (150, 4)
    assert_array_equal(proba[:, 2:], 0.0)
    with pytest.raises(SettingError, match="leave them out"):
        model.partial_fit(X_IRIS, Y_IRIS, classes=[0, 1])
    with pytest.raises(DataError, match="keep one kind"):
        model.partial_fit(X_IRIS, np.full(150, "one"))
    with pytest.raises(UnknownLabel, match="label 5"):
        model.partial_fit(X_IRIS, np.full(150, 5))
    assert_array_equal(model.predict_proba(X_IRIS), proba)
    model.partial_fit(X_IRIS, Y_IRIS)
    assert model.score(X_IRIS, Y_IRIS) > 0.85


def test_frames_may_hold_text_dates_and_gaps() -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "colour": rng.choice(["red", "green", "blue"], 300),
            "size": np.where(rng.random(300) < 0.2, np.nan, rng.normal(size=300)),
            "day": pd.date_range("2024-01-01", periods=300),
            "kind": pd.Categorical(rng.choice([1, 2], 300)),
        }
    )
    y = np.where((frame["colour"] == "red") ^ (frame["kind"] == 2), "yes", "no")
    model = nl.NestedStreamClassifier(random_state=0).fit(frame[:200], y[:200])
    assert model.score(frame[200:], y[200:]) > 0.9
    assert model.feature_names_in_.tolist() == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["size", "day", "kind", "colour"]])
    target = np.where(frame["colour"] == "red", 3.0, 1.0)
    value = nl.NestedStreamRegressor(random_state=0).fit(frame[:200], target[:200])
    assert value.score(frame[200:], target[200:]) > 0.5


def test_a_cell_that_cannot_be_read_changes_nothing() -> None:
    frame = pd.DataFrame({"a": ["x", "y"], "b": [[1], [2]]})
    model = nl.NestedStreamClassifier()
    with pytest.raises(DataError):
        model.fit(frame, [0, 1])
    assert not hasattr(model, "learner_")


def test_weights_count_as_the_learner_counts_them() -> None:
    model = nl.NestedStreamClassifier(random_state=0)
    weights = np.where(Y_IRIS == 1, 20.0, 1.0)
    heavy = clone(model).fit(X_IRIS, Y_IRIS, sample_weight=weights).predict_proba(X_IRIS)
    light = clone(model).fit(X_IRIS, Y_IRIS).predict_proba(X_IRIS)
    assert heavy[:, 1].mean() > light[:, 1].mean()


def test_regressor_in_a_pipeline() -> None:
    X, y = load_diabetes(return_X_y=True)
    pipeline = make_pipeline(MinMaxScaler(), nl.NestedStreamRegressor(random_state=0))
    assert cross_val_score(pipeline, X, 1e3 * y, cv=2).min() > 0.3


@pytest.mark.parametrize("options", [{"without": ("tre",)}])
def test_wrong_parameters_are_said_at_fit(options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="did you mean 'tree'"):
        nl.NestedStreamClassifier(**options).fit(X_IRIS, Y_IRIS)
