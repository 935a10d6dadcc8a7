"""A thousand persons on one spine: bytes of each, and what they cost against one."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from nestling.bench.personal.first_events import MLP_EPOCHS, MLP_SIZES
from nestling.bench.personal.given_models import give, make_plain, train
from nestling.bench.timing import Figures, Rows, time_rounds
from nestling.core.seeds import make_generator
from nestling.data.digits import load_digits, restyle_digits
from nestling.data.persons import KINDS, Pair, make_kinds

STEEPEST = 0.9  # slant of any person


class LearnsPerson(Protocol):
    """What `learner.personal(name)` gives."""

    def learn(self, x: Tensor, y: Tensor) -> object:
        """Learn one batch of this person."""

    def state_dict(self) -> Mapping[str, Any]:
        """Its own levels only."""


class ServesPersons(Protocol):
    """A learner with a learner per person on it."""

    def personal(self, name: str) -> LearnsPerson:
        """The learner of one person."""


@dataclass(frozen=True)
class Crowd:
    """How many persons come, and what each gives.

    Args:
        num_persons: that come in each round; those of earlier rounds stay.
        rounds: that count, after one that does not.
        batch_size: examples learned at once.
        batches: of each person.
    """

    num_persons: int = 200
    rounds: int = 5
    batch_size: int = 5
    batches: int = 4


def measure_many(seed: int, *, crowd: Crowd | None = None) -> tuple[Figures, Rows]:
    """`personal_bytes` and `personal_over_one`, by `learner.personal(name)`.

    A spine 64-128-64-10 of digits, and a learner on it that has learned the same 1,000 old
    examples. In each round 200 persons come, each of whom slants in another way, and give 20
    examples: batch by batch of 5, one person after another, then the next batch of each. Against
    them one person on another such learner gives as many examples in as many batches. Coming is
    paid for. Nobody leaves, so in the last of 5 rounds that count 1,200 persons are there. CPU
    seconds; the figure is the median of the rounds' ratios. Bytes are those of the largest state
    of any person, including the one who gave all of hers.

    Args:
        seed: of digits, weights and slants.
        crowd: None for the usual one.
    """
    old = next(make_kinds(seed, KINDS)).trained
    model = train(make_plain(MLP_SIZES, seed), old, seed, MLP_EPOCHS)
    # Learners as those see them who serve many persons.
    shared, alone = (give(model, seed, old=old) for _ in range(2))
    return compare_crowds(shared, alone, crowd or Crowd(), seed)


def compare_crowds(
    shared: ServesPersons, alone: ServesPersons, crowd: Crowd, seed: int
) -> tuple[Figures, Rows]:
    """The figures of `measure_many`, of any two learners that are alike.

    Args:
        shared: on which all persons come.
        alone: on which one comes.
        crowd: how many.
        seed: of what the persons give.
    """
    persons = draw_persons(crowd, seed)
    one = alone.personal("one")
    present: list[LearnsPerson] = []
    turns = [iter(range(crowd.rounds + 1)) for _ in range(2)]

    def come(round_number: int) -> list[list[Pair]]:
        start = round_number * crowd.num_persons
        return persons[start : start + crowd.num_persons]

    def run_many() -> float:
        given, number = come(next(turns[0])), len(present)
        started = time.process_time()
        newcomers = [shared.personal(f"person {number + i}") for i in range(len(given))]
        _learn_round_robin(newcomers, given)
        taken = time.process_time() - started
        present.extend(newcomers)
        return taken

    def run_one() -> float:
        given = come(next(turns[1]))
        started = time.process_time()
        _learn_round_robin([one] * len(given), given)
        return time.process_time() - started

    seconds = time_rounds({"many": run_many, "one": run_one}, crowd.rounds)
    sizes = [count_state_bytes(learner.state_dict()) for learner in (one, *present)]
    rows: Rows = [
        {
            "round": number,
            "persons": (number + 1) * crowd.num_persons,
            "batches": crowd.num_persons * crowd.batches,
            "many_seconds": many,
            "one_seconds": single,
            "ratio": many / single,
        }
        for number, (many, single) in enumerate(
            zip(seconds["many"], seconds["one"], strict=True), start=1
        )
    ]
    figures = {
        "personal_bytes": float(max(sizes)),
        "personal_over_one": statistics.median(float(str(row["ratio"])) for row in rows),
    }
    state: dict[str, object] = {"persons": len(present), "bytes of one": sizes[0]}
    state["median bytes of persons"] = statistics.median(sizes[1:])
    return figures, [*rows, state]


def draw_persons(crowd: Crowd, seed: int) -> list[list[Pair]]:
    """The batches of every person, who slants all digits in a way of her own.

    Args:
        crowd: how many persons, and how much each gives.
        seed: of slants and digits.
    """
    x, y = load_digits()
    generator = make_generator(seed, "many persons")
    found: list[list[Pair]] = []
    for _ in range(crowd.num_persons * (crowd.rounds + 1)):
        slant = STEEPEST * (
            2.0 * torch.rand((), generator=generator, dtype=torch.float32, device="cpu") - 1.0
        )
        count = crowd.batch_size * crowd.batches
        rows = torch.randperm(len(x), generator=generator, device="cpu")[:count]
        own = restyle_digits(x[rows], slant=float(slant), turn_degrees=0.0, pen=0.0)
        batches = zip(own.split(crowd.batch_size), y[rows].split(crowd.batch_size), strict=True)
        found.append(list(batches))
    return found


def count_state_bytes(state: object) -> int:
    """Bytes of all tensors in a state, however it is nested; what else it holds counts nothing.

    >>> count_state_bytes({"a": torch.zeros(3), "b": [{"c": torch.zeros(2, 2), "d": 1}]})
    28
    """
    if isinstance(state, Tensor):
        return state.nbytes
    if isinstance(state, Mapping):
        return sum(map(count_state_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(count_state_bytes, state))
    return 0


def _learn_round_robin(learners: Sequence[LearnsPerson], given: Sequence[Sequence[Pair]]) -> None:
    """The first batch of each, then the second of each, and so on."""
    for batches in zip(*given, strict=True):
        for learner, (x, y) in zip(learners, batches, strict=True):
            learner.learn(x, y)
