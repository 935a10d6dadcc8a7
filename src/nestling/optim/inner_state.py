"""State of a torch optimizer by parameter name: out of it, back into it, and in other rows."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from nestling.core.params import keep_rows


@runtime_checkable
class GathersInputs(Protocol):
    """A torch optimizer that gathers more than gradients between two updates (DGD: inputs)."""

    def save_gathered(self) -> None:
        """Put what was gathered since the last update into `state`, and go on gathering."""

    def restore_gathered(self) -> None:
        """Go on from what `state` holds; where it holds nothing, from nothing."""

    def drop_gathered(self) -> None:
        """Forget what was gathered: its period is over, whether it made an update or not."""


def export_inner(
    inner: torch.optim.Optimizer, names: Sequence[str], params: Sequence[Tensor]
) -> dict[str, dict[str, object]]:
    """A torch optimizer's state by parameter name; tensors are copies."""
    if isinstance(inner, GathersInputs):
        inner.save_gathered()
    return {
        name: {key: clone(value) for key, value in inner.state[param].items()}
        for name, param in zip(names, params, strict=True)
        if param in inner.state
    }


def import_inner(
    inner: torch.optim.Optimizer,
    names: Sequence[str],
    params: Sequence[Tensor],
    state: Mapping[str, Mapping[str, object]],
) -> None:
    """Put a torch optimizer back into a state that `export_inner` gave."""
    inner.state.clear()
    for name, param in zip(names, params, strict=True):
        if name in state:
            inner.state[param] = {
                # A step counter may live on another device than its parameter: not ours to move.
                key: value.to(param.device, copy=True)
                if isinstance(value, Tensor) and (value.shape == param.shape or value.dim() > 0)
                else clone(value)
                for key, value in state[name].items()
            }
    if isinstance(inner, GathersInputs):
        inner.restore_gathered()


def export_group(group: Mapping[str, Any]) -> dict[str, object]:
    """A parameter group without its parameters: rates and settings, as plain data."""
    return {
        key: list(value) if isinstance(value, tuple) else clone(value)
        for key, value in group.items()
        if key != "params"
    }


def import_group(group: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Put a parameter group back to what `export_group` gave; its parameters stay."""
    for key, value in saved.items():
        is_tuple = isinstance(group.get(key), tuple) and isinstance(value, list)
        group[key] = tuple(value) if is_tuple else value


def fit_rows(value: Any, old: Tensor, new: Tensor) -> Any:
    """`value` with the rows of `new`, zeros in further ones, if it is shaped as `old`.

    >>> fit_rows(torch.ones(1, 2), torch.zeros(1, 2), torch.zeros(2, 2))
    tensor([[1., 1.],
            [0., 0.]])
    """
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return value
    return keep_rows(value, value.new_zeros(new.shape))


def clone(value: object) -> object:
    """A copy of a tensor; anything else as it is."""
    return value.detach().clone() if isinstance(value, Tensor) else value
