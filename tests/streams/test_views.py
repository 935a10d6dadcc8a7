"""Views of events against running means and averages, written slowly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.streams.kernels.views import (
    LARGEST_VALUE,
    RECENT,
    answer_average,
    find_deviation,
    hash_values,
    scale_target,
    scale_value,
    take_in_target,
    take_in_values,
    view_event,
)

NUM_CLASSES = 3
# Columns: two numbers, a category of two codes, a number. Inputs: 0, 1, then 2 and 3, then 4.
KINDS, PLACES, RANKS = [0, 0, 1, 0], [0, 1, -1, 4], [0, 1, 0, 2]
HOT = [[-1, -1], [-1, -1], [2, 3], [-1, -1]]


def make_scaling() -> tuple[np.ndarray, ...]:
    ints = [np.array(values) for values in (KINDS, PLACES, RANKS, HOT)]
    return (*(np.zeros(4) for _ in range(4)), np.zeros(1, np.int64), *ints)


def make_past() -> tuple[np.ndarray, ...]:
    return np.zeros((3, NUM_CLASSES)), np.zeros(3), np.zeros(NUM_CLASSES)


CELLS = st.one_of(st.integers(-8000, 8000).map(lambda n: n / 8), st.just(np.nan))
ROWS = st.tuples(CELLS, CELLS, st.sampled_from([0.0, 1.0, -1.0, np.nan]), CELLS)


def find_z(values: list[float]) -> float:
    """Where the last value stands among all that are known."""
    known = np.array([value for value in values if value == value])
    if values[-1] != values[-1] or np.ptp(known) < 1e-9:
        return 0.0
    return float(np.clip((known[-1] - known.mean()) / known.std(), -8, 8))


@given(st.lists(ROWS, min_size=1, max_size=30, unique_by=str))
def test_views_are_running_means_and_recent_averages(rows: list[tuple[float, ...]]) -> None:
    scaling, past = make_scaling(), make_past()
    recent, counts = np.zeros(4), np.zeros(4)
    columns: list[list[float]] = [[] for _ in range(4)]
    for row in rows:
        x = np.array(row)
        view, again = np.zeros(5 + 3 + 3 * NUM_CLASSES), np.zeros(5 + 3 + 3 * NUM_CLASSES)
        view_event(scaling, past, x, True, view)
        view_event(scaling, past, x, True, again)
        np.testing.assert_array_equal(view, again)
        wanted = np.zeros_like(view)
        for c in range(4):
            columns[c].append(row[c])
            if KINDS[c] == 1:
                if row[c] >= 0:
                    wanted[HOT[c][int(row[c])]] = 1.0
            elif row[c] == row[c]:
                z = find_z(columns[c])
                wanted[PLACES[c]], wanted[5 + RANKS[c]] = z, z - recent[c]
                counts[c] += 1
                recent[c] += max(RECENT, 1.0 / counts[c]) * (z - recent[c])
        np.testing.assert_allclose(view, wanted, atol=1e-6)
        take_in_values(scaling, x)


def test_an_event_that_comes_again_and_again_moves_the_scaling_once() -> None:
    scaling = make_scaling()
    rows = [np.array([1.0, np.nan, 0.0, 5.0]), np.array([2.0, 1.0, 1.0, np.nan])]
    for row in (rows[0], rows[1], rows[1], rows[1], rows[0]):
        take_in_values(scaling, row)
    assert scaling[0].tolist() == [3, 1, 0, 2]
    wide = np.array([1.0, np.nan, 0.0, 5.0, np.nan, np.nan])
    assert hash_values(wide) == hash_values(rows[0])  # columns that come tell nothing yet
    assert hash_values(np.array([np.nan, 1.0])) != hash_values(np.array([1.0, np.nan]))


def test_old_events_are_forgotten_slowly() -> None:
    count, mean, squares = 0.0, 0.0, 0.0
    for _ in range(1000):
        _, mean, squares = scale_value(0.0, count, mean, squares)
        count += 1
    count = 100_000.0
    for n in range(300_000):
        _, mean, squares = scale_value(10.0 + n % 2, count, mean, squares)
    assert mean == pytest.approx(10.5, rel=0.06)
    assert squares / count < 10.0


@pytest.mark.parametrize("value", [1e300, -1e300, LARGEST_VALUE, 5e-324])
def test_the_largest_numbers_leave_all_finite(value: float) -> None:
    count, mean, squares = 0.0, 0.0, 0.0
    for one in (1.0, value, 2.0, value, -value):
        z, mean, squares = scale_value(one, count, mean, squares)
        count += 1
        assert np.isfinite([z, mean, squares]).all()
        assert abs(z) <= 8.0


@given(st.lists(st.integers(0, NUM_CLASSES - 1), min_size=1, max_size=40))
def test_averages_of_labels(labels: list[int]) -> None:
    scaling, past = make_scaling(), make_past()
    one_hot = np.eye(NUM_CLASSES)[labels]
    for label in labels:
        take_in_target(past, float(label), True)
    view = np.zeros(5 + 3 + 3 * NUM_CLASSES)
    view_event(scaling, past, np.full(4, np.nan), True, view)
    ages = np.arange(len(labels))[::-1]
    averages = []
    for half_life in (8.0, 64.0, 20.0):
        shares = 2.0 ** (-ages / half_life)
        averages.append(shares @ one_hot / shares.sum())
    wanted = np.concatenate([one_hot[-1], averages[0], averages[1]]) - 1.0 / NUM_CLASSES
    np.testing.assert_allclose(view[8:], wanted, atol=1e-12)
    p = np.zeros(NUM_CLASSES)
    answer_average(past, True, p)
    np.testing.assert_allclose(p, (averages[2] + 0.02 / NUM_CLASSES) / 1.02, atol=1e-12)
    assert p.sum() == pytest.approx(1.0)


def test_targets_stand_in_running_deviations() -> None:
    targets = (1e12 + 1e10 * np.random.default_rng(0).normal(size=50)).tolist()
    scale = np.zeros(3)
    assert find_deviation(scale) == 1.0
    for n, target in enumerate(targets):
        z = scale_target(scale, target)
        assert z == pytest.approx(find_z(targets[: n + 1]), abs=1e-6)
    assert find_deviation(scale) == pytest.approx(np.std(targets))
