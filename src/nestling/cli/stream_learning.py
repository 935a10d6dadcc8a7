"""`nestling learn -`: a stream of events from standard input, answered and learned."""

import csv
import io
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from nestling.cli.output import show_status, write_json
from nestling.core.errors import DataError, NestlingError

if TYPE_CHECKING:
    from types import FrameType

    from nestling.streams.live.event_lines import BrokenLine, LineFormat
    from nestling.streams.live.follow import Arrival, BlockReport, FollowedStream, StreamLearner

INTERRUPTED = 130
_MOST_SAID = 5  # broken lines, and unknown ids, that are said one by one
_SECONDS_PER_LOOK = 0.2


@dataclass(frozen=True)
class StreamChoices:
    """What the options of `nestling learn -` say; see its help."""

    target: str
    task: str | None
    block: int
    id: str | None
    late_labels: Path | None
    time: str | None
    categories: tuple[str, ...]
    predictions: Path | None
    save: Path | None
    restore: Path | None
    is_strict: bool
    json_file: Path | None


class Stop:
    """Whether a signal has asked to stop; it breaks off reading, and nothing else."""

    def __init__(self) -> None:
        self.is_asked = self.is_reading = False

    def take(self, _number: int, _frame: "FrameType | None") -> None:
        """A signal: stop after what is being learned now; the second one stops at once."""
        if self.is_reading or self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True

    def read_lines(self, file: TextIO) -> Iterator[str]:
        """Lines as they come, until the end or a signal."""
        while not self.is_asked:
            try:
                self.is_reading = True
                line = file.readline()
                self.is_reading = False
            except KeyboardInterrupt:
                self.is_reading, self.is_asked = False, True
                return
            if not line:
                return
            yield line


class _Journal:
    """What is said and counted of a stream while it is followed."""

    def __init__(self, *, is_strict: bool) -> None:
        self.is_strict = is_strict
        self.num_broken = 0
        self.num_unknown = 0

    def skip_broken(self, found: "Iterator[Arrival | BrokenLine]") -> "Iterator[Arrival]":
        """The arrivals among them; broken lines are counted and said, or refused."""
        from nestling.streams.live.event_lines import BrokenLine

        for one in found:
            if not isinstance(one, BrokenLine):
                yield one
                continue
            said = f"line {one.line}: {one.reason}"
            if self.is_strict:
                raise DataError(f"{said}; mend it, or leave out --strict to skip it")
            self.num_broken += 1
            self._say(self.num_broken, f"{said}; skipped")

    def note_unknown(self, report: "BlockReport") -> None:
        """Say which late labels nothing waits for."""
        for event_id in report.unknown_ids:
            self.num_unknown += 1
            self._say(self.num_unknown, f"late label for {event_id!r}: no such event waits")

    def _say(self, count: int, text: str) -> None:
        if count <= _MOST_SAID:
            more = " (more are only counted)" if count == _MOST_SAID else ""
            click.echo(f"nestling: {text}{more}", err=True)


def learn_stream(choices: StreamChoices) -> int:
    """Learn the stream on standard input; the exit code.

    Raises:
        NestlingError: what was given cannot be learned; what was learned until then is saved.
        BrokenPipeError: whoever read our answers has gone; likewise.
    """
    from nestling.streams.live.event_lines import BrokenLine, LineFormat, read_event_lines
    from nestling.streams.live.follow import follow, list_figures
    from nestling.streams.live.label_lines import LabelLines, join_late_labels

    _check(choices)
    learner, classifies = _make_learner(choices)
    form = LineFormat(
        target=choices.target,
        id=choices.id,
        time=choices.time,
        categories=choices.categories,
        classifies=classifies,
        may_lack_target=choices.late_labels is not None or choices.restore is not None,
    )
    journal = _Journal(is_strict=choices.is_strict)
    with ExitStack() as stack:
        labels = None
        if choices.late_labels is not None:
            labels = LabelLines(choices.late_labels, form)
            stack.callback(labels.close)
        write = stack.enter_context(_open_answers(choices, form))
        show = stack.enter_context(show_status("waiting for events"))
        stop = stack.enter_context(_stop_on_signals())
        found = read_event_lines(stop.read_lines(_open_input()), form)
        arrivals: Iterator[Arrival | BrokenLine] = (
            (one if isinstance(one, BrokenLine) else one.arrival for one in found)
            if labels is None
            else join_late_labels(found, labels, learner.is_waiting)
        )
        stream: FollowedStream | None = None
        started = looked = time.monotonic()
        failure: NestlingError | BrokenPipeError | None = None
        try:
            for report in follow(learner, journal.skip_broken(arrivals), block=choices.block):
                stream = report.stream
                journal.note_unknown(report)
                write(report)
                now = time.monotonic()
                if now - looked >= _SECONDS_PER_LOOK:
                    looked = now
                    rate = stream.num_events / (now - started)
                    text = _describe(list_figures(learner, stream))
                    show(f"{text}, {rate:,.0f} events/s")
        except (NestlingError, BrokenPipeError) as error:
            if stream is None:  # nothing was learned
                raise
            failure = error
        if choices.save is not None:
            learner.snapshot(choices.save)
    figures = list_figures(learner, stream) | {
        "broken_lines": journal.num_broken,
        "is_interrupted": stop.is_asked,
        "saved": None if choices.save is None else str(choices.save),
    }
    is_out_taken = str(choices.predictions) == "-"
    click.echo(_describe(figures), err=is_out_taken)
    if choices.json_file is not None:
        write_json(choices.json_file, figures)
    if failure is not None:
        raise failure
    return INTERRUPTED if stop.is_asked else 0


