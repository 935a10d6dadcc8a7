"""Accuracy of classes and R squared of values: how right answers are, as one number."""

from torch import Tensor

from nestling.core.errors import ShapeMismatch


def measure_accuracy(probabilities: Tensor, target: Tensor) -> float:
    """Accuracy: share of right answers, in [0, 1]; targets below 0 do not count.

    Args:
        probabilities: (..., K).
        target: (...) classes.

    >>> import torch
    >>> measure_accuracy(torch.eye(2), torch.tensor([0, 0]))
    0.5
    """
    kept = target >= 0
    return float((probabilities.argmax(dim=-1)[kept] == target[kept]).float().mean())


def measure_r_squared(answers: Tensor, target: Tensor) -> float:
    """R squared, coefficient of determination: 1 - sum (y - f)^2 / sum (y - mean y)^2.

    Args:
        answers: (N, M).
        target: as many numbers, in any shape.

    Raises:
        ShapeMismatch: more or fewer numbers.

    >>> import torch
    >>> measure_r_squared(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0]))
    1.0
    """
    if target.numel() != answers.numel():
        raise ShapeMismatch(
            f"answers of shape {tuple(answers.shape)} for targets of shape "
            f"{tuple(target.shape)}; give one value per output"
        )
    target = target.reshape(answers.shape).float()
    spread = (target - target.mean(dim=0)).square().sum()
    return float(1.0 - (answers - target).square().sum() / spread)
