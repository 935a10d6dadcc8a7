"""ADWIN: a window of recent values that shrinks when its older part differs from its newer."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked
from nestling.judge.drift.detector import (
    CONFIG,
    Count,
    Drift,
    Probability,
    export_state,
    import_state,
    read_value,
)

_COURSE = ("num_seen", "num_drifts", "tick", "width", "total", "spread", "totals", "spreads")


def is_cut(n0: float, n1: float, gap: float, variance: float, log_term: float, least: int) -> bool:
    """Whether the means of two parts of a window differ by more than chance.

    |gap| > sqrt(2 v L m) + 2/3 L m  with  m = 1/(n0 - least + 1) + 1/(n1 - least + 1)
    [Bifet and Gavalda 2007, Eq. 3.1]

    Args:
        n0: values in the older part.
        n1: in the newer one.
        gap: difference of their means.
        variance: v, of all values.
        log_term: L = ln(2 ln(n0 + n1) / delta).
        least: values that each part has at least.

    >>> is_cut(100, 100, 0.5, 0.25, 8.0, 5), is_cut(100, 100, 0.2, 0.25, 8.0, 5)
    (True, False)
    """
    m = 1.0 / (n0 - least + 1) + 1.0 / (n1 - least + 1)
    return abs(gap) > math.sqrt(2 * m * variance * log_term) + 2 / 3 * log_term * m


@checked
@dataclass(config=CONFIG, eq=False)
class ADWIN:
    """ADWIN drift detector: adaptive windowing, for values of any scale.

    The window is kept as buckets of 1, 2, 4, ... values, at most `max_buckets` of a size, so that
    n values take O(log n) numbers. Every `clock` values all borders between buckets are tried from
    the oldest on; where the parts differ (see `is_cut`) the oldest bucket is dropped, until no
    border is left that divides.   [Bifet and Gavalda 2007, ADWIN2]

    Differs: as in River, the window begins empty after an alarm; with `restart` off it goes on with
    the newer part, which is the paper's rule.

    Args:
        delta: chance of a false alarm per test, in (0, 1).
        clock: values between two tests.
        max_buckets: of each size.
        min_window_length: values that each part has at least.
        grace_period: no test before more values than this are in the window.
        restart: forget the newer part, too, after an alarm.

    >>> detector = ADWIN()
    >>> [i for i in range(1000) if detector.update(float(i >= 500))]
    [511]
    """

    delta: Probability = 0.002
    clock: Count = 32
    max_buckets: Annotated[int, Field(ge=2)] = 5
    min_window_length: Count = 5
    grace_period: Annotated[int, Field(ge=0)] = 10
    restart: bool = True

    kind: ClassVar[str] = "adwin"

    def __post_init__(self) -> None:
        self.num_seen = self.num_drifts = 0
        self._begin()

    def _begin(self) -> None:
        self.tick = 0
        self.width = 0
        self.total = 0.0
        self.spread = 0.0  # sum of squared distances from the mean of the window
        # Sum and spread of each bucket: a row per size 2^row, the oldest of a row first.
        self.totals: list[list[float]] = [[]]
        self.spreads: list[list[float]] = [[]]

    @property
    def mean(self) -> float:
        """Mean of the window; 0 while it is empty."""
        return self.total / self.width if self.width else 0.0

    @property
    def variance(self) -> float:
        """Variance of the window; 0 while it is empty."""
        return self.spread / self.width if self.width else 0.0

    def update(self, value: float) -> Drift | None:
        """Take in the next value; see `DriftDetector.update`."""
        x = read_value(self.kind, value)
        self.num_seen += 1
        self.tick += 1
        self._add(x)
        if self.tick % self.clock or self.width <= self.grace_period:
            return None
        before, is_drift = self.mean, False
        while self._find_cut():
            self._drop_oldest()
            is_drift = True
        if not is_drift:
            return None
        self.num_drifts += 1
        drift = Drift(self.num_seen, self.mean > before)
        if self.restart:
            self._begin()
        return drift

    def _add(self, x: float) -> None:
        if self.width:
            gap = x - self.total / self.width
            self.spread += self.width * gap * gap / (self.width + 1)
        self.width += 1
        self.total += x
        self.totals[0].append(x)
        self.spreads[0].append(0.0)
        row, size = 0, 1.0
        while len(self.totals[row]) > self.max_buckets:
            if row + 1 == len(self.totals):
                self.totals.append([])
                self.spreads.append([])
            a, b = self.totals[row][:2]
            gap = a / size - b / size
            spread = sum(self.spreads[row][:2]) + size * size * gap * gap / (size + size)
            self.totals[row + 1].append(a + b)
            self.spreads[row + 1].append(spread)
            del self.totals[row][:2], self.spreads[row][:2]
            row, size = row + 1, size * 2.0

    def _find_cut(self) -> bool:
        """Whether the window falls in two parts that differ."""
        least, variance = self.min_window_length, self.spread / self.width
        log_term = math.log(2 * math.log(self.width) / self.delta)
        n0, n1, u0, u1 = 0.0, float(self.width), 0.0, self.total
        for row in range(len(self.totals) - 1, -1, -1):
            size = float(2**row)
            for total in self.totals[row]:
                n0 += size
                n1 -= size
                u0 += total
                u1 -= total
                if n1 < least:  # no later border leaves more
                    return False
                if n0 >= least and is_cut(n0, n1, u0 / n0 - u1 / n1, variance, log_term, least):
                    return True
        return False

    def _drop_oldest(self) -> None:
        size = 2 ** (len(self.totals) - 1)
        total, spread = self.totals[-1].pop(0), self.spreads[-1].pop(0)
        if not self.totals[-1]:
            self.totals.pop()
            self.spreads.pop()
        self.width -= size
        self.total -= total
        gap = total / size - self.total / self.width
        self.spread -= spread + size * self.width * gap * gap / (size + self.width)

    def state_dict(self) -> dict[str, Any]:
        """See `DriftDetector.state_dict`."""
        return export_state(self, _COURSE)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `DriftDetector.load_state_dict`."""
        import_state(self, state, _COURSE)
