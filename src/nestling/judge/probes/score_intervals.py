"""Confidence intervals of proportions, of their differences, of means, and by the bootstrap."""

import math
from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError
from nestling.judge.student import student_quantile

# From so many values on Student's t and the normal distribution differ by less than .3 % in width.
_NORMAL_FROM = 500


def wilson_interval(num: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a proportion, by Wilson's score.

    (p + z^2/2n -+ z sqrt(p(1 - p)/n + z^2/4n^2)) / (1 + z^2/n)   [Wilson 1927]

    Unlike p -+ z sqrt(p(1 - p)/n) it has a width at 0 and 1, too, and stays within [0, 1].

    Args:
        num: of successes.
        of: n, trials.
        confidence: two-sided, in (0, 1).

    Returns: low, high.

    Raises:
        DataError: no trial, or more successes than trials.
        SettingError: a confidence outside its range.

    >>> low, high = wilson_interval(9, 10)
    >>> f"{low:.4f} {high:.4f}"
    '0.5958 0.9821'
    """
    if not 0 <= num <= of or of == 0:
        raise DataError(f"{num} of {of}; a proportion is of 1 or more, and at most all of them")
    z = normal_quantile(confidence)
    p, share = num / of, z * z / of
    middle = (p + share / 2.0) / (1.0 + share)
    half = z * math.sqrt(p * (1.0 - p) / of + share / (4.0 * of)) / (1.0 + share)
    # Rounding must not leave the proportion outside its own interval.
    low = 0.0 if num == 0 else max(0.0, min(middle - half, p))
    high = 1.0 if num == of else min(1.0, max(middle + half, p))
    return low, high


def newcombe_interval(
    first: tuple[int, int], second: tuple[int, int], confidence: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of the difference of two proportions, by Newcombe's hybrid score.

    With the Wilson intervals (l_i, u_i) of p_i = num_i/of_i and d = p_1 - p_2:
    d - sqrt((p_1 - l_1)^2 + (u_2 - p_2)^2) to d + sqrt((u_1 - p_1)^2 + (p_2 - l_2)^2)
    [Newcombe 1998, method 10]

    Args:
        first: num, of.
        second: num, of; of other rows than the first.
        confidence: two-sided, in (0, 1).

    Returns: low, high, in [-1, 1].

    Raises:
        DataError: a proportion of nothing.
        SettingError: a confidence outside its range.

    >>> low, high = newcombe_interval((56, 70), (48, 80))
    >>> f"{low:.4f} {high:.4f}"
    '0.0524 0.3339'
    """
    (low_1, high_1), (low_2, high_2) = (
        wilson_interval(num, of, confidence) for num, of in (first, second)
    )
    p_1, p_2 = first[0] / first[1], second[0] / second[1]
    low = p_1 - p_2 - math.hypot(p_1 - low_1, high_2 - p_2)
    high = p_1 - p_2 + math.hypot(high_1 - p_1, p_2 - low_2)
    return max(-1.0, low), min(1.0, high)


def mean_interval(values: Tensor, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a mean: m -+ t s / sqrt(n), by Student's t, normal for large n.

    Args:
        values: (N,), finite.
        confidence: two-sided, in (0, 1).

    Returns: low, high; infinite for a single value, of which nobody knows the spread.

    Raises:
        DataError: no value.
        SettingError: a confidence outside its range.

    >>> low, high = mean_interval(torch.tensor([1.0, 2.0, 3.0]))
    >>> f"{low:.3f} {high:.3f}"
    '-0.484 4.484'
    """
    z = normal_quantile(confidence)
    count = values.numel()
    if count == 0:
        raise DataError("the mean of no values; give one or more")
    mean = float(values.double().mean())
    if count == 1:
        return -math.inf, math.inf
    tail = max(1.0 - confidence, 1e-6)
    factor = z if count > _NORMAL_FROM else student_quantile(tail, count - 1)
    half = factor * float(values.double().std()) / math.sqrt(count)
    return mean - half, mean + half


def bootstrap_interval(
    figure: Callable[[Tensor], Tensor],
    sums: Tensor,
    products: Tensor,
    num_rows: int,
    generator: torch.Generator,
    confidence: float = 0.95,
    num_resamples: int = 1000,
) -> tuple[float, float]:
    """Confidence interval of a figure of sums over rows: v -+ z times its bootstrap standard error.

    The bootstrap draws N rows with replacement [Efron and Tibshirani 1993, chapters 6 and 13].
    The sums S over rows drawn so have mean S and covariance P - S S'/N, and are nearly normal:
    the sums are drawn, not the rows, so that the cost does not grow with N. The bias of a figure
    such as the calibration error, which noise only raises, is not taken out.

    Args:
        figure: sums (R, T) -> figures (R,).
        sums: S (T,), over the rows, of the T terms of each.
        products: P (T, T), sums over the rows of the products of two terms.
        num_rows: N.
        generator: draws the sums.
        confidence: two-sided, in (0, 1).
        num_resamples: R, at least 2.

    Returns: low, high; NaN where the figure of a draw is not finite.

    Raises:
        DataError: no rows.
        SettingError: a confidence outside its range.

    >>> x = torch.arange(100.0, dtype=torch.float64)
    >>> low, high = bootstrap_interval(
    ...     lambda sums: sums[:, 0] / 100, x.sum()[None], (x @ x)[None, None], 100,
    ...     torch.Generator().manual_seed(0),
    ... )
    >>> f"{low:.0f} {high:.0f}"  # the mean is 49.5
    '44 55'
    """
    z = normal_quantile(confidence)
    if num_rows < 1:
        raise DataError("a bootstrap of no rows; give one or more")
    variances, axes = torch.linalg.eigh(products - torch.outer(sums, sums) / num_rows)
    noise = torch.randn(
        num_resamples, len(sums), generator=generator, dtype=torch.float64, device="cpu"
    )
    # Rounding may leave a variance of 0 below it.
    drawn = sums + noise * variances.clamp(min=0.0).sqrt() @ axes.T
    half = z * float(figure(drawn).std())
    value = float(figure(sums[None])[0])
    return (value - half, value + half) if math.isfinite(half) else (math.nan, math.nan)


def normal_quantile(confidence: float) -> float:
    """The z with P(|Z| <= z) = confidence for a standard normal Z.

    Raises:
        SettingError: a confidence outside (0, 1).

    >>> round(normal_quantile(0.95), 4)
    1.96
    """
    if not 0.0 < confidence < 1.0:
        raise SettingError(f"confidence {confidence}; between 0 and 1 works, e.g. 0.95")
    return NormalDist().inv_cdf(0.5 + 0.5 * confidence)
