"""Signal and noise of gradients, from batches of one part of a stream.

Letters: N examples, B batches, K classes or outputs, H halves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nestling.core.batches import default_loss, read_output
from nestling.core.errors import SettingError
from nestling.core.params import Params, squared_norm


@dataclass(frozen=True)
class GradientStatistics:
    """Gradients of the batches of one half.

    Attributes:
        mean: name -> mean over the batches.
        variance: name -> trace of the covariance of one batch's gradient, unbiased, for batches
            of the planned size.
        mean_variance: name -> that of the mean itself.
    """

    mean: Params
    variance: dict[str, float]
    mean_variance: dict[str, float]


def average_batches(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    num_batches: int,
    generator: torch.Generator,
) -> GradientStatistics:
    """Mean and variance of the gradients of random batches without a common example.

    g = 1/B sum_b g_b,    v = 1/(B - 1) (sum_b |g_b|^2 - B |g|^2)

    Where examples are too few for four batches, smaller ones are taken; the variance of a batch
    of independent examples is inversely proportional to its size, and is stated for `batch_size`.

    Args:
        model: in the mode in which it is to be measured.
        x: (N, ...), N >= 4.
        y: (N,) classes or (N, K) values.
        batch_size: that the variance is stated for.
        num_batches: B, at most.
        generator: draws the batches.

    Raises:
        SettingError: the answer depends on no trainable parameter.
    """
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    size = max(1, min(batch_size, len(x) // 4))
    order = torch.randperm(len(x), generator=generator, device="cpu").to(x.device)
    batches = [rows for rows in order.split(size) if len(rows) == size][: max(2, num_batches)]
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in params.items()}
    squares = dict.fromkeys(params, 0.0)
    for rows in batches:
        loss = default_loss(read_output(model(x[rows])), y[rows])
        if not loss.requires_grad:
            raise SettingError("no trainable parameter has a part in the model's answer")
        gradients = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        for name, gradient in zip(params, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient
                squares[name] += float(gradient.double().square().sum())
    num = len(batches)
    mean = {name: value / num for name, value in total.items()}
    variance = {
        name: max(0.0, squares[name] - num * float(mean[name].square().sum())) / (num - 1)
        for name in params
    }
    return GradientStatistics(
        mean=mean,
        variance={name: value * size / batch_size for name, value in variance.items()},
        mean_variance={name: value / num for name, value in variance.items()},
    )


def compute_signal(means: Sequence[Params], mean_variances: Sequence[float]) -> float:
    """Root mean square over the halves of the norm of the true mean gradient.

    s^2 = 1/H sum_h max(0, |g_h|^2 - v_h / B_h): noise lengthens a mean of B batches by v/B.
    Halves are not averaged first: where they conflict, each still has a signal of its own.

    Args:
        means: of each half, name -> mean gradient of one block.
        mean_variances: v_h / B_h of each half.

    >>> compute_signal([{"w": torch.tensor([3.0, 4.0])}], [9.0])
    4.0
    """
    squares = [
        max(0.0, float(squared_norm(mean)) - variance)
        for mean, variance in zip(means, mean_variances, strict=True)
    ]
    return math.sqrt(sum(squares) / len(squares))
