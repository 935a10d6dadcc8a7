"""Follow a stream: answer every event before its label is learned, and keep the score."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from nestling.core.errors import DataError, SettingError, UnknownEvent
from nestling.judge.stream_scores import StreamScores, ValueScores
from nestling.streams.classifier import StreamClassifier
from nestling.streams.labels import read_label
from nestling.streams.late_labels import EventId
from nestling.streams.regressor import StreamRegressor, read_target
from nestling.streams.stream_readings import StreamEvent

StreamLearner = StreamClassifier | StreamRegressor
# Answers to events that wait, kept to be scored; as many as a learner keeps events by default.
_MOST_KEPT = 10_000


@dataclass(frozen=True)
class Arrival:
    """What comes in a stream: an event with its label, an event that waits for it, or that label.

    Attributes:
        x: the event; None where `id` and `y` are the late label of one that waits.
        y: its label or target; None where it is not known.
        id: under which an event without a label waits; without an id it is only answered.
    """

    x: object = None
    y: object = None
    id: EventId | None = None


@dataclass(frozen=True)
class Answer:
    """What was answered to an event before its label was known.

    Attributes:
        event: its number in this stream, from 1.
        id: of the event, where it has one.
        prediction: the label or value; None before the first label.
        probability: of the label; None for values and before the first label.
        y: the label or target where it came with the event, else None.
    """

    event: int
    id: EventId | None
    prediction: object
    probability: float | None
    y: object


@dataclass
class FollowedStream:
    """How a stream goes, so far: counts and running scores, the same object in every report.

    Attributes:
        scores: prequential: each answer stood before its label was learned.
        num_events: that came.
        num_learned: whose labels came, at once or late.
        num_late: whose labels came late.
        num_unknown: late labels for ids that do not wait.
        num_repeated: events whose ids wait already; they are only answered.
        num_restarts: trees that began anew after drift.
        num_new_concepts: concepts and their trees that were opened.
    """

    scores: StreamScores | ValueScores
    num_events: int = 0
    num_learned: int = 0
    num_late: int = 0
    num_unknown: int = 0
    num_repeated: int = 0
    num_restarts: int = 0
    num_new_concepts: int = 0


@dataclass(frozen=True)
class BlockReport:
    """What a block of arrivals brought.

    Attributes:
        stream: the stream so far.
        answers: to the block's events, in their order.
        happened: to concepts and trees while the block was learned.
        unknown_ids: of late labels that nothing waits for.
    """

    stream: FollowedStream
    answers: list[Answer] = field(default_factory=list)
    happened: list[StreamEvent] = field(default_factory=list)
    unknown_ids: list[EventId] = field(default_factory=list)


def follow(
    learner: StreamLearner, arrivals: Iterable[object], *, block: int = 1
) -> Iterator[BlockReport]:
    """Test, then learn: answer each event of a stream before its label is learned, and report.

    Args:
        learner: learns in place.
        arrivals: pairs (x, y), y None where the label is not known; an `Arrival` where labels
            come late; or batches (X, y) of a `torch.utils.data.DataLoader`: X a tensor (B, D) or
            a mapping of columns to B values, y of length B.
        block: labelled events that are answered together, then learned together: faster, and the
            last of them are answered without the labels of the first. 1 is event by event.

    Yields: a report after every block. An event that waits and a late label end a block.

    Raises:
        SettingError: a block below 1.
        DataError: an event, a label or a batch that cannot be read; learning may go on with a
            new call.

    >>> events = [({"amount": float(n % 10)}, n % 10 > 5) for n in range(200)]
    >>> for report in follow(StreamClassifier(), events, block=10):
    ...     pass
    >>> report.stream.num_learned, report.stream.scores.accuracy > 0.9
    (200, True)
    """
    if block < 1:
        raise SettingError(f"block {block}; 1 event or more")
    follower = _Follower(learner)
    waiting: list[Arrival] = []
    for arrival in _open_arrivals(arrivals):
        if arrival.x is not None and arrival.y is not None:
            waiting.append(arrival)
            if len(waiting) == block:
                yield follower.learn(waiting)
                waiting = []
            continue
        if waiting:
            yield follower.learn(waiting)
            waiting = []
        yield follower.take_late(arrival) if arrival.x is None else follower.expect(arrival)
    if waiting:
        yield follower.learn(waiting)


def list_figures(learner: StreamLearner, stream: FollowedStream | None) -> dict[str, Any]:
    """How a stream goes, by name: counts and running scores, for a line or for JSON.

    Args:
        learner: that follows it.
        stream: of its last report; None where nothing has come.

    Returns: scores only if an answer was scored; None for one that is not finite.
    """
    figures: dict[str, Any] = {
        "events": 0 if stream is None else stream.num_events,
        "learned": 0 if stream is None else stream.num_learned,
        "late": 0 if stream is None else stream.num_late,
        "waiting": learner.num_waiting,
        "unknown_ids": 0 if stream is None else stream.num_unknown,
        "repeated_ids": 0 if stream is None else stream.num_repeated,
        "drifts": 0 if stream is None else stream.num_restarts,
        "new_concepts": 0 if stream is None else stream.num_new_concepts,
        "concepts": sum(one.level == "concepts" for one in learner.read_concepts()),
    }
    if stream is None or not stream.scores.num_events:
        return figures
    found = stream.scores.to_figures()
    names = {"accuracy", "kappa", "mae", "rmse", "r_squared"}
    return figures | {
        name: value if math.isfinite(value) else None
        for name, value in found.items()
        if name in names
    }


class _Follower:
    """A learner, and the answers that wait to be scored."""

    def __init__(self, learner: StreamLearner) -> None:
        self.learner = learner
        is_classifier = isinstance(learner, StreamClassifier)
        self.stream = FollowedStream(StreamScores() if is_classifier else ValueScores())
        self._kept: dict[EventId, Any] = {}
        self._last_change = self._read_last_change()

    def learn(self, arrivals: list[Arrival]) -> BlockReport:
        """Answer labelled events, then learn them."""
        events = [arrival.x for arrival in arrivals]
        # Read first: a label that is none refuses the block before anything is counted.
        targets = [self._read(arrival.y) for arrival in arrivals]
        if len(events) == 1:
            foreseen = [self._foresee(events[0], None)]
            self.learner.learn_one(events[0], targets[0])
        else:
            foreseen = self._foresee_many(events)
            self.learner.learn_many(events, targets)
        self.stream.num_learned += len(arrivals)
        for answer, target in zip(foreseen, targets, strict=True):
            self.stream.scores.update(target, answer)
        return self._report([self._answer(*one) for one in zip(arrivals, foreseen, strict=True)])

    def expect(self, arrival: Arrival) -> BlockReport:
        """Answer an event without a label; it waits if it has an id."""
        event_id = arrival.id
        if event_id is not None and self.learner.is_waiting(event_id):
            self.stream.num_repeated += 1
            event_id = None
        foreseen = self._foresee(arrival.x, event_id)
        if event_id is not None:
            self._kept[event_id] = foreseen
            if len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        return self._report([self._answer(arrival, foreseen)])

    def take_late(self, arrival: Arrival) -> BlockReport:
        """Learn the label of an event that waits."""
        if arrival.id is None:
            raise DataError(f"label {str(arrival.y)[:60]!r} without an event and without an id")
        target = self._read(arrival.y)
        try:
            self.learner.learn_one(id=arrival.id, y=target)
        except UnknownEvent:
            self.stream.num_unknown += 1
            return self._report([], [arrival.id])
        self.stream.num_learned += 1
        self.stream.num_late += 1
        if arrival.id in self._kept:
            self.stream.scores.update(target, self._kept.pop(arrival.id))
        return self._report([])

    def _read(self, y: object) -> Any:
        return read_label(y) if isinstance(self.learner, StreamClassifier) else read_target(y)

    def _foresee(self, x: object, event_id: EventId | None) -> Any:
        """Probabilities by label, or a value."""
        if isinstance(self.learner, StreamClassifier):
            return self.learner.predict_proba_one(x, id=event_id)
        return self.learner.predict_one(x, id=event_id)

    def _foresee_many(self, events: list[object]) -> list[Any]:
        if isinstance(self.learner, StreamRegressor):
            return cast(list[Any], self.learner.predict_many(events).tolist())
        labels = self.learner.classes
        rows = self.learner.predict_proba_many(events).tolist()
        return [dict(zip(labels, row, strict=True)) for row in rows]

    def _answer(self, arrival: Arrival, foreseen: Any) -> Answer:
        self.stream.num_events += 1
        number = self.stream.num_events
        if not isinstance(foreseen, Mapping):
            return Answer(number, arrival.id, foreseen, None, arrival.y)
        if not foreseen:
            return Answer(number, arrival.id, None, None, arrival.y)
        best = max(foreseen, key=foreseen.__getitem__)
        return Answer(number, arrival.id, best, foreseen[best], arrival.y)

    def _report(
        self, answers: list[Answer], unknown_ids: list[EventId] | None = None
    ) -> BlockReport:
        happened = [one for one in self.learner.read_events() if one.event > self._last_change]
        if happened:
            self._last_change = happened[-1].event
            restarts = sum(one.kind == "restart" for one in happened)
            self.stream.num_restarts += restarts
            self.stream.num_new_concepts += len(happened) - restarts
        return BlockReport(self.stream, answers, happened, unknown_ids or [])

    def _read_last_change(self) -> int:
        return max((one.event for one in self.learner.read_events()), default=-1)


def _open_arrivals(arrivals: Iterable[object]) -> Iterator[Arrival]:
    for one in arrivals:
        if isinstance(one, Arrival):
            yield one
        elif isinstance(one, tuple | list) and len(one) == 2:
            if _is_batch(one[1]):
                yield from _open_batch(*one)
            else:
                yield Arrival(one[0], one[1])
        else:
            raise DataError(
                f"a {type(one).__name__} in a stream; give pairs (x, y), batches (X, y) or Arrival"
            )


def _is_batch(y: object) -> bool:
    return isinstance(y, list | tuple) or getattr(y, "ndim", 0) == 1


def _open_batch(X: Any, y: Any) -> Iterator[Arrival]:
    targets = y.tolist() if hasattr(y, "tolist") else list(y)
    if isinstance(X, Mapping):
        columns = [(name, _list_values(values)) for name, values in X.items()]
        sizes = {len(values) for _, values in columns}
        rows: list[Any] = [
            {name: values[n] for name, values in columns} for n in range(min(sizes, default=0))
        ]
    elif hasattr(X, "to_dict"):  # a pandas frame
        rows, sizes = X.to_dict("records"), {len(X)}
    else:
        rows, sizes = list(X), {len(X)}
    if sizes != {len(targets)}:
        raise DataError(f"a batch of {sorted(sizes)} events and {len(targets)} labels")
    for x, target in zip(rows, targets, strict=True):
        yield Arrival(x, target)


def _list_values(values: Any) -> list[Any]:
    return cast(list[Any], values.tolist()) if hasattr(values, "tolist") else list(values)
