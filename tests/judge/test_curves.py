"""Adaptation, the stability gap, retention and negative flips."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError, SettingError
from nestling.judge import (
    negative_flip_rate,
    retention_half_life,
    steps_to_fraction,
    worst_case_accuracy,
)

curves = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20)


def test_steps_count_to_the_first_evaluation_that_is_good_enough():
    assert steps_to_fraction([10, 20, 30], [0.5, 0.89, 1.0]) == 30
    assert steps_to_fraction([10, 20, 30], [0.5, 0.9, 1.0]) == 20
    assert steps_to_fraction([10, 20], [0.5, 0.9], fraction=0.5) == 10
    # Of the best, not of the last, which may have fallen again.
    assert steps_to_fraction([10, 20, 30], [0.5, 1.0, 0.5]) == 20


def test_nothing_learned_is_never_reached():
    assert steps_to_fraction([10, 20], [0.0, 0.0]) is None


@given(curves)
def test_scaling_accuracy_does_not_change_adaptation(accuracies):
    seen = list(range(len(accuracies)))
    halved = [accuracy / 2 for accuracy in accuracies]
    assert steps_to_fraction(seen, accuracies) == steps_to_fraction(seen, halved)


def test_worst_case_accuracy_sees_a_gap_that_closed_again():
    steady = worst_case_accuracy(0.9, [[0.8, 0.8, 0.8]])
    dipped = worst_case_accuracy(0.9, [[0.8, 0.1, 0.8]])
    assert steady == pytest.approx(0.85)
    assert dipped == pytest.approx(0.5)
    assert worst_case_accuracy(0.9, []) == pytest.approx(0.9)
    # Each at its own worst moment, though they had it at different ones.
    both = worst_case_accuracy(0.9, [[0.2, 0.8], [0.8, 0.4]])
    assert both == pytest.approx(0.9 / 3 + 2 / 3 * 0.3)


def test_half_life_is_read_between_evaluations():
    assert retention_half_life([0, 100, 200], [1.0, 0.8, 0.4]) == pytest.approx(175.0)


def test_half_life_counts_from_the_last_of_equal_peaks():
    assert retention_half_life([0, 100, 200, 300], [0.8, 0.6, 0.8, 0.0]) == pytest.approx(50.0)
    # The first fall to half after it counts, whatever follows.
    assert retention_half_life([0, 10, 20, 30], [0.8, 0.0, 0.6, 0.0]) == pytest.approx(5.0)


def test_half_life_counts_from_chance():
    assert retention_half_life([0, 100], [0.9, 0.5], chance=0.1) == pytest.approx(100.0)


@given(curves)
def test_what_never_falls_has_no_half_life(accuracies):
    rising = sorted(accuracies)
    found = retention_half_life(list(range(len(rising))), rising)
    assert math.isnan(found) if rising[-1] == 0.0 else found == math.inf


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_flips_explain_the_change_of_accuracy(pairs):
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    lost, won = negative_flip_rate(before, after), negative_flip_rate(after, before)
    assert won - lost == pytest.approx((sum(after) - sum(before)) / len(pairs))


@pytest.mark.parametrize(
    "call",
    [
        lambda: steps_to_fraction([], []),
        lambda: steps_to_fraction([1], [0.1, 0.2]),
        lambda: retention_half_life([], []),
        lambda: worst_case_accuracy(0.5, [[]]),
        lambda: negative_flip_rate([], []),
        lambda: negative_flip_rate([True], []),
    ],
)
def test_wrong_lengths_are_one_line_errors(call):
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("curve", [[0.8, math.nan, 0.3], [math.nan, 0.8, 0.3], [math.nan]])
def test_the_worst_of_what_was_not_measured_is_not_known(curve: list[float]) -> None:
    with pytest.raises(DataError, match="leave out what was not measured"):
        worst_case_accuracy(0.9, [[0.7], curve])
    with pytest.raises(DataError, match="leave out what was not measured"):
        worst_case_accuracy(math.nan, [[0.7]])


def test_arguments_that_mean_nothing_are_refused() -> None:
    for fraction in (0.0, 1.1, math.nan):
        with pytest.raises(SettingError, match="above 0 and up to 1 works"):
            steps_to_fraction([1, 2], [0.5, 0.6], fraction)
    with pytest.raises(DataError, match="NaN"):
        retention_half_life([1, 2], [0.5, 0.2], chance=math.nan)
