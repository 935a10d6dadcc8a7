import pickle
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

import nestling as nl
from nestling.core.errors import DataError, ModelError, SettingError, UnknownLabel

PAGE = (Path(__file__).parents[2] / "docs" / "scikit-learn.md").read_text()
CHECKS = {
    name: (outcome, reason)
    for name, outcome, reason in re.findall(r"^\| `(check_\w+)` \| (\w+) \| (.+) \|$", PAGE, re.M)
}
FIGURES = {
    name: float(figure) for name, figure in re.findall(r"^\| `(\w+)` \| (0\.\d+) \|$", PAGE, re.M)
}

X_IRIS, Y_IRIS = load_iris(return_X_y=True)
X_DIABETES, Y_DIABETES = load_diabetes(return_X_y=True)


def make_dropout_network(num_inputs: int, num_outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(num_inputs, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, num_outputs)
    )


def make_batch_norm_network(num_inputs: int, num_outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(num_inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_outputs)
    )


# The whole learner where the network answers alone: what it learns is seen in full.
LIVE = nl.Plan(nl.Level("all", match=["*"]), readout="live")


@pytest.mark.parametrize("estimator", [nl.NestedClassifier(), nl.NestedRegressor()], ids=repr)
def test_checks_of_scikit_learn(estimator: Any) -> None:
    expected = {name: reason for name, (how, reason) in CHECKS.items() if how == "failed"}
    results = check_estimator(
        estimator, expected_failed_checks=expected, on_skip=None, on_fail=None
    )
    shown = {
        result["check_name"]: (result["status"].replace("xfail", "failed"), result["exception"])
        for result in results
        if result["status"] != "passed"
    }
    assert {name: how for name, (how, _) in shown.items()} == {
        name: how for name, (how, _) in CHECKS.items()
    }, shown
    assert len(results) > 50


@pytest.mark.parametrize(
    ("model_class", "y"),
    [
        (nl.NestedClassifier, Y_IRIS),
        (nl.NestedRegressor, X_IRIS[:, :2] + Y_IRIS[:, None]),
    ],
)
def test_first_partial_fit_is_fit_in_one_epoch(model_class: Any, y: np.ndarray) -> None:
    for options in ({}, {"plan": LIVE, "module": make_dropout_network}, {"replay": 20}):
        model = model_class(epochs=1, random_state=3, **options)
        whole = clone(model).fit(X_IRIS, y)
        assert_array_equal(
            clone(model).partial_fit(X_IRIS, y).predict(X_IRIS), whole.predict(X_IRIS)
        )
        different = clone(model).set_params(random_state=4, plan=LIVE).fit(X_IRIS, y)
        assert different.learner_.counts.num_examples == whole.learner_.counts.num_examples
        assert any(
            not torch.equal(a, b)
            for a, b in zip(
                whole.learner_.model.parameters(),
                different.learner_.model.parameters(),
                strict=True,
            )
        )


def test_partial_fit_does_not_depend_on_how_an_exact_memory_is_fed() -> None:
    plan = nl.Plan(nl.Memory("memory", on="input", half_lives=(float("inf"),)), readout="memory")
    first, rest = np.arange(0, 150, 5), np.setdiff1d(np.arange(150), np.arange(0, 150, 5))
    answers = []
    for blocks in ([rest], np.array_split(rest, 7), [[row] for row in rest[::-1]]):
        model = nl.NestedClassifier(plan=plan, random_state=0)
        for rows in [first, *blocks]:
            model.partial_fit(X_IRIS[rows], Y_IRIS[rows])
        answers.append(model.predict_proba(X_IRIS))
    assert_allclose(answers[1], answers[0], atol=1e-5)
    assert_allclose(answers[2], answers[0], atol=1e-5)
    assert np.abs(answers[0] - answers[0][0]).max() > 0.5


def test_columns_are_those_of_classes_in_whatever_order_labels_arrive() -> None:
    # b and c first, then a: the order of arrival is no permutation that is its own inverse.
    names = np.array(["b", "c", "a"])[Y_IRIS]
    first, rest = np.arange(0, 100), np.arange(100, 150)
    model = nl.NestedClassifier(random_state=0)
    for rows in (np.concatenate([first[::2], first[1::2]]), rest):
        for _ in range(5):
            model.partial_fit(X_IRIS[rows], names[rows])
    assert model.classes_.tolist() == ["a", "b", "c"]
    assert (model.predict(X_IRIS) == names).mean() > 0.8
    columns = model.predict_proba(X_IRIS)
    for column, name in enumerate("abc"):
        assert columns[names == name, column].mean() > 0.6


def test_partial_fit_takes_the_steps_of_the_learner() -> None:
    model = nl.NestedClassifier(plan=LIVE, batch_size=1, random_state=0)
    model.partial_fit(X_IRIS[::10], Y_IRIS[::10])
    x = torch.from_numpy((X_IRIS[3:4] - model.mean_) / model.scale_)
    twin = pickle.loads(pickle.dumps(model)).learner_
    twin.learn(x, torch.tensor([Y_IRIS[3]]))
    model.partial_fit(X_IRIS[3:4], Y_IRIS[3:4])
    for name, value in twin.model.state_dict().items():
        assert torch.equal(model.learner_.model.state_dict()[name], value)


