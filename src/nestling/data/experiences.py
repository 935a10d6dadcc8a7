"""Experiences: what arrives together, and how a labelled set is cut into a sequence of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from nestling.core.errors import DataError, SettingError, ShapeMismatch, UnknownLabel

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Experience:
    """Experience (task): training examples that arrive together, and test examples of their kind.

    Args:
        name: what to call it in tables.
        train: inputs (N, ...) and targets (N, ...).
        test: the same for held-out examples.
        classes: labels that occur in it; empty for real targets.
        task: task label, if the scenario gives one; None if not.

    Raises:
        ShapeMismatch: inputs and targets of different lengths.
        DataError: no example.
    """

    name: str
    train: Pair
    test: Pair
    classes: tuple[int, ...]
    task: int | None = None

    def __post_init__(self) -> None:
        for part, (x, y) in (("train", self.train), ("test", self.test)):
            if len(x) != len(y):
                raise ShapeMismatch(
                    f"experience {self.name!r}, {part}: {len(x)} inputs and {len(y)} targets; "
                    "give one target per input"
                )
            if len(x) == 0:
                raise DataError(f"experience {self.name!r} has no {part} example; give at least 1")

    def loader(self, batch_size: int, generator: torch.Generator) -> DataLoader[tuple[Tensor, ...]]:
        """A DataLoader over the training examples, shuffled anew at each pass.

        Args:
            batch_size: examples per batch, at least 1.
            generator: draws the order.
        """
        data = TensorDataset(*self.train)
        return DataLoader(data, batch_size=batch_size, shuffle=True, generator=generator)


def list_classes(y: Tensor) -> tuple[int, ...]:
    """Labels that occur, in ascending order; none for real-valued targets.

    >>> list_classes(torch.tensor([3, 1, 3]))
    (1, 3)
    """
    return () if y.is_floating_point() else tuple(y.unique().tolist())


def split_by_class(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, groups: Sequence[Sequence[int]]
) -> list[Experience]:
    """Class-incremental split: each experience has its own classes; no task label.

    Args:
        x: (N, ...) training inputs.
        y: (N,) labels.
        x_test: (T, ...) test inputs.
        y_test: (T,) labels.
        groups: the classes of each experience, in order; a class may stand in one only.

    Returns: an experience per group, named e.g. "classes 0 1".

    Raises:
        ShapeMismatch: inputs and labels of different lengths.
        SettingError: an empty group, or a class in two groups.
        UnknownLabel: a class without a training example.

    >>> x, y = torch.zeros(4, 2), torch.tensor([0, 1, 2, 3])
    >>> [e.name for e in split_by_class(x, y, x, y, [[0, 1], [2, 3]])]
    ['classes 0 1', 'classes 2 3']
    """
    check_lengths(x, y, x_test, y_test)
    _check_groups(groups, y)
    made = []
    for group in groups:
        inside = torch.isin(y, torch.tensor(group, dtype=torch.int64, device="cpu"))
        inside_test = torch.isin(y_test, torch.tensor(group, dtype=torch.int64, device="cpu"))
        made.append(
            Experience(
                name="classes " + " ".join(str(label) for label in group),
                train=(x[inside], y[inside]),
                test=(x_test[inside_test], y_test[inside_test]),
                classes=tuple(sorted(group)),
            )
        )
    return made


def task_incremental(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, groups: Sequence[Sequence[int]]
) -> list[Experience]:
    """Task-incremental split: as `split_by_class`, with the task labels 0, 1, 2, ...

    >>> x, y = torch.zeros(2, 2), torch.tensor([0, 1])
    >>> [e.task for e in task_incremental(x, y, x, y, [[0], [1]])]
    [0, 1]
    """
    return [
        Experience(one.name, one.train, one.test, one.classes, task=index)
        for index, one in enumerate(split_by_class(x, y, x_test, y_test, groups))
    ]


def domain_incremental(
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    y_test: Tensor,
    transforms: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    generator: torch.Generator,
) -> list[Experience]:
    """Domain-incremental scenario: the same classes in one domain after another.

    Args:
        x: (N, ...) training inputs; cut at random into one part per domain.
        y: (N,) targets.
        x_test: (T, ...) test inputs; all of them in every domain.
        y_test: (T,) targets.
        transforms: name of the domain -> what it does to inputs, in order.
        generator: draws the parts.

    Raises:
        ShapeMismatch: inputs and targets of different lengths.
        SettingError: no domain.

    >>> x, y = torch.ones(4, 1), torch.zeros(4, dtype=torch.long)
    >>> domains = {"as is": lambda x: x, "negative": lambda x: -x}
    >>> made = domain_incremental(x, y, x, y, domains, generator=torch.Generator())
    >>> [(e.name, e.train[0].flatten().tolist()) for e in made]
    [('as is', [1.0, 1.0]), ('negative', [-1.0, -1.0])]
    """
    if not transforms:
        raise SettingError("domain_incremental needs at least one domain in transforms")
    check_lengths(x, y, x_test, y_test)
    order = torch.randperm(len(x), generator=generator, device="cpu")
    parts = order.tensor_split(len(transforms))
    return [
        Experience(name, (change(x[rows]), y[rows]), (change(x_test), y_test), list_classes(y))
        for rows, (name, change) in zip(parts, transforms.items(), strict=True)
    ]


def check_lengths(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, what: str = "the labelled set"
) -> None:
    """Refuse inputs and targets that do not pair up, before any is chosen by the other.

    Args:
        x: (N, ...) training inputs.
        y: (N, ...) targets.
        x_test: (T, ...) test inputs.
        y_test: (T, ...) targets.
        what: to call them in errors.

    Raises:
        ShapeMismatch: different lengths; names both.
    """
    for part, inputs, targets in (("train", x, y), ("test", x_test, y_test)):
        if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
            raise ShapeMismatch(
                f"{what}, {part}: inputs {tuple(inputs.shape)} and targets "
                f"{tuple(targets.shape)} differ in length; give one target per input"
            )


def _check_groups(groups: Sequence[Sequence[int]], y: Tensor) -> None:
    known, taken = set(list_classes(y)), set[int]()
    for group in groups:
        if not group:
            raise SettingError("an experience without classes; give each group at least one class")
        for label in group:
            if label in taken:
                raise SettingError(f"class {label} stands in two experiences; keep it in one")
            if label not in known:
                raise UnknownLabel(f"class {label} has no training example; known: {sorted(known)}")
            taken.add(label)
