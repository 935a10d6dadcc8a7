"""Running scores of streams, against scikit-learn and River on the same answers."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.core.errors import DataError, NonFiniteInput, SettingError
from nestling.judge.stream_scores import LEAST_PROBABILITY, StreamScores, ValueScores

Answers = tuple[NDArray[np.int64], NDArray[np.float64]]


def draw_answers(num_classes: int, num_events: int = 2_000) -> Answers:
    """Labels whose shares change, and answers that are right more often than not."""
    random = np.random.default_rng(num_classes)
    y = random.integers(0, num_classes, num_events)
    y[: num_events // 2] = np.minimum(y[: num_events // 2], max(1, num_classes - 2))
    z = random.normal(size=(num_events, num_classes))
    z[np.arange(num_events), y] += 1.0
    p = np.exp(2.0 * z)
    return y, p / p.sum(axis=1, keepdims=True)


def score(answers: Answers, window: int = 1000) -> StreamScores:
    scores = StreamScores(window)
    for label, row in zip(*answers, strict=True):
        scores.update(int(label), dict(enumerate(row.tolist())))
    return scores


@pytest.mark.parametrize("num_classes", [2, 4])
def test_scores_are_scikit_learns(num_classes: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    y, p = answers = draw_answers(num_classes)
    scores = score(answers)
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(y, p.argmax(axis=1)))
    assert scores.kappa == pytest.approx(metrics.cohen_kappa_score(y, p.argmax(axis=1)))
    assert scores.log_loss == pytest.approx(metrics.log_loss(y, p))
    areas = [metrics.roc_auc_score(y == k, p[:, k]) for k in range(num_classes)]
    assert scores.auc == pytest.approx(np.mean(areas), abs=1e-4)


def test_scores_are_rivers() -> None:
    metrics = pytest.importorskip("river.metrics")
    y, p = answers = draw_answers(3)
    theirs = [metrics.Accuracy(), metrics.CohenKappa()]
    for label, row in zip(y.tolist(), p, strict=True):
        for metric in theirs:
            metric.update(label, int(row.argmax()))
    scores = score(answers)
    assert [scores.accuracy, scores.kappa] == pytest.approx([one.get() for one in theirs])


def test_ties_of_the_area_count_half() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    y = np.array([0, 1, 1, 0, 1, 0])
    ones = np.array([0.25, 0.25, 0.75, 1.0, 1.0, 0.0])
    scores = score((y, np.stack([1.0 - ones, ones], axis=1)))
    assert scores.auc == pytest.approx(metrics.roc_auc_score(y, ones))


def test_kappa_m_and_kappa_t_by_hand() -> None:
    scores = StreamScores()
    #           majority before: -  a  a  a   last: -  a  a  b
    for label, answer in zip("aabb", "abbb", strict=True):
        scores.update(label, {answer: 1.0})
    assert scores.accuracy == 0.75
    assert scores.kappa_m == pytest.approx((0.75 - 0.25) / 0.75)
    assert scores.kappa_t == pytest.approx((0.75 - 0.5) / 0.5)


def test_the_majority_does_not_hang_on_the_order_of_names() -> None:
    one, other = StreamScores(), StreamScores()
    for label in "abba":
        one.update(label, {"a": 0.5, "b": 0.5})
        other.update(label, {"b": 0.5, "a": 0.5})
    assert one.kappa_m == other.kappa_m


def test_a_class_that_comes_late_had_no_probability_before() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores = StreamScores()
    late = [0.0, 0.0, 0.6, 0.1, 0.7]
    labels = ["a", "b", "c", "a", "c"]
    for label, value in zip(labels, late, strict=True):
        rest = (1.0 - value) / 2.0
        known = {"a": rest, "b": rest} | ({"c": value} if value else {})
        scores.update(label, known)
    expected = [
        metrics.roc_auc_score([y == k for y in labels], [*values])
        for k, values in (("a", [(1 - v) / 2 for v in late]), ("b", [(1 - v) / 2 for v in late]))
    ]
    expected.append(metrics.roc_auc_score([y == "c" for y in labels], late))
    assert scores.auc == pytest.approx(np.mean(expected))


def test_calibration_error_by_hand() -> None:
    scores = StreamScores()
    for right in (True, True, True, False):  # says .9 and is right three times of four
        scores.update("a" if right else "b", {"a": 0.9, "b": 0.1})
    assert scores.ece == pytest.approx(0.15)


def test_the_curve_has_a_point_per_whole_window() -> None:
    scores = score(draw_answers(2, 1_050), window=100)
    assert len(scores.curve) == 10
    y, p = draw_answers(2, 1_050)
    assert scores.curve[3] == pytest.approx(np.mean((p.argmax(axis=1) == y)[300:400]))


def test_probabilities_need_not_sum_to_one_and_may_be_none_at_all() -> None:
    scores = StreamScores()
    assert not scores.update("a", {})
    assert not scores.update("a", {"a": 0.0, "b": 0.0})
    assert scores.log_loss == pytest.approx(-math.log(LEAST_PROBABILITY))
    assert scores.update("a", {"a": 3.0, "b": 1.0})
    assert scores.ece == pytest.approx(0.25 / 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_what_is_no_probability_changes_nothing(value: float) -> None:
    scores = StreamScores()
    scores.update("a", {"a": 1.0})
    before = scores.to_figures()
    with pytest.raises(NonFiniteInput, match="probability"):
        scores.update("b", {"a": value, "c": 0.5})
    assert scores.num_events == 1
    assert scores.to_figures() == pytest.approx(before, nan_ok=True)


def test_scores_of_nothing_and_a_window_of_none() -> None:
    with pytest.raises(DataError, match="no events"):
        _ = StreamScores().accuracy
    with pytest.raises(DataError, match="no events"):
        _ = ValueScores().mean_absolute_error
    with pytest.raises(SettingError, match="window 0"):
        StreamScores(0)


def test_errors_of_values_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    y = random.normal(size=300) * 5.0 + 1e4
    f = y + random.normal(size=300)
    scores = ValueScores()
    for label, answer in zip(y.tolist(), f.tolist(), strict=True):
        scores.update(label, answer, (answer - 1.0, answer + 1.0))
    found = scores.to_figures()
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(y, f))
    assert found["rmse"] ** 2 == pytest.approx(metrics.mean_squared_error(y, f))
    assert found["r_squared"] == pytest.approx(metrics.r2_score(y, f))
    assert found["coverage"] == pytest.approx(np.mean(np.abs(y - f) <= 1.0))
    assert found["width"] == pytest.approx(2.0)


def test_a_value_that_is_none_changes_nothing() -> None:
    scores = ValueScores()
    with pytest.raises(NonFiniteInput):
        scores.update(1.0, math.nan)
    assert scores.num_events == 0
    scores.update(1.0, 1.0)
    assert math.isnan(scores.coverage)
    assert math.isnan(scores.r_squared)
