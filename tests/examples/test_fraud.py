"""The example of card fraud: its rule, its measures, and a small run."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "fraud"


@pytest.fixture
def reviewing(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("reviewing")


@pytest.fixture
def fraud(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("fraud")


def test_measures_are_those_of_scikit_learn(reviewing: Any) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    drawn = np.random.default_rng(0)
    is_fraud_N = drawn.random(400) < 0.1
    p_N = np.round(0.3 * is_fraud_N + drawn.random(400), 1)  # with ties
    expected = metrics.average_precision_score(is_fraud_N, p_N)
    assert reviewing.measure_pr_auc(p_N, is_fraud_N) == pytest.approx(expected)
    expected = metrics.roc_auc_score(is_fraud_N, p_N)
    assert reviewing.measure_auc(p_N, is_fraud_N) == pytest.approx(expected)


def test_the_factor_follows_what_would_have_saved_more(reviewing: Any) -> None:
    rule = reviewing.LearnedFactor()
    assert rule.factor == 1.0
    for _ in range(3):  # frauds that were thought unlikely
        rule.hear(0.01, 300.0, is_fraud=True)
    assert rule.factor == 0.5
    for _ in range(1_000):
        rule.hear(0.2, 300.0, is_fraud=False)
    assert rule.factor == 16.0


def test_money_is_frauds_less_reviews(reviewing: Any) -> None:
    book = reviewing.Book([0.9, 0.9, 0.9, 0.0], [16.0] * 4, [True, True, False, True])
    book.amount, book.start = [100.0, 50.0, 50.0, 3.0], 1
    assert book.list_saved(book.list_reviewed("as it is")).tolist() == [0.0, 45.0, -5.0, 0.0]
    assert book.list_saved(book.list_reviewed("learned factor")).tolist() == [0.0] * 4
    assert book.list_best().tolist() == [95.0, 45.0, 0.0, 0.0]


def test_a_run_writes_figures_and_a_picture(
    fraud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("river")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(fraud, "NUM_SHORT", 11_000)
    monkeypatch.setattr(fraud, "SYSTEMS", {fraud.OURS: fraud.make_logistic})
    file, picture = tmp_path / "f.json", tmp_path / "f.png"
    fraud.main(["--json", str(file), "--picture", str(picture)])
    found = json.loads(file.read_text())
    assert found["drifts"] == [10_000]
    assert found["means"][fraud.OURS]["fraud_rate"] < 0.01
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--picture", "a.jpg"], "a name that ends in .png works"),
        (["--payments", "10"], "10000 or more work"),
        (["--seed", "-1"], "0 or more works"),
        (["--json", "nowhere/a.json"], "no folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    fraud: Any, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        fraud.main(given)
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
