"""Record what the layers of a model were fed and what gradient came back to their outputs.

Axes: g = groups of a convolution (1 of a linear layer), r = rows: examples, tokens or positions,
i = inputs of one output (of a kernel: channels times its size), o = outputs of a group.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.errors import SettingError

# Where a weight carries its moment while its layer is recorded, as it carries its gradient.
_SLOT = "input_moment"
# Where it lies while its layer is not.
_RESTORED = "restored_moment"
_Layer = nn.Linear | nn.Conv1d | nn.Conv2d


@dataclass
class InputMoment:
    """Second moment of a layer's inputs since the last step: a sum and how many rows are in it."""

    total_gii: Tensor
    num_rows: int

    @property
    def mean_gii(self) -> Tensor:
        """C = X^T X / r, per group."""
        return self.total_gii / self.num_rows


@dataclass
class RecordedLayer:
    """Rows of one layer, in the order in which gradients came back; lists have equal lengths."""

    inputs: list[Tensor] = field(default_factory=list)  # (g, r, i) each
    output_gradients: list[Tensor] = field(default_factory=list)  # (g, r, o) each


@contextmanager
def record_layers(model: nn.Module, *, rows: bool = False) -> Iterator[dict[str, RecordedLayer]]:
    """Record inputs and output gradients of linear and convolutional layers of a whole model.

    Within the context every backward pass adds to the second moment of each layer's inputs, which
    its weight carries, like its gradient, until an optimizer has used or cleared it (`DGD`). A pass
    without a backward adds nothing. A layer that is called several times has all its rows. The
    gradient of a weight is the sum over rows of output gradient times input; with groups, group by
    group.

    Args:
        model: its `nn.Linear`, `nn.Conv1d` and `nn.Conv2d` are recorded, by name.
        rows: keep the rows themselves too; they grow with every pass until you clear them.

    Yields: name of the layer -> its rows; empty lists without `rows`.

    Raises:
        SettingError: the model has no such layer, or is being recorded already.

    >>> net = nn.Linear(2, 1)
    >>> with record_layers(net, rows=True) as record:
    ...     net(torch.ones(3, 2)).sum().backward()
    >>> [tuple(one.shape) for one in (record[""].inputs[0], record[""].output_gradients[0])]
    [(1, 3, 2), (1, 3, 1)]
    """
    layers = {name: one for name, one in model.named_modules() if isinstance(one, _Layer)}
    if not layers:
        raise SettingError(
            f"{type(model).__name__} has no nn.Linear, nn.Conv1d or nn.Conv2d to record; "
            "nl.sgd needs no inputs"
        )
    if any(hasattr(layer.weight, _SLOT) for layer in layers.values()):
        raise SettingError(f"{type(model).__name__} is being recorded already; one context works")
    record = {name: RecordedLayer() for name in layers}
    handles = []
    try:
        for name, layer in layers.items():
            if not hasattr(layer.weight, _SLOT):  # layers may share it
                setattr(layer.weight, _SLOT, layer.weight.__dict__.pop(_RESTORED, None))
            hear = _listen(record[name] if rows else None)
            handles.append(layer.register_forward_hook(hear, with_kwargs=True))
        yield record
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers.values():
            if hasattr(layer.weight, _SLOT):  # layers may share it
                moment = getattr(layer.weight, _SLOT)
                delattr(layer.weight, _SLOT)
                set_moment(layer.weight, moment)


@contextmanager
def record_step(model: nn.Module) -> Iterator[Callable[[], None]]:
    """As `record_layers` for one step that may be refused, unless the caller records already.

    Yields: what forgets the inputs of this step.
    """
    weights = [one.weight for one in model.modules() if isinstance(one, _Layer)]
    before = [_copy(get_moment(weight)) for weight in weights]

    def forget() -> None:
        for weight, moment in zip(weights, before, strict=True):
            set_moment(weight, _copy(moment))  # of a weight that layers share, one each

    is_recorded = any(hasattr(weight, _SLOT) for weight in weights)
    with nullcontext() if is_recorded else record_layers(model):
        yield forget


def _copy(moment: InputMoment | None) -> InputMoment | None:
    return None if moment is None else InputMoment(moment.total_gii.clone(), moment.num_rows)


