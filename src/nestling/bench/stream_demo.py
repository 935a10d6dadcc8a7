"""A short look at streams: ours beside logistic regression, on streams that need no fetching.

Elec2 is looked at too where its file is at hand.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nestling.bench.result import SuiteResult
from nestling.bench.streams.stream_cells import OURS, StreamCell
from nestling.bench.streams.stream_runs import make_system
from nestling.bench.timing import Rows
from nestling.core.errors import DataError
from nestling.core.machine import use_threads
from nestling.data.events import Event, EventStream, open_events
from nestling.judge.stream_scores import StreamScores

RIVAL = "logistic"
NUM_LOOKS = 8  # lines per stream


@dataclass(frozen=True)
class DemoStream:
    """A stream of the demo.

    Args:
        name: for `open_events`.
        num_events: that are followed.
    """

    name: str
    num_events: int


STREAMS = (
    DemoStream("image-segments", 2_310),
    DemoStream("agrawal", 40_000),
    DemoStream("elec2", 10_000),
)


def run(
    streams: tuple[DemoStream, ...] | None = None,
    *,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> SuiteResult:
    """Follow streams with ours and with logistic regression, event by event.

    Args:
        streams: one whose file is not at hand is left out, with a line that says so; None for
            STREAMS.
        folder: where files lie; see `find_folder`.
        say: told a line at a time: accuracies since the last line, where another concept begins,
            and at the end of a stream over all of it.

    Returns: `accuracy_over_logistic_...` per stream, and `total_seconds`; a row per stream.

    Raises:
        MissingExtra: what is needed is not installed.
    """
    start = time.perf_counter()
    rows: Rows = []
    figures: dict[str, float] = {}
    with use_threads(1):
        for one in STREAMS if streams is None else streams:
            stream = open_events(one.name)
            try:
                events = stream.read(one.num_events, folder=folder, offline=True)
            except DataError as error:
                say(f"{one.name} is left out: {error}")
                continue
            say(f"{one.name}: {stream.about}")
            row = _follow(stream, one.num_events, events, say)
            rows.append(row)
            better = float(str(row[OURS])) - float(str(row[RIVAL]))
            figures[f"accuracy_over_logistic_{one.name.replace('-', '_')}"] = better
    figures["total_seconds"] = time.perf_counter() - start
    return SuiteResult("demo-stream", figures, rows, num_threads=1)


def _follow(
    stream: EventStream, num_events: int, events: Iterator[Event], say: Callable[[str], None]
) -> dict[str, object]:
    num_events = min(num_events, stream.num_events)
    window = max(1, num_events // NUM_LOOKS)
    learners: dict[str, Any] = {
        name: make_system(StreamCell(name, stream.name)) for name in (OURS, RIVAL)
    }
    scores = {name: StreamScores(window) for name in learners}
    seconds = dict.fromkeys(learners, 0.0)
    num_seen = 0
    while chunk := list(islice(events, window)):
        for name, learner in learners.items():
            answers = []
            start = time.process_time()
            for x, y in chunk:
                answers.append(learner.predict_proba_one(x))
                learner.learn_one(x, y)
            seconds[name] += time.process_time() - start
            for (_, y), answer in zip(chunk, answers, strict=True):
                scores[name].update(y, answer)
        changed = any(num_seen <= drift < num_seen + len(chunk) for drift in stream.drifts)
        num_seen += len(chunk)
        if len(chunk) == window:
            latest = ", ".join(f"{name} {scores[name].curve[-1]:.3f}" for name in learners)
            say(f"  {num_seen:>7,} events: {latest}{', another concept' if changed else ''}")
    found: dict[str, object] = {name: scores[name].accuracy for name in learners}
    say(f"  whole stream: {', '.join(f'{name} {value:.3f}' for name, value in found.items())}")
    speeds = {f"{name}_per_cpu_second": num_seen / max(seconds[name], 1e-9) for name in learners}
    return {"stream": stream.name, "events": num_seen, **found, **speeds}
