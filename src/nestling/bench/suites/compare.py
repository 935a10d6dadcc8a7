"""Defaults against their rivals: paired over seeds, tested, corrected for many rivals."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nestling.core.errors import DataError
from nestling.judge import Estimate, compare_paired
from nestling.judge.student import student_tail


@dataclass(frozen=True)
class PairedComparison:
    """One default against one rival.

    Attributes:
        ours: the default's name.
        theirs: the rival's.
        difference: ours - theirs over the shared seeds, with a 95 % t-interval.
        p: two-sided, of the paired t test, before correction.
        p_corrected: after Holm's correction over all rivals of this default.
    """

    ours: str
    theirs: str
    difference: Estimate
    p: float
    p_corrected: float


def run_paired_test(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided p of the paired t test; 1 for a single seed, which shows nothing.

    t = mean(d) / (s_d / sqrt(n)),  d = ours - theirs,  n - 1 degrees of freedom

    Args:
        ours: one value per seed.
        theirs: the same seeds, in the same order.

    >>> round(run_paired_test([2.0, 3.0, 5.0], [1.0, 1.0, 2.0]), 4)
    0.0742
    """
    if len(ours) != len(theirs):
        raise DataError(f"{len(ours)} and {len(theirs)} seeds; pairs need the same seeds")
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    if len(differences) < 2:
        return 1.0
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    if mean == 0.0:
        return 1.0
    t = math.inf if spread == 0.0 else mean / (spread / math.sqrt(len(differences)))
    return student_tail(t, len(differences) - 1)


def correct_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p_(i) <- max_{j <= i} min(1, (m - j + 1) p_(j)) [Holm 1979].

    Args:
        p_values: of m tests, in any order.

    >>> [round(p, 3) for p in correct_holm([0.04, 0.01, 0.03])]
    [0.06, 0.03, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def compare_all(
    ours: str, values: Mapping[str, Sequence[float]], rivals: Sequence[str]
) -> list[PairedComparison]:
    """A default against each rival, corrected over all of them.

    Args:
        ours: the default's name.
        values: method -> one value per seed, the same seeds in the same order.
        rivals: names in `values`.
    """
    p_values = [run_paired_test(values[ours], values[rival]) for rival in rivals]
    return [
        PairedComparison(ours, rival, compare_paired(values[ours], values[rival]), p, p_corrected)
        for rival, p, p_corrected in zip(rivals, p_values, correct_holm(p_values), strict=True)
    ]
