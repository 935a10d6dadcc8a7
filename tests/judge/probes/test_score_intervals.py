"""Confidence intervals against scipy, published figures, and their coverage."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError, SettingError
from nestling.judge.probes import (
    bootstrap_interval,
    mean_interval,
    newcombe_interval,
    wilson_interval,
)


@given(st.integers(1, 400), st.floats(0.0, 1.0), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_equals_scipy(of: int, share: float, confidence: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    num = round(share * of)
    theirs = stats.binomtest(num, of).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(num, of, confidence)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert low <= num / of <= high


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [  # Table II of Newcombe 1998, contrasts a to h, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0000),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_newcombe_equals_his_table(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    assert newcombe_interval(first, second) == pytest.approx((low, high), abs=5e-5)


def test_a_mean_has_its_students_interval() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count in (2, 9, 400, 5000):
        values = torch.randn(count, generator=torch.Generator().manual_seed(count))
        theirs = stats.t.interval(
            0.9, count - 1, float(values.double().mean()), stats.sem(values.double().numpy())
        )
        assert mean_interval(values, 0.9) == pytest.approx(theirs, rel=1e-2, abs=1e-5)
    assert mean_interval(torch.ones(1)) == (-math.inf, math.inf)


def test_the_bootstrap_of_a_mean_is_nearly_that_of_theory() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    low, high = bootstrap_interval(
        lambda rows: float(values[rows].mean()), 400, torch.Generator().manual_seed(1), 0.95, 1000
    )
    assert (low, high) == pytest.approx(mean_interval(values), abs=0.01)


def test_the_bootstrap_is_that_of_its_generator() -> None:
    values = torch.arange(50.0)

    def measure(seed: int) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(seed)
        return bootstrap_interval(lambda rows: float(values[rows].mean()), 50, generator)

    assert measure(0) == measure(0)
    assert measure(0) != measure(1)


def test_wilson_covers_what_it_says() -> None:
    drawn = torch.distributions.Binomial(60, torch.tensor(0.07)).sample((2000,))
    held = [low <= 0.07 <= high for low, high in (wilson_interval(int(n), 60) for n in drawn)]
    assert 0.93 < sum(held) / 2000 < 0.98


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(DataError, match="3 of 2; a proportion"):
        wilson_interval(3, 2)
    with pytest.raises(DataError, match="0 of 0"):
        newcombe_interval((1, 2), (0, 0))
    with pytest.raises(SettingError, match=r"confidence 1\.0; between 0 and 1 works"):
        wilson_interval(1, 2, 1.0)
    with pytest.raises(DataError, match="mean of no values"):
        mean_interval(torch.zeros(0))
    with pytest.raises(DataError, match="bootstrap of no rows"):
        bootstrap_interval(lambda _: 0.0, 0, torch.Generator())
