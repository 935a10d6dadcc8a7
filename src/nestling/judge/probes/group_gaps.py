"""Group fairness as pure functions of counts: gaps of rates, worst group, calibration by group.

A group in which a rate is of nothing, such as false negatives where nobody is positive, has no
rate: the gap is NaN. Fairlearn takes such a rate to be 0.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from nestling.core.errors import DataError
from nestling.judge.probes.group_counts import CONFIDENCE_UNIT, GroupCount

# A rate of a group as a proportion: how many, of how many.
Proportion = Callable[[GroupCount], tuple[int, int]]


def count_positive_answers(count: GroupCount) -> tuple[int, int]:
    """Rows that are answered with the positive class, of all: the selection rate."""
    return count.num_answered_positive, count.num_rows


def count_true_positives(count: GroupCount) -> tuple[int, int]:
    """Positives that are found, of all positives."""
    return count.true_positives, count.num_positives


def count_false_negatives(count: GroupCount) -> tuple[int, int]:
    """Positives that are missed, of all positives."""
    return count.false_negatives, count.num_positives


def count_false_positives(count: GroupCount) -> tuple[int, int]:
    """Negatives that are answered with the positive class, of all negatives."""
    return count.false_positives, count.num_negatives


def count_right(count: GroupCount) -> tuple[int, int]:
    """Right answers, of all rows with a target."""
    return count.num_right, count.num_labelled


def demographic_parity_difference(counts: Mapping[str, GroupCount]) -> float:
    """Demographic parity difference: largest minus smallest rate of positive answers.

    max_g P(f = 1 | g) - min_g P(f = 1 | g)   [Agarwal 2018; as fairlearn has it]

    Args:
        counts: group -> counts, of `GroupCounts`.

    Raises:
        DataError: no group.

    >>> ten, five = GroupCount(10, 8), GroupCount(5, 1)
    >>> round(demographic_parity_difference({"f": ten, "m": five}), 9)
    0.6
    """
    return _gap(_rates(counts, count_positive_answers))


def demographic_parity_ratio(counts: Mapping[str, GroupCount]) -> float:
    """Demographic parity ratio: smallest over largest rate of positive answers; NaN if all are 0.

    Raises:
        DataError: no group.
    """
    rates = _rates(counts, count_positive_answers)
    largest = max(rates)
    return min(rates) / largest if largest > 0.0 else math.nan


def equalized_odds_difference(counts: Mapping[str, GroupCount]) -> float:
    """Equalised odds difference: the larger gap of true and of false positive rates.

    [Hardt 2016; the larger of both, as fairlearn's default has it]

    Raises:
        DataError: no group.
    """
    found = _gap(_rates(counts, count_true_positives))
    false = _gap(_rates(counts, count_false_positives))
    return math.nan if math.isnan(found) or math.isnan(false) else max(found, false)


def false_negative_gap(counts: Mapping[str, GroupCount]) -> float:
    """False-negative gap: largest minus smallest share of missed positives.

    Raises:
        DataError: no group.
    """
    return _gap(_rates(counts, count_false_negatives))


def false_positive_gap(counts: Mapping[str, GroupCount]) -> float:
    """False-positive gap: largest minus smallest share of negatives taken for positives.

    Raises:
        DataError: no group.
    """
    return _gap(_rates(counts, count_false_positives))


def worst_group_accuracy(counts: Mapping[str, GroupCount]) -> float:
    """Worst-group accuracy: of the group that is answered worst [Sagawa 2020].

    Raises:
        DataError: no group.
    """
    rates = _rates(counts, count_right)
    return math.nan if any(map(math.isnan, rates)) else min(rates)


def accuracy_gap(counts: Mapping[str, GroupCount]) -> float:
    """Accuracy gap: accuracy of the best group minus that of the worst.

    Raises:
        DataError: no group.
    """
    return _gap(_rates(counts, count_right))


def expected_calibration_error(counts: Iterable[GroupCount]) -> float:
    """Expected calibration error of the answers' confidence, of some groups together.

    sum_b |sum of confidence in b - right answers in b| / n   [Guo 2017]

    Args:
        counts: of one group or of several.

    Returns: in [0, 1]; NaN without rows that have a target.
    """
    listed = list(counts)
    total = sum(count.num_labelled for count in listed)
    if not total:
        return math.nan
    confidence = [sum(cell) for cell in zip(*(one.bin_confidence for one in listed), strict=True)]
    right = [sum(cell) for cell in zip(*(one.bin_right for one in listed), strict=True)]
    # The difference of whole numbers is exact; only the last division rounds.
    unit = round(1.0 / CONFIDENCE_UNIT)
    off = sum(abs(sure - hits * unit) for sure, hits in zip(confidence, right, strict=True))
    return float(off / (total * unit))


def calibration_gap(counts: Mapping[str, GroupCount]) -> float:
    """Calibration gap: largest minus smallest calibration error of a group.

    Raises:
        DataError: no group.
    """
    _require(counts)
    return _gap([expected_calibration_error([count]) for count in counts.values()])


def _rates(counts: Mapping[str, GroupCount], proportion: Proportion) -> list[float]:
    _require(counts)
    pairs = [proportion(count) for count in counts.values()]
    return [num / of if of else math.nan for num, of in pairs]


def _gap(rates: list[float]) -> float:
    return math.nan if any(map(math.isnan, rates)) else max(rates) - min(rates)


def _require(counts: Mapping[str, GroupCount]) -> None:
    if not counts:
        raise DataError("a gap between no groups; count the rows of one group or more")
