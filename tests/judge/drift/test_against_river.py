"""River as oracle: the same alarms at the same values, on real and generated streams."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestling.judge import ADWIN, KSWIN, HDDMAverage, HDDMWeighted, PageHinkley
from nestling.judge.drift import DriftDetector

river = pytest.importorskip("river.drift")
binary = pytest.importorskip("river.drift.binary")

ELEC2 = Path("/work/shared/data/elec2.npz")


def make_streams(seed: int) -> dict[str, list[float]]:
    """Steps, ramps, constants, noise and spikes, of several scales."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=3000)
    level = np.repeat([0.0, 1.0, -2.0, 0.5], 750)
    return {
        "steps": (level + 0.3 * noise).tolist(),
        "large steps": (1e6 * (level + noise)).tolist(),
        "ramp": (np.linspace(0, 3, 3000) + 0.3 * noise).tolist(),
        "constant": [3.25] * 3000,
        "two constants": [0.1] * 1500 + [0.2] * 1500,
        "wider": (np.where(np.arange(3000) < 1500, 0.1, 1.0) * noise).tolist(),
        "noise": noise.tolist(),
        "spikes": np.where(rng.random(3000) < 0.01, 50.0, 0.1 * noise).tolist(),
        "few values": rng.integers(0, 4, 3000).astype(float).tolist(),
    }


def make_errors(seed: int) -> dict[str, list[float]]:
    """Streams of errors 0 and 1 (or between) whose rate rises and falls."""
    rng = np.random.default_rng(seed)
    rates = {
        "rise": np.repeat([0.1, 0.4], 1500),
        "rise and fall": np.repeat([0.1, 0.6, 0.2, 0.5, 0.05], 600),
        "slow": np.linspace(0.05, 0.6, 3000),
        "steady": np.full(3000, 0.3),
        "never": np.zeros(3000),
        "always": np.ones(3000),
    }
    errors = {name: (rng.random(3000) < rate).astype(float) for name, rate in rates.items()}
    errors["between"] = np.clip(rng.normal(rates["rise"], 0.1), 0.0, 1.0)
    return {name: values.tolist() for name, values in errors.items()}


def read_elec2() -> dict[str, list[float]]:
    """Price, demand and transfer, and where the label differs from the one before."""
    if not ELEC2.exists():
        pytest.skip(f"{ELEC2} is not here")
    data = np.load(ELEC2)
    columns = {f"column {i}": data["X"][::3, i].astype(float).tolist() for i in (2, 3, 5)}
    changes = (np.diff(data["y"]) != 0).astype(float)[:15000].tolist()
    return {**columns, "label changes": changes}


def find_alarms(detector: DriftDetector, values: Iterable[float]) -> list[int]:
    return [i for i, value in enumerate(values) if detector.update(value) is not None]


def find_river_alarms(detector: Any, values: Iterable[float]) -> list[int]:
    found = []
    for i, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            found.append(i)
    return found


Pair = tuple[Callable[..., DriftDetector], Any, dict[str, Any], dict[str, Any]]
FREE: list[Pair] = [
    *(
        (ADWIN, river.ADWIN, settings, settings)
        for settings in (
            {},
            {"delta": 0.2},
            {"delta": 1e-5, "clock": 1},
            {"clock": 7, "max_buckets": 2, "min_window_length": 1, "grace_period": 0},
            {"max_buckets": 9, "min_window_length": 30, "grace_period": 200},
        )
    ),
    *(
        (PageHinkley, river.PageHinkley, settings, settings)
        for settings in (
            {},
            {"threshold": 5.0, "mode": "up"},
            {"threshold": 5.0, "mode": "down", "delta": 0.1},
            {"min_instances": 1, "threshold": 20.0, "alpha": 0.99},
            {"min_instances": 100, "threshold": 1.0, "alpha": 1.0, "delta": 0.0},
        )
    ),
    *(
        (KSWIN, river.KSWIN, settings, settings)
        for settings in (
            {"seed": 0},
            {"seed": 7, "alpha": 1e-4},
            {"seed": 1, "alpha": 0.05, "window_size": 60, "stat_size": 5},
            {"seed": 2, "alpha": 0.01, "window_size": 90, "stat_size": 45},
        )
    ),
]
ERRORS: list[Pair] = [
    *(
        (HDDMAverage, binary.HDDMA, settings, settings)
        for settings in (
            {},
            {"two_sided_test": True},
            {"drift_confidence": 0.05, "warning_confidence": 0.2, "two_sided_test": True},
        )
    ),
    *(
        (HDDMWeighted, binary.HDDMW, ours, theirs)
        for ours, theirs in (
            ({}, {}),
            ({"two_sided_test": True}, {"two_sided_test": True}),
            ({"recent_weight": 0.2, "drift_confidence": 0.01, "warning_confidence": 0.1},
             {"lambda_val": 0.2, "drift_confidence": 0.01, "warning_confidence": 0.1}),
        )
    ),
]  # fmt: skip


