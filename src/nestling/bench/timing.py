"""Times of rival pieces of code, taken in turns, so that a busy machine slows all of them."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

from torch import Tensor

Side = Callable[[], float]  # does a round of work and returns its seconds
Figures = dict[str, float]
Rows = list[dict[str, object]]

ROUND = 16  # steps: the periods 1, 4 and 16 divide it, so a round holds each boundary equally often


def time_rounds(sides: Mapping[str, Side], num_rounds: int) -> dict[str, list[float]]:
    """Time several functions in interleaved rounds, after one round of warm-up.

    Args:
        sides: name -> function that does a round of work and returns its seconds (what it
            prepares in between need not count).
        num_rounds: rounds that count.

    Returns: name -> seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    gc.collect()
    gc.freeze()  # what is there already need not be gone through before each round
    gc.disable()
    try:
        for index in range(num_rounds + 1):
            # Forwards and backwards by turns: a machine that slows down favours neither end.
            for name in names if index % 2 else reversed(names):
                gc.collect()
                taken = sides[name]()
                if index:
                    seconds[name].append(taken)
    finally:
        gc.enable()
        gc.unfreeze()
    return seconds


def median_ratio(seconds: Mapping[str, list[float]], side: str, base: str) -> float:
    """Median ratio of run times, round by round: seconds of a side over those of the base.

    >>> median_ratio({"a": [2.0, 3.0, 9.0], "b": [1.0, 1.0, 3.0]}, "a", "b")
    3.0
    """
    pairs = zip(seconds[side], seconds[base], strict=True)
    return statistics.median(one / other for one, other in pairs)


def time_calls(function: Callable[[], None], num_calls: int) -> float:
    """Time `num_calls` calls in a row, in seconds."""
    start = time.perf_counter()
    for _ in range(num_calls):
        function()
    return time.perf_counter() - start


def list_sides(part: str, seconds: dict[str, list[float]], num_steps: int) -> Rows:
    """Rows with the median milliseconds per step of every side."""
    return [
        {"part": part, "side": name, "milliseconds": 1e3 * statistics.median(taken) / num_steps}
        for name, taken in seconds.items()
    ]


def run_backward(loss: Tensor) -> None:
    """`loss.backward()`, so that the rivals share one line."""
    loss.backward()