def test_digits_class_by_class() -> None:
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    accuracies = {}
    for model in (
        nl.NestedClassifier(random_state=0),
        SGDClassifier(random_state=0),
        MLPClassifier((64,), random_state=0),
    ):
        for digit in range(10):
            # Scaled as a fair user would scale for the others; ours sees raw pixels.
            rows = y == digit
            scale = 1.0 if isinstance(model, nl.NestedClassifier) else 16.0
            model.partial_fit(X[rows] / scale, y[rows], classes=np.arange(10))
        accuracies[type(model).__name__] = model.score(X_test / scale, y_test)
    assert accuracies["NestedClassifier"] > 0.9
    assert max(accuracies["SGDClassifier"], accuracies["MLPClassifier"]) < 0.3
    assert accuracies.keys() == FIGURES.keys()
    for name, figure in FIGURES.items():
        assert accuracies[name] == pytest.approx(figure, abs=0.03), accuracies


def test_new_labels_may_come_at_any_time() -> None:
    names = np.array(["virginica", "setosa", "a-versicolor"])[Y_IRIS]
    model = nl.NestedClassifier(random_state=0)
    for label in ("virginica", "setosa", "a-versicolor"):
        rows = names == label
        model.partial_fit(X_IRIS[rows], names[rows].astype(object))
    assert model.classes_.tolist() == ["a-versicolor", "setosa", "virginica"]
    again = pickle.loads(pickle.dumps(model))
    proba = model.predict_proba(X_IRIS)
    assert_array_equal(again.predict_proba(X_IRIS), proba)
    assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)
    assert model.score(X_IRIS, names) > 0.85


def test_declared_labels_have_columns_before_they_come() -> None:
    model = nl.NestedClassifier(random_state=0)
    model.partial_fit(X_IRIS[:50], Y_IRIS[:50], classes=[2, 0, 1, 7])
    proba = model.predict_proba(X_IRIS)
    assert proba.shape == (150, 4)
    assert proba.dtype == np.float64
    assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)
    assert_array_equal(model.predict(X_IRIS[:50]), 0)


def test_one_class_only() -> None:
    model = nl.NestedClassifier(random_state=0).fit(X_IRIS[:50], np.full(50, "only"))
    assert set(model.predict(X_IRIS)) == {"only"}
    assert_array_equal(model.predict_proba(X_IRIS), 1.0)


def test_labels_outside_the_declared_classes_change_nothing() -> None:
    model = nl.NestedClassifier(random_state=0)
    with pytest.raises(UnknownLabel, match=r"label 2 is not in classes \[0, 1\]"):
        model.partial_fit(X_IRIS, Y_IRIS, classes=[0, 1])
    assert not hasattr(model, "learner_")
    model.partial_fit(X_IRIS[:100], Y_IRIS[:100], classes=[0, 1])
    before = model.predict_proba(X_IRIS)
    with pytest.raises(UnknownLabel, match="label 2"):
        model.partial_fit(X_IRIS, Y_IRIS)
    with pytest.raises(SettingError, match="leave them out"):
        model.partial_fit(X_IRIS[:100], Y_IRIS[:100], classes=[0, 1, 2])
    with pytest.raises(DataError, match="keep one kind"):
        model.partial_fit(X_IRIS[:100], np.full(100, "one"))
    assert_array_equal(model.predict_proba(X_IRIS), before)
    assert model.learner_.counts.num_examples == 100