def name_pair(pair: Pair) -> str:
    settings = ",".join(f"{key}={value}" for key, value in pair[2].items())
    return f"{pair[0].__name__}({settings})"


def check_same_alarms(pair: Pair, streams: dict[str, list[float]]) -> int:
    ours, theirs, own_settings, their_settings = pair
    num_alarms = 0
    for name, values in streams.items():
        expected = find_river_alarms(theirs(**their_settings), values)
        found = find_alarms(ours(**own_settings), values)
        assert found == expected, f"{name}: {found[:5]} instead of {expected[:5]}"
        num_alarms += len(found)
    return num_alarms


@pytest.mark.parametrize("pair", FREE + ERRORS, ids=name_pair)
@pytest.mark.parametrize("seed", range(2))
def test_alarms_on_generated_streams_are_those_of_river(pair: Pair, seed: int) -> None:
    streams = make_errors(seed) if pair in ERRORS else make_streams(seed) | make_errors(seed)
    if pair[0] is KSWIN:  # River takes 0.3 ms for each value
        names = ("steps", "ramp", "two constants", "wider", "few values", "rise", "between")
        streams = {name: streams[name][::3] for name in names}
    assert check_same_alarms(pair, streams) > 0


@pytest.mark.parametrize("pair", FREE + ERRORS, ids=name_pair)
def test_alarms_on_electricity_are_those_of_river(pair: Pair) -> None:
    streams = read_elec2()
    if pair in ERRORS:
        streams = {"label changes": streams["label changes"]}
    if pair[0] is KSWIN:
        streams = {name: values[:1000] for name, values in streams.items()}
    check_same_alarms(pair, streams)


@pytest.mark.parametrize("pair", ERRORS, ids=name_pair)
def test_warnings_are_those_of_river(pair: Pair) -> None:
    ours, theirs, own_settings, their_settings = pair
    for values in make_errors(3).values():
        detector, other = ours(**own_settings), theirs(**their_settings)
        for value in values:
            drift = detector.update(value)
            other.update(value)
            if drift is None:  # with an alarm River may say both
                assert detector.is_warning == other.warning_detected  # type: ignore[attr-defined]


@pytest.mark.parametrize("delta", [0.002, 0.1])
def test_adwin_that_keeps_the_newer_part_is_rivers_own_window(delta: float) -> None:
    """River forgets the window after an alarm; the window itself, as in the paper, does not."""
    windows = pytest.importorskip("river._river_rust.drift").AdaptiveWindowing
    for values in make_streams(5).values():
        detector = ADWIN(delta=delta, restart=False)
        window = windows(delta=delta, clock=32, max_buckets=5, min_window_length=5, grace_period=10)
        for value in values:
            assert (detector.update(value) is not None) == window.update(value)
            assert detector.width == window.get_width()
        assert detector.total == pytest.approx(window.get_total(), rel=1e-12)
        assert detector.spread == pytest.approx(window.get_variance(), rel=1e-12, abs=1e-12)


def test_kolmogorov_smirnov_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    from nestling.judge.drift.kswin import measure_distance, two_sample_p_value

    rng = random.Random(0)
    for num in (1, 2, 5, 30, 101):
        for spread in (3, 1000):
            left = [float(rng.randrange(spread)) for _ in range(num)]
            right = [float(rng.randrange(spread) + rng.choice((0, spread // 3))) for _ in left]
            expected = stats.ks_2samp(left, right, method="exact")
            distance = measure_distance(left, right)
            assert distance == round(expected.statistic * num)
            assert two_sample_p_value(num, distance) == pytest.approx(expected.pvalue, rel=1e-12)
