"""Figures of accuracy over time: adaptation, the stability gap, retention."""

import math
from collections.abc import Sequence

from nestling.core.errors import DataError, SettingError


def steps_to_fraction(
    num_examples: Sequence[int], accuracies: Sequence[float], fraction: float = 0.9
) -> int | None:
    """Adaptation speed: examples until a fraction of the method's own best is reached.

    Args:
        num_examples: learned since the experience began, at each evaluation; ascending.
        accuracies: on the new experience, scored among all classes seen so far.
        fraction: of the best, in (0, 1].

    Returns: examples; None if the best is 0 (nothing was learned).

    Raises:
        DataError: no evaluation, or an accuracy that is NaN.
        SettingError: a fraction outside its range.

    >>> steps_to_fraction([0, 100, 200, 300], [0.0, 0.5, 0.9, 0.95])
    200
    """
    _check_lengths(num_examples, accuracies)
    if not 0.0 < fraction <= 1.0:
        raise SettingError(f"fraction {fraction}; above 0 and up to 1 works, e.g. 0.9")
    best = max(accuracies)
    if best <= 0.0:
        return None
    return next(
        seen
        for seen, accuracy in zip(num_examples, accuracies, strict=True)
        if accuracy >= fraction * best
    )


def worst_case_accuracy(current: float, earlier: Sequence[Sequence[float]]) -> float:
    """Worst-case accuracy (WC-ACC): the lowest moment, the stability gap included.

    WC = A_k / k + (1 - 1/k) min-ACC,  min-ACC = mean_j min_n A_j(n)   [De Lange 2023, eq. 2-3]

    Args:
        current: A_k, accuracy on the newest experience now.
        earlier: for each of the k - 1 earlier experiences, its accuracy at every evaluation
            since it was learned. What was not measured is to be left out: whether the worst was
            among it nobody knows.

    Raises:
        DataError: an experience without an evaluation, or an accuracy that is NaN.

    >>> worst_case_accuracy(0.9, [[0.8, 0.3, 0.7]])
    0.6
    """
    k = len(earlier) + 1
    if any(len(curve) == 0 for curve in earlier):
        raise DataError("an earlier experience without an evaluation; evaluate it at least once")
    _check_known([current, *(value for curve in earlier for value in curve)])
    minimum = math.fsum(min(curve) for curve in earlier) / (k - 1) if earlier else 0.0
    return current / k + (1.0 - 1.0 / k) * minimum


def retention_half_life(
    num_examples: Sequence[int], accuracies: Sequence[float], chance: float = 0.0
) -> float:
    """Retention half-life: examples until accuracy above chance has fallen to half its peak.

    Between two evaluations accuracy is taken to be a straight line.

    Args:
        num_examples: learned so far, at each evaluation; ascending.
        accuracies: on one experience.
        chance: accuracy of guessing.

    Returns: examples; infinity if it never fell that far; NaN if it never rose above chance.

    >>> retention_half_life([0, 100, 200], [0.9, 0.6, 0.3])
    150.0
    """
    _check_lengths(num_examples, accuracies)
    _check_known([chance])
    peak = max(accuracies)
    if peak <= chance:
        return math.nan
    start = max(i for i, accuracy in enumerate(accuracies) if accuracy == peak)
    half = chance + 0.5 * (peak - chance)
    for i in range(start + 1, len(accuracies)):
        if accuracies[i] <= half:
            before, after = accuracies[i - 1], accuracies[i]
            share = (before - half) / (before - after)
            width = num_examples[i] - num_examples[i - 1]
            return num_examples[i - 1] + share * width - num_examples[start]
    return math.inf


def negative_flip_rate(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Negative flip rate: share of examples right before a change and wrong after it.

    Args:
        before: whether each example was answered rightly by the old version.
        after: the same for the new version.

    >>> negative_flip_rate([True, True, False, False], [True, False, True, False])
    0.25
    """
    if len(before) != len(after) or len(before) == 0:
        raise DataError(f"{len(before)} and {len(after)} answers; give both for the same examples")
    return sum(old and not new for old, new in zip(before, after, strict=True)) / len(before)


def _check_lengths(num_examples: Sequence[int], accuracies: Sequence[float]) -> None:
    if len(num_examples) != len(accuracies) or len(accuracies) == 0:
        raise DataError(
            f"{len(num_examples)} positions and {len(accuracies)} accuracies; give one of each "
            "per evaluation"
        )
    _check_known(accuracies)


def _check_known(accuracies: Sequence[float]) -> None:
    if any(math.isnan(accuracy) for accuracy in accuracies):
        raise DataError("an accuracy is NaN; leave out what was not measured")
