"""A long life with bad columns: constant ones, doubles, huge ones, and the same event again."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestling.bench.streams.following_events import count_bytes
from nestling.bench.timing import Figures, Rows
from nestling.data.events import Event

_NUM_PLAIN = 5  # columns that say something
_CLASSES = ("low", "middle", "high")
_HUGE = 1e6


@dataclass(frozen=True)
class AbuseAmounts:
    """How long the life is.

    Args:
        num_events: before what is judged.
        num_same: of them, in the middle, are one and the same event.
        num_after: that are judged, by a learner with this life and by a fresh one.
    """

    num_events: int = 1_000_000
    num_same: int = 200_000
    num_after: int = 20_000


def make_abused_events(num_events: int, seed: int) -> Iterator[Event]:
    """Events of three classes by a plane, with columns of no use.

    Five normal columns and how far they lie along a direction that the seed draws: the lowest
    third, the middle one, the highest. Beside them a constant, a double of the first column, and
    the second one times 10^6.
    """
    random = np.random.default_rng(seed)
    direction = random.normal(size=_NUM_PLAIN)
    direction /= float(np.linalg.norm(direction))
    for start in range(0, num_events, 1_000):
        rows = random.normal(size=(min(1_000, num_events - start), _NUM_PLAIN))
        along = rows @ direction + 0.2 * random.normal(size=len(rows))
        # Thirds of a normal distribution lie between -.43 and .43.
        labels = (along > -0.43).astype(int) + (along > 0.43)
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            x = {f"x{place}": value for place, value in enumerate(row)}
            x |= {"constant": 7.0, "double": row[0], "huge": row[1] * _HUGE}
            yield x, _CLASSES[label]


def measure_abuse(
    make_ours: Callable[[], Any], amounts: AbuseAmounts | None = None
) -> tuple[Figures, Rows]:
    """`abuse_finite`, `abuse_state_growth` and `abuse_gap` of ours.

    Finite is 1 if every answer had probabilities that are finite and sum to 1. The growth is in
    bytes, from a tenth of the events on. The gap is what a fresh learner is better by, in points
    of prequential accuracy on the events after, whose classes lie along another direction.

    Args:
        make_ours: makes a learner.
        amounts: None for the usual ones.
    """
    amounts = amounts or AbuseAmounts()
    learner, fresh = make_ours(), make_ours()
    start = (amounts.num_events - amounts.num_same) // 2
    is_finite = True
    size = 0
    number = 0
    for x, y in _abuse(amounts, start):
        is_finite &= _learn(learner, x, y)[1]
        number += 1
        if number == amounts.num_events // 10:
            size = count_bytes(learner)
    growth = count_bytes(learner) - size
    rights = [0, 0]
    for x, y in make_abused_events(amounts.num_after, seed=1):
        for place, one in enumerate((learner, fresh)):
            right, sound = _learn(one, x, y)
            rights[place] += right
            is_finite &= sound
    abused, young = (count / amounts.num_after for count in rights)
    figures = {
        "abuse_finite": float(is_finite),
        "abuse_state_growth": float(growth),
        "abuse_gap": 100.0 * (young - abused),
    }
    row: dict[str, object] = {
        "events": number,
        "same": amounts.num_same,
        "accuracy": abused,
        "fresh": young,
    }
    return figures, [row]


def _abuse(amounts: AbuseAmounts, start: int) -> Iterator[Event]:
    events = make_abused_events(amounts.num_events - amounts.num_same, seed=0)
    for number, event in enumerate(events):
        yield event
        if number == start:
            for _ in range(amounts.num_same):
                yield event


def _learn(learner: Any, x: dict[Any, Any], y: object) -> tuple[bool, bool]:
    """Whether the answer was right, and whether it was one."""
    answer = learner.predict_proba_one(x)
    learner.learn_one(x, y)
    if not answer:
        return False, True  # nothing is known before the first event
    is_sound = math.isclose(sum(answer.values()), 1.0, abs_tol=1e-3)  # NaN is close to nothing
    return max(answer, key=answer.__getitem__) == y, is_sound
