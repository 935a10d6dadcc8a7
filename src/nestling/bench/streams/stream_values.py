"""Numbers instead of classes: bicycles hired per hour, ours beside River's forest."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nestling.bench.streams.stream_rivals import ValueLearner
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows
from nestling.data.events import Event, open_events
from nestling.judge.stream_scores import ValueScores

_STREAM = "bike"


def follow_values(
    learner: ValueLearner,
    events: Iterator[Event],
    interval: Callable[[dict[Any, Any]], tuple[float, float]] | None = None,
) -> dict[str, float]:
    """Scores of a learner that answers every event before it is learned, and its CPU seconds.

    What is no number yet, as before the first event, is scored as 0.

    Args:
        learner: learns in place.
        events: of a stream of numbers.
        interval: of an event, from and to, of the same learner; None if it has none.
    """
    scores = ValueScores()
    seconds = 0.0
    for x, y in events:
        start = time.process_time()
        answer = learner.predict_one(x)
        between = None if interval is None else interval(x)
        learner.learn_one(x, y)
        seconds += time.process_time() - start
        known = between is not None and all(map(math.isfinite, between))
        is_number = answer is not None and math.isfinite(answer)
        scores.update(float(y), float(answer) if is_number else 0.0, between if known else None)
    return {**scores.to_figures(), "events": scores.num_events, "cpu_seconds": seconds}


def measure_values(
    make: Callable[[int], Any],
    seeds: Sequence[int],
    place: CellFolders,
    *,
    system: str,
    has_intervals: bool,
    limit: int | None = None,
) -> tuple[Figures, Rows]:
    """`bike_mae_...` of a system, in bicycles, and with intervals `bike_coverage_...`.

    Args:
        make: makes a learner of a seed.
        seeds: the figures are means over them.
        place: where the data lie.
        system: in the figures' names.
        has_intervals: it has `predict_interval_one(x)`.
        limit: events; None for all.
    """
    stream = open_events(_STREAM)
    rows: Rows = []
    found: list[dict[str, float]] = []
    for seed in seeds:
        learner = make(seed)
        events = stream.read(limit, folder=place.data, offline=place.offline)
        interval = learner.predict_interval_one if has_intervals else None
        found.append(follow_values(learner, events, interval))
        rows.append({"stream": _STREAM, "system": system, "seed": seed, **_keep_finite(found[-1])})
    figures = {f"bike_mae_{system}": _mean(found, "mae")}
    if has_intervals:
        figures[f"bike_coverage_{system}"] = _mean(found, "coverage")
    return figures, rows


def _keep_finite(scores: dict[str, float]) -> dict[str, object]:
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def _mean(found: Sequence[dict[str, float]], name: str) -> float:
    return sum(one[name] for one in found) / len(found)
