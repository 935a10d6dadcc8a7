"""KSWIN: a Kolmogorov-Smirnov test of the newest values against a sample of older ones."""

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked
from nestling.core.errors import MismatchedParameters
from nestling.judge.drift.detector import (
    CONFIG,
    Count,
    Drift,
    Probability,
    export_state,
    import_state,
    read_value,
)

_COURSE = ("num_seen", "num_drifts", "window")
# A smaller distance of the two distributions is no drift, however many values say so.
_SMALLEST_DISTANCE = 0.1


def measure_distance(left: Sequence[float], right: Sequence[float]) -> int:
    """Kolmogorov-Smirnov distance of two samples of the same size n, times n.

    n sup_x |F_left(x) - F_right(x)|

    Args:
        left: (n,) values in any order.
        right: (n,) likewise.

    >>> measure_distance([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    1
    """
    steps = sorted([(x, 1) for x in left] + [(x, -1) for x in right])
    height = highest = 0
    value = steps[0][0]
    for x, step in steps:
        if x != value:  # equal values are one step of the distributions
            highest = max(highest, height, -height)
            value = x
        height += step
    return highest


def two_sample_p_value(num: int, distance: int) -> float:
    """Chance that two samples of one distribution are as far apart: the exact two-sided test.

    P(n D >= h) = 2 sum_{k >= 1} (-1)^(k-1) C(2n, n - k h) / C(2n, n)
    [Gnedenko and Korolyuk 1951]

    Args:
        num: n, values of each sample.
        distance: h, as `measure_distance` gives it.

    >>> round(two_sample_p_value(30, 13), 6)
    0.006548
    """
    if distance == 0:
        return 1.0
    p = 0.0
    for k in range(num // distance, -1, -1):  # from the smallest term on: no cancellation
        ratio = 1.0
        for j in range(k * distance, (k + 1) * distance):
            ratio = (num - j) * ratio / (num + j + 1)
        p = ratio * (1.0 - p)
    return 2.0 * p


@functools.cache
def find_critical_distance(num: int, alpha: float) -> int:
    """The least distance (times n) of two samples of n values that is an alarm at level alpha.

    >>> find_critical_distance(30, 0.005)
    14
    """
    least = next(h for h in range(num + 2) if h / num > _SMALLEST_DISTANCE)
    return next((h for h in range(least, num + 1) if two_sample_p_value(num, h) <= alpha), num + 1)


@checked
@dataclass(config=CONFIG, eq=False)
class KSWIN:
    """KSWIN drift detector: notices any change of the distribution, not of its mean alone.

    The newest `stat_size` values of a window are compared with as many that are drawn from the
    rest of it; alarm where the exact two-sided Kolmogorov-Smirnov test says p <= alpha and the
    distance is above 0.1.   [Raab, Heusinger and Schleif 2020]

    The sample is drawn by Python's generator with `seed`, as by River with the same seed.

    Args:
        alpha: level of each test, in (0, 1); below .01, for every value is a test.
        window_size: values in the window, at least twice `stat_size`.
        stat_size: values in each sample.
        seed: of the samples.

    >>> detector = KSWIN(alpha=1e-4)
    >>> [i for i in range(1000) if detector.update(float(i % 10 + 5 * (i >= 500)))][:1]
    [522]
    """

    alpha: Probability = 0.005
    window_size: Count = 100
    stat_size: Count = 30
    seed: int = 0

    kind: ClassVar[str] = "kswin"

    @model_validator(mode="after")
    def _check_sizes(self) -> "KSWIN":
        if self.window_size < 2 * self.stat_size:
            raise ValueError(
                f"window_size {self.window_size} has no room for two samples of "
                f"{self.stat_size}; {2 * self.stat_size} or more works"
            )
        return self

    def __post_init__(self) -> None:
        self.num_seen = self.num_drifts = 0
        self._begin()

    def _begin(self) -> None:
        self.window: list[float] = []
        self._random = random.Random(self.seed)

    def update(self, value: float) -> Drift | None:
        """Take in the next value; see `DriftDetector.update`."""
        x = read_value(self.kind, value)
        self.num_seen += 1
        window, num_old = self.window, self.window_size - self.stat_size
        window.append(x)
        if len(window) < self.window_size:
            return None
        if len(window) > self.window_size:
            del window[0]
        drawn = [window[i] for i in self._random.sample(range(num_old), self.stat_size)]
        recent = window[num_old:]
        if measure_distance(drawn, recent) < find_critical_distance(self.stat_size, self.alpha):
            return None
        self.num_drifts += 1
        self._begin()
        return Drift(self.num_seen, sum(recent) > sum(drawn))

    def state_dict(self) -> dict[str, Any]:
        """See `DriftDetector.state_dict`."""
        version, numbers, gauss = self._random.getstate()
        return {**export_state(self, _COURSE), "random": [version, list(numbers), gauss]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `DriftDetector.load_state_dict`."""
        generator = random.Random()
        try:
            version, numbers, gauss = state["random"]
            generator.setstate((version, tuple(numbers), gauss))
        except (KeyError, TypeError, ValueError):
            raise MismatchedParameters(
                "the state is of no kswin with its generator; give it a whole state_dict()"
            ) from None
        import_state(self, state, _COURSE)
        self._random = generator
