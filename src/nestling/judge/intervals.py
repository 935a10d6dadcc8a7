"""Means over seeds, with the interval that so few seeds allow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nestling.core.errors import DataError
from nestling.judge.student import student_quantile


@dataclass(frozen=True)
class Estimate:
    """Mean with half the width of its 95 % confidence interval.

    Attributes:
        mean: over the seeds.
        half_width: infinity for a single seed.
        num_seeds: how many.
    """

    mean: float
    half_width: float
    num_seeds: int


def estimate_mean(values: Sequence[float]) -> Estimate:
    """Mean with a 95 % confidence interval by Student's t: m +- t s / sqrt(n).

    Args:
        values: one per seed.

    >>> estimate_mean([1.0, 2.0, 3.0]).mean
    2.0
    """
    n = len(values)
    if n == 0:
        raise DataError("no value to average; give one per seed")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, math.inf, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, student_quantile(0.05, n - 1) * math.sqrt(variance / n), n)


def compare_paired(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Paired comparison over seeds: mean difference ours - theirs with its interval.

    Args:
        ours: one value per seed.
        theirs: the same seeds, in the same order.

    >>> compare_paired([2.0, 3.0], [1.0, 2.0])
    Estimate(mean=1.0, half_width=0.0, num_seeds=2)
    """
    if len(ours) != len(theirs):
        raise DataError(f"{len(ours)} and {len(theirs)} seeds; pairs need the same seeds")
    return estimate_mean([a - b for a, b in zip(ours, theirs, strict=True)])


@dataclass(frozen=True)
class LevelCompute:
    """Compute spent on one level: updates, skipped backward passes, seconds.

    Attributes:
        name: of the level.
        num_steps: optimizer steps that it saw.
        num_updates: times that its parameters changed.
        share_backward_skipped: steps without a backward pass through it, in [0, 1].
        seconds: spent in its updates.
    """

    name: str
    num_steps: int
    num_updates: int
    share_backward_skipped: float
    seconds: float
