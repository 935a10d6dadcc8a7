"""Student's t: its tails and its quantiles, for whole degrees of freedom."""

import functools
import math

from nestling.core.errors import SettingError


def student_tail(t: float, num_degrees: int) -> float:
    """Two-sided tail of Student's t distribution: P(|T| >= |t|), exact for whole degrees.

    With theta = atan(t / sqrt(n)), 1 - P is a finite sum in sin and cos of theta
    [Abramowitz and Stegun 1964, 26.7.3 and 26.7.4].

    Args:
        t: the statistic.
        num_degrees: n, at least 1.

    Raises:
        SettingError: fewer degrees of freedom.

    >>> round(student_tail(2.262, 9), 4), student_tail(0.0, 3)
    (0.05, 1.0)
    """
    if num_degrees < 1:
        raise SettingError(f"{num_degrees} degrees of freedom; at least 1")
    if math.isinf(t):
        return 0.0
    theta = math.atan(abs(t) / math.sqrt(num_degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    is_odd = num_degrees % 2
    # Terms of cos^k for k = 0, 2, 4, ... (even) or 1, 3, 5, ... (odd), up to n - 2.
    term, total = (cosine, 0.0) if is_odd else (1.0, 0.0)
    for power in range(is_odd, num_degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    inside = 2.0 / math.pi * (theta + sine * total) if is_odd else sine * total
    return min(1.0, max(0.0, 1.0 - inside))


@functools.lru_cache(maxsize=256)
def student_quantile(tail: float, num_degrees: int) -> float:
    """The t that Student's t exceeds on either side with a probability: P(|T| >= t) = tail.

    Args:
        tail: in [1e-6, 1), e.g. 0.05 for an interval of 95 %.
        num_degrees: at least 1.

    Raises:
        SettingError: an argument outside its range.

    >>> round(student_quantile(0.05, 9), 3)
    2.262
    """
    if not 1e-6 <= tail < 1.0:
        raise SettingError(f"a tail of {tail}; from 0.000001 to below 1 works")
    low, high = 0.0, 1.0
    while student_tail(high, num_degrees) > tail:
        low, high = high, 2.0 * high
    # The tail falls with t: halve until no float lies between.
    while low < (middle := 0.5 * (low + high)) < high:
        if student_tail(middle, num_degrees) > tail:
            low = middle
        else:
            high = middle
    return high
