"""What a memory accepts; everything is checked before anything is changed."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from nestling.core.errors import (
    DataError,
    ForeignSnapshot,
    NonFiniteInput,
    SettingError,
    ShapeMismatch,
    UnknownLabel,
    suggest,
)

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
TASKS = ("classification", "regression")
# Products of larger numbers, squared and summed over examples, would overflow in float64.
LARGEST_INPUT = 1e70
LARGEST_WEIGHT = 1e20
# Classes that no example has, up to a new label. A label of 250,000 among 10 is an id or a price,
# and a memory solves matrices of all pairs of classes.
MOST_SKIPPED_CLASSES = 10_000


def check_task(task: str) -> None:
    """Raise SettingError unless the task is one that memories know."""
    if task not in TASKS:
        raise SettingError(f"task {task!r}; {suggest(task, TASKS)}")


def check_half_life(half_life: float) -> float:
    """The half-life as a float; SettingError unless it is above 0."""
    if not isinstance(half_life, Real) or not half_life > 0.0:
        raise SettingError(f"half-life {half_life!r} examples; a number above 0 or math.inf works")
    return float(half_life)


def check_ridge(ridge: float | None) -> None:
    """Raise SettingError unless the strength is above 0 and finite, or None."""
    if ridge is not None and not (isinstance(ridge, Real) and 0.0 < ridge < math.inf):
        raise SettingError(
            f"ridge strength {ridge!r}; a number above 0, or None to choose it, works"
        )


def check_inputs(x: Tensor, num_inputs: int) -> Tensor:
    """x as a detached (N, num_inputs) tensor on the CPU.

    Raises:
        ShapeMismatch: another shape, or not a float (integers are no features).
        NonFiniteInput: NaN or infinity; says in which row.
        DataError: a number beyond 1e70, whose squares could overflow.
    """
    if x.ndim != 2 or x.shape[1] != num_inputs:
        raise ShapeMismatch(
            f"inputs of shape {tuple(x.shape)}; (N, {num_inputs}) works, flatten the rest"
        )
    if not x.is_floating_point():
        raise ShapeMismatch(f"inputs of dtype {x.dtype}; float32 or float64 works: x.float()")
    x = x.detach().to("cpu")
    _check_finite(x, "inputs")
    _check_size(x, "inputs", LARGEST_INPUT)
    return x


def check_codes(x: Tensor, num_inputs: int) -> Tensor:
    """x as (N, num_inputs) codes on the CPU.

    Raises:
        ShapeMismatch: another shape, or not int8.
        DataError: a code below 0.
    """
    if x.shape[1:] != (num_inputs,) or x.dtype != torch.int8:
        raise ShapeMismatch(
            f"codes of shape {tuple(x.shape)} and dtype {x.dtype}; (N, {num_inputs}) int8 works"
        )
    x = x.to("cpu")
    if x.numel() and int(x.min()) < 0:
        raise DataError(f"a code of {int(x.min())}; 0 to 127 works")
    return x


def check_rows(
    y: Tensor, num_examples: int, task: str, num_outputs: int | None, num_known: int = 0
) -> Tensor:
    """Labels as int64 (N,), or targets as float64 (N, M).

    Args:
        y: labels (N,), or targets (N,) or (N, M).
        num_examples: N.
        task: "classification" or "regression".
        num_outputs: classes or M, if they are fixed.
        num_known: classes so far, if they are not.

    Raises:
        ShapeMismatch, NonFiniteInput, UnknownLabel: as their names say.
        DataError: a target beyond 1e70.
    """
    y = y.detach().to("cpu")
    if y.shape[:1] != (num_examples,):
        raise ShapeMismatch(f"{num_examples} inputs and targets of shape {tuple(y.shape)}")
    if task == "classification":
        return check_labels(y, num_outputs, num_known)
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or (num_outputs is not None and y.shape[1] != num_outputs):
        wanted = "M" if num_outputs is None else str(num_outputs)
        raise ShapeMismatch(f"targets of shape {tuple(y.shape)}; (N, {wanted}) works")
    y = y.to(torch.float64)
    _check_finite(y, "targets")
    _check_size(y, "targets", LARGEST_INPUT)
    return y


def check_labels(y: Tensor, num_classes: int | None, num_known: int = 0) -> Tensor:
    """y as int64 labels (N,), each >= 0 and below `num_classes` if that is fixed.

    Args:
        y: integers (N,).
        num_classes: K if it is fixed; else labels may be new, but for those that leave more than
            MOST_SKIPPED_CLASSES classes before them without an example.
        num_known: classes so far.

    Raises:
        ShapeMismatch, UnknownLabel: as their names say.
    """
    if y.ndim != 1 or y.dtype not in INTEGERS:
        raise ShapeMismatch(
            f"labels of shape {tuple(y.shape)} and dtype {y.dtype}; integers (N,) work"
        )
    y = y.detach().to("cpu", torch.int64)
    if y.numel() == 0:
        return y
    low, high = int(y.min()), int(y.max())
    if low < 0:
        raise UnknownLabel(f"label {low}; labels are integers of 0 or more")
    if num_classes is not None and high >= num_classes:
        raise UnknownLabel(
            f"label {high} outside the {num_classes} declared classes: 0 to {num_classes - 1} work"
        )
    if num_classes is None and high - num_known >= MOST_SKIPPED_CLASSES:
        num_skipped = high + 1 - num_known - int((y.unique() >= num_known).sum())
        if num_skipped >= MOST_SKIPPED_CLASSES:
            raise UnknownLabel(
                f"label {high} where {num_known} classes are known would leave {num_skipped} "
                "without an example; number the classes 0, 1, 2, ..."
            )
    return y


def check_weights(weight: Tensor | Sequence[float] | None, num_examples: int) -> Tensor:
    """Weights as float64 (N,), ones if None; finite and not negative. A list is taken, too."""
    if weight is None:
        return torch.ones(num_examples, dtype=torch.float64, device="cpu")
    if not isinstance(weight, Tensor):
        try:
            weight = torch.as_tensor(weight, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise DataError(
                f"weight={weight!r:.60}; a tensor or list of {num_examples} numbers works"
            ) from None
    weight = weight.detach().to("cpu", torch.float64)
    if weight.shape != (num_examples,):
        raise ShapeMismatch(f"weights of shape {tuple(weight.shape)}; ({num_examples},) works")
    _check_finite(weight, "weights")
    if weight.numel() and float(weight.min()) < 0.0:
        raise DataError(f"weight {float(weight.min()):g}; weights of 0 or more work")
    _check_size(weight, "weights", LARGEST_WEIGHT)
    return weight


def check_clock(clock: int, num_examples: int, now: int) -> None:
    """Raise DataError unless `num_examples` examples could have arrived from `clock` on."""
    if clock < 0 or clock + num_examples > now:
        raise DataError(
            f"remove of {num_examples} examples from clock {clock} on, but the memory's clock is "
            f"{now}; use the clock that add() returned"
        )


def check_saved(saved: Mapping[str, object], own: Mapping[str, object], what: str) -> None:
    """Raise ForeignSnapshot unless a saved configuration equals the own one."""
    for name, mine in own.items():
        theirs = saved.get(name)
        if isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
            same = torch.equal(mine, theirs)
        elif isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            check_saved(theirs, mine, f"{what}'s {name}")
            same = True
        else:
            same = type(mine) is type(theirs) and mine == theirs
        if not same:
            raise ForeignSnapshot(
                f"saved by a {what} of {name} {theirs!r}, here it is {mine!r}; "
                f"build the {what} as it was built when saved"
            )


def encode_one_hot(labels_N: Tensor, num_classes: int) -> Tensor:
    """(N, K) float64 with a one in each row."""
    one_hot = torch.zeros(labels_N.shape[0], num_classes, dtype=torch.float64, device="cpu")
    return one_hot.scatter_(1, labels_N[:, None], 1.0)


def count_classes(labels_N: Tensor) -> int:
    """Classes that there must be: the largest label + 1, 0 without labels."""
    return int(labels_N.max()) + 1 if labels_N.numel() else 0


def _check_size(values: Tensor, name: str, largest: float) -> None:
    # No narrower dtype reaches so far, except float32 weights.
    if values.dtype != torch.float64 or not values.numel():
        return
    if (found := max(-float((ends := values.aminmax()).min), float(ends.max))) > largest:
        raise DataError(
            f"{name} of up to {found:g}, whose squares overflow; scale them down to {largest:g}"
        )


def _check_finite(values: Tensor, name: str) -> None:
    # One kernel: a sum is finite only if every term is. A sum that overflows is looked into.
    if math.isfinite(float(values.sum())) or bool(values.isfinite().all()):
        return
    row = int((~values.isfinite()).reshape(values.shape[0], -1).any(1).nonzero()[0])
    raise NonFiniteInput(f"{name} with NaN or infinity in row {row}; leave that row out or mend it")
