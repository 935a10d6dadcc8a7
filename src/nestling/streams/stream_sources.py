"""Bounded influence of one source on a stream learner: which events are held, and who was told.

Axes: C columns, N of them numeric, K classes (1 for values), V inputs of the experts.
"""

import functools
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from nestling.core.errors import ForeignSnapshot, MismatchedParameters, NestlingError, SettingError
from nestling.learn.governing.sources import Sources
from nestling.levels import Held
from nestling.protect.influence import Admission, SourceGuard
from nestling.protect.influence.admission import read_sources
from nestling.streams.labels import Label, SeenLabels

if TYPE_CHECKING:
    from nestling.streams.event_run import EventRun

Floats = NDArray[np.float64]

# Numbers in which the guard sees an event, however many columns have come.
NUM_PLACES = 64
# Least usual distance of an event, in running deviations. A source that sends the share r of all
# events, however loud, stands at 1 / sqrt(r) deviations, 2.2 for r = 0.2: 4 times this is less.
LEAST_USUAL = 0.5
# Events that tell a shift of the inputs from one loud source.
_NUM_LATELY = 200
_LOW_64 = 2**64 - 1
# Pairs of source and rule of which held events are remembered until they are taken.
_MOST_PAIRS = 1000


@dataclass(frozen=True)
class Truth:
    """The label or target of an event, as the guard needs it.

    Args:
        admit: makes room for it, and gives it as a number.
        find_error: of the answer (K,) that stood before: 0 or 1 of a class, in running deviations
            of a value.
        is_value: whether it is a value.
    """

    admit: Callable[[], float]
    find_error: Callable[[Floats], float]
    is_value: bool


def make_label_truth(run: "EventRun", seen: SeenLabels, label: Label) -> Truth:
    """A label: wrong is an answer whose most probable class it is not."""

    def admit() -> float:
        place = seen.admit(label)
        run.fit_outputs(len(seen))
        return float(place)

    def find_error(answer_K: Floats) -> float:
        return float(int(answer_K.argmax()) != seen.find(label))

    return Truth(admit, find_error, is_value=False)


def make_value_truth(run: "EventRun", target: float) -> Truth:
    """A value: the error of an answer counts in running deviations of the target."""

    def find_error(answer_1: Floats) -> float:
        return abs(float(answer_1[0]) - target) / run.pool.read_deviation()

    return Truth(lambda: target, find_error, is_value=True)


