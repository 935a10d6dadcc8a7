"""What a drift costs, on answers whose errors are placed by hand."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.core.errors import DataError
from nestling.judge.recoveries import compare_visits, count_excess_errors, measure_recoveries

SEGMENTS = [(0, 100, "a"), (100, 200, "b"), (200, 300, "a"), (300, 400, "b")]


def place_errors(*places: int) -> NDArray[np.bool_]:
    right = np.ones(400, np.bool_)
    right[list(places)] = False
    return right


def test_errors_beyond_the_steady_rate() -> None:
    # 10 errors at once after the first drift, one of ten all along the last 20 events.
    right = place_errors(*range(100, 110), 185, 195)
    first, second, third = measure_recoveries(right, SEGMENTS, span=20)
    assert (first.place, first.concept, first.returns) == (100, "b", False)
    assert first.steady == pytest.approx(0.1)
    assert first.over_end == pytest.approx(10 - 2)
    assert first.over_before == pytest.approx(10)
    assert (second.returns, third.returns) == (True, True)
    assert second.over_before == pytest.approx(-2)


def test_a_short_segment_is_cut_in_halves() -> None:
    right = place_errors(*range(100, 130), 199)
    (first, *_) = measure_recoveries(right, SEGMENTS, span=2_000)
    assert first.steady == pytest.approx(1 / 50)
    assert first.over_end == pytest.approx(30 - 1)


def test_a_second_visit_over_the_first() -> None:
    right = place_errors(*range(10), *range(100, 110), *range(200, 205))
    assert compare_visits(right, SEGMENTS, span=20) == pytest.approx(5 / 20)
    # Nothing is forgotten: better than nothing does not count.
    assert compare_visits(place_errors(*range(10)), SEGMENTS, span=20) == 0.0


def test_a_steady_rate_is_no_excess() -> None:
    right = place_errors(*range(0, 400, 10))
    assert [one.over_end for one in measure_recoveries(right, SEGMENTS, 50)] == [0.0] * 3
    assert math.isnan(compare_visits(right, SEGMENTS, 50))


def test_nothing_that_returns_is_no_number() -> None:
    assert math.isnan(compare_visits(place_errors(5), SEGMENTS[:2], 20))


def test_events_that_are_not_there_are_refused() -> None:
    with pytest.raises(DataError, match="events 390 to 410 of 400"):
        count_excess_errors(place_errors(), 390, 410, 0.0)
    with pytest.raises(DataError):
        measure_recoveries(place_errors()[:150], SEGMENTS, 20)
