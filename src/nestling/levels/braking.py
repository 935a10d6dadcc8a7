"""When a level is braked: its update explodes, or its weights are not finite."""

from collections.abc import Sequence
from statistics import median

# Updates whose norm is remembered, and those that there must be to judge by.
NUM_RECENT, LEAST_RECENT = 100, 20
TIMES_MEDIAN = 10.0


def find_explosion(change: float, moved: float, recent: Sequence[float], explode: float) -> str:
    """Why an update is an explosion; empty if it is none.

    It is one if its relative change is above `explode` and its norm above 10 times the median of
    the level's last 100 updates. The first 20 are not judged: small weights begin with large steps.

    Args:
        change: ||update|| / ||weights||, before any bound has scaled it.
        moved: ||update||.
        recent: norms of the updates before.
        explode: >= 0.

    >>> find_explosion(3.0, 6.0, [0.02] * 20, 1.0)
    'an update changed it by 3 of its norm, 300 times as much as usual'
    >>> find_explosion(3.0, 6.0, [4.0] * 20, 1.0)
    ''
    """
    if change <= explode or len(recent) < LEAST_RECENT:
        return ""
    usual = median(recent)
    if moved <= TIMES_MEDIAN * usual:
        return ""
    times = f"{moved / usual:.3g}" if usual > 0.0 else "infinitely many"
    return f"an update changed it by {change:.3g} of its norm, {times} times as much as usual"
