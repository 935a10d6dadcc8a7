"""State of a model that no level owns: frozen parameters, buffers, extra state of modules."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.params import check_same_names


def export_rest(
    model: nn.Module, owned: Iterable[Tensor], buffers: Iterable[str]
) -> dict[str, Any]:
    """What no level owns, by name; tensors are copies.

    Args:
        model: unwrapped.
        owned: parameters of levels.
        buffers: names of running statistics of levels.
    """
    own = {id(param) for param in owned}
    held = {
        name for name, param in model.named_parameters(remove_duplicate=False) if id(param) in own
    }
    held |= set(buffers)
    values = dict(model.state_dict(keep_vars=True))
    # Those that a module's own state leaves out (persistent=False) are state for us.
    values |= dict(model.named_buffers())
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else deepcopy(value)
        for name, value in values.items()
        if name not in held
    }


def check_rest(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise MismatchedParameters unless two rests have tensors of the same names and shapes."""
    tensors, others = (
        {name: value for name, value in rest.items() if isinstance(value, Tensor)}
        for rest in (saved, own)
    )
    check_same_names(tensors, others)


@torch.no_grad()
def import_rest(model: nn.Module, rest: Mapping[str, Any]) -> None:
    """Take over what `export_rest` gave."""
    buffers = dict(model.named_buffers())
    model.load_state_dict(
        {name: value for name, value in rest.items() if name not in buffers}, strict=False
    )
    for name, value in buffers.items():
        if name in rest:
            value.copy_(rest[name])