class StreamSources:
    """The guard of a stream's sources: judges each event before anything learns it.

    An event that is held moves nothing: no label, no value, no average, only the count of events,
    and names of columns and categories that it brought. But where most sources of late are held by
    norm the inputs have shifted: then the values of what is held move the running z-scores, until
    these are of usual size again and labels are learned as before.

    Args:
        guard: None holds nothing; sources that are given all the same are counted.

    Raises:
        SettingError: no guard.
    """

    def __init__(self, guard: SourceGuard | None) -> None:
        self._known = Sources(guard)
        self.guard = guard
        self._held: OrderedDict[tuple[str, str], Held] = OrderedDict()
        self._num_judged = 0
        # Of the last events: whose, and whether the norm held it.
        self._lately: deque[tuple[str, bool]] = deque(maxlen=_NUM_LATELY)

    @property
    def num_events(self) -> dict[str, int]:
        """Source -> events that were given, of the last 10,000 sources; no part of the state."""
        return dict(self._known.num_rows)

    def read(self, source: str | Iterable[str] | None, num_events: int) -> list[str] | None:
        """The source of each event where there is a guard; else None.

        Raises:
            SettingError: there is a guard, and nobody said where the events come from.
            DataError: not as many as events, or one that is no text or empty.
        """
        if source is None:
            if self.guard is None:
                return None
            raise SettingError(
                "the learner guards its sources but was not told whose event this is; give "
                "learn_one(x, y, source='ward 3'), or learn_many a source for each event"
            )
        names = read_sources(source, num_events)
        self._known.count(names)
        return None if self.guard is None else names

    def learn_event(
        self, run: "EventRun", x_1C: Floats, source: str, weight: float, truth: Truth
    ) -> Floats:
        """Learn an event (1, C) unless it is held; the answer that stood before (1, K).

        Args:
            run: with room for the columns of the event.
            x_1C: as encoded.
            source: whose event it is.
            weight: that it would have.
            truth: its label or target.
        """
        assert self.guard is not None
        view_V, answer_1K = run.look_at(x_1C)
        found = self._judge(run, x_1C[0], view_V, source)
        error = truth.find_error(answer_1K[0]) if run.pool.num_learned else None
        if len(found.rows):
            target = truth.admit()
            answer_1K = run.learn_event(x_1C, target, min(weight, self.guard.weight))
        elif self._has_shifted(found, source):
            run.learn_event(x_1C, 0.0, 0.0)
        else:
            run.pass_over()
        self._note(found, source, error, truth)
        return answer_1K

    def learn_block(
        self,
        run: "EventRun",
        x_BC: Floats,
        sources: Sequence[str],
        weight_B: Floats,
        truths: Sequence[Truth],
    ) -> Floats:
        """Learn events in their order, bit for bit as `learn_event`; the answers before (B, K)."""
        answers = [
            self.learn_event(run, x_1C, *one)
            for x_1C, *one in zip(
                run.grow_along(x_BC), sources, weight_B.tolist(), truths, strict=True
            )
        ]
        answers_BK = np.zeros((len(answers), run.pool.sizes.num_outputs))
        for b, answer_1K in enumerate(answers):
            answers_BK[b, : answer_1K.shape[1]] = answer_1K[0]
        return answers_BK

    def learn_late(
        self,
        run: "EventRun",
        record: Mapping[str, NDArray[Any]],
        source: str,
        weight: float,
        truth: Truth,
    ) -> None:
        """Learn an event that waited unless it is held, judged by what was answered to it then."""
        assert self.guard is not None
        found = self._judge(run, record["values"], record["views"], source)
        given_K = record["given"]
        error = truth.find_error(given_K) if given_K.size and run.pool.num_learned else None
        if len(found.rows):
            run.learn_late(record, truth.admit(), min(weight, self.guard.weight))
        self._note(found, source, error, truth)

    def _judge(self, run: "EventRun", x_C: Floats, view_V: Floats, source: str) -> Admission:
        assert self.guard is not None
        scaling = run.pool.parts["scaling"]
        is_numeric_C = scaling["kinds"][: len(x_C)] == 0
        z_N = view_V[scaling["place"][: len(x_C)][is_numeric_C]]
        num_known = int(np.count_nonzero(~np.isnan(x_C[is_numeric_C])))
        row_P = place_numbers(z_N, num_known, self._num_judged)
        return self.guard.judge(torch.from_numpy(row_P[None]), source)

    def _has_shifted(self, found: Admission, source: str) -> bool:
        """Whether an event is held by norm, as most events of most sources of late are."""
        if not _is_far(found):
            return False
        num_all, num_far = Counter[str](), Counter[str]()
        for name, is_far in (*self._lately, (source, True)):
            num_all[name] += 1
            num_far[name] += is_far
        if num_all.total() <= _NUM_LATELY // 2:
            return False
        num_shifted = sum(2 * num_far[name] > num for name, num in num_all.items())
        return 2 * num_shifted > len(num_all)

    def _note(self, found: Admission, source: str, error: float | None, truth: Truth) -> None:
        assert self.guard is not None
        self._num_judged += 1
        self._lately.append((source, _is_far(found)))
        self.guard.note(found)
        if error is not None and (len(found.rows) or len(found.at_odds)):
            self.guard.note_errors(source, [error], are_residuals=truth.is_value)
        for event in found.events:
            self._remember(event)

    def _remember(self, event: Held) -> None:
        key = (event.source, event.rule)
        before = self._held.pop(key, None)
        if before is not None:
            num = before.num_rows + event.num_rows
            event = replace(event, num_rows=num, message=f"{event.message}; the last of {num}")
        self._held[key] = event
        if len(self._held) > _MOST_PAIRS:
            self._held.popitem(last=False)

    def take_events(self) -> list[Held]:
        """Take what was held since the last call: one event per source and rule."""
        held = list(self._held.values())
        self._held.clear()
        return held

    def add_to(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of a learner with that of its guard, if there is one."""
        if self.guard is None:
            return state
        own = {
            "guard": self.guard.state_dict(),
            "held": [asdict(event) for event in self._held.values()],
            "num_judged": self._num_judged,
            "lately": [list(one) for one in self._lately],
        }
        return state | {"sources": own}

    def load_with(self, state: Mapping[str, Any], load: Callable[[], None]) -> None:
        """Load the guard's part of a learner's state and the rest, or neither.

        Raises:
            ForeignSnapshot: one of them has a guard and the other none, or other settings.
        """
        if (self.guard is None) is not ("sources" not in state):
            own, its = ("no guard", "one") if self.guard is None else ("a guard", "none")
            raise ForeignSnapshot(
                f"this learner has {own} of its sources and the state has {its}; make it with the "
                "same sources="
            )
        if self.guard is None:
            load()
            return
        before = self.guard.state_dict()
        try:
            self.guard.load_state_dict(state["sources"]["guard"])
        except MismatchedParameters as error:
            raise ForeignSnapshot(str(error)) from None
        try:
            load()
        except NestlingError:
            self.guard.load_state_dict(before)
            raise
        own = state["sources"]
        held = [Held(**one) for one in own["held"]]
        self._held = OrderedDict(((one.source, one.rule), one) for one in held)
        self._num_judged = own["num_judged"]
        self._lately = deque(((name, far) for name, far in own["lately"]), maxlen=_NUM_LATELY)


def place_numbers(z_N: Floats, num_known: int, number: int) -> NDArray[np.float32]:
    """An event as the guard sees it: its running z-scores over the root of how many are known.

    The norm of them is their root mean square, whatever number of columns have come. Beyond 63
    numbers several share a place, each with a sign of its own, which keeps the norm on average
    [Charikar, Chen and Farach-Colton 2002, count sketch]. The last place holds +0.5 or -0.5,
    drawn: so the usual distance is half a running deviation at least, and events of skewed or
    mostly constant columns, most of which lie close together, are not held for being less usual.

    Args:
        z_N: z-scores of the numeric columns, 0 where missing.
        num_known: how many of them are known.
        number: of the event, from which the last place is drawn.

    Returns: (64,).

    >>> row = place_numbers(np.array([3.0, 0.0, 4.0]), 2, number=0)
    >>> round(float(np.linalg.norm(row[:-1])), 3), abs(float(row[-1]))
    (3.536, 0.5)
    """
    num_places = NUM_PLACES - 1
    row_P = np.zeros(NUM_PLACES, dtype=np.float32)
    row_P[-1] = LEAST_USUAL if _draw_bits([number])[0] else -LEAST_USUAL
    scaled_N = z_N / np.sqrt(max(num_known, 1))
    if len(z_N) <= num_places:
        row_P[: len(z_N)] = scaled_N
        return row_P
    place_N = np.arange(len(z_N)) % num_places
    row_P[:-1] = np.bincount(place_N, scaled_N * _draw_signs(len(z_N)), num_places)
    return row_P


def _draw_bits(numbers: Iterable[int]) -> list[int]:
    """0 or 1 for each number, as if drawn [splitmix64, Steele, Lea and Flood 2014]."""
    bits = []
    for number in numbers:
        mixed = (number + 1) * 0x9E3779B97F4A7C15 & _LOW_64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & _LOW_64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & _LOW_64
        bits.append(mixed >> 63)
    return bits


@functools.lru_cache(maxsize=8)
def _draw_signs(num: int) -> Floats:
    """+1 or -1 for each of so many numbers (N,)."""
    return 2.0 * np.array(_draw_bits(range(num))) - 1.0


def _is_far(found: Admission) -> bool:
    return any(event.rule == "norm" for event in found.events)
