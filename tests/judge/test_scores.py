"""R squared and accuracy where they could be divided by nothing."""

import pytest
import torch
from sklearn.metrics import r2_score

from nestling.core.errors import DataError
from nestling.judge import measure_accuracy, measure_r_squared


@pytest.mark.parametrize("value", [3.0, 0.1, 0.0])
@pytest.mark.parametrize("num", [1, 3, 40])
def test_r_squared_of_constant_targets_is_that_of_scikit_learn(value: float, num: int) -> None:
    target = torch.full((num,), value)
    for answers in (target[:, None], target[:, None] + 1e-3):
        expected = r2_score(target, answers) if num > 1 else float(torch.equal(answers[0], target))
        assert measure_r_squared(answers, target) == expected


def test_r_squared_keeps_the_digits_of_large_targets() -> None:
    target = 1.7e9 + torch.arange(10, dtype=torch.float64)
    answers = (target + 0.5)[:, None]
    expected = r2_score(target, answers)
    assert measure_r_squared(answers, target) == pytest.approx(expected)


def test_no_target_has_no_figure() -> None:
    with pytest.raises(DataError, match="none of 2 targets counts"):
        measure_accuracy(torch.eye(2), torch.tensor([-100, -1]))
    with pytest.raises(DataError, match="no targets"):
        measure_r_squared(torch.zeros(0, 1), torch.zeros(0))
