"""Accuracy of classes and R squared of values: how right answers are, as one number."""

import torch
from torch import Tensor

from nestling.core.errors import DataError, ShapeMismatch


def measure_accuracy(probabilities: Tensor, target: Tensor) -> float:
    """Accuracy: share of right answers, in [0, 1]; targets below 0 do not count.

    Args:
        probabilities: (..., K).
        target: (...) classes.

    Raises:
        DataError: no target counts.

    >>> import torch
    >>> measure_accuracy(torch.eye(2), torch.tensor([0, 0]))
    0.5
    """
    kept = target >= 0
    if not bool(kept.any()):
        raise DataError(
            f"none of {target.numel()} targets counts; give one class of 0 or more, at least"
        )
    return float((probabilities.argmax(dim=-1)[kept] == target[kept]).float().mean())


def measure_r_squared(answers: Tensor, target: Tensor) -> float:
    """R squared, coefficient of determination: 1 - sum (y - f)^2 / sum (y - mean y)^2.

    Where all targets of each output are the same it is 1 for exact answers and 0 for others, as
    scikit-learn's `r2_score` has it.

    Args:
        answers: (N, M).
        target: as many numbers, in any shape.

    Raises:
        ShapeMismatch: more or fewer numbers.
        DataError: no targets.

    >>> import torch
    >>> measure_r_squared(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0]))
    1.0
    >>> measure_r_squared(torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 3.0]))
    0.0
    """
    if target.numel() != answers.numel():
        raise ShapeMismatch(
            f"answers of shape {tuple(answers.shape)} for targets of shape "
            f"{tuple(target.shape)}; give one value per output"
        )
    if not target.numel():
        raise DataError("R squared of no targets; give one example or more")
    answers = answers.detach().to("cpu", torch.float64)
    target = target.reshape(answers.shape).to(answers)
    error = float((answers - target).square().sum())
    # Not by its spread, which rounding keeps above 0: the mean of equal numbers is often another.
    if bool((target == target[:1]).all()):
        return 1.0 if error == 0.0 else 0.0
    return 1.0 - error / float((target - target.mean(dim=0)).square().sum())
