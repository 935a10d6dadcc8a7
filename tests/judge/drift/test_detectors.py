"""What holds for every drift detector: alarms, resuming, refusals."""

import copy
import json
import math
import pickle
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError, MismatchedParameters, SettingError
from nestling.judge import ADWIN, KSWIN, HDDMAverage, HDDMWeighted, PageHinkley, make_detector
from nestling.judge.drift import DETECTORS, DriftDetector

MAKERS: dict[str, dict[str, Any]] = {
    "adwin": {},
    "page_hinkley": {"threshold": 10.0},
    "kswin": {"seed": 3},
    "hddm_average": {"two_sided_test": True},
    "hddm_weighted": {"two_sided_test": True},
}
every = pytest.mark.parametrize("kind", MAKERS)


def make(kind: str) -> DriftDetector:
    return make_detector(kind, MAKERS[kind])


def draw(num: int, rate: float, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [float(generator.random() < rate) for _ in range(num)]


def test_every_detector_is_tried_here() -> None:
    assert list(MAKERS) == list(DETECTORS)
    assert [DETECTORS[kind].__name__ for kind in MAKERS] == [
        one.__name__ for one in (ADWIN, PageHinkley, KSWIN, HDDMAverage, HDDMWeighted)
    ]


@every
@pytest.mark.parametrize("is_rise", [True, False])
def test_a_change_is_found_soon_and_its_direction_is_said(kind: str, is_rise: bool) -> None:
    first, second = (0.1, 0.8) if is_rise else (0.8, 0.1)
    detector = make(kind)
    values = draw(500, first) + draw(200, second)
    alarms = [drift for value in values if (drift := detector.update(value)) is not None]
    late = [drift for drift in alarms if drift.at > 500]
    assert late
    assert late[0].is_rise == is_rise
    assert detector.num_seen == 700
    assert detector.num_drifts == len(alarms)


@every
def test_a_constant_is_no_drift(kind: str) -> None:
    for value in (0.0, 0.3, 1.0):
        detector = make(kind)
        assert not any(detector.update(value) for _ in range(1000))


@every
@given(data=st.data())
def test_it_resumes_exactly_from_plain_data(kind: str, data: st.DataObject) -> None:
    values = draw(200, 0.1) + draw(200, 0.7) + draw(200, 0.2)
    first = make(kind)
    cut = data.draw(st.integers(0, len(values)))
    for value in values[:cut]:
        first.update(value)
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    second = make(kind)
    second.load_state_dict(state)
    for value in values[cut:]:
        assert first.update(value) == second.update(value)
    assert first.state_dict() == second.state_dict()


@every
def test_a_state_is_a_copy(kind: str) -> None:
    detector = make(kind)
    for value in draw(150, 0.3):
        detector.update(value)
    state = detector.state_dict()
    before = json.dumps(state)
    other = make(kind)
    other.load_state_dict(state)
    for value in draw(40, 0.9):
        detector.update(value)
        other.update(value)
    assert json.dumps(state) == before


@every
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200, "0.5", None, [1.0], 1j])
def test_what_is_no_value_is_refused_and_changes_nothing(kind: str, value: Any) -> None:
    detector = make(kind)
    for one in draw(130, 0.3):
        detector.update(one)
    before = detector.state_dict()
    with pytest.raises(DataError, match=kind) as caught:
        detector.update(value)
    assert "\n" not in str(caught.value)
    assert detector.state_dict() == before


@pytest.mark.parametrize("kind", ["hddm_average", "hddm_weighted"])
def test_bounds_of_means_hold_between_0_and_1_only(kind: str) -> None:
    with pytest.raises(DataError, match="from 0 to 1 work"):
        make(kind).update(1.5)


@every
def test_large_and_small_numbers_leave_it_finite(kind: str) -> None:
    if kind.startswith("hddm"):
        pytest.skip("takes values in [0, 1]")
    detector = make(kind)
    for i in range(500):
        detector.update(1e100 if i % 3 else -1e-300)
    json.dumps(detector.state_dict(), allow_nan=False)


@every
def test_numbers_of_numpy_and_torch_and_truths_count(kind: str) -> None:
    import numpy as np
    import torch

    plain, other = make(kind), make(kind)
    for i, value in enumerate(draw(300, 0.4)):
        forms = (bool(value), np.float32(value), np.int64(value), torch.tensor(value))
        assert plain.update(value) == other.update(forms[i % 4])  # type: ignore[arg-type]
    assert json.dumps(plain.state_dict()) == json.dumps(other.state_dict())


