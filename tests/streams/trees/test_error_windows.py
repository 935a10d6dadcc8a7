"""ADWIN as a kernel: River's alarms, directions, and values that strain the sums."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.streams.trees.error_windows import clear_adwin, make_adwin, update_adwin


def find_alarms(values: NDArray[np.float64], delta: float = 0.002) -> list[tuple[int, int]]:
    adwin = make_adwin(delta)
    changes = [update_adwin(adwin, float(value)) for value in values]
    return [(place, change) for place, change in enumerate(changes) if change]


def draw_pieces(kind: str, seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    pieces = []
    for _ in range(6):
        num = int(generator.integers(50, 2500))
        if kind == "errors":
            pieces.append((generator.random(num) < generator.random()).astype(float))
        elif kind == "numbers":
            pieces.append(generator.normal(1e4 * generator.normal(), 1e3, num))
        else:
            pieces.append(np.full(num, generator.random()))
    return np.concatenate(pieces)


@pytest.mark.parametrize("kind", ["errors", "numbers", "constants"])
@pytest.mark.parametrize("delta", [0.002, 0.2])
def test_alarms_are_rivers(kind: str, delta: float) -> None:
    drift = pytest.importorskip("river.drift")
    for seed in range(3):
        values = draw_pieces(kind, seed)
        oracle = drift.ADWIN(delta=delta)
        expected = []
        for place, value in enumerate(values):
            oracle.update(float(value))
            if oracle.drift_detected:
                expected.append(place)
        assert [place for place, _ in find_alarms(values, delta)] == expected
        assert expected


def test_it_says_which_way_the_mean_moved() -> None:
    low, high = np.full(1000, 0.1), np.full(1000, 0.9)
    assert [change for _, change in find_alarms(np.concatenate([low, high]))][:1] == [1]
    assert [change for _, change in find_alarms(np.concatenate([high, low]))][:1] == [-1]


def test_no_alarm_where_nothing_changes() -> None:
    generator = np.random.default_rng(0)
    assert find_alarms((generator.random(20_000) < 0.1).astype(float)) == []


def test_cleared_is_as_new() -> None:
    adwin = make_adwin(0.01)
    for value in draw_pieces("errors", 0):
        update_adwin(adwin, float(value))
    clear_adwin(adwin)
    for part, fresh in zip(adwin, make_adwin(0.01), strict=True):
        np.testing.assert_array_equal(part, fresh)


def test_equal_errors_are_silent_for_ever() -> None:
    assert find_alarms(np.full(100_000, 0.1)) == []


def test_huge_values_stay_finite() -> None:
    adwin = make_adwin()
    for value in np.random.default_rng(0).normal(1e12, 1e6, 5000).tolist():
        update_adwin(adwin, value)
    assert all(np.isfinite(part).all() for part in adwin)
