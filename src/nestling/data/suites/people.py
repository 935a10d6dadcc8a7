"""Suites whose domains are people: exercises seen by a smart watch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nestling.core.seeds import make_generator
from nestling.data.experiences import Experience, list_classes
from nestling.data.sources.recordings import Recordings, read_watch
from nestling.data.suites.places import make_domains
from nestling.data.suites.suite import Request, Suite, shuffle_domains

Pair = tuple[Tensor, Tensor]  # (N, D) inputs, (N,) labels
Split = Literal["recordings", "halves"]

RATE_HZ = 50
WINDOW, STEP = 100, 50  # samples: 2 s and 1 s
STREAM_STEP = 12  # of a person's stream: a quarter of a second
VALIDATION_PEOPLE = (1, 2, 3)
# The other wrist sees the same movement mirrored: acceleration, a vector, turns over along x;
# turning, an axial vector, along y and z. The recordings agree (tests/data/test_people.py).
MIRROR = (-1.0, 1.0, 1.0, 1.0, -1.0, -1.0)


@dataclass(frozen=True, eq=False)
class PersonStream:
    """A person who comes to a model of others.

    Attributes:
        name: of the person.
        base: what the others gave to learn from.
        stream: the first seconds of what the person gives, in order.
        own_test: the person's examples to test on.
        base_test: the others'.
    """

    name: str
    base: Pair
    stream: Pair
    own_test: Pair
    base_test: Pair


def make_watch(request: Request) -> Suite:
    """Exercises seen by a smart watch: one person after another."""
    recordings = read_watch(*request.obtain("watch"))
    people = _list_people(recordings, request)
    generator = make_generator(request.stream_seed, "watch", "recordings")
    made = []
    for place in shuffle_domains(len(people), request, "watch"):
        train, test = _join(_split_person(recordings, people[place], "recordings", generator))
        made.append(Experience(f"person {people[place]}", train, test, list_classes(train[1])))
    return make_domains(
        "watch-users",
        made,
        num_classes=len(recordings.exercise_names),
        epochs=5,
        note=(
            "Shoulder exercises by smart watch (Burns 2018, in seglearn): 7 exercises, one person "
            "after another in an order drawn by the seed; people 4-10 to test, people 1-3 to "
            "validate. Each did each exercise twice, once per arm: of the two recordings the seed "
            "draws one to train and the other to test, so that no window overlaps both. What is "
            "learned is learned mirrored, too, as the other wrist would see it. Windows of 2 s "
            "every 1 s; mean, standard deviation, least and greatest of 6 axes; batch 10, 5 passes."
        ),
    )


def make_person_streams(
    request: Request, *, split: Split = "recordings", num_seconds: float = 60.0
) -> Iterator[PersonStream]:
    """Every person that is tested on, coming to a model of all others.

    Args:
        request: its seed draws which recordings are tested on.
        split: "recordings": of each exercise one recording, that is one arm, is learned from
            and the other tested on. "halves": the first half of each recording is learned
            from, the second tested on.
        num_seconds: of the stream, shared equally by what the person may give.
    """
    recordings = read_watch(*request.obtain("watch"))
    everyone = sorted(set(recordings.people.tolist()))
    generator = make_generator(request.stream_seed, "watch", "personal", split)
    sides = {one: _split_person(recordings, one, split, generator) for one in everyone}
    joined = {one: _join(pair) for one, pair in sides.items()}
    for person in _list_people(recordings, request):
        others = [joined[one] for one in everyone if one != person]
        given = sides[person][0]
        length = int(num_seconds * RATE_HZ / len(given))
        begun = [(samples[:length], label) for samples, label in given]
        yield PersonStream(
            f"person {person}",
            _concatenate([train for train, _ in others]),
            _interleave([_label(*one, is_mirrored=True, step=STREAM_STEP) for one in begun]),
            joined[person][1],
            _concatenate([test for _, test in others]),
        )


def summarise_windows(samples_SA: Tensor, step: int = STEP) -> Tensor:
    """Mean, standard deviation, least and greatest of each axis in windows of 100 every `step`.

    >>> summarise_windows(torch.ones(150, 6)).shape
    torch.Size([2, 24])
    """
    windows_NAW = samples_SA.unfold(0, WINDOW, step)
    parts = (
        *(windows_NAW.mean(2), windows_NAW.std(2, correction=0)),
        *(windows_NAW.amin(2), windows_NAW.amax(2)),
    )
    return torch.cat(parts, dim=1)


_Labelled = list[tuple[Tensor, int]]  # samples (S, A) and their exercise


def _list_people(recordings: Recordings, request: Request) -> list[int]:
    everyone = sorted(set(recordings.people.tolist()))
    return [p for p in everyone if (p in VALIDATION_PEOPLE) == (request.split == "validation")]


def _split_person(
    recordings: Recordings, person: int, split: Split, generator: torch.Generator
) -> tuple[_Labelled, _Labelled]:
    """What of a person is learned from, and what is tested on; no sample is in both."""
    learned: _Labelled = []
    tested: _Labelled = []
    for exercise in range(len(recordings.exercise_names)):
        rows = ((recordings.people == person) & (recordings.exercises == exercise)).nonzero()
        order = torch.randperm(len(rows), generator=generator, device="cpu").tolist()
        found = [recordings.samples[int(rows[index])] for index in order]
        if split == "halves":
            learned += [(samples[: len(samples) // 2], exercise) for samples in found]
            tested += [(samples[len(samples) // 2 :], exercise) for samples in found]
        else:
            learned.append((found[0], exercise))
            tested += [(samples, exercise) for samples in found[1:2]]
    return learned, tested


def _join(sides: tuple[_Labelled, _Labelled]) -> tuple[Pair, Pair]:
    learned, tested = sides
    return (
        _concatenate([_label(samples, label, is_mirrored=True) for samples, label in learned]),
        _concatenate([_label(samples, label, is_mirrored=False) for samples, label in tested]),
    )


def _label(samples_SA: Tensor, exercise: int, *, is_mirrored: bool, step: int = STEP) -> Pair:
    """Windows with their labels; mirrored ones after them."""
    seen = (
        [samples_SA, samples_SA * torch.tensor(MIRROR, dtype=torch.float32, device="cpu")]
        if is_mirrored
        else [samples_SA]
    )
    x = torch.cat([summarise_windows(one, step) for one in seen])
    return x, torch.full((len(x),), exercise, dtype=torch.int64, device="cpu")


def _concatenate(pairs: list[Pair]) -> Pair:
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def _interleave(pairs: list[Pair]) -> Pair:
    """The first rows of all, then the second ones, and so on."""
    x, y = _concatenate(pairs)
    order = torch.cat([torch.arange(len(one), device="cpu") for _, one in pairs]).argsort(
        stable=True
    )
    return x[order], y[order]


BUILDERS: dict[str, Callable[[Request], Suite]] = {"watch-users": make_watch}

# What each builder obtains.
SOURCES: dict[str, tuple[str, ...]] = {"watch-users": ("watch",)}
