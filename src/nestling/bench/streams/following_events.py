"""One system on one stream: every event is answered before it is learned, and scored."""

import gc
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.bench.streams.stream_rivals import EventLearner
from nestling.data.events import Event, HeldOut, Label
from nestling.judge.stream_scores import StreamScores

WINDOW = 500  # events per point of a curve
_CHUNK = 100  # events between two looks at the clock


@dataclass(frozen=True)
class Followed:
    """What a system did on a stream; see `StreamOutcome`."""

    figures: dict[str, float]
    right: NDArray[np.bool_]
    curve: list[float]
    window: int
    cpu_seconds: float
    num_bytes: int
    held_out: dict[str, dict[str, float]]
    is_partial: bool


class WaitingLabels:
    """A learner whose labels come some events late: the learner is told what it had seen then.

    Args:
        learner: any.
        delay: events after which a label comes, 0 or more.
        by_id: the learner keeps what waits, by `id=`; else the events are kept here and given to
            it whole.
    """

    def __init__(self, learner: EventLearner, delay: int, *, by_id: bool) -> None:
        self._learner: Any = learner
        self._delay = delay
        self._by_id = by_id and delay > 0
        self._waiting: deque[tuple[Any, Label]] = deque()
        self._num_asked = 0

    def answer(self, x: dict[Any, Any]) -> Mapping[Any, float]:
        """Probabilities by label of an event whose label will come."""
        if not self._by_id:
            plain: Mapping[Any, float] = self._learner.predict_proba_one(x)
            return plain
        self._num_asked += 1
        waiting: Mapping[Any, float] = self._learner.predict_proba_one(x, id=self._num_asked)
        return waiting

    def tell(self, x: dict[Any, Any], y: Label) -> None:
        """The event's label, which the learner hears when its time has come."""
        if not self._delay:
            self._learner.learn_one(x, y)
            return
        self._waiting.append((self._num_asked if self._by_id else x, y))
        if len(self._waiting) > self._delay:
            held, label = self._waiting.popleft()
            if self._by_id:
                self._learner.learn_one(id=held, y=label)
            else:
                self._learner.learn_one(held, label)


def follow_events(
    learner: EventLearner,
    events: Iterator[Event],
    *,
    delay: int = 0,
    by_id: bool = False,
    looks: tuple[int, ...] = (),
    held_out: HeldOut | None = None,
    max_seconds: float | None = None,
) -> Followed:
    """Answer, score and learn every event of a stream, in order.

    Args:
        learner: learns in place.
        events: of the stream.
        delay: events after which a label comes.
        by_id: see `WaitingLabels`.
        looks: numbers of events after which `held_out` is answered; at the end it always is.
        held_out: groups of events that are never learned.
        max_seconds: CPU seconds of the system after which it is stopped; None for no end.

    Raises:
        NonFiniteInput: a probability that is none.
    """
    scores = StreamScores(WINDOW)
    right: list[bool] = []
    seconds = 0.0
    seen: dict[str, dict[str, float]] = {}
    waiting = WaitingLabels(learner, delay, by_id=by_id)
    is_partial = False
    while chunk := list(islice(events, _find_size(len(right), looks))):
        answers = []
        start = time.process_time()
        for x, y in chunk:
            answers.append(waiting.answer(x))
            waiting.tell(x, y)
        seconds += time.process_time() - start
        right += [scores.update(y, answer) for (_, y), answer in zip(chunk, answers, strict=True)]
        if held_out is not None and len(right) in looks:
            seen[str(len(right))] = score_held_out(learner, held_out)
        if max_seconds is not None and seconds > max_seconds:
            is_partial = next(events, None) is not None
            break
    if held_out is not None:
        seen[str(len(right))] = score_held_out(learner, held_out)
    return Followed(
        figures=scores.to_figures(),
        right=np.array(right, np.bool_),
        curve=scores.curve,
        window=WINDOW,
        cpu_seconds=seconds,
        num_bytes=count_bytes(learner),
        held_out=seen,
        is_partial=is_partial,
    )


def score_held_out(learner: EventLearner, held_out: HeldOut) -> dict[str, float]:
    """Accuracy on each group of events, which the learner is asked about and never told."""
    found = {}
    for name, events in held_out.items():
        num_right = 0
        for x, y in events:
            answer = learner.predict_proba_one(x)
            num_right += bool(answer) and max(answer, key=answer.__getitem__) == y
        found[name] = num_right / len(events)
    return found


def count_bytes(learner: object) -> int:
    """Bytes of a learner's state: what it says of itself, else of all that it refers to."""
    told = getattr(learner, "num_bytes", None)
    if isinstance(told, int):
        return told
    seen: set[int] = set()
    waiting = [learner]
    total = 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen.add(id(one))
        total += one.nbytes if isinstance(one, np.ndarray) and one.base is None else 0
        total += sys.getsizeof(one) if not isinstance(one, np.ndarray) else 0
        waiting += gc.get_referents(one)
    return total


def _find_size(num_seen: int, looks: tuple[int, ...]) -> int:
    """Events of the next chunk, which ends where there is to be looked."""
    return min([_CHUNK, *(look - num_seen for look in looks if look > num_seen)])
