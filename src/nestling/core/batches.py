"""From what a DataLoader yields to what a model takes, its checks, and the default
loss of what it gives.

Axis letters: N examples, T tokens, K classes, H x W pixels, M outputs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nestling.core.errors import DataError, NonFiniteInput, ShapeMismatch, UnknownLabel

TARGET_KEYS = ("labels", "label", "target", "y")  # the first one found is the target
Loss = Callable[[Tensor, Tensor], Tensor]  # (output, target) -> scalar ()
IGNORE_INDEX = -100  # marks positions without a label in sequence and dense targets, as in torch


@dataclass(frozen=True)
class Batch:
    """Examples in the form of a model call: `model(*inputs, **keywords)` is to give `target`.

    Args:
        inputs: positional inputs, each (N, ...).
        keywords: inputs by name, each (N, ...).
        target: (N,) classes or values, (N, T) or (N, H, W) classes, (N, M) values, or None.
    """

    inputs: tuple[Tensor, ...]
    keywords: Mapping[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None

    @property
    def features(self) -> dict[str, Tensor]:
        """Every input under a name to show: `input 0`, ... and the keywords."""
        named = {f"input {index}": tensor for index, tensor in enumerate(self.inputs)}
        return {**named, **self.keywords}

    @property
    def size(self) -> int:
        """N, the number of examples; 0 for an empty batch.

        >>> Batch((torch.zeros(3, 2),), target=torch.zeros(3)).size
        3
        """
        first = self.inputs[0] if self.inputs else next(iter(self.keywords.values()))
        return first.shape[0] if first.ndim else 1

    @cached_property
    def labels(self) -> set[int]:
        """Distinct integer targets, the mark of ignored positions among them; empty for values."""
        if self.target is None or self.target.is_floating_point() or self.target.is_complex():
            return set()
        # A list is faster than a kernel, but not for the many positions of dense targets.
        few = self.target if self.target.numel() <= 1024 else self.target.unique()
        return set(few.reshape(-1).tolist())

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        return Batch(
            tuple(tensor.to(device) for tensor in self.inputs),
            {name: tensor.to(device) for name, tensor in self.keywords.items()},
            None if self.target is None else self.target.to(device),
        )

    def own(self) -> "Batch":
        """The same batch, its tensors copied where they were made in inference mode: nothing could
        be learned by gradient from those."""
        tensors = [*self.inputs, *self.keywords.values()]
        if not any(tensor.is_inference() for tensor in tensors):
            return self
        return Batch(
            tuple(tensor.clone() for tensor in self.inputs),
            {name: tensor.clone() for name, tensor in self.keywords.items()},
            None if self.target is None else self.target.clone(),
        )

    def call(self, model: nn.Module, values: Mapping[str, Tensor] | None = None) -> Any:
        """The model's raw output; `read_output` finds the tensor in it.

        Args:
            model: in the modes that the caller wants.
            values: parameters and buffers by name that stand in for its own; None: its own.

        Raises:
            DataError: the model cannot take such inputs; says which and what it said.
            ShapeMismatch: likewise, and none of its parameters has an input's dtype.
        """
        try:
            if values is not None:
                return functional_call(model, dict(values), self.inputs, dict(self.keywords))
            return model(*self.inputs, **self.keywords)
        except torch.OutOfMemoryError:
            raise
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            shown = [
                f"{name} {tuple(tensor.shape)} {tensor.dtype}"
                for name, tensor in self.features.items()
            ]
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            message = f"the model cannot take {', '.join(shown)}: {said}"
            if remedy := self._find_remedy(model):
                raise ShapeMismatch(f"{message}; {remedy}") from error
            raise DataError(message) from error

    def _find_remedy(self, model: nn.Module) -> str:
        """What converts a floating input whose dtype no parameter has; empty if there is none."""
        known = {param.dtype for param in model.parameters() if param.is_floating_point()}
        if len(known) != 1:
            return ""
        (dtype,) = known
        for name, tensor in self.features.items():
            if tensor.is_floating_point() and tensor.dtype != dtype:
                return f"the model is {dtype}, convert {name} with .to({dtype})"
        return ""


def read_batch(raw: object) -> Batch:
    """Read a batch as a DataLoader yields it.

    A tensor is inputs without a target; `(x, y)` and `(x1, x2, ..., y)` end with the target,
    `(x,)` has none; `((x1, x2), y)` and `({"name": x}, y)` nest the inputs; a dict (Hugging
    Face) holds the target under "labels", "label", "target" or "y" and its other entries are
    keyword inputs. NumPy arrays become tensors. Targets are taken as they stand: those of a
    causal language model must already be shifted by one token.

    Args:
        raw: tensors or NumPy arrays in one of these forms; or a `Batch`.

    Raises:
        DataError: another form; says what was found.

    >>> read_batch({"input_ids": torch.zeros(2, 5), "labels": torch.tensor([0, 1])}).target
    tensor([0, 1])
    """
    if isinstance(raw, Batch):
        return raw
    if type(raw) is tuple and len(raw) == 2 and all(isinstance(part, Tensor) for part in raw):
        return Batch((raw[0],), {}, raw[1])  # most batches; abstract classes are slow to ask
    if isinstance(raw, Mapping):
        key = next((key for key in TARGET_KEYS if key in raw), None)
        target = None if key is None else _read_tensor(raw[key], key)
        return _gather({name: value for name, value in raw.items() if name != key}, target)
    if isinstance(raw, Sequence) and not isinstance(raw, str | bytes):
        if not raw:
            raise DataError("a batch is an empty sequence; yield (x, y), (x1, ..., y) or a dict")
        if len(raw) == 1:
            return read_batch(raw[0]) if isinstance(raw[0], Mapping) else _gather(raw[0], None)
        inputs = raw[0] if len(raw) == 2 else raw[:-1]
        return _gather(inputs, _read_tensor(raw[-1], "target"))
    return _gather(raw, None)


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
                f"target is {show_dtype(target.dtype)} where one of {num_classes} classes is "
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


def show_dtype(dtype: torch.dtype) -> str:
    """A dtype in few letters.

    >>> show_dtype(torch.float32)
    'float32'
    """
    return str(dtype).removeprefix("torch.")


def read_output(output: object) -> Tensor:
    """Find the tensor of answers in what a model returns.

    Args:
        output: a tensor, a Hugging Face output or any object with `.logits`, a dict with
            "logits", or a tuple whose first tensor it is.

    Raises:
        DataError: another form; says what was found.

    >>> read_output((torch.ones(1), "hidden"))
    tensor([1.])
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"]  # type: ignore[no-any-return]
    if isinstance(found := getattr(output, "logits", None), Tensor):
        return found
    if isinstance(output, tuple | list):
        for item in output:
            if isinstance(item, Tensor):
                return item
    keys = f" with keys {sorted(map(str, output))}" if isinstance(output, Mapping) else ""
    raise DataError(
        f"the model returned a {type(output).__name__}{keys}; return a tensor, a tuple that "
        "begins with one, or an object or dict with 'logits'"
    )


