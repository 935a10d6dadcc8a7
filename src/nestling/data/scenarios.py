"""Scenarios: how a labelled set becomes a sequence of experiences.

Axis letters: N training examples, T test examples.
"""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError, ShapeMismatch, UnknownLabel, suggest
from nestling.core.seeds import make_generator
from nestling.data.archives import Split
from nestling.data.experiences import Experience, check_lengths, list_classes, split_by_class


def class_incremental(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, *, num_experiences: int, seed: int
) -> list[Experience]:
    """Class-incremental scenario: classes in seeded random order, cut into groups.

    Args:
        x: (N, ...) training inputs.
        y: (N,) labels.
        x_test: (T, ...) test inputs.
        y_test: (T,) labels.
        num_experiences: groups; equal, or one class apart where that cannot be.
        seed: of the order of classes.

    Raises:
        ShapeMismatch: inputs and labels of different lengths.
        DataError: fewer than two classes.
        SettingError: more experiences than classes.

    >>> x, y = torch.zeros(4, 2), torch.tensor([0, 1, 2, 3])
    >>> [len(e.classes) for e in class_incremental(x, y, x, y, num_experiences=2, seed=0)]
    [2, 2]
    """
    classes = _require_classes(y)
    _require_count(num_experiences, "num_experiences")
    if num_experiences > len(classes):
        raise SettingError(
            f"{num_experiences} experiences of {len(classes)} classes; "
            f"ask for at most {len(classes)}"
        )
    generator = make_generator(seed, "class incremental")
    order = torch.tensor(classes, dtype=torch.int64, device="cpu")[
        torch.randperm(len(classes), generator=generator, device="cpu")
    ]
    groups = [part.tolist() for part in order.tensor_split(num_experiences)]
    return split_by_class(x, y, x_test, y_test, groups)


def blurred(experiences: Sequence[Experience], *, share: float, seed: int) -> list[Experience]:
    """Blurry task boundaries: a share of each experience's examples comes from the others.

    Every experience gives away round(share n) of its n examples and gets as many of what the
    others gave, so sizes stay and every example is in one experience. Test sets stay.

    Args:
        experiences: two or more, with inputs of one shape.
        share: of the examples that change place, 0 to 1.
        seed: which ones, and where they go.

    Raises:
        DataError: one experience.
        SettingError: a share outside [0, 1], or one so large that the others cannot take what an
            experience gives.

    >>> x, y = torch.arange(8.0), torch.arange(8) // 2
    >>> made = blurred(split_by_class(x, y, x, y, [[0, 1], [2, 3]]), share=0.5, seed=0)
    >>> [int((e.train[1] < 2).sum()) for e in made]
    [2, 2]
    """
    if len(experiences) < 2:
        raise DataError(f"blurred needs 2 experiences or more, got {len(experiences)}")
    if not 0.0 <= share <= 1.0:
        raise SettingError(f"share {share}; give one from 0 to 1")
    _require_one_shape({one.name: one.train[0] for one in experiences})
    generator = make_generator(seed, "blurred")
    sizes = [len(one.train[1]) for one in experiences]
    x = torch.cat([one.train[0] for one in experiences])
    y = torch.cat([one.train[1] for one in experiences])
    owner = torch.repeat_interleave(
        torch.arange(len(sizes), device="cpu"), torch.tensor(sizes, dtype=torch.int64, device="cpu")
    )
    leaving = torch.cat(
        [
            start + torch.randperm(size, generator=generator, device="cpu")[: round(share * size)]
            for start, size in zip(itertools.accumulate(sizes, initial=0), sizes, strict=False)
        ]
    )
    rows = torch.arange(len(y), device="cpu")
    rows[leaving] = leaving[_exchange(owner[leaving].tolist(), generator)]
    return [
        Experience(one.name, (x[part], y[part]), one.test, list_classes(y[part]), one.task)
        for one, part in zip(experiences, rows.split(sizes), strict=True)
    ]


def repeating(
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    y_test: Tensor,
    *,
    num_experiences: int,
    classes_per_experience: int,
    seed: int,
) -> list[Experience]:
    """Repeating classes scenario: classes return, each time with new examples.

    Each experience takes the classes that occurred least so far, ties drawn by the seed; the
    examples of a class are cut at random into one part per occurrence  [in the manner of
    class-incremental learning with repetition, Hemati 2023].

    Args:
        x: (N, ...) training inputs.
        y: (N,) labels.
        x_test: (T, ...) test inputs; all of its classes stand in each experience.
        y_test: (T,) labels.
        num_experiences: length of the sequence.
        classes_per_experience: at most the number of classes.
        seed: of the classes and parts.

    Raises:
        ShapeMismatch: inputs and labels of different lengths.
        DataError: fewer than two classes.
        SettingError: too few places for every class to come and one to return, or more
            occurrences of a class than it has examples.

    >>> x, y = torch.zeros(12, 2), torch.arange(12) % 3
    >>> made = repeating(x, y, x, y, num_experiences=3, classes_per_experience=2, seed=0)
    >>> [sum(label in e.classes for e in made) for label in range(3)]
    [2, 2, 2]
    """
    check_lengths(x, y, x_test, y_test)
    classes = _require_classes(y)
    _require_count(num_experiences, "num_experiences")
    if not 1 <= classes_per_experience <= len(classes):
        raise SettingError(
            f"classes_per_experience {classes_per_experience}; give 1-{len(classes)}"
        )
    if num_experiences * classes_per_experience <= len(classes):
        raise SettingError(
            f"{num_experiences} experiences of {classes_per_experience} classes: none of "
            f"{len(classes)} returns; make them more, or use class_incremental"
        )
    generator = make_generator(seed, "repeating")
    counts = dict.fromkeys(classes, 0)
    groups: list[list[int]] = []
    for _ in range(num_experiences):
        drawn = torch.tensor(classes, dtype=torch.int64, device="cpu")[
            torch.randperm(len(classes), generator=generator, device="cpu")
        ]
        groups.append(sorted(drawn.tolist(), key=counts.__getitem__)[:classes_per_experience])
        for label in groups[-1]:
            counts[label] += 1
    parts = {label: _cut_class(y, label, counts[label], generator) for label in classes}
    made = []
    for index, group in enumerate(groups):
        rows = torch.cat([parts[label].pop() for label in group])
        inside = torch.isin(y_test, torch.tensor(group, dtype=torch.int64, device="cpu"))
        name = f"{index}: classes " + " ".join(str(label) for label in sorted(group))
        test = (x_test[inside], y_test[inside])
        made.append(Experience(name, (x[rows], y[rows]), test, tuple(sorted(group))))
    return made