def find_moment(weight: Tensor) -> InputMoment:
    """The second moment of what a weight's layer was fed since the last step.

    Raises:
        SettingError: nothing was recorded.
    """
    moment = get_moment(weight)
    if moment is None:
        raise SettingError(
            f"DGD has no inputs for a weight of shape {tuple(weight.shape)}; run forward and "
            "backward within `with record_layers(model):`, for linear layers, Conv1d and Conv2d"
        )
    return moment


def get_moment(weight: Tensor) -> InputMoment | None:
    """As `find_moment`; None if nothing was recorded."""
    held: InputMoment | None = getattr(weight, _SLOT, None) or getattr(weight, _RESTORED, None)
    return held


def set_moment(weight: Tensor, moment: InputMoment | None) -> None:
    """Go on from another moment; None begins a new one, as after an update."""
    if hasattr(weight, _SLOT):
        setattr(weight, _SLOT, moment)
    elif moment is not None:
        setattr(weight, _RESTORED, moment)
    else:
        weight.__dict__.pop(_RESTORED, None)


def find_rows(layer: _Layer, inputs: Tensor) -> Tensor:
    """A layer's inputs as rows of one output each: (g, r, i).

    Args:
        layer: the layer.
        inputs: (..., i) of a linear layer, (batch, channels, length) or (batch, channels, height,
            width) of a convolution, or one example of it.

    Returns: such that weight.reshape(g, o, i) times a row is what the layer puts out, but for bias.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(1, -1, inputs.shape[-1])
    num_axes = len(layer.kernel_size)
    batch = inputs if inputs.dim() == num_axes + 2 else inputs.unsqueeze(0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(batch, layer._reversed_padding_repeated_twice, mode=mode)
    if num_axes == 1:
        padded = padded.unsqueeze(2)
    one = (1,) * (2 - num_axes)
    patches = functional.unfold(
        padded,
        kernel_size=one + tuple(layer.kernel_size),
        dilation=one + tuple(layer.dilation),
        stride=one + tuple(layer.stride),
    )  # (batch, g * i, positions)
    groups = layer.groups
    split = patches.reshape(len(patches), groups, -1, patches.shape[-1])
    return split.permute(1, 0, 3, 2).reshape(groups, -1, split.shape[2])


def find_gradient_rows(layer: _Layer, gradients: Tensor) -> Tensor:
    """Gradients of a layer's outputs as rows that match `find_rows`: (g, r, o)."""
    if isinstance(layer, nn.Linear):
        return gradients.reshape(1, -1, gradients.shape[-1])
    num_axes = len(layer.kernel_size)
    batch = gradients if gradients.dim() == num_axes + 2 else gradients.unsqueeze(0)
    split = batch.reshape(len(batch), layer.groups, batch.shape[1] // layer.groups, -1)
    return split.permute(1, 0, 3, 2).reshape(layer.groups, -1, split.shape[2])


def _listen(
    kept: RecordedLayer | None,
) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], None]:
    def hear(
        layer: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
    ) -> None:
        assert isinstance(layer, _Layer)
        if not output.requires_grad:
            return
        inputs = (given[0] if given else named["input"]).detach()

        def add(gradients: Tensor) -> None:
            rows_gri = find_rows(layer, inputs)
            _add_moment(layer.weight, rows_gri)
            if kept is not None:
                kept.inputs.append(rows_gri)
                kept.output_gradients.append(find_gradient_rows(layer, gradients).detach())

        output.register_hook(add)

    return hear


def _add_moment(weight: Tensor, rows_gri: Tensor) -> None:
    if not hasattr(weight, _SLOT):
        return  # the context was left between forward and backward
    if not weight.requires_grad:
        return  # its gradient of this pass counts nowhere, so its inputs do not either
    wide = rows_gri.to(torch.promote_types(rows_gri.dtype, torch.float32))
    total_gii = wide.mT @ wide
    before: InputMoment | None = getattr(weight, _SLOT)
    if before is None:
        setattr(weight, _SLOT, InputMoment(total_gii, wide.shape[1]))
    else:
        before.total_gii += total_gii
        before.num_rows += wide.shape[1]
