"""A copy of a model that answers beside it, and that is saved as tensors alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.errors import MismatchedParameters, NotFitted
from nestling.core.modes import copy_module
from nestling.core.params import Params, average_into, sum_dtype
from nestling.protect.penalties.quadratic import copy_tensors, count_tensor_bytes, pad_rows


class ModelCopy:
    """A model's weights and buffers at another time, or their running mean, in a module of its own.

    The module is made of the first model that it follows. Tensors that were loaded wait for one.
    Beside a module in half precision, in which a slow mean would never move, its means are kept in
    float32, and the module holds them rounded.

    Attributes:
        trainable: names of the parameters that were to be trained in the model; none is here.

    >>> model, mean = nn.Linear(1, 1, bias=False), ModelCopy()
    >>> _ = nn.init.ones_(model.weight)
    >>> mean.follow(model)
    >>> _ = nn.init.zeros_(model.weight)
    >>> mean.average(model, decay=0.75)
    >>> mean.read().weight
    Parameter containing:
    tensor([[0.7500]])
    """

    def __init__(self) -> None:
        self._module: nn.Module | None = None
        self._waiting: dict[str, Tensor] = {}
        self._means: dict[str, Tensor] = {}
        self.trainable: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether no model was followed and nothing was loaded."""
        return self._module is None and not self._waiting

    def follow(self, model: nn.Module) -> None:
        """Take the model's structure, and the values of all that the copy lacks.

        Nothing is done if the structure is the copy's. Rows that a head has more are taken over.

        Raises:
            MismatchedParameters: the copy has other names than the model, or other shapes.
        """
        self._follow(model, read_tensors(model))

    def average(self, model: nn.Module, decay: float) -> None:
        """values <- decay values + (1 - decay) model, buffers too; integers are copied."""
        live = read_tensors(model)
        self._follow(model, live)
        assert self._module is not None
        own = read_tensors(self._module)
        for name, value in own.items():
            wide = sum_dtype(value.dtype)
            if wide != value.dtype:
                own[name] = self._means.get(name, value).to(value.device, wide)
                self._means[name] = own[name]
        average_into(own.values(), [live[name] for name in own], decay)
        _write_tensors(self._module, self._means)

    def take(self, model: nn.Module) -> None:
        """Become a copy of the model as it is."""
        self._module, self._waiting, self._means = None, {}, {}
        self.follow(model)

    def read(self) -> nn.Module:
        """The module, in eval mode.

        Raises:
            NotFitted: values were loaded, or nothing was, and no model was followed since.
        """
        if self._module is None:
            raise NotFitted(
                "the weights that answer were loaded, but they have no module yet; "
                "build_reader(model) gives them the model's"
            )
        return self._module.eval()

    def count_bytes(self) -> int:
        """Of weights and buffers, and of means beside them."""
        module = {} if self._module is None else read_tensors(self._module)
        kept = (*module.values(), *self._waiting.values(), *self._means.values())
        return count_tensor_bytes(kept)

    def state_dict(self) -> dict[str, Any]:
        """Weights and buffers by name, copied; empty before a model was followed."""
        return copy_tensors(self._read_values())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over saved values, into the module if there is one that they fit."""
        values = copy_tensors(state)
        if self._module is not None and _read_shapes(self._read_values()) == _read_shapes(values):
            _write_tensors(self._module, values)
            self._means = _find_means(values, read_tensors(self._module))
        else:
            self._module, self._waiting, self._means = None, values, {}

    def _read_values(self) -> dict[str, Tensor]:
        # Read anew each time: who has the module may move it to another device.
        return self._waiting if self._module is None else read_tensors(self._module) | self._means

    def _follow(self, model: nn.Module, live: dict[str, Tensor]) -> None:
        # A level that stands still in this step asks for no gradient just now, so they add up.
        self.trainable |= {name for name, param in model.named_parameters() if param.requires_grad}
        own = self._read_values()
        if own and own.keys() != live.keys():
            name = min(own.keys() ^ live.keys())
            raise MismatchedParameters(
                f"{name!r} is in only one of the model and the copy of it; a model whose modules "
                "stay the same works, only a head's rows may change"
            )
        if self._module is not None and all(own[name].shape == live[name].shape for name in live):
            return
        values = {
            name: pad_rows(name, _match(value, live[name]), live[name], live[name])
            for name, value in own.items()
        }
        for name, value in values.items():
            if value.shape != live[name].shape:
                raise MismatchedParameters(
                    f"{name!r} has shape {tuple(live[name].shape)} and {tuple(value.shape)} in the "
                    "copy of it; a head may grow and not shrink"
                )
        module = copy_module(model).eval().requires_grad_(False)
        _write_tensors(module, values)
        self._module, self._waiting, self._means = module, {}, _find_means(values, live)


def read_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; also those buffers that a state_dict leaves out."""
    params = {name: param.detach() for name, param in model.named_parameters()}
    return {**params, **dict(model.named_buffers())}


def _write_tensors(module: nn.Module, values: Params) -> None:
    with torch.no_grad():
        for name, tensor in read_tensors(module).items():
            if name in values:
                tensor.copy_(values[name])


def _match(value: Tensor, live: Tensor) -> Tensor:
    """A value on the device of a live tensor and in its dtype, or in that of its mean."""
    is_mean = value.dtype == sum_dtype(live.dtype)
    return value.to(live.device, value.dtype if is_mean else live.dtype)


def _find_means(values: Params, live: Params) -> dict[str, Tensor]:
    """Those values that are kept wider than the model has them."""
    return {
        n: v.clone()
        for n, v in values.items()
        if v.dtype == sum_dtype(live[n].dtype) != live[n].dtype
    }


def _read_shapes(values: Params) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in values.items()}
