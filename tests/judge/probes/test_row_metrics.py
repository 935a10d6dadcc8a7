"""Metrics of rows against scikit-learn, and what failed answers and few rows give."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError, ShapeMismatch
from nestling.judge import ProbeData, ProbeResult, make_probe
from nestling.judge.contract.clauses import EvaluationProtocol
from nestling.judge.contract.probe_spec import ProbeSpec

NAN = float("nan")


def measure(metric: str, answers: Tensor, y: Tensor | None, **given: Any) -> ProbeResult:
    columns = given.pop("columns", {})
    data = ProbeData(torch.zeros(len(answers), 1), y, columns)
    return make_probe(ProbeSpec("p", metric=metric, **given), data).measure(lambda _: answers)


@pytest.fixture
def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    p = (2.0 * torch.randn(300, 3, generator=generator, dtype=torch.float64)).softmax(dim=1)
    return p, torch.multinomial(p.sqrt(), 1, generator=generator)[:, 0]


def test_figures_equal_those_of_sklearn(rows: tuple[Tensor, Tensor]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    p, y = rows
    answer = p.argmax(dim=1)
    one_hot = torch.eye(3)[y]
    expected = {
        "accuracy": metrics.accuracy_score(y, answer),
        "error": 1.0 - metrics.accuracy_score(y, answer),
        "log_loss": metrics.log_loss(y, p),
        "brier": 3.0 * metrics.mean_squared_error(one_hot, p),
        "recall": metrics.recall_score(y == 1, answer == 1),
        "precision": metrics.precision_score(y == 1, answer == 1),
        "false_negative_rate": 1.0 - metrics.recall_score(y == 1, answer == 1),
        "positive_rate": float((answer == 1).double().mean()),
    }
    for name, value in expected.items():
        result = measure(name, p, y)
        assert result.value == pytest.approx(value, abs=1e-12), name
        assert result.low < result.value < result.high
        assert result.is_judged


def test_values_equal_those_of_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    y = torch.randn(80, 2, generator=torch.Generator().manual_seed(1)).double()
    f = y + 0.3 * torch.randn(80, 2, generator=torch.Generator().manual_seed(2)).double()
    error = measure("mean_absolute_error", f, y)
    assert error.value == pytest.approx(metrics.mean_absolute_error(y, f), abs=1e-12)
    assert error.better == "lower"
    fit = measure("r_squared", f, y, settings={"resamples": 50})
    assert fit.value == pytest.approx(
        metrics.r2_score(y, f, multioutput="variance_weighted"), abs=1e-12
    )
    assert fit.low < fit.value < fit.high <= 1.0
    # A column of values is as good as values.
    assert measure("mean_absolute_error", f[:, :1], y[:, 0]).is_judged


def test_the_calibration_error_is_that_of_its_definition(rows: tuple[Tensor, Tensor]) -> None:
    p, y = rows
    confidence, answer = p.max(dim=1)
    expected = 0.0
    for place in range(10):
        inside = (confidence * 10).long().clamp(max=9) == place
        right = (answer == y)[inside].double().sum()
        expected += float((confidence[inside].sum() - right).abs()) / 300
    result = measure("calibration_error", p, y, settings={"bins": 10})
    assert result.value == pytest.approx(expected, abs=1e-9)
    assert 0.0 <= result.low < result.value < result.high
    again = measure("calibration_error", p, y, settings={"bins": 10})
    assert again == result  # the bootstrap draws the same rows for the same data


def test_rows_without_target_do_not_count(rows: tuple[Tensor, Tensor]) -> None:
    p, y = rows
    held = torch.where(torch.arange(300) < 200, y, -1)
    for name in ("accuracy", "log_loss", "brier", "calibration_error", "precision", "recall"):
        ours, expected = measure(name, p, held), measure(name, p[:200], y[:200])
        assert ours.value == pytest.approx(expected.value, abs=1e-12), name
        assert ours.num_examples == expected.num_examples


def test_a_failed_answer_is_a_wrong_one_and_is_said() -> None:
    p = torch.eye(2).repeat(20, 1)
    y = torch.tensor([0, 1] * 20)
    p[0, 1], p[1] = NAN, float("inf")
    for name, value in {
        "accuracy": 38 / 40,
        "error": 2 / 40,
        "log_loss": 2 * -math.log(1e-6) / 40,
        "brier": 2 * 2.0 / 40,
        "calibration_error": 2 / 40,
    }.items():
        result = measure(name, p, y, least_examples=10)
        assert result.value == pytest.approx(value, abs=1e-6), name
        assert result.notes == ("2 of 40 answers are not finite and count as wrong",)
        assert result.is_judged
    # One of the two was positive and is missed, the other was not and is taken for one.
    assert measure("recall", p, y, least_examples=10).value == 19 / 20
    assert measure("precision", p, y, least_examples=10).value == 19 / 20
    assert measure("positive_rate", p, y).value == 20 / 40


def test_values_that_are_not_finite_are_not_judged() -> None:
    y = torch.arange(40.0)
    answers = y[:, None].clone()
    answers[3] = NAN
    for name in ("mean_absolute_error", "r_squared"):
        result = measure(name, answers, y)
        assert math.isnan(result.value)
        assert not result.is_judged
        assert result.too_few == ("1 of 40 answers are not finite",)


def test_a_class_that_the_answers_do_not_have_is_a_wrong_answer() -> None:
    p, y = torch.eye(2).repeat(20, 1), torch.tensor([0, 2] * 20)
    assert measure("accuracy", p, y).value == 0.5
    assert measure("log_loss", p, y).value == pytest.approx(0.5 * -math.log(1e-6))
    assert measure("brier", p, y).value == 0.5 * 2.0
    missed = measure("false_negative_rate", p, y, settings={"positive": 2}, least_examples=20)
    assert missed.value == 1.0


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("accuracy", "29 rows with a target, fewer than the least 30"),
        ("log_loss", "29 rows with a target, fewer than the least 30"),
        ("calibration_error", "29 rows with a target, fewer than the least 30"),
        ("recall", "10 positives, fewer than the least 30"),
        ("false_negative_rate", "10 positives, fewer than the least 30"),
        ("precision", "9 positive answers, fewer than the least 30"),
        ("positive_rate", "29 rows, fewer than the least 30"),
    ],
)
def test_too_few_rows_are_said_and_not_judged(metric: str, words: str) -> None:
    y = torch.tensor([1] * 10 + [0] * 19)
    p = torch.eye(2)[torch.tensor([0] + [1] * 9 + [0] * 19)]
    result = measure(metric, p, y)
    assert math.isnan(result.value)
    assert math.isnan(result.low)
    assert result.too_few == (words,)
    assert not result.is_judged


def test_too_few_values_are_not_judged() -> None:
    for name in ("r_squared", "mean_absolute_error"):
        result = measure(name, torch.zeros(5, 1), torch.zeros(5))
        assert not result.is_judged
        assert result.too_few[0].startswith("5 rows")


@pytest.mark.parametrize(
    ("answers", "error", "words"),
    [
        (torch.ones(40), ShapeMismatch, r"answers of shape \(40,\) for 40 rows; give \(N, K\)"),
        (torch.eye(2), ShapeMismatch, r"answers of shape \(2, 2\) for 40 rows"),
        (torch.ones(40, 0), ShapeMismatch, "for 40 rows"),
        ([[0.5, 0.5]] * 40, DataError, "the answer is a list; give a tensor"),
        (torch.ones(40, 2), DataError, "row 0, .* it sums to 2; give logits.softmax"),
        (torch.tensor([[1.5, -0.5]] * 40), DataError, "row 0, .* is no probabilities"),
        (torch.ones(40, 2, dtype=torch.complex64), DataError, "real numbers work"),
    ],
)
def test_what_is_no_answer_is_refused(answers: Any, error: type[Exception], words: str) -> None:
    data = ProbeData(torch.zeros(40, 1), torch.zeros(40, dtype=torch.long))
    probe = make_probe(ProbeSpec("skill", metric="accuracy"), data)
    with pytest.raises(error, match=f"probe 'skill': .*{words}"):
        probe.measure(lambda _: answers)


def test_values_of_another_width_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"answers of shape \(40, 2\) for values .*\(40,\)"):
        measure("r_squared", torch.zeros(40, 2), torch.zeros(40))


def test_an_unknown_positive_class_is_refused() -> None:
    p, y = torch.eye(2).repeat(20, 1), torch.tensor([0, 1] * 20)
    with pytest.raises(SettingError, match="positive = 5; there are classes 0 to 1"):
        measure("recall", p, y, settings={"positive": 5})


def test_half_precision_rows_sum_to_nearly_one() -> None:
    p = torch.randn(40, 10, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    y = torch.zeros(40, dtype=torch.long)
    assert measure("accuracy", p.half(), y).is_judged
    assert measure("accuracy", p.bfloat16(), y).is_judged


def test_the_confidence_is_that_of_the_protocol() -> None:
    data = ProbeData(torch.zeros(40, 1), torch.tensor([0, 1] * 20))
    spec = ProbeSpec("p", metric="accuracy")
    answers = torch.eye(2).repeat(20, 1).roll(1, 0)
    answers[:20] = answers[:20].flip(1)
    wide, narrow = (
        make_probe(spec, data, EvaluationProtocol(confidence=one)).measure(lambda _: answers)
        for one in (0.99, 0.8)
    )
    assert (wide.confidence, narrow.confidence) == (0.99, 0.8)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
