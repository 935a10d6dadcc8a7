"""Every check of a batch, before anything is changed: all raise, or give what was found."""

import logging
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nestling.answer.targets import TargetSpace
from nestling.core.arguments import check_seed, check_whole, name_kind
from nestling.core.batches import IGNORE_INDEX, Batch
from nestling.core.errors import (
    DataError,
    NonFiniteInput,
    SettingError,
    ShapeMismatch,
    UnknownLabel,
)
from nestling.core.heads import say_width
from nestling.levels.memory import Checked, MemoryLevel, Rows
from nestling.memory.checks import check_weights

_LOGGER = logging.getLogger("nestling")


@dataclass(frozen=True)
class Admitted:
    """What was found out about a batch that can be learned from.

    Args:
        targets: what is predicted.
        num_outputs: outputs that the head needs; 0 for values.
        labels: targets on the CPU, a row per answer.
        classes: among the labels; empty for values.
        read: what each memory level reads of it, by name; empty if it was learned before.
        checked: the same as each memory takes it in, with targets and weights.
    """

    targets: TargetSpace
    num_outputs: int
    labels: Tensor
    classes: set[int]
    read: dict[str, Rows]
    checked: dict[str, Checked]


def admit(
    batch: Batch,
    weight: Tensor | Sequence[float] | None,
    targets: TargetSpace,
    memories: Mapping[str, MemoryLevel],
    inspect: Callable[[Batch], TargetSpace],
    check_growth: Callable[[int, int], None] | None,
) -> Admitted:
    """Check a batch of one example or more against what is known and who remembers.

    Args:
        batch: passed `check_batch`.
        weight: (N,) for the memories.
        targets: what is known of the targets.
        memories: that would take the batch in; none if it was learned before.
        inspect: batch -> targets, as the model lays them out; raises if it cannot take the batch.
        check_growth: (outputs, outputs wanted); raises if the head cannot grow. None: no head
            learns.

    Raises:
        DataError: the batch cannot be learned from.
        SettingError: it has a new class but the head cannot grow.
    """
    target = batch.target
    assert target is not None
    if weight is not None:
        weight = check_weights(weight, batch.size)
    if targets.task is None:
        targets = inspect(batch)
    width, declared = targets.num_outputs, targets.declared
    if check_growth is not None and declared and width and width != declared:
        raise SettingError(say_width("the model", width, declared))
    is_real = targets.task == "regression"
    if target.is_floating_point() != is_real:
        raise DataError(
            f"targets are {_show(target.dtype)} now but began as "
            + ("values; convert them with .float()" if is_real else "classes; use .long()")
        )
    labels, weight = flatten_target(target, weight)
    classes = {label for label in batch.labels if label >= 0}
    highest, num_outputs = max(classes, default=-1), targets.num_outputs
    if highest >= num_outputs and check_growth is not None:
        if targets.declared is not None:
            raise UnknownLabel(
                f"label {highest} but the model has {num_outputs} outputs; "
                f"give it {highest + 1}, or let it grow with num_classes=None"
            )
        check_growth(num_outputs, highest + 1)
        inspect(batch)  # that the model can take it, before the head changes
        num_outputs = highest + 1
    read = {name: level.read_rows(batch, target) for name, level in memories.items()}
    checked = {name: memories[name].check(rows, labels, weight) for name, rows in read.items()}
    return Admitted(targets, num_outputs, labels, classes, read, checked)


def check_settings(
    precision: object, replay: object, retain: object, num_classes: object, seed: object
) -> None:
    """Raise SettingError unless a learner can have these."""
    check_seed(seed)
    if not isinstance(retain, Sequence) or isinstance(retain, str):
        remedy = "a list of methods works, such as [nl.protect.EWC(20)]"
        raise SettingError(f"retain is {name_kind(retain)}; {remedy}")
    if num_classes is not None:
        check_whole("num_classes", num_classes, 1, "a whole number of 1 or more works, or None")
    if precision not in (None, "bf16"):
        raise SettingError(f"precision {precision!r}; known: 'bf16', or None for the model's own")
    check_whole("replay", replay, 0, "0 stores nothing, 200 stores 200 examples")


def check_loader(loader: object, epochs: int) -> None:
    """Raise SettingError or DataError unless a loader can be read `epochs` times."""
    check_whole("epochs", epochs, 1, "1 or more works")
    if isinstance(loader, Mapping) or _is_one_batch(loader):
        raise DataError(
            f"the loader is {name_kind(loader)}; give its batches: [(x, y)], or "
            "torch.utils.data.DataLoader(dataset, batch_size=32)"
        )
    if not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        raise DataError(
            f"the loader is {name_kind(loader)}; give a DataLoader or a list of batches"
        )
    if epochs > 1 and isinstance(loader, Iterator):
        raise DataError(
            f"epochs={epochs} but the loader can be read only once; give a DataLoader or a list"
        )


