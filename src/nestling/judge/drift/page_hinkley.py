"""Page-Hinkley test: the sum of distances from the running mean, against its own extreme."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked
from nestling.judge.drift.detector import (
    CONFIG,
    Count,
    Drift,
    export_state,
    import_state,
    read_value,
)

_COURSE = ("num_seen", "num_drifts", "width", "mean", "rise", "fall", "lowest", "highest")


@checked
@dataclass(config=CONFIG, eq=False)
class PageHinkley:
    """Page-Hinkley drift detector (CUSUM): the mean has moved by more than `delta` for a while.

    up_t = alpha up_{t-1} + x_t - mean_t - delta,  alarm if  up_t - min_s up_s > threshold
    [Page 1954; Hinkley 1971], and likewise downwards with + delta and the maximum.

    Args:
        min_instances: no alarm before so many values.
        delta: movement of the mean that does not count, in the unit of the values, >= 0.
        threshold: sum of movements at which the alarm is raised, in the same unit.
        alpha: share of the sums that stays at each value, in (0, 1].
        mode: which movements count: "up", "down" or "both".

    >>> detector = PageHinkley(threshold=10.0)
    >>> [i for i in range(1000) if detector.update(float(i >= 500))]
    [510]
    """

    min_instances: Count = 30
    delta: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.005
    threshold: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 50.0
    alpha: Annotated[float, Field(gt=0.0, le=1.0)] = 1 - 0.0001
    mode: Literal["up", "down", "both"] = "both"

    kind: ClassVar[str] = "page_hinkley"

    def __post_init__(self) -> None:
        self.num_seen = self.num_drifts = 0
        self._begin()

    def _begin(self) -> None:
        self.width = 0  # values since the last alarm
        self.mean = 0.0
        self.rise = self.fall = 0.0
        self.lowest = self.highest = 0.0

    def update(self, value: float) -> Drift | None:
        """Take in the next value; see `DriftDetector.update`."""
        x = read_value(self.kind, value)
        self.num_seen += 1
        self.width += 1
        self.mean += (1.0 / self.width) * (x - self.mean)
        gap = x - self.mean
        self.rise = self.alpha * self.rise + gap - self.delta
        self.fall = self.alpha * self.fall + gap + self.delta
        if self.width == 1 or self.rise < self.lowest:
            self.lowest = self.rise
        if self.width == 1 or self.fall > self.highest:
            self.highest = self.fall
        if self.width < self.min_instances:
            return None
        is_rise = self.mode != "down" and self.rise - self.lowest > self.threshold
        is_fall = self.mode != "up" and self.highest - self.fall > self.threshold
        if not (is_rise or is_fall):
            return None
        self.num_drifts += 1
        self._begin()
        return Drift(self.num_seen, is_rise)

    def state_dict(self) -> dict[str, Any]:
        """See `DriftDetector.state_dict`."""
        return export_state(self, _COURSE)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `DriftDetector.load_state_dict`."""
        import_state(self, state, _COURSE)