def _check(choices: StreamChoices) -> None:
    if choices.late_labels is not None and choices.id is None:
        raise click.UsageError("--late-labels needs --id: the column that names events")
    if choices.time is not None and choices.late_labels is None:
        raise click.UsageError("--time goes with --late-labels")
    if sys.stdin.isatty():
        raise click.UsageError("no events: nestling learn - --target NAME < events.csv")
    if choices.save is not None:  # said now, not after hours of learning
        choices.save.mkdir(parents=True, exist_ok=True)


def _make_learner(choices: StreamChoices) -> "tuple[StreamLearner, bool]":
    """A learner, new or restored, and whether it classifies."""
    from nestling.streams import StreamClassifier, StreamRegressor
    from nestling.streams.stream_state import read_stream

    classifies = choices.task != "regression"
    if choices.restore is None:
        return (StreamClassifier() if classifies else StreamRegressor()), classifies
    state = read_stream(choices.restore)
    saved = "labels" in state
    if choices.task is not None and saved != classifies:
        kind = "classification" if saved else "regression"
        raise click.UsageError(f"'{choices.restore}' holds a learner of {kind}; leave out --task")
    learner: StreamLearner = StreamClassifier() if saved else StreamRegressor()
    learner.load_state_dict(state)
    return learner, saved


def _open_input() -> TextIO:
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Bytes that are no text shall break a line, not the stream.
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    return sys.stdin


@contextmanager
def _open_answers(
    choices: StreamChoices, form: "LineFormat"
) -> "Iterator[Callable[[BlockReport], None]]":
    """A function that writes the answers of a report, so that who reads along sees them at once."""
    if choices.predictions is None:
        yield lambda _report: None
        return
    with ExitStack() as stack:
        file = sys.stdout
        if str(choices.predictions) != "-":
            file = stack.enter_context(choices.predictions.open("w", encoding="utf-8", newline=""))
        writer = csv.writer(file, lineterminator="\n")
        probability = ["probability"] if form.classifies else []
        id_name = [] if form.id is None else ["id"]
        writer.writerow(["event", *id_name, "prediction", *probability, "target"])

        def write(report: "BlockReport") -> None:
            for one in report.answers:
                row: list[Any] = [one.event]
                row += [one.id] if id_name else []
                row += [one.prediction if form.classifies else _round(one.prediction)]
                row += [_round(one.probability)] if probability else []
                writer.writerow([*row, one.y])
            file.flush()

        yield write


def _round(value: object) -> str:
    return "" if value is None else f"{value:.6g}"


@contextmanager
def _stop_on_signals() -> Iterator[Stop]:
    """Ctrl-C, or a signal to terminate, ends the stream between two events."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only that one hears signals
        yield stop
        return
    before = {
        number: signal.signal(number, stop.take) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _describe(figures: dict[str, Any]) -> str:
    """One line for people."""
    scores = ("accuracy", "kappa", "mae", "rmse")
    said = [
        f"{figures['events']:,} events, {figures['learned']:,} learned",
        *(f"{name} {figures[name]:.4g}" for name in scores if figures.get(name) is not None),
    ]
    counts = {
        "late": "late labels",
        "waiting": "still waiting",
        "unknown_ids": "unknown ids",
        "repeated_ids": "repeated ids",
        "broken_lines": "broken lines skipped",
        "drifts": "restarts after drift",
    }
    said += [f"{text} {figures[name]:,}" for name, text in counts.items() if figures.get(name)]
    said.append(f"concepts {figures['concepts']}")
    if figures.get("saved"):
        said.append(f"saved in {figures['saved']}")
    return ", ".join(said)
