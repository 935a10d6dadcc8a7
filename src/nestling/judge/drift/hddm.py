"""HDDM: bounds of Hoeffding and McDiarmid on the mean of values in [0, 1], such as errors."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked
from nestling.judge.drift.detector import (
    CONFIG,
    Drift,
    Probability,
    export_state,
    import_state,
    read_value,
)

_AVERAGE_COURSE = ("num_seen", "num_drifts", "is_warning", "all_", "low", "high")
_WEIGHTED_COURSE = (
    *("num_seen", "num_drifts", "is_warning", "all_", "low", "since_low", "high", "since_high"),
    *("low_bound", "high_bound"),
)


def hoeffding_bound(num: int, confidence: float) -> float:
    """How far the mean of n values in [0, 1] is from the truth, with probability 1 - confidence.

    sqrt(ln(1/confidence) / (2 n))   [Hoeffding 1963, Theorem 1]

    >>> round(hoeffding_bound(100, 0.001), 4)
    0.1858
    """
    return math.sqrt(1.0 / (2 * num) * math.log(1.0 / confidence))


def has_mean_moved(num_cut: int, num_all: int, gap: float, confidence: float) -> bool:
    """Whether the mean of all values exceeds that of the first of them by more than chance.

    gap >= sqrt(m/2 ln(2/confidence)),  m = (n - c) / (c n)   [Frias-Blanco et al. 2015, Cor. 2]

    Args:
        num_cut: c, values before the cut.
        num_all: n, of all.
        gap: mean of all less that of the first c.
        confidence: chance of a false answer.

    >>> has_mean_moved(100, 200, 0.2, 0.001), has_mean_moved(100, 200, 0.1, 0.001)
    (True, False)
    """
    if num_cut == num_all:
        return False
    m = (num_all - num_cut) / num_cut * (1.0 / num_all)
    return gap >= math.sqrt(m / 2 * math.log(2.0 / confidence))


def mcdiarmid_bound(weight: float, confidence: float) -> float:
    """How far a weighted mean of values in [0, 1] is from the truth: McDiarmid's inequality.

    sqrt(w ln(1/confidence) / 2),  w = sum of the squared weights   [Frias-Blanco et al. 2015]

    >>> round(mcdiarmid_bound(0.01, 0.001), 4)
    0.1858
    """
    return math.sqrt(weight * math.log(1 / confidence) / 2)


def _check_confidences(drift: float, warning: float) -> None:
    if warning < drift:
        raise ValueError(
            f"warning_confidence {warning} is below drift_confidence {drift}: no warning would "
            f"come before an alarm; {drift} or more works"
        )


@checked
@dataclass(config=CONFIG, eq=False)
class HDDMAverage:
    """HDDM-A drift detector: plain means, by Hoeffding's bound; for abrupt changes of an error.

    Remembers where the mean of all values stood lowest (with its bound), and raises the alarm when
    it has risen from there by more than chance.   [Frias-Blanco et al. 2015, HDDM_A-test]

    Args:
        drift_confidence: chance of a false alarm per value, in (0, 1).
        warning_confidence: likewise of a warning, see `is_warning`; at least as large.
        two_sided_test: alarm when the mean falls, too.

    Attributes:
        is_warning: whether the last value left the mean between a warning and an alarm.

    >>> detector = HDDMAverage()
    >>> [i for i in range(1000) if detector.update(float(i >= 500))]
    [503]
    """

    drift_confidence: Probability = 0.001
    warning_confidence: Probability = 0.005
    two_sided_test: bool = False

    kind: ClassVar[str] = "hddm_average"

    @model_validator(mode="after")
    def _check(self) -> "HDDMAverage":
        _check_confidences(self.drift_confidence, self.warning_confidence)
        return self

    def __post_init__(self) -> None:
        self.num_seen = self.num_drifts = 0
        self._begin()

    def _begin(self) -> None:
        self.is_warning = False
        # [number, mean] of all values, and of those before the lowest and the highest mean.
        self.all_: list[float] = [0, 0.0]
        self.low: list[float] = [0, 0.0]
        self.high: list[float] = [0, 0.0]

    def update(self, value: float) -> Drift | None:
        """Take in the next value, in [0, 1]; see `DriftDetector.update`."""
        x = read_value(self.kind, value, 0.0, 1.0)
        self.num_seen += 1
        num = int(self.all_[0]) + 1
        mean = self.all_[1] + (1.0 / num) * (x - self.all_[1])
        self.all_ = [num, mean]
        bound = hoeffding_bound(num, self.drift_confidence)
        if num == 1 or self.low[1] + self._bound(self.low) >= mean + bound:
            self.low = [num, mean]
        if num == 1 or self.high[1] - self._bound(self.high) <= mean - bound:
            self.high = [num, mean]
        gap_up, gap_down = mean - self.low[1], self.high[1] - mean
        is_rise = has_mean_moved(int(self.low[0]), num, gap_up, self.drift_confidence)
        is_fall = self.two_sided_test and has_mean_moved(
            int(self.high[0]), num, gap_down, self.drift_confidence
        )
        if is_rise or is_fall:
            self.num_drifts += 1
            self._begin()
            return Drift(self.num_seen, is_rise)
        self.is_warning = has_mean_moved(
            int(self.low[0]), num, gap_up, self.warning_confidence
        ) or (
            self.two_sided_test
            and has_mean_moved(int(self.high[0]), num, gap_down, self.warning_confidence)
        )
        return None

    def _bound(self, at: list[float]) -> float:
        return hoeffding_bound(int(at[0]), self.drift_confidence)

    def state_dict(self) -> dict[str, Any]:
        """See `DriftDetector.state_dict`."""
        return export_state(self, _AVERAGE_COURSE)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `DriftDetector.load_state_dict`."""
        import_state(self, state, _AVERAGE_COURSE)


