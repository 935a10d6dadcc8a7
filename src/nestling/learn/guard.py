"""Every check of a batch, before anything is changed: all raise, or give what was found."""

import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from nestling.answer.targets import TargetSpace
from nestling.core.arguments import check_seed, check_whole, name_kind
from nestling.core.batches import Batch, show_dtype
from nestling.core.errors import (
    DataError,
    SettingError,
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
            f"targets are {show_dtype(target.dtype)} now but began as "
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
            show_dtype(target.dtype),
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
