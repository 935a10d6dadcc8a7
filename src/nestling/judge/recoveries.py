"""How many errors a drift costs, and whether a concept that returns costs them again.

Axis letter: N events, each with whether its answer was right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestling.core.errors import DataError

SPAN = 2_000  # events that count as "after the drift", and that show the steady rate
Segment = tuple[int, int, str]  # first event, event after the last, concept


@dataclass(frozen=True)
class Recovery:
    """What one drift cost.

    Attributes:
        place: first event after the drift.
        concept: that is in force from there on.
        returns: whether it was in force before.
        over_end: errors in the span after the drift beyond those at the rate of the segment's
            end: what was still to be learned.
        over_before: the same beyond the rate just before the drift.
        steady: error rate at the segment's end.
    """

    place: int
    concept: str
    returns: bool
    over_end: float
    over_before: float
    steady: float


def count_excess_errors(
    right_N: NDArray[np.bool_], start: int, stop: int, steady_error: float
) -> float:
    """Errors from `start` to before `stop` beyond those at a steady rate; may be below 0.

    Args:
        right_N: whether each answer was right.
        start: first event.
        stop: event after the last.
        steady_error: rate in [0, 1].

    Raises:
        DataError: the events are not there.

    >>> count_excess_errors(np.array([False, False, True, True]), 0, 4, 0.25)
    1.0
    """
    if not 0 <= start < stop <= len(right_N):
        raise DataError(f"events {start} to {stop} of {len(right_N)}; give some that are there")
    return float((~right_N[start:stop]).sum()) - steady_error * (stop - start)


def measure_recoveries(
    right_N: NDArray[np.bool_], segments: Sequence[Segment], span: int = SPAN
) -> list[Recovery]:
    """What every drift cost, from the second segment on.

    Segments shorter than two spans show their steady rate in their last half, and are counted
    from their first half.

    Args:
        right_N: whether each answer was right.
        segments: between drifts, in order, without gaps.
        span: events after a drift that count.

    >>> right = np.array([True] * 4 + [False, False, True, True])
    >>> [one.over_end for one in measure_recoveries(right, [(0, 4, "a"), (4, 8, "b")], 2)]
    [2.0]
    """
    found = []
    for place, (start, stop, concept) in enumerate(segments):
        if not place:
            continue
        before_start, before_stop, _ = segments[place - 1]
        end = min(start + span, start + (stop - start) // 2)
        steady = _measure_steady(right_N, start, stop, span)
        before = _measure_steady(right_N, before_start, before_stop, span)
        found.append(
            Recovery(
                start,
                concept,
                any(one == concept for _, _, one in segments[:place]),
                count_excess_errors(right_N, start, end, steady),
                count_excess_errors(right_N, start, end, before),
                steady,
            )
        )
    return found


def compare_visits(
    right_N: NDArray[np.bool_], segments: Sequence[Segment], span: int = SPAN
) -> float:
    """Second visit over first: excess errors when concepts return, per excess error at first.

    Of every concept that comes twice, the errors in the span after it begins, beyond those at the
    rate of the end of its second visit; summed over the concepts. 1 learns all of it again, 0
    knows it at once; below 0 counts as 0. NaN if nothing returns, or the first visits cost
    nothing.

    Args:
        right_N: whether each answer was right.
        segments: between drifts, in order.
        span: events after a beginning that count.
    """
    visits: dict[str, list[tuple[int, int]]] = {}
    for start, stop, concept in segments:
        visits.setdefault(concept, []).append((start, stop))
    first = second = 0.0
    for places in visits.values():
        if len(places) < 2:
            continue
        steady = _measure_steady(right_N, *places[1], span)
        # Both visits over as many events.
        count = min(span, *((stop - start) // 2 for start, stop in places[:2]))
        first += count_excess_errors(right_N, places[0][0], places[0][0] + count, steady)
        second += count_excess_errors(right_N, places[1][0], places[1][0] + count, steady)
    return max(0.0, second) / first if first > 0.0 else math.nan


def _measure_steady(right_N: NDArray[np.bool_], start: int, stop: int, span: int) -> float:
    begin = max(stop - span, start + (stop - start) // 2)
    if not 0 <= begin < stop <= len(right_N):
        raise DataError(f"events {begin} to {stop} of {len(right_N)}; give some that are there")
    return float((~right_N[begin:stop]).mean())
