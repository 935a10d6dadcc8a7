"""Which payments are reviewed, what that saves, and how good the probabilities behind it are.

Letters: N payments, J factors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

REVIEW_COST = 5.0  # euros: ten minutes of somebody's time
FACTORS = 2.0 ** np.arange(-4.0, 5.0)  # 1/16, 1/8, ..., 16
# Before so many frauds have been reported nothing is reviewed, for nothing is known of fraud.
NUM_FIRST = 10
# Two rules: the probability as it is, or times what the late labels say of it.
RULES = ("as it is", "learned factor")
# From here on the order of probabilities is judged: before, hardly a fraud has been reported.
FIRST_RANKED = 5_000
# Euros that another factor must have saved, per doubling, before it is taken: one usual fraud.
WORTH_A_CHANGE = 200.0


class LearnedFactor:
    """Review a payment if p * amount > factor * cost; the factor is learned from late labels.

    Were the probabilities right, the factor would be 1: a review costs 5 euros and saves the amount
    with probability p. Where they are not, another may save more. So of each factor it is summed
    what it would have saved on the payments whose labels have come, and the best is taken.

    Attributes:
        saved: (J,) euros that each factor would have saved so far, less a start in favour of 1.
    """

    def __init__(self) -> None:
        self.saved: Floats = -WORTH_A_CHANGE * np.abs(np.log2(FACTORS))

    @property
    def factor(self) -> float:
        """The factor in force."""
        return float(FACTORS[self.saved.argmax()])

    def hear(self, probability: float, amount: float, *, is_fraud: bool) -> None:
        """A label has come: what would each factor have saved on this payment?"""
        reviewed_J = probability * amount > FACTORS * REVIEW_COST
        self.saved += reviewed_J * (is_fraud * amount - REVIEW_COST)


@dataclass
class Book:
    """What a system said of each payment and what was done, one entry per payment.

    Attributes:
        probability: of fraud, before anything was known of the payment.
        factor: of the rule that learns it, at that moment.
        is_fraud: the truth.
        amount: in euros.
        start: the first payment that may be reviewed.
        cpu_seconds: of the system, answering and learning.
    """

    probability: list[float] = field(default_factory=list)
    factor: list[float] = field(default_factory=list)
    is_fraud: list[bool] = field(default_factory=list)
    amount: list[float] = field(default_factory=list)
    start: int | None = None
    cpu_seconds: float = 0.0

    def list_reviewed(self, rule: str) -> Flags:
        """Which payments (N,) a rule of RULES reviews: p * amount > factor * cost."""
        return self._compare(1.0 if rule == RULES[0] else np.array(self.factor))

    def _compare(self, factor: float | Floats) -> Flags:
        reviewed_N: Flags = np.array(self.probability) * self.amount > factor * REVIEW_COST
        reviewed_N[: self.start] = False
        return reviewed_N

    def list_saved(self, reviewed_N: Flags) -> Floats:
        """Euros (N,) saved on each payment, against no system: the fraud less the review."""
        gains_N = np.array(self.is_fraud) * np.array(self.amount) - REVIEW_COST
        saved_N: Floats = reviewed_N * gains_N
        return saved_N

    def list_best(self) -> Floats:
        """Euros (N,) that an oracle saves: it reviews the frauds that are worth it."""
        worth_it_N = np.array(self.is_fraud) & (np.array(self.amount) > REVIEW_COST)
        return self.list_saved(worth_it_N)

    def to_figures(self) -> dict[str, float]:
        """Money and measures; shares lie in [0, 1]."""
        p_N, amount_N, is_fraud_N = (
            np.array(one) for one in (self.probability, self.amount, self.is_fraud)
        )
        best = float(self.list_best().sum())
        lost = float(amount_N[is_fraud_N].sum())
        found = {"oracle": best, "lost_without": lost}
        for rule, name in zip(RULES, ("", "_learned"), strict=True):
            reviewed_N = self.list_reviewed(rule)
            found |= {
                f"saved{name}": float(self.list_saved(reviewed_N).sum()),
                f"of_oracle{name}": float(self.list_saved(reviewed_N).sum()) / best,
                f"caught{name}": float(amount_N[is_fraud_N & reviewed_N].sum()) / lost,
                f"reviews_per_1000{name}": 1000.0 * float(reviewed_N.mean()),
            }
        in_hindsight = [self.list_saved(self._compare(factor)).sum() for factor in FACTORS]
        return found | {
            "of_oracle_in_hindsight": float(max(in_hindsight)) / best,
            "pr_auc": measure_pr_auc(p_N[FIRST_RANKED:], is_fraud_N[FIRST_RANKED:]),
            "auc": measure_auc(p_N[FIRST_RANKED:], is_fraud_N[FIRST_RANKED:]),
            "mean_probability": float(p_N.mean()),
            "fraud_rate": float(is_fraud_N.mean()),
            "cpu_seconds": self.cpu_seconds,
        }


def measure_pr_auc(p_N: Floats, is_fraud_N: Flags) -> float:
    """Area under precision over recall: sum of precision times gain in recall; ties are one step.

    An answer that knows nothing gets the share of frauds.
    """
    order = np.argsort(-p_N, kind="stable")
    found_N = np.cumsum(is_fraud_N[order])
    ends = np.flatnonzero(np.append(np.diff(p_N[order]) != 0.0, True))
    precision, recall = found_N[ends] / (ends + 1), found_N[ends] / found_N[-1]
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def measure_auc(p_N: Floats, is_fraud_N: Flags) -> float:
    """Area under the ROC curve: how often a fraud is above another payment; ties count half."""
    values, place_N = np.unique(p_N, return_inverse=True)
    frauds = np.bincount(place_N[is_fraud_N], minlength=len(values))
    others = np.bincount(place_N[~is_fraud_N], minlength=len(values))
    below = np.cumsum(others) - others
    return float((frauds * (below + others / 2)).sum() / (frauds.sum() * others.sum()))


def average(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over seeds."""
    return {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}
