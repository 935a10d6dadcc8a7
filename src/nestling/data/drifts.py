"""Streams in which nobody tells a boundary: gradual, *drift* (inputs) and *conflict* (labels).

Axis letters: N training examples, T test examples, B examples per batch.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError, ShapeMismatch, UnknownLabel, suggest
from nestling.core.seeds import make_generator
from nestling.data.archives import Split
from nestling.data.experiences import Experience, Pair, check_lengths, list_classes

CONFLICT_ORDER = (0, 1, 0, 2, 1, 0, 2, 1, 0, 2, 1, 2)


def task_free(
    experiences: Sequence[Experience],
    *,
    num_batches: int,
    batch_size: int,
    width: float = 0.5,
    seed: int,
) -> Iterator[Pair]:
    """Task-free stream: experiences blend into one another without boundaries.

    Batch b of n draws each example, with replacement, from experience e of E with
    probability ~ exp(-(E (b + 1/2)/n - e - 1/2)^2 / (2 width^2)): a bell that wanders along
    the experiences  [Shanahan 2021, the Gaussian schedule].

    Args:
        experiences: two or more, with inputs of one shape.
        num_batches: length of the stream.
        batch_size: B, examples per batch.
        width: of the bell, in experiences; small is nearly abrupt.
        seed: of the draws.

    Returns: an iterator over ((B, ...), (B,)).

    Raises:
        DataError: one experience.
        SettingError: a number that is not positive.
        ShapeMismatch: inputs of several shapes.

    >>> from nestling.data import split_by_class
    >>> x, y = torch.zeros(4, 2), torch.tensor([0, 1, 2, 3])
    >>> stream = task_free(
    ...     split_by_class(x, y, x, y, [[0, 1], [2, 3]]), num_batches=9, batch_size=5, seed=0
    ... )
    >>> sum(len(labels) for _, labels in stream)
    45
    """
    # Checked at the call, not at the first batch: hence a generator within.
    if len(experiences) < 2:
        raise DataError(f"task_free needs 2 experiences or more, got {len(experiences)}")
    if num_batches < 1 or batch_size < 1 or not width > 0.0:
        raise SettingError(
            f"num_batches {num_batches}, batch_size {batch_size}, width {width}; "
            "give at least 1, at least 1, and above 0"
        )
    shapes = {one.name: tuple(one.train[0].shape[1:]) for one in experiences}
    if len(set(shapes.values())) > 1:
        raise ShapeMismatch(f"inputs of several shapes: {shapes}; bring them to one")
    return _draw_task_free(list(experiences), num_batches, batch_size, width, seed)


def drifting(
    contexts: Mapping[str, Split],
    order: Sequence[str],
    *,
    batch_size: int,
    num_batches: tuple[int, int] = (50, 79),
    num_blended: int = 20,
    seed: int,
) -> list[Experience]:
    """Concept drift: segments of one context each, with gradual transitions; contexts recur.

    A segment has a length drawn from `num_batches` and rows drawn with replacement. In its
    batch b < `num_blended`, an example stands in the segment's context with probability
    (b + 1)/(num_blended + 1), else in the last segment's. The first segment has no last one.

    Rows stand in the order of the stream: read them with `iterate_stream`, since
    `Experience.loader` would shuffle the blend away. No boundary need be told to a learner.

    Args:
        contexts: name -> the same examples as that context shows them, row by row: training
            inputs (N, ...), labels (N,), and the same for testing.
        order: context of each segment.
        batch_size: examples per batch.
        num_batches: least and most batches of a segment.
        num_blended: batches over which a segment begins; 0 for an abrupt one.
        seed: of lengths, rows and blends.

    Raises:
        SettingError: no segment, numbers that do not make one, or a context in the order that is
            not given.
        ShapeMismatch: contexts that differ in their rows, or inputs and labels in length.

    >>> x, y = torch.zeros(4, 1), torch.tensor([0, 1, 0, 1])
    >>> both = {"dark": (x, y, x, y), "light": (x + 1, y, x + 1, y)}
    >>> made = drifting(both, ["dark", "light", "dark"], batch_size=5, num_batches=(3, 3),
    ...     num_blended=2, seed=0)
    >>> [(e.name, len(e.train[0])) for e in made]
    [('0: dark', 15), ('1: light', 15), ('2: dark', 15)]
    """
    _check_contexts(contexts, order)
    low, high = num_batches
    if batch_size < 1 or not 1 <= low <= high or num_blended < 0:
        raise SettingError(
            f"batch_size {batch_size}, num_batches {num_batches}, num_blended {num_blended}; "
            "give at least 1, 1 <= least <= most, and at least 0"
        )
    generator = make_generator(seed, "drifting")
    made: list[Experience] = []
    for index, name in enumerate(order):
        x, y, x_test, y_test = contexts[name]
        x_last, y_last, _, _ = contexts[order[max(index - 1, 0)]]
        length = int(torch.randint(low, high + 1, (1,), generator=generator, device="cpu"))
        rows = torch.randint(len(x), (length * batch_size,), generator=generator, device="cpu")
        # Drawn for every row, blended or not, so that a blend does not change later segments.
        uniform = torch.rand(len(rows), generator=generator, dtype=torch.float32, device="cpu")
        batch = torch.arange(len(rows), device="cpu") // batch_size
        is_new = (uniform * (num_blended + 1) < batch + 1) | (batch >= num_blended)
        inputs = torch.where(_widen(is_new, x), x[rows], x_last[rows])
        labels = torch.where(is_new, y[rows], y_last[rows])
        made.append(
            Experience(f"{index}: {name}", (inputs, labels), (x_test, y_test), list_classes(labels))
        )
    return made


def relabelled(
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    y_test: Tensor,
    *,
    batch_size: int,
    num_batches: tuple[int, int] = (50, 79),
    order: Sequence[int] = CONFLICT_ORDER,
    seed: int,
) -> list[Experience]:
    """Label drift (real concept drift): the same inputs with labels that change and change back.

    Labelling 0 is the given one, the others are permutations of the classes drawn by the
    seed, all different. Segments as in `drifting`, without blending.

    Args:
        x: (N, ...) training inputs.
        y: (N,) labels.
        x_test: (T, ...) test inputs.
        y_test: (T,) labels.
        batch_size: examples per batch.
        num_batches: least and most batches of a segment.
        order: labelling of each segment.
        seed: of labellings, lengths and rows.

    Raises:
        ShapeMismatch: inputs and labels of different lengths.
        DataError: one class.
        SettingError: no order, or more labellings than there are permutations.
        UnknownLabel: a test label without a training example.

    >>> x, y = torch.zeros(4, 1), torch.tensor([0, 1, 0, 1])
    >>> made = relabelled(x, y, x, y, batch_size=2, order=[0, 1], seed=0)
    >>> [e.test[1].tolist() for e in made]
    [[0, 1, 0, 1], [1, 0, 1, 0]]
    """
    check_lengths(x, y, x_test, y_test)
    classes = torch.tensor(list_classes(y), dtype=torch.int64, device="cpu")
    if len(classes) < 2:
        raise DataError(f"{len(classes)} classes; relabelled needs at least 2")
    if not order or min(order) < 0:
        raise SettingError(f"order {list(order)}; give the labelling of each segment, 0 or more")
    foreign = y_test[~torch.isin(y_test, classes)]
    if len(foreign):
        raise UnknownLabel(f"test label {int(foreign[0])} has no training example")
    contexts: dict[str, Split] = {}
    for index, labelling in enumerate(_draw_labellings(len(classes), max(order) + 1, seed)):
        renamed = classes[labelling]
        contexts[f"labelling {index}"] = (
            *(x, renamed[torch.searchsorted(classes, y)]),
            *(x_test, renamed[torch.searchsorted(classes, y_test)]),
        )
    return drifting(
        contexts,
        [f"labelling {index}" for index in order],
        batch_size=batch_size,
        num_batches=num_batches,
        num_blended=0,
        seed=seed,
    )


def iterate_stream(experiences: Sequence[Experience], batch_size: int) -> Iterator[Pair]:
    """Batches of all experiences' training examples, one after another, in their order.

    Args:
        experiences: as `drifting` makes them.
        batch_size: examples per batch; the last of an experience may be smaller.

    Returns: an iterator over ((B, ...), (B,)).

    >>> x, y = torch.zeros(3, 1), torch.tensor([0, 1, 0])
    >>> [len(b) for _, b in iterate_stream([Experience("all", (x, y), (x, y), (0, 1))], 2)]
    [2, 1]
    """
    if batch_size < 1:
        raise SettingError(f"batch_size {batch_size}; give at least 1")
    return (
        batch
        for one in experiences
        for batch in zip(
            one.train[0].split(batch_size), one.train[1].split(batch_size), strict=True
        )
    )


def _draw_task_free(
    experiences: list[Experience], num_batches: int, batch_size: int, width: float, seed: int
) -> Iterator[Pair]:
    generator = make_generator(seed, "task free")
    centres = torch.arange(len(experiences), device="cpu") + 0.5
    sizes = torch.tensor(
        [len(one.train[1]) for one in experiences], dtype=torch.int64, device="cpu"
    )
    starts = sizes.cumsum(0) - sizes
    x = torch.cat([one.train[0] for one in experiences])
    y = torch.cat([one.train[1] for one in experiences])
    for index in range(num_batches):
        place = len(experiences) * (index + 0.5) / num_batches
        chances = torch.softmax(-((place - centres) ** 2) / (2.0 * width**2), dim=0)
        chosen = torch.multinomial(chances, batch_size, replacement=True, generator=generator)
        uniform = torch.rand(batch_size, generator=generator, dtype=torch.float64, device="cpu")
        rows = starts[chosen] + (uniform * sizes[chosen]).long()
        yield x[rows], y[rows]


def _draw_labellings(num_classes: int, count: int, seed: int) -> list[list[int]]:
    """The identity, then permutations that all differ; the first few draws nearly always do."""
    generator = make_generator(seed, "labellings")
    found = [list(range(num_classes))]
    possible = 1
    for factor in range(2, num_classes + 1):
        possible *= factor
    if count > possible:
        raise SettingError(f"{count} labellings of {num_classes} classes; there are {possible}")
    while len(found) < count:
        drawn = torch.randperm(num_classes, generator=generator, device="cpu").tolist()
        if drawn not in found:
            found.append(drawn)
    return found


def _widen(is_new: Tensor, x: Tensor) -> Tensor:
    return is_new.reshape(-1, *[1] * (x.ndim - 1))


def _check_contexts(contexts: Mapping[str, Split], order: Sequence[str]) -> None:
    if not order:
        raise SettingError("no segment; name at least one context in the order")
    for name in order:
        if name not in contexts:
            raise SettingError(f"context {name!r}; {suggest(name, contexts)}")
    shapes = {name: (split[0].shape, len(split[1])) for name, split in contexts.items()}
    if len(set(shapes.values())) > 1:
        raise ShapeMismatch(f"contexts differ in their training examples: {shapes}")
    for name, split in contexts.items():
        check_lengths(*split, f"context {name!r}")
    if len(contexts[order[0]][1]) == 0:
        raise DataError(f"context {order[0]!r} has no training example; give at least 1")
