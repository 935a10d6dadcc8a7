"""Stream learners in River: its checks, its pipelines, its evaluation, its late labels."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from river import checks, compose, datasets, evaluate, metrics, preprocessing

import nestling as nl

# Checks of River that an estimator does not pass, each with the reason. None now.
EXPECTED_FAILURES: dict[str, str] = {}
NUM_PARTS = 6

MAKERS: list[Callable[[], Any]] = [
    lambda: nl.RiverStreamClassifier(),
    lambda: nl.RiverStreamRegressor(),
    lambda: nl.RiverStreamRegressor("quantile", 0.8, without=("tree",)),
]


@pytest.mark.parametrize("part", range(NUM_PARTS))
@pytest.mark.parametrize("make", MAKERS, ids=["classifier", "regressor", "quantile"])
def test_checks_of_river(make: Callable[[], Any], part: int) -> None:
    model = make()
    assert model._unit_test_skips() == set()
    ran, failed = set(), {}
    for check in list(checks.yield_checks(model))[part::NUM_PARTS]:
        ran.add(check.__name__)
        try:
            check(model.clone())
        except Exception as error:
            failed[check.__name__] = repr(error)
    assert len(ran) >= 4
    assert failed.keys() == ran & EXPECTED_FAILURES.keys(), failed


def test_every_expected_failure_is_a_check() -> None:
    names = {check.__name__ for make in MAKERS for check in checks.yield_checks(make())}
    assert names >= EXPECTED_FAILURES.keys()
    assert len(names) >= 25
    assert {"check_learn_many_matches_learn_one", "check_shuffle_features_no_impact"} <= names


def test_the_adapter_answers_as_the_learner_itself() -> None:
    learner, model = nl.StreamClassifier(seed=3), nl.RiverStreamClassifier(seed=3)
    for x, y in datasets.Phishing().take(60):
        x = dict(sorted(x.items()))
        assert model.predict_proba_one(x) == learner.predict_proba_one(x)
        learner.learn_one(x, y, weight=2.0)
        model.learn_one(x, y, w=2.0)
    assert model.learner.num_events == 60
    assert model.predict_one(x) == learner.predict_one(x)


def test_in_a_pipeline_and_evaluated() -> None:
    pipeline = compose.Pipeline(preprocessing.StandardScaler(), nl.RiverStreamClassifier())
    score = evaluate.progressive_val_score(
        datasets.Phishing().take(300), pipeline, metrics.Accuracy()
    )
    assert score.get() > 0.8
    assert pipeline["RiverStreamClassifier"].learner.num_events == 300
    fresh = pipeline.clone()
    assert fresh["RiverStreamClassifier"].learner.num_events == 0
    value = evaluate.progressive_val_score(
        datasets.TrumpApproval().take(300),
        preprocessing.StandardScaler() | nl.RiverStreamRegressor(),
        metrics.MAE(),
    )
    assert value.get() < 1.0


def test_late_labels_give_the_features_again() -> None:
    model = nl.RiverStreamClassifier()
    events = datasets.Phishing().take(250)
    score = evaluate.progressive_val_score(events, model, metrics.Accuracy(), delay=50)
    assert score.get() > 0.7
    assert (model.learner.num_events, model.learner.num_waiting) == (250, 0)
    assert model.learner.mean_delay == 0.0  # it cannot know


def test_late_labels_with_ids_are_learned_as_they_were_seen() -> None:
    events = [(dict(sorted(x.items())), y) for x, y in datasets.Phishing().take(250)]
    model = nl.RiverStreamClassifier()
    score = evaluate.progressive_val_score(
        [(x, y, {"id": n}) for n, (x, y) in enumerate(events)],
        model,
        metrics.Accuracy(),
        delay=50,
    )
    learner, twin = nl.StreamClassifier(), metrics.Accuracy()
    answers: dict[int, Any] = {}
    for n in range(len(events) + 50):
        if n >= 50:
            y = events[n - 50][1]
            if answers[n - 50] is not None:
                twin.update(y, answers[n - 50])
            learner.learn_one(id=n - 50, y=y)
        if n < len(events):
            answers[n] = learner.predict_one(events[n][0], id=n)
    assert score.get() == twin.get()
    assert model.learner.mean_delay > 20.0
    assert model.predict_proba_one(events[0][0]) == learner.predict_proba_one(events[0][0])
    # Of an event that waits no more, what River gives again is learned.
    before = model.learner.num_events
    model.learn_one(events[0][0], events[0][1], id=0)
    assert model.learner.num_events == before + 1


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_goes_on_exactly(again: Callable[[Any], Any]) -> None:
    events = list(datasets.Phishing().take(120))
    for learner in (nl.RiverStreamClassifier(seed=5, max_waiting=7), nl.StreamClassifier(seed=5)):
        for n, (x, y) in enumerate(events[:60]):
            learner.predict_one(x, id=n)
            if n > 3:
                learner.learn_one(x, y, id=n) if n % 2 else learner.learn_one(x, y)
        twin = again(learner)
        for x, y in events[60:]:
            assert twin.predict_proba_one(x) == learner.predict_proba_one(x)
            learner.learn_one(x, y)
            twin.learn_one(x, y)
    assert twin.num_events == learner.num_events
    value, x = nl.StreamRegressor(loss="absolute", interval=0.5), {"a": 1.0}
    value.learn_one(x, 2.0)
    twin_value = again(value)
    twin_value.learn_one(x, 3.0)
    assert value.predict_one(x) != twin_value.predict_one(x)
    value.learn_one(x, 3.0)
    assert value.predict_interval_one(x) == twin_value.predict_interval_one(x)


def test_what_is_pickled_is_plain() -> None:
    model = nl.StreamClassifier()
    model.learn_one({"a": 1.0}, "x")
    data = pickle.dumps(model)
    assert data == pickle.dumps(model)
    for word in (b"numba", b"torch", b"ExpertPool", b"EventColumns"):
        assert word not in data


def test_blocks_with_weights() -> None:
    rows = list(datasets.Phishing().take(40))
    X, y = pd.DataFrame([x for x, _ in rows]), pd.Series([y for _, y in rows])
    one, many = nl.RiverStreamClassifier(), nl.RiverStreamClassifier()
    for n, (x, label) in enumerate(rows):
        one.learn_one(x, label, w=1.0 + n % 3)
    many.learn_many(X, y, w=pd.Series([1.0 + n % 3 for n in range(40)]))
    assert many.predict_proba_many(X).equals(one.predict_proba_many(X))
    assert many.predict_many(X).tolist() == [one.predict_one(x) for x, _ in rows]


def test_a_question_before_each_event_changes_nothing() -> None:
    # Also where a tree needs more room between the question and the label.
    rng = np.random.default_rng(0)
    asked, silent = nl.StreamClassifier(), nl.StreamClassifier()
    for amount in rng.exponential(size=160):
        x, y = {"amount": float(amount)}, bool(amount > 1.0)
        asked.predict_one(x)
        asked.learn_one(x, y)
        silent.learn_one(x, y)
    assert asked.predict_proba_one({"amount": 1.2}) == silent.predict_proba_one({"amount": 1.2})


def test_a_regressor_learns_its_first_events_as_a_block() -> None:
    learner = nl.StreamRegressor()
    learner.learn_many([{"a": 1.0}, {"a": 2.0, "b": 1.0}], [1.0, 2.0])
    assert learner.num_events == 2


def test_without_river_the_extra_is_named() -> None:
    code = "import sys; sys.modules['river'] = None; import nestling; nestling.RiverStreamRegressor"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    last = found.stderr.strip().splitlines()[-1]
    assert "MissingExtra" in last
    assert "pip install 'nestling[compat]'" in last