def default_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy for integer targets, mean squared error for floating ones.

    Args:
        output: logits (N, K), (N, T, K) or (N, K, H, W), ...; or values shaped as `target`.
            Three-dimensional logits that fit both ways (T = K) are read as (N, T, K).
        target: classes (N,), (N, T) or (N, H, W), of which -100 is ignored; or values.

    Returns: scalar (), in nats or squared units of the target.

    Raises:
        ShapeMismatch: the shapes do not fit; says what would.

    >>> default_loss(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor(1.3863)
    """
    if target.dtype.is_floating_point:
        return nn.functional.mse_loss(output, match_values(output, target))
    logits = move_classes(output, target)
    return nn.functional.cross_entropy(logits, target.long(), ignore_index=IGNORE_INDEX)


def per_sample_loss(output: Tensor, target: Tensor) -> Tensor:
    """As `default_loss`, but (N,): the mean over each example's own positions; 0 if all ignored.

    >>> per_sample_loss(torch.zeros(2, 1), torch.tensor([1.0, 2.0]))
    tensor([1., 4.])
    """
    if target.dtype.is_floating_point:
        values = match_values(output, target)
        return (output - values).square().reshape(len(output), -1).mean(dim=1)
    logits, classes = move_classes(output, target), target.long()
    cross_entropy = nn.functional.cross_entropy
    losses = cross_entropy(logits, classes, ignore_index=IGNORE_INDEX, reduction="none")
    counts = (classes != IGNORE_INDEX).reshape(len(classes), -1).sum(dim=1)
    return losses.reshape(len(classes), -1).sum(dim=1) / counts.clamp(min=1)


def _gather(inputs: object, target: Tensor | None) -> Batch:
    if isinstance(inputs, Mapping):
        if not inputs:
            raise DataError("a batch holds no inputs; add e.g. 'input_ids'")
        named = {str(name): _read_tensor(value, str(name)) for name, value in inputs.items()}
        named = dict(sorted(named.items()))  # known by name: their order means nothing
        return Batch((), named, target)
    if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes) and inputs:
        read = [_read_tensor(value, f"input {index}") for index, value in enumerate(inputs)]
        return Batch(tuple(read), {}, target)
    return Batch((_read_tensor(inputs, "input"),), {}, target)


def _read_tensor(value: object, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if getattr(getattr(value, "dtype", None), "kind", "none") in "biuf":  # NumPy's numeric kinds
        try:
            return _copy_array(value)
        except TypeError as error:  # e.g. longdouble
            raise DataError(f"{name} of a batch: {error}") from None
    raise DataError(
        f"{name} of a batch is a {type(value).__name__}; give a tensor or a numeric NumPy array"
    )


def _copy_array(value: Any) -> Tensor:
    """A NumPy array or scalar as a tensor, also one that torch refuses as it stands: backwards, in
    the other byte order, not to be written to."""
    import numpy as np

    array = np.asarray(value)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def move_classes(output: Tensor, target: Tensor) -> Tensor:
    """Logits with the classes where torch wants them: dimension 1.

    Args:
        output: (N, K), (N, T, K) or (N, K, H, W), ...
        target: (N,), (N, T) or (N, H, W) classes.

    Raises:
        ShapeMismatch: the shapes do not fit; says what would.

    >>> move_classes(torch.zeros(2, 5, 3), torch.zeros(2, 5)).shape
    torch.Size([2, 3, 5])
    """
    is_last = output.shape[:-1] == target.shape
    if is_last and output.ndim == 2:
        return output
    is_second = output.ndim >= 2 and output.shape[:1] + output.shape[2:] == target.shape
    if is_last and (output.ndim <= 3 or not is_second):
        return output.movedim(-1, 1)
    if is_second:
        return output
    remedy = f"{target.ndim}-dimensional classes need logits of {target.ndim + 1} dimensions"
    if target.ndim == 2 and target.shape[1] == 1:
        remedy = "squeeze the target with y.squeeze(1)"
    raise ShapeMismatch(
        f"logits of shape {tuple(output.shape)} do not fit classes of shape "
        f"{tuple(target.shape)}; {remedy}"
    )


def match_values(output: Tensor, target: Tensor) -> Tensor:
    """The target in the output's shape and dtype; (N,) and (N, 1) are never broadcast to (N, N)."""
    if output.shape != target.shape:
        column = output.ndim == target.ndim + 1 and output.shape[-1] == 1
        row = target.ndim == output.ndim + 1 and target.shape[-1] == 1
        if not (column or row) or output.numel() != target.numel():
            raise ShapeMismatch(
                f"outputs of shape {tuple(output.shape)} do not fit targets of shape "
                f"{tuple(target.shape)}; give targets of the outputs' shape, or, for a "
                "classifier, whole numbers: y.long()"
            )
    return target.reshape(output.shape).to(output.dtype)