def multi_task(sets: Mapping[str, Split]) -> list[Experience]:
    """Multi-task scenario: several data sets, each with a task label and outputs of its own.

    Set t with K_t classes gets the labels sum_{s<t} K_s, ..., in the order of its own.

    Args:
        sets: name -> training inputs (N, ...), labels (N,), and the same for testing;
            inputs of one shape.

    Raises:
        ShapeMismatch: inputs of several shapes, or inputs and labels of different lengths.
        DataError: fewer than two sets, or a set of one class.
        UnknownLabel: a test label without a training example.

    >>> x, y = torch.zeros(4, 2), torch.tensor([3, 5, 3, 5])
    >>> [(e.name, e.task, e.classes) for e in multi_task({"a": (x, y, x, y), "b": (x, y, x, y)})]
    [('a', 0, (0, 1)), ('b', 1, (2, 3))]
    """
    if len(sets) < 2:
        raise DataError(f"multi_task needs 2 labelled sets or more, got {len(sets)}")
    _require_one_shape({name: x for name, (x, _, _, _) in sets.items()})
    made: list[Experience] = []
    first = 0
    for task, (name, (x, y, x_test, y_test)) in enumerate(sets.items()):
        check_lengths(x, y, x_test, y_test, f"set {name!r}")
        classes = torch.tensor(
            _require_classes(y, f"set {name!r}"), dtype=torch.int64, device="cpu"
        )
        foreign = y_test[~torch.isin(y_test, classes)]
        if len(foreign):
            raise UnknownLabel(
                f"set {name!r}: test label {int(foreign[0])} has no training example; "
                f"{suggest(str(int(foreign[0])), [str(label) for label in classes.tolist()])}"
            )
        columns = tuple(range(first, first + len(classes)))
        train = (x, torch.searchsorted(classes, y) + first)
        test = (x_test, torch.searchsorted(classes, y_test) + first)
        made.append(Experience(name, train, test, columns, task))
        first += len(classes)
    return made


def _exchange(owners: list[int], generator: torch.Generator) -> Tensor:
    """A random reordering that puts nothing back with its owner: place -> which item comes."""
    highest = max((owners.count(owner) for owner in set(owners)), default=0)
    if 2 * highest > len(owners):
        raise SettingError(
            f"one experience gives away {highest} examples, the others only "
            f"{len(owners) - highest} places; take a smaller share or experiences of like size"
        )
    comes: list[int] = torch.randperm(len(owners), generator=generator, device="cpu").tolist()
    for place, owner in enumerate(owners):
        if owners[comes[place]] != owner:
            continue
        # A place that fits exists, since no owner has more than half, and the swap makes no new
        # clash; drawing until one is met takes about n log n draws for all clashes together.
        other = place
        while owners[other] == owner or owners[comes[other]] == owner:
            other = int(torch.randint(len(owners), (1,), generator=generator, device="cpu"))
        comes[place], comes[other] = comes[other], comes[place]
    return torch.tensor(comes, dtype=torch.long, device="cpu")


def _cut_class(y: Tensor, label: int, num_parts: int, generator: torch.Generator) -> list[Tensor]:
    rows = (y == label).nonzero().flatten()
    if len(rows) < num_parts:
        raise SettingError(
            f"class {label} occurs {num_parts} times but has {len(rows)} training examples; "
            "ask for fewer experiences"
        )
    rows = rows[torch.randperm(len(rows), generator=generator, device="cpu")]
    return list(rows.tensor_split(num_parts))


def _require_classes(y: Tensor, what: str = "the labelled set") -> tuple[int, ...]:
    classes = list_classes(y)
    if len(classes) < 2:
        raise DataError(f"{what} has {len(classes)} classes; a scenario needs at least 2")
    return classes


def _require_count(number: int, name: str) -> None:
    if number < 1:
        raise SettingError(f"{name} {number}; give at least 1")


def _require_one_shape(inputs: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(x.shape[1:]) for name, x in inputs.items()}
    if len(set(shapes.values())) > 1:
        raise ShapeMismatch(f"inputs of several shapes: {shapes}; bring them to one")