@every
def test_a_state_of_another_detector_is_refused_whole(kind: str) -> None:
    detector = make(kind)
    for value in draw(120, 0.3):
        detector.update(value)
    good = detector.state_dict()
    other = next(name for name in MAKERS if name != kind)
    bad: list[Any] = [make(other).state_dict(), {}, None, {**good, "settings": {}}]
    bad += [{key: good[key] for key in good if key != lost} for lost in good]
    bad += [{**good, key: "text"} for key in good]
    for state in bad:
        fresh = make(kind)
        before = fresh.state_dict()
        with pytest.raises(MismatchedParameters):
            fresh.load_state_dict(state)
        assert fresh.state_dict() == before


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("adwin", {"delta": 0.0}, "delta: a number greater than 0 works, got 0.0"),
        ("adwin", {"delta": 1.0}, "delta: a number less than 1 works"),
        ("adwin", {"clock": 0}, "clock"),
        ("adwin", {"max_buckets": 1}, "max_buckets: a number of 2 or more works"),
        ("adwin", {"dleta": 0.1}, "did you mean 'delta'"),
        ("page_hinkley", {"mode": "sideways"}, "mode"),
        ("page_hinkley", {"threshold": math.inf}, "threshold"),
        ("page_hinkley", {"alpha": 0.0}, "alpha"),
        ("kswin", {"window_size": 50}, "window_size 50 has no room .* 60 or more works"),
        ("kswin", {"alpha": "often"}, "alpha: a number works"),
        ("hddm_average", {"warning_confidence": 1e-6}, "0.001 or more works"),
        ("hddm_weighted", {"recent_weight": 1.0}, "recent_weight"),
        ("adwim", {}, "did you mean 'adwin'"),
        (7, {}, "no drift detector"),
    ],
)
def test_a_wrong_setting_is_said_on_one_line(kind: Any, settings: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        make_detector(kind, settings)
    assert "\n" not in str(caught.value)


def test_adwin_seldom_cries_wolf_and_its_window_grows() -> None:
    detector = ADWIN()
    for value in draw(20_000, 0.3):
        detector.update(value)
    assert detector.num_drifts == 0
    assert detector.width == 20_000
    assert detector.mean == pytest.approx(0.3, abs=0.02)
    assert detector.variance == pytest.approx(detector.mean * (1 - detector.mean), rel=1e-9)
    assert sum(map(len, detector.totals)) <= 5 * len(detector.totals)  # O(log n) numbers


def test_adwin_that_does_not_restart_goes_on_with_the_newer_part() -> None:
    detector = ADWIN(restart=False)
    drifts = [d for value in draw(1000, 0.1) + draw(300, 0.7, 1) if (d := detector.update(value))]
    assert drifts
    assert 0 < detector.width < 600
    assert detector.mean == pytest.approx(0.7, abs=0.1)


def test_kswin_sees_what_leaves_the_mean_alone() -> None:
    generator = random.Random(1)
    values = [generator.gauss(0, 0.1) for _ in range(300)]
    values += [generator.gauss(0, 2.0) for _ in range(300)]
    detector = KSWIN(alpha=1e-4, window_size=200, stat_size=60)
    alarms = [drift for value in values if (drift := detector.update(value))]
    assert alarms
    assert 300 < alarms[0].at < 400


def test_a_warning_comes_before_the_alarm_and_goes_with_it() -> None:
    for detector in (HDDMAverage(), HDDMWeighted()):
        warned = []
        for value in draw(300, 0.05) + draw(300, 0.9):
            if detector.update(value) is not None:
                assert not detector.is_warning
                break
            warned.append(detector.is_warning)
        assert True in warned[300:]
        assert detector.num_drifts == 1


def test_page_hinkley_hears_one_side_if_told_so() -> None:
    up, down = PageHinkley(threshold=5.0, mode="up"), PageHinkley(threshold=5.0, mode="down")
    rising = [0.0] * 100 + [1.0] * 40
    assert any(up.update(value) for value in rising)
    assert not any(down.update(value) for value in rising)
    up, down = PageHinkley(threshold=5.0, mode="up"), PageHinkley(threshold=5.0, mode="down")
    assert not any(up.update(-value) for value in rising)
    assert any(down.update(-value) for value in rising)


@every
def test_it_survives_being_copied_and_pickled(kind: str) -> None:
    detector = make(kind)
    for value in draw(150, 0.3):
        detector.update(value)
    twins = [copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))]
    later = [detector.update(value) for value in draw(300, 0.9)]
    for twin in twins:
        assert [twin.update(value) for value in draw(300, 0.9)] == later