def warn_of_classes(batch: Batch) -> None:
    """Say once what becomes of targets that look like classes but are floats."""
    target = batch.target
    if target is not None and target.is_floating_point() and ((target == 0) | (target == 1)).all():
        _LOGGER.warning(
            "targets are %s and all 0 or 1: learned as values, by squared error; for classes give "
            "them as y.long(), and a model with one output per class",
            _show(target.dtype),
        )


def _is_one_batch(loader: object) -> bool:
    """Whether it is inputs themselves, or a pair of inputs and their targets."""
    if isinstance(loader, tuple | list) and len(loader) == 2:
        return all(hasattr(part, "shape") for part in loader)
    return hasattr(loader, "shape")


def check_pass(num_examples: int, epoch: int, epochs: int) -> None:
    """Raise DataError unless a pass over a loader gave examples; of `epochs`, counted from 0."""
    if num_examples:
        return
    if epoch == 0:
        raise DataError("the loader yields no example; give one with at least one batch")
    raise DataError(
        f"the loader yields no example in epoch {epoch + 1} of {epochs}: it can be read only once; "
        "give a DataLoader or a list of batches"
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


def check_batch(batch: Batch, num_classes: int | None = None) -> None:
    """Raise if a batch cannot be learned from; a batch of size 0 passes.

    Args:
        batch: what `read_batch` gave.
        num_classes: K, the declared number of classes: targets must be integers below it.
            None: not declared, integers may be any class and floats are values.

    Raises:
        ShapeMismatch: lengths that do not fit together, or values where classes are declared.
        NonFiniteInput: NaN or infinity; says where.
        UnknownLabel: a label outside the declared classes.
        DataError: a sequence or dense target of which every position is ignored.
    """
    size = batch.size
    named = batch.features
    for name, tensor in named.items():
        _check_length(name, tensor, size)
        if tensor.dtype.is_floating_point:
            _check_finite(name, tensor)
    if batch.target is not None:
        _check_length("target", batch.target, size)
        if batch.target.dtype.is_floating_point:
            _check_finite("target", batch.target)
        if size > 0:
            _check_labels(batch.target, batch.labels, num_classes)


def _check_length(name: str, tensor: Tensor, size: int) -> None:
    if tensor.ndim == 0:
        raise ShapeMismatch(
            f"{name} has shape (), a single number; give batches of examples, as "
            "torch.utils.data.DataLoader(dataset, batch_size=32) makes them"
        )
    if tensor.shape[0] != size:
        raise ShapeMismatch(
            f"{name} has shape {tuple(tensor.shape)}; its first dimension must be {size}"
        )


def _check_finite(name: str, tensor: Tensor) -> None:
    # One kernel: a sum is finite only if every term is. A sum that overflows is looked into.
    if math.isfinite(float(tensor.sum())):
        return
    wrong = (~torch.isfinite(tensor)).nonzero()
    if len(wrong):
        where = tuple(wrong[0].tolist())
        raise NonFiniteInput(
            f"{name} holds {float(tensor[where])} at index {where} ({len(wrong)} non-finite "
            "values in all); drop or impute them"
        )


def _check_labels(target: Tensor, labels: set[int], num_classes: int | None) -> None:
    if target.dtype.is_floating_point or target.dtype.is_complex:
        if num_classes is not None:
            raise ShapeMismatch(
                f"target is {_show(target.dtype)} where one of {num_classes} classes is "
                "expected; convert it with .long()"
            )
        return
    if target.ndim > 1 and IGNORE_INDEX in labels:
        labels = labels - {IGNORE_INDEX}
        if not labels:
            raise DataError(f"every position of the target is ignored ({IGNORE_INDEX}); skip it")
    if not labels:
        return
    if (low := min(labels)) < 0:
        raise UnknownLabel(
            f"label {low} is negative; classes are 0, 1, ..., and {IGNORE_INDEX} is ignored "
            "only in targets of two or more dimensions"
        )
    if num_classes is not None and (high := max(labels)) >= num_classes:
        raise UnknownLabel(
            f"label {high} is outside the declared classes 0..{num_classes - 1}; "
            f"declare num_classes={high + 1} or more"
        )


def _show(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
