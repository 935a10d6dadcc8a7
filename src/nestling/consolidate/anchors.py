"""Bounds on lost accuracy from anchor examples that are answered before and after.

Letters: N anchors, one label each.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from nestling.core.errors import SettingError, ShapeMismatch

# Bisections: halves an interval of length 1 down to what float64 can tell.
_NUM_HALVINGS = 55


@dataclass(frozen=True)
class Comparison:
    """Comparison of two models on the same anchor examples: fall of accuracy and its bound.

    Args:
        num_anchors: N.
        num_worse: anchors that only the model before got right.
        num_better: anchors that only the model after gets right.
        fall_at_most: upper bound of the fall of accuracy, a share, at `confidence`.
        confidence: one-sided, of this comparison alone.
    """

    num_anchors: int
    num_worse: int
    num_better: int
    fall_at_most: float
    confidence: float

    @property
    def fall(self) -> float:
        """How much accuracy fell on the anchors, a share; negative if it rose."""
        return (self.num_worse - self.num_better) / self.num_anchors

    @property
    def disagreement(self) -> float:
        """Share of the anchors that exactly one of the models gets right."""
        return (self.num_worse + self.num_better) / self.num_anchors


def promise(num_anchors: int, disagreement: float, confidence: float = 0.95) -> float:
    """Smallest fall of accuracy that so many anchors can detect: a one-sided half-width.

    z sqrt(d / n), z the normal quantile of the confidence: (b - c)/n has at most variance d/n if
    b anchors get worse, c better and b + c = d n   [paired normal approximation, McNemar 1947]

    It is for planning. `compare_on_anchors` allows for what the approximation leaves out, so its
    bound lies higher, by 0.6 points at 200 anchors of which 5 get worse and 5 better.

    Args:
        num_anchors: n >= 1.
        disagreement: d in [0, 1], the share on which the two models are not both right or wrong.
        confidence: one-sided, in [0.5, 1).

    Returns: a share of accuracy; times 100 for points.

    Raises:
        SettingError: an argument outside its range.

    >>> [round(100 * promise(n, 0.05), 1) for n in (200, 500, 1345)]
    [2.6, 1.6, 1.0]
    """
    if num_anchors < 1 or not 0.0 <= disagreement <= 1.0 or not 0.5 <= confidence < 1.0:
        raise SettingError(
            f"{num_anchors} anchors, disagreement {disagreement}, confidence {confidence}; 1 or "
            "more anchors, a disagreement in [0, 1] and a confidence in [0.5, 1) work"
        )
    return NormalDist().inv_cdf(confidence) * math.sqrt(disagreement / num_anchors)


def compare_on_anchors(
    is_right_before: Tensor, is_right_after: Tensor, confidence: float = 0.95
) -> Comparison:
    """Upper confidence bound on lost accuracy, from the same anchors before and after.

    The smaller of `bound_fall` and of the exact bound of b's share alone [`bound_share`], which
    bounds the fall too since nothing is taken off it and is sharper if few disagree.

    Args:
        is_right_before: (N,) bool.
        is_right_after: (N,) bool, of the same anchors.
        confidence: one-sided, in [0.5, 1).

    Raises:
        ShapeMismatch: not two (N,) of bools, or no anchors.
        SettingError: the confidence is outside its range.

    >>> yes = torch.ones(100, dtype=torch.bool)
    >>> compare_on_anchors(yes, yes).fall_at_most < 0.03  # unchanged on all, yet not proven
    True
    """
    before, after = is_right_before, is_right_after
    both_bool = before.dtype == torch.bool and after.dtype == torch.bool
    if before.ndim != 1 or before.shape != after.shape or not len(before) or not both_bool:
        raise ShapeMismatch(
            f"anchors of shape {tuple(before.shape)} {before.dtype} and {tuple(after.shape)} "
            f"{after.dtype}; two (N,) of bools, N >= 1, work"
        )
    num = len(before)
    num_worse, num_better = int((before & ~after).sum()), int((~before & after).sum())
    fall_at_most = min(
        bound_fall(num_worse, num_better, num, confidence), bound_share(num_worse, num, confidence)
    )
    return Comparison(num, num_worse, num_better, fall_at_most, confidence)


def bound_fall(num_worse: int, num_better: int, num_anchors: int, confidence: float) -> float:
    """Upper confidence bound on the fall of accuracy, from paired answers: a score bound.

    D with b + 1/2 - c - n D = -z sqrt(n (2 q + D - D^2)),  q the likeliest share that gets better
    if accuracy falls by D: 2 n q^2 + ((2 n - b + c) D - b - c) q - c D (1 - D) = 0, its larger
    root, where b counts the half too   [Tango 1998]

    Differs: the paper has no half count and no one-sided bound. Both that and the interval
    (b - c)/n + z sqrt(d/n) are too sure of themselves when few disagree, the more so the higher
    the confidence: at 99.995 % the interval misses up to 27 times as often as it says; with the
    half count at most 1.4 times in all cases enumerated (1.2 times up to 99.95 %).

    Args:
        num_worse: b in [0, n].
        num_better: c in [0, n - b].
        num_anchors: n >= 1.
        confidence: one-sided, in [0.5, 1).

    Returns: a share of accuracy, at most 1.

    Raises:
        SettingError: an argument outside its range.

    >>> [round(100 * bound_fall(5, 5, 200, c), 1) for c in (0.95, 0.995)]
    [3.2, 5.4]
    """
    if min(num_worse, num_better) < 0 or num_worse + num_better > num_anchors or num_anchors < 1:
        raise SettingError(
            f"{num_worse} worse and {num_better} better of {num_anchors} anchors; counts of 0 or "
            "more that leave out none work"
        )
    _check_confidence(confidence)
    z, n, b, c = NormalDist().inv_cdf(confidence), num_anchors, num_worse + 0.5, num_better
    low, high = (num_worse - num_better) / n, 1.0
    for _ in range(_NUM_HALVINGS):
        fall = 0.5 * (low + high)
        linear, last = (2 * n - b + c) * fall - b - c, -c * fall * (1.0 - fall)
        root = (math.sqrt(max(0.0, linear * linear - 8 * n * last)) - linear) / (4 * n)
        q = min(max(root, 0.0, -fall), 0.5 * (1.0 - fall))
        spread = math.sqrt(max(0.0, n * (2.0 * q + fall - fall * fall)))
        low, high = (fall, high) if b - c - n * fall > -z * spread else (low, fall)
    return high


def bound_share(num_hits: int, num_trials: int, confidence: float) -> float:
    """Upper confidence bound on a binomial proportion, exact (Clopper-Pearson).

    p such that P(Binomial(n, p) <= k) = 1 - confidence   [Clopper & Pearson 1934]

    Args:
        num_hits: k in [0, n].
        num_trials: n >= 1.
        confidence: one-sided, in [0.5, 1).

    Raises:
        SettingError: an argument outside its range.

    >>> round(bound_share(0, 300, 0.95), 4)  # the rule of three
    0.0099
    """
    if not 0 <= num_hits <= num_trials or num_trials < 1:
        raise SettingError(f"{num_hits} hits of {num_trials} trials; 0 to {num_trials} hits work")
    _check_confidence(confidence)
    if num_hits == num_trials:
        return 1.0
    logs = [
        math.lgamma(num_trials + 1) - math.lgamma(k + 1) - math.lgamma(num_trials - k + 1)
        for k in range(num_hits + 1)
    ]
    low, high = num_hits / num_trials, 1.0
    for _ in range(_NUM_HALVINGS):
        p = 0.5 * (low + high)
        tail = sum(
            math.exp(log + k * math.log(p) + (num_trials - k) * math.log1p(-p))
            for k, log in enumerate(logs)
        )
        low, high = (p, high) if tail > 1.0 - confidence else (low, p)
    return high


def share_confidence(confidence: float, use: int, num_uses: int | None) -> float:
    """Bonferroni correction: the confidence of each use, so that all together keep the stated one.

    1 - a/m for m uses known beforehand; 1 - a/(i (i + 1)) for the i-th of endlessly many, as
    these shares of a = 1 - confidence add up to a. This holds for changes that were not made from
    what earlier uses showed: such a change needs new anchors.

    Args:
        confidence: of all uses together, in [0.5, 1).
        use: i >= 1, at most m.
        num_uses: m; None if it is not known.

    Raises:
        SettingError: an argument outside its range.

    >>> round(share_confidence(0.95, 3, 10), 4), round(share_confidence(0.95, 3, None), 4)
    (0.995, 0.9958)
    """
    _check_confidence(confidence)
    if use < 1 or (num_uses is not None and use > num_uses):
        raise SettingError(f"use {use} of {num_uses}; uses are counted from 1 to the last")
    risk = 1.0 - confidence
    return 1.0 - (risk / num_uses if num_uses is not None else risk / (use * (use + 1)))


def _check_confidence(confidence: float) -> None:
    if not 0.5 <= confidence < 1.0:
        raise SettingError(f"confidence {confidence}; a number in [0.5, 1) works")
