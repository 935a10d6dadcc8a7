"""Confidence intervals against scipy, published figures, and their coverage."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import DataError, SettingError
from nestling.judge import GroupCounts, ProbeData, make_probe, measure_r_squared
from nestling.judge.contract.probe_spec import ProbeSpec
from nestling.judge.probes import (
    bootstrap_interval,
    expected_calibration_error,
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


def resample(figure: Callable[[Tensor], float], num_rows: int) -> float:
    """The bootstrap standard error as its definition says: rows drawn anew, many times."""
    generator = torch.Generator().manual_seed(5)
    drawn = [figure(torch.randint(num_rows, (num_rows,), generator=generator)) for _ in range(2000)]
    return float(torch.tensor(drawn).std())


def test_sums_are_drawn_as_rows_would_be() -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).double()
    x[:, 2] = x[:, 0] + 0.1 * x[:, 1]  # correlated terms, and one that is the sum of others

    def figure(sums: Tensor) -> Tensor:
        return (sums[:, 0] + 2.0 * sums[:, 2]).abs() / 60 + (sums[:, 1] / 60).exp()

    slow = resample(lambda rows: float(figure(x[rows].sum(dim=0)[None])[0]), 60)
    low, high = bootstrap_interval(
        figure, x.sum(dim=0), x.T @ x, 60, torch.Generator().manual_seed(1), 0.95, 4000
    )
    assert (high - low) / 2 == pytest.approx(1.96 * slow, rel=0.08)


def test_the_interval_of_a_calibration_error_and_of_r_squared_by_rows() -> None:
    generator = torch.Generator().manual_seed(2)
    p = (2.0 * torch.randn(200, 2, generator=generator, dtype=torch.float64)).softmax(dim=1)
    y = torch.multinomial(p.sqrt(), 1, generator=generator)[:, 0]

    def measure_calibration(rows: Tensor) -> float:
        counts = GroupCounts()
        counts.update(p[rows], y[rows], ["all"] * 200)
        return expected_calibration_error(counts.counts.values())

    probe = make_probe(ProbeSpec("p", metric="calibration_error"), ProbeData(p, y))
    result = probe.measure(lambda x: x)
    slow = resample(measure_calibration, 200)
    assert result.high - result.value == pytest.approx(1.96 * slow, rel=0.1)

    values = torch.randn(200, 1, generator=generator).double() + 1000.0
    f = values + 0.5 * torch.randn(200, 1, generator=generator)
    probe = make_probe(ProbeSpec("p", metric="r_squared"), ProbeData(f, values))
    result = probe.measure(lambda x: x)
    slow = resample(lambda rows: measure_r_squared(f[rows], values[rows]), 200)
    assert result.value - result.low == pytest.approx(1.96 * slow, rel=0.1)


def test_r_squared_of_equal_values_has_no_interval() -> None:
    data = ProbeData(torch.zeros(40, 1), torch.ones(40))
    result = make_probe(ProbeSpec("p", metric="r_squared"), data).measure(lambda x: x)
    assert result.value == 0.0
    assert math.isnan(result.low)


def test_the_bootstrap_is_that_of_its_generator() -> None:
    def measure(seed: int) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(seed)
        one = torch.ones(1, dtype=torch.float64)
        return bootstrap_interval(lambda sums: sums[:, 0], one, 5.0 * one[:, None], 50, generator)

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
    one = torch.ones(1)
    with pytest.raises(DataError, match="bootstrap of no rows"):
        bootstrap_interval(lambda sums: sums[:, 0], one, one[:, None], 0, torch.Generator())