def test_another_number_of_targets_changes_nothing() -> None:
    model = nl.NestedRegressor(random_state=0).partial_fit(X_DIABETES, Y_DIABETES)
    before = model.predict(X_DIABETES)
    with pytest.raises(DataError, match="y has 2 outputs; it had 1 before"):
        model.partial_fit(X_DIABETES, np.stack([Y_DIABETES, Y_DIABETES], axis=1))
    assert_array_equal(model.predict(X_DIABETES), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, SettingError, "epochs=0; 1 or more works"),
        ({"batch_size": 0}, SettingError, "batch_size=0; 1 or more works"),
        ({"replay": -1}, SettingError, "replay=-1"),
        ({"module": lambda *_: "net"}, ModelError, "module gave a str"),
        ({"hidden_sizes": (0,)}, ModelError, "1 or more"),
    ],
    ids=["epochs", "batch_size", "replay", "module", "hidden_sizes"],
)
def test_wrong_parameters_are_said_at_fit(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = nl.NestedClassifier(**options)
    with pytest.raises(error, match=message):
        model.fit(X_IRIS, Y_IRIS)
    assert not hasattr(model, "learner_")


def test_regressor_learns_real_data_in_its_units() -> None:
    X, X_test, y, y_test = train_test_split(X_DIABETES, 1e3 * Y_DIABETES, random_state=0)
    model = nl.NestedRegressor(random_state=0).fit(X, y)
    assert model.score(X_test, y_test) > 0.3
    both = nl.NestedRegressor(random_state=0).fit(X, np.stack([y, -y], axis=1))
    assert both.predict(X_test).shape == (len(y_test), 2)
    assert both.score(X_test, np.stack([y_test, -y_test], axis=1)) > 0.3


def test_constant_columns_and_targets() -> None:
    X = np.concatenate([X_DIABETES, np.full((len(X_DIABETES), 1), 0.1)], axis=1)
    model = nl.NestedRegressor(random_state=0).fit(X, np.full(len(X), 0.1))
    assert model.scale_[-1] == 1.0
    assert_allclose(model.predict(X), 0.1, atol=1e-3)


def _fit_and_ask(model: Any) -> None:
    model.fit(X_IRIS[::3], Y_IRIS[::3])
    model.partial_fit(X_IRIS[1::3], Y_IRIS[1::3])
    model.predict(X_IRIS)
    pickle.loads(pickle.dumps(model)).predict(X_IRIS)


@pytest.mark.parametrize("model_class", [nl.NestedClassifier, nl.NestedRegressor])
@pytest.mark.parametrize("replay", [0, 10])
def test_torch_random_numbers_are_neither_changed_nor_used(model_class: Any, replay: int) -> None:
    answers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        model = model_class(make_dropout_network, epochs=2, replay=replay, random_state=5)
        _fit_and_ask(model)
        assert torch.equal(torch.get_rng_state(), before)
        answers.append([value.clone() for value in model.learner_.model.parameters()])
    for first, second in zip(*answers, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("model_class", [nl.NestedClassifier, nl.NestedRegressor])
@pytest.mark.parametrize("replay", [0, 10])
def test_pickle_goes_on_where_it_was(model_class: Any, replay: int) -> None:
    model = model_class(make_dropout_network, epochs=2, replay=replay, random_state=0)
    model.fit(X_IRIS[::2], Y_IRIS[::2])
    data = pickle.dumps(model)
    assert b"NestedOptimizer" not in data
    again = pickle.loads(data)
    for one in (model, again):
        one.partial_fit(X_IRIS[1::2], Y_IRIS[1::2])
    assert_array_equal(again.predict(X_IRIS), model.predict(X_IRIS))
    for a, b in zip(
        again.learner_.model.parameters(), model.learner_.model.parameters(), strict=True
    ):
        assert torch.equal(a, b)


def test_no_batch_of_one_is_left_over() -> None:
    model = nl.NestedClassifier(make_batch_norm_network, epochs=1, batch_size=10, random_state=0)
    model.fit(X_IRIS[::5][:21], Y_IRIS[::5][:21])
    assert model.learner_.counts.num_examples == 21


def test_answers_do_not_depend_on_the_rows_asked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nl.NestedClassifier(epochs=1, random_state=0).fit(X_IRIS, Y_IRIS)
    whole = model.predict_proba(X_IRIS)
    monkeypatch.setattr("nestling.learn.adapters.estimators._ANSWERED_AT_ONCE", 7)
    assert_allclose(model.predict_proba(X_IRIS), whole, atol=1e-6)


def test_clone_keeps_the_parameters_and_nothing_else() -> None:
    model = nl.NestedClassifier(make_dropout_network, LIVE, epochs=1).fit(X_IRIS, Y_IRIS)
    copied = clone(model)
    assert not hasattr(copied, "learner_")
    assert copied.get_params()["module"] is make_dropout_network
    assert copied.plan == LIVE
    copied.fit(X_IRIS, Y_IRIS)


def test_search_over_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), nl.NestedClassifier(epochs=1, random_state=0))
    assert cross_val_score(pipeline, X_IRIS, Y_IRIS, cv=3).min() > 0.85
    grid = {"nestedclassifier__hidden_sizes": [(), (8,)], "nestedclassifier__plan": [None, LIVE]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=1, error_score="raise")
    search.fit(X_IRIS, Y_IRIS)
    assert search.best_params_["nestedclassifier__plan"] is None
    assert search.best_score_ > 0.85


def test_fit_on_iris_is_quick() -> None:
    nl.NestedClassifier(random_state=0).fit(X_IRIS, Y_IRIS)  # imports and thread pools
    before = time.process_time()
    nl.NestedClassifier(random_state=0).fit(X_IRIS, Y_IRIS)
    assert time.process_time() - before < 1.0


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_importing_nestling_does_not_import_scikit_learn() -> None:
    found = run_python(
        "import sys, nestling; assert 'sklearn' not in sys.modules; "
        "nestling.NestedClassifier; assert 'sklearn' in sys.modules"
    )
    assert found.returncode == 0, found.stderr


def test_without_scikit_learn_the_extra_is_named() -> None:
    found = run_python(
        "import sys; sys.modules['sklearn'] = None; import nestling; nestling.NestedRegressor"
    )
    last = found.stderr.strip().splitlines()[-1]
    assert "MissingExtra" in last
    assert "pip install 'nestling[data]'" in last
