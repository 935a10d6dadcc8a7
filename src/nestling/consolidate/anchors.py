"""What anchors can promise: bounds of how far accuracy fell, from examples answered twice.

Letters: N anchors, one label each.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from nestling.core.errors import PlanError, ShapeMismatch

# Below so many disagreements the normal approximation promises too much, 0 if there are none.
MIN_DISAGREEMENTS = 10


@dataclass(frozen=True)
class Comparison:
    """Two models on the same anchors.

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
    """The fall of accuracy that so many anchors can tell from none: a one-sided half-width.

    z sqrt(d / n), z the normal quantile of the confidence: (b - c)/n has at most variance d/n if
    b anchors get worse, c better and b + c = d n   [paired normal approximation, McNemar 1947]

    Args:
        num_anchors: n >= 1.
        disagreement: d in [0, 1], the share on which the two models are not both right or wrong.
        confidence: one-sided, in [0.5, 1).

    Returns: a share of accuracy; times 100 for points.

    Raises:
        PlanError: an argument outside its range.

    >>> [round(100 * promise(n, 0.05), 1) for n in (200, 500, 1345)]
    [2.6, 1.6, 1.0]
    """
    if num_anchors < 1 or not 0.0 <= disagreement <= 1.0 or not 0.5 <= confidence < 1.0:
        raise PlanError(
            f"{num_anchors} anchors, disagreement {disagreement}, confidence {confidence}; 1 or "
            "more anchors, a disagreement in [0, 1] and a confidence in [0.5, 1) work"
        )
    return NormalDist().inv_cdf(confidence) * math.sqrt(disagreement / num_anchors)


def compare_on_anchors(
    is_right_before: Tensor, is_right_after: Tensor, confidence: float = 0.95
) -> Comparison:
    """Bound how much accuracy fell, from the same anchors answered before and after.

    fall <= (b - c)/n + z sqrt(d/n), as in `promise`; if b + c < 10 the exact bound of b's share
    alone [Clopper & Pearson 1934], which is a bound of the fall since nothing is taken off it.

    Args:
        is_right_before: (N,) bool.
        is_right_after: (N,) bool, of the same anchors.
        confidence: one-sided, in [0.5, 1).

    Raises:
        ShapeMismatch: not two (N,) of bools, or no anchors.
        PlanError: the confidence is outside its range.

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
    half_width = promise(num, (num_worse + num_better) / num, confidence)
    if num_worse + num_better < MIN_DISAGREEMENTS:
        fall_at_most = bound_share(num_worse, num, confidence)
    else:
        fall_at_most = min(1.0, (num_worse - num_better) / num + half_width)
    return Comparison(num, num_worse, num_better, fall_at_most, confidence)


def bound_share(num_hits: int, num_trials: int, confidence: float) -> float:
    """The largest share under which so few hits are still as likely as 1 - confidence.

    p such that P(Binomial(n, p) <= k) = 1 - confidence   [Clopper & Pearson 1934]

    >>> round(bound_share(0, 300, 0.95), 4)  # the rule of three
    0.0099
    """
    if num_hits >= num_trials:
        return 1.0
    logs = [
        math.lgamma(num_trials + 1) - math.lgamma(k + 1) - math.lgamma(num_trials - k + 1)
        for k in range(num_hits + 1)
    ]
    low, high = num_hits / num_trials, 1.0
    for _ in range(60):
        p = 0.5 * (low + high)
        tail = sum(
            math.exp(log + k * math.log(p) + (num_trials - k) * math.log1p(-p))
            for k, log in enumerate(logs)
        )
        low, high = (p, high) if tail > 1.0 - confidence else (low, p)
    return high


def share_confidence(confidence: float, use: int, num_uses: int | None) -> float:
    """The confidence of one use, so that all uses together keep the stated one [Bonferroni].

    1 - a/m for m uses known beforehand; 1 - a/(i (i + 1)) for the i-th of endlessly many, as
    these shares of a = 1 - confidence add up to a.

    Args:
        confidence: of all uses together.
        use: i, from 1.
        num_uses: m; None if it is not known.

    >>> round(share_confidence(0.95, 3, 10), 4), round(share_confidence(0.95, 3, None), 4)
    (0.995, 0.9958)
    """
    risk = 1.0 - confidence
    return 1.0 - (risk / num_uses if num_uses is not None else risk / (use * (use + 1)))
