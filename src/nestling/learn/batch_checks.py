"""Whether a batch can be learned from: everything that is wrong with it, said before it is used."""

import math

import torch
from torch import Tensor

from nestling.core.batches import IGNORE_INDEX, Batch
from nestling.core.errors import DataError, NonFiniteInput, ShapeMismatch, UnknownLabel


def check_batch(
    batch: Batch, num_classes: int | None = None, *, dtype: torch.dtype | None = None
) -> None:
    """Raise if a batch cannot be learned from; a batch of size 0 passes.

    Args:
        batch: what `read_batch` gave.
        num_classes: K, the declared number of classes: targets must be integers below it.
            None: not declared, integers may be any class and floats are values.
        dtype: floating dtype of the model's parameters, to compare the inputs with; None:
            not compared.

    Raises:
        ShapeMismatch: lengths or dtypes that do not fit together.
        NonFiniteInput: NaN or infinity; says where.
        UnknownLabel: a label outside the declared classes.
        DataError: a sequence or dense target of which every position is ignored.
    """
    size = batch.size
    named = batch.features
    for name, tensor in named.items():
        _check_length(name, tensor, size)
        if not tensor.dtype.is_floating_point:
            continue
        if dtype is not None and tensor.dtype != dtype:
            raise ShapeMismatch(
                f"{name} is {_show(tensor.dtype)} but the model is {_show(dtype)}; convert it "
                f"with .to(torch.{_show(dtype)})"
            )
        _check_finite(name, tensor)
    if batch.target is not None:
        _check_length("target", batch.target, size)
        if batch.target.dtype.is_floating_point:
            _check_finite("target", batch.target)
        if size > 0:
            _check_labels(batch.target, batch.labels, num_classes)


def _check_length(name: str, tensor: Tensor, size: int) -> None:
    if tensor.ndim == 0 or tensor.shape[0] != size:
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
