"""ADWIN: has the mean of a stream of numbers changed? A window that shrinks when it has.

Axis letters: R rows of buckets (row r holds buckets of 2^r values), B buckets of a row.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled

Adwin: TypeAlias = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]

# Their constants are those of River's ADWIN, so that both give the same alarms.
ADWIN_CLOCK = 32
ADWIN_GRACE = 10
MIN_WINDOW = 5
MAX_BUCKETS = 5
# 2^44 values fill them; the oldest are dropped before a row would be missing.
NUM_ROWS = 44

# Places in `numbers`.
WIDTH, TOTAL, SPREAD, TICKS, ROWS, CHANGED, DELTA = range(7)
# Places in the last axis of `buckets`.
SUM, SQUARES = range(2)


def make_adwin(delta: float = 0.002) -> Adwin:
    """State of one ADWIN change detector, as arrays.

    Args:
        delta: chance of a false alarm that a cut allows, in (0, 1).

    Returns:
        `numbers` (7,), `sizes_R` buckets in use of each row, `buckets_RB2` their sums and squares.
    """
    numbers = np.zeros(7)
    numbers[ROWS], numbers[DELTA] = 1.0, delta
    return numbers, np.zeros(NUM_ROWS, np.int64), np.zeros((NUM_ROWS, MAX_BUCKETS + 1, 2))


@compiled
def clear_adwin(adwin: Adwin) -> None:
    """Forget all values; delta stays."""
    numbers, sizes_R, buckets_RB2 = adwin
    delta = numbers[DELTA]
    numbers[:] = 0.0
    numbers[ROWS], numbers[DELTA] = 1.0, delta
    sizes_R[:] = 0
    buckets_RB2[:] = 0.0


@compiled
def _drop_oldest(adwin: Adwin) -> None:
    """The oldest bucket leaves the window."""
    numbers, sizes_R, buckets_RB2 = adwin
    row = int(numbers[ROWS]) - 1
    count = 2.0**row
    total, squares = buckets_RB2[row, 0, SUM], buckets_RB2[row, 0, SQUARES]
    width = numbers[WIDTH] - count
    numbers[WIDTH] = width
    numbers[TOTAL] -= total
    gap = total / count - numbers[TOTAL] / width
    numbers[SPREAD] -= squares + count * width * gap * gap / (count + width)
    sizes_R[row] -= 1
    for place in range(sizes_R[row]):
        buckets_RB2[row, place, SUM] = buckets_RB2[row, place + 1, SUM]
        buckets_RB2[row, place, SQUARES] = buckets_RB2[row, place + 1, SQUARES]
    while sizes_R[row] == 0 and row > 0:
        row -= 1
        numbers[ROWS] -= 1.0


@compiled
def _insert_value(adwin: Adwin, value: float) -> None:
    """A new value; two full neighbours of a row become one bucket of the next."""
    numbers, sizes_R, buckets_RB2 = adwin
    buckets_RB2[0, sizes_R[0], SUM] = value
    buckets_RB2[0, sizes_R[0], SQUARES] = 0.0
    sizes_R[0] += 1
    before = numbers[WIDTH]
    if before > 0.0:
        gap = value - numbers[TOTAL] / before
        numbers[SPREAD] += before * gap * gap / (before + 1.0)
    numbers[WIDTH] = before + 1.0
    numbers[TOTAL] += value
    row = 0
    while sizes_R[row] > MAX_BUCKETS:
        if row == NUM_ROWS - 1:
            _drop_oldest(adwin)
            break
        if row == int(numbers[ROWS]) - 1:
            numbers[ROWS] += 1.0
        count = 2.0**row
        sum_0, sum_1 = buckets_RB2[row, 0, SUM], buckets_RB2[row, 1, SUM]
        gap = (sum_0 - sum_1) / count
        free = sizes_R[row + 1]
        buckets_RB2[row + 1, free, SUM] = sum_0 + sum_1
        buckets_RB2[row + 1, free, SQUARES] = (
            buckets_RB2[row, 0, SQUARES] + buckets_RB2[row, 1, SQUARES] + 0.5 * count * gap * gap
        )
        sizes_R[row + 1] = free + 1
        sizes_R[row] -= 2
        for place in range(sizes_R[row]):
            buckets_RB2[row, place, SUM] = buckets_RB2[row, place + 2, SUM]
            buckets_RB2[row, place, SQUARES] = buckets_RB2[row, place + 2, SQUARES]
        row += 1


@compiled
def _find_cut(adwin: Adwin) -> int:
    """Does any cut divide the window into parts of unlike means? 1: the newer is higher, -1: lower.

    |mean_0 - mean_1| > sqrt(2 m v d) + 2/3 d m,  d = ln(2 ln(n)/delta)   [Bifet 2007, Theorem 3.2]
    with m = 1/(n_0 - 4) + 1/(n_1 - 4) and v the window's variance.
    """
    numbers, sizes_R, buckets_RB2 = adwin
    width, total = numbers[WIDTH], numbers[TOTAL]
    doubt = math.log(2.0 * math.log(width) / numbers[DELTA])
    # Rounding may leave the sum of squares a little below zero.
    variance = max(numbers[SPREAD], 0.0) / width
    count_0 = 0.0
    total_0 = 0.0
    for row in range(int(numbers[ROWS]) - 1, -1, -1):
        # The newest bucket of all is never a side of its own.
        for place in range(sizes_R[row] if row > 0 else sizes_R[row] - 1):
            count_0 += 2.0**row
            total_0 += buckets_RB2[row, place, SUM]
            count_1 = width - count_0
            if count_0 < MIN_WINDOW or count_1 < MIN_WINDOW:
                continue
            few = 1.0 / (count_0 - MIN_WINDOW + 1.0) + 1.0 / (count_1 - MIN_WINDOW + 1.0)
            allowed = math.sqrt(2.0 * few * variance * doubt) + 2.0 / 3.0 * doubt * few
            rise = (total - total_0) / count_1 - total_0 / count_0
            if abs(rise) > allowed:
                return 1 if rise > 0.0 else -1
    return 0


@compiled
def update_adwin(adwin: Adwin, value: float) -> int:
    """One value more; says whether the mean has changed, and which way.

    After a change the detector begins anew with the next value, as River's does.

    Args:
        adwin: made by `make_adwin`; changed in place.
        value: finite.

    Returns:
        0: no change, 1: the mean rose, -1: it fell.
    """
    numbers = adwin[0]
    if numbers[CHANGED] != 0.0:
        clear_adwin(adwin)
    _insert_value(adwin, value)
    numbers[TICKS] += 1.0
    change = 0
    if numbers[TICKS] % ADWIN_CLOCK == 0.0 and numbers[WIDTH] > ADWIN_GRACE:
        change = _find_cut(adwin)
        numbers[CHANGED] = float(change)
    return change
