"""Events per CPU second of ours over River's forest, taken in turns, and the size of our state."""

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from nestling.bench.streams.following_events import count_bytes
from nestling.bench.streams.stream_rivals import EventLearner
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows, Side, time_rounds
from nestling.data.events import Event, open_events

BLOCK = 32
_STATE_EVENTS = 3_000


@dataclass(frozen=True)
class SpeedAmounts:
    """How much is timed.

    Args:
        num_warm: events that no one counts, in which code is compiled as well.
        num_events: of a slice, if the stream is long enough.
        num_slices: that count.
    """

    num_warm: int = 500
    num_events: int = 1_500
    num_slices: int = 5


def measure_speed(
    names: Sequence[str],
    make_ours: Callable[[], Any],
    make_theirs: Callable[[int], EventLearner],
    place: CellFolders,
    amounts: SpeedAmounts | None = None,
) -> tuple[Figures, Rows]:
    """`speed_over_arf_single`, `speed_over_arf_block32`: geometric means over the streams.

    Three learners go through the same slices of a stream in turns, in one process: ours event by
    event, ours in blocks of 32, and the forest event by event. CPU seconds of answering and
    learning; of each stream the median of the ratios, slice by slice.

    Args:
        names: of streams.
        make_ours: makes a learner with `predict_proba_one`, and whose `learn_many` answers every
            event before it learns it.
        make_theirs: makes the forest, of a number of classes.
        place: where data lie.
        amounts: None for the usual ones.
    """
    amounts = amounts or SpeedAmounts()
    rows: Rows = []
    ratios: dict[str, list[float]] = {"single": [], "block32": []}
    for name in names:
        stream = open_events(name)
        sizes = _cut(stream.num_events, amounts)
        events = list(stream.read(sum(sizes), folder=place.data, offline=place.offline))
        theirs = make_theirs(len(stream.classes))
        seconds = time_rounds(
            {
                "arf": _take_slices(events, sizes, _bind(run_single, theirs)),
                "single": _take_slices(events, sizes, _bind(run_single, make_ours())),
                "block32": _take_slices(events, sizes, _bind(run_blocks, make_ours())),
            },
            amounts.num_slices,
        )
        row: dict[str, object] = {"stream": name, "events_per_slice": sizes[1]}
        for side, taken in seconds.items():
            row[f"{side}_per_cpu_second"] = sizes[1] / statistics.median(taken)
        for side, found in ratios.items():
            pairs = zip(seconds["arf"], seconds[side], strict=True)
            found.append(statistics.median(a / max(b, 1e-9) for a, b in pairs))
            row[f"{side}_over_arf"] = found[-1]
        rows.append(row)
    figures = {f"speed_over_arf_{side}": geometric_mean(found) for side, found in ratios.items()}
    return figures, rows


def measure_state(make_ours: Callable[[], Any]) -> tuple[Figures, Rows]:
    """`state_bytes`: of ours after 3,000 events of 100 numbers in 10 classes."""
    learner = make_ours()
    draw = random.Random(0)
    for place in range(_STATE_EVENTS):
        label = place % 10
        x = {f"x{column}": draw.gauss(0.1 * label, 1.0) for column in range(100)}
        learner.learn_one(x, label)
    size = float(count_bytes(learner))
    return {"state_bytes": size}, [{"columns": 100, "classes": 10, "bytes": size}]


def run_single(learner: EventLearner, events: Sequence[Event]) -> None:
    """Answer, then learn, event by event."""
    for x, y in events:
        learner.predict_proba_one(x)
        learner.learn_one(x, y)


def run_blocks(learner: Any, events: Sequence[Event]) -> None:
    """Answer, then learn, in blocks of 32: lists of dicts, and lists of labels."""
    waiting = iter(events)
    while block := list(islice(waiting, BLOCK)):
        rows = [x for x, _ in block]
        # It answers every event before it learns it, and gives these answers.
        learner.learn_many(rows, [y for _, y in block])


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers.

    >>> round(geometric_mean([2.0, 8.0]), 6)
    4.0
    """
    return math.exp(statistics.mean(math.log(value) for value in values))


def _cut(num_events: int, amounts: SpeedAmounts) -> list[int]:
    """Events to warm up on, then those of each slice."""
    rest = num_events - amounts.num_warm
    size = min(amounts.num_events, rest // amounts.num_slices)
    return [amounts.num_warm, *[size] * amounts.num_slices]


def _bind(run: Callable[[Any, Sequence[Event]], None], learner: Any) -> Callable[..., None]:
    return lambda events: run(learner, events)


def _take_slices(
    events: Sequence[Event], sizes: Sequence[int], run: Callable[[Sequence[Event]], None]
) -> Side:
    waiting = iter(events)
    left = iter(sizes)

    def side() -> float:
        part = list(islice(waiting, next(left)))
        start = time.process_time()
        run(part)
        return time.process_time() - start

    return side