@checked
@dataclass(config=CONFIG, eq=False)
class HDDMWeighted:
    """HDDM-W drift detector: weighted means, by McDiarmid's bound; for gradual changes of an error.

    As `HDDMAverage` with exponentially weighted means: compares the mean of what came since the
    lowest one with that one.   [Frias-Blanco et al. 2015, HDDM_W-test]

    Args:
        drift_confidence: chance of a false alarm per value, in (0, 1).
        warning_confidence: likewise of a warning, see `is_warning`; at least as large.
        recent_weight: lambda, of the newest value in the means, in (0, 1); small for slow changes.
        two_sided_test: alarm when the mean falls, too.

    Attributes:
        is_warning: whether the last value left the mean between a warning and an alarm.

    >>> detector = HDDMWeighted()
    >>> [i for i in range(1000) if detector.update(float(i >= 500))]
    [510]
    """

    drift_confidence: Probability = 0.001
    warning_confidence: Probability = 0.005
    recent_weight: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    two_sided_test: bool = False

    kind: ClassVar[str] = "hddm_weighted"

    @model_validator(mode="after")
    def _check(self) -> "HDDMWeighted":
        _check_confidences(self.drift_confidence, self.warning_confidence)
        return self

    def __post_init__(self) -> None:
        self.num_seen = self.num_drifts = 0
        self._begin()

    def _begin(self) -> None:
        self.is_warning = False
        # [number, mean, sum of squared weights] of all values; of those before the lowest and the
        # highest mean, and of those since.
        self.all_: list[float] = [0, 0.0, 1.0]
        self.low, self.since_low = [0, 0.0, 1.0], [0, 0.0, 1.0]
        self.high, self.since_high = [0, 0.0, 1.0], [0, 0.0, 1.0]
        self.low_bound = self.high_bound = 0.0

    def update(self, value: float) -> Drift | None:
        """Take in the next value, in [0, 1]; see `DriftDetector.update`."""
        x = read_value(self.kind, value, 0.0, 1.0)
        self.num_seen += 1
        self.all_ = self._weigh(self.all_, x)
        num, mean, weight = self.all_
        bound = mcdiarmid_bound(weight, self.drift_confidence)
        if num == 1 or mean + bound < self.low_bound:
            self.low_bound = mean + bound
            self.low, self.since_low = list(self.all_), [0, 0.0, 1.0]
        else:
            self.since_low = self._weigh(self.since_low, x)
        if num == 1 or mean - bound > self.high_bound:
            self.high_bound = mean - bound
            self.high, self.since_high = list(self.all_), [0, 0.0, 1.0]
        else:
            self.since_high = self._weigh(self.since_high, x)
        is_rise, is_fall = self._find_moves(self.drift_confidence)
        if is_rise or is_fall:
            self.num_drifts += 1
            self._begin()
            return Drift(self.num_seen, is_rise)
        self.is_warning = any(self._find_moves(self.warning_confidence))
        return None

    def _weigh(self, sample: list[float], x: float) -> list[float]:
        """A sample with one more value."""
        num, mean, weight = sample
        rate, keep = self.recent_weight, 1.0 - self.recent_weight
        mean = x if num == 0 else rate * x + keep * mean
        return [num + 1, mean, rate * rate + keep**2 * weight]

    def _find_moves(self, confidence: float) -> tuple[bool, bool]:
        """Whether the mean rose since it was lowest, and fell since it was highest."""

        def exceeds(more: list[float], less: list[float]) -> bool:
            if more[0] == 0 or less[0] == 0:
                return False
            return more[1] - less[1] > mcdiarmid_bound(more[2] + less[2], confidence)

        falls = self.two_sided_test and exceeds(self.high, self.since_high)
        return exceeds(self.since_low, self.low), falls

    def state_dict(self) -> dict[str, Any]:
        """See `DriftDetector.state_dict`."""
        return export_state(self, _WEIGHTED_COURSE)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `DriftDetector.load_state_dict`."""
        import_state(self, state, _WEIGHTED_COURSE)
