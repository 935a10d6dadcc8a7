"""Every check of a batch that a learner makes, before anything is changed."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from nestling.answer.experts import Form
from nestling.core.batches import Batch
from nestling.core.errors import DataError, UnknownLabel
from nestling.learn.growth import check_growth
from nestling.levels.memory import Checked, Rows
from nestling.memory.checks import check_weights

if TYPE_CHECKING:
    from nestling.learn.learner import Learner


@dataclass(frozen=True)
class Admitted:
    """What was found out about a batch that can be learned from.

    Args:
        form: what is predicted.
        num_outputs: outputs that the head needs; 0 for values.
        labels: targets on the CPU, a row per answer.
        classes: among the labels; empty for values.
        read: what each memory level reads of it, by name; empty if it was learned before.
        checked: the same as each memory takes it in, with targets and weights.
    """

    form: Form
    num_outputs: int
    labels: Tensor
    classes: set[int]
    read: dict[str, Rows]
    checked: dict[str, Checked]


def admit(learner: Learner, batch: Batch, weight: Tensor | None, *, is_new: bool) -> Admitted:
    """Check a batch of one example or more against model, memories and replay.

    Args:
        learner: left as it is.
        batch: passed `check_batch`.
        weight: (N,) for the memories.
        is_new: whether memories and replay take it in.

    Raises:
        DataError: the batch cannot be learned from.
        SettingError: it has a new class but the head cannot grow.
    """
    target = batch.target
    assert target is not None
    if weight is not None:
        check_weights(weight, batch.size)
    experts = learner.experts
    form = experts.form if experts.form.task is not None else experts.inspect(batch)
    labels, weight = flatten_target(target, weight)
    classes = {label for label in batch.labels if label >= 0}
    num_outputs = _count_outputs(learner, batch, form, max(classes, default=-1))
    read = {
        name: level.read_rows(batch, target) for name, level in learner.levels.items() if is_new
    }
    checked = {
        name: learner.levels[name].check(rows, labels, weight) for name, rows in read.items()
    }
    if learner.rehearsal is not None and learner.optimizer is not None and is_new:
        learner.rehearsal.check(batch)
    return Admitted(form, num_outputs, labels, classes, read, checked)


def check_loader(loader: object, epochs: int) -> None:
    """Raise DataError unless a loader can be read `epochs` times."""
    if epochs < 1:
        raise DataError(f"epochs={epochs}; 1 or more works")
    if not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        raise DataError(
            f"the loader is a {type(loader).__name__}; give a DataLoader or a list of batches"
        )
    if epochs > 1 and isinstance(loader, Iterator):
        raise DataError(
            f"epochs={epochs} but the loader can be read only once; give a DataLoader or a list"
        )


def check_task(task: object) -> int | None:
    """A task label as an integer; DataError if it is none."""
    if task is None:
        return None
    try:
        return operator.index(task)  # type: ignore[arg-type]
    except TypeError:
        raise DataError(
            f"task {task!r} is a {type(task).__name__}; number tasks 0, 1, 2, ..."
        ) from None


def _count_outputs(learner: Learner, batch: Batch, form: Form, highest: int) -> int:
    """How many outputs the head needs for the batch; refuses what it cannot have."""
    target = batch.target
    assert target is not None
    if target.is_floating_point() != (form.task == "regression"):
        raise DataError(
            f"targets are {target.dtype} now but began as "
            f"{'values' if form.task == 'regression' else 'classes'}; keep one kind"
        )
    if highest < form.num_outputs or learner.optimizer is None:
        return form.num_outputs
    if learner.num_classes is not None:
        raise UnknownLabel(
            f"label {highest} but the model has {form.num_outputs} outputs; "
            f"give it {highest + 1}, or let it grow with num_classes=None"
        )
    check_growth(learner.model, form.num_outputs, highest + 1)
    learner.experts.inspect(batch)  # that the model can take it, before the head changes
    return highest + 1


def flatten_target(target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Targets and weights with a row per answer, positions without a label dropped."""
    if target.is_floating_point():
        return target.cpu(), weight
    target = target.long()
    if target.ndim == 1:
        return target.cpu(), weight
    kept = target.reshape(-1).cpu() >= 0
    if weight is not None:
        weight = weight.cpu().repeat_interleave(target[0].numel())[kept]
    return target.reshape(-1).cpu()[kept], weight
