"""Everything that a module, optimizer or state holds, by name: tensors and plain numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn

# What torch's own classes keep beside what a user stores.
_OF_TORCH = frozenset(vars(nn.Module())) | {"defaults", "param_groups", "state"}
_DEPTH = 6


def list_held(value: object, name: str = "") -> dict[str, Tensor | float]:
    """Tensors and numbers within containers and attributes, by where they lie.

    Numbers in lists are left out: they are a log, not a clock.

    Args:
        value: a tensor, number, mapping, sequence or dataclass, or an object with such attributes.
        name: of it, before the names of its parts.

    Returns: name -> tensor (the one that is held, not a copy) or number.

    >>> list_held({"a": [torch.zeros(1)], "clock": 2}, "state")
    {'state.a.0': tensor([0.]), 'state.clock': 2}
    """
    return dict(_walk(value, name, _DEPTH, set()))


def list_module_state(module: nn.Module) -> dict[str, Tensor | float]:
    """What a module holds beside its parameters: buffers, and tensors and numbers in attributes.

    >>> net = nn.Linear(1, 1)
    >>> net.clock = 3
    >>> list_module_state(net)["clock"]
    3
    """
    found: dict[str, Tensor | float] = dict(module.named_buffers())
    for prefix, one in module.named_modules():
        for key, value in vars(one).items():
            if key not in _OF_TORCH and not isinstance(value, nn.Module):
                found |= list_held(value, f"{prefix}.{key}" if prefix else key)
    return found


def keep_values(held: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
    """The values of now: tensors are copied."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in held.items()
    }


def list_changed(
    before: Mapping[str, Tensor | float], after: Mapping[str, Tensor | float]
) -> list[str]:
    """Names whose value is not the same, bit for bit, or that only one of both has.

    >>> list_changed({"a": 1, "b": 2}, {"a": 1, "b": 3})
    ['b']
    """
    names = list(dict.fromkeys([*before, *after]))
    return [
        name
        for name in names
        if name not in before or name not in after or not are_same(before[name], after[name])
    ]


def are_same(first: Tensor | float, second: Tensor | float) -> bool:
    """Whether two values are the same bits; NaN is the same as NaN."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        if not first.is_floating_point():
            return torch.equal(first, second)
        return torch.equal(first.nan_to_num(), second.nan_to_num()) and torch.equal(
            first.isnan(), second.isnan()
        )
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        return False
    return first == second or (first != first and second != second)  # NaN


def _walk(
    value: object, name: str, depth: int, seen: set[int], is_listed: bool = False
) -> Iterator[tuple[str, Tensor | float]]:
    if isinstance(value, bool) or value is None or isinstance(value, str | type):
        return
    if isinstance(value, Tensor | int | float):
        if isinstance(value, Tensor) or not is_listed:
            yield name, value
        return
    if depth == 0 or id(value) in seen:
        return
    seen.add(id(value))
    parts: Iterator[tuple[object, object]]
    is_list = isinstance(value, list | tuple | set | frozenset)
    if isinstance(value, nn.Module):
        parts = iter([*value.named_parameters(), *list_module_state(value).items()])
    elif isinstance(value, Mapping):
        parts = iter(value.items())
    elif is_list:
        parts = iter(enumerate(value))  # type: ignore[arg-type]
    elif is_dataclass(value):
        parts = iter([(one.name, getattr(value, one.name)) for one in fields(value)])
    elif isinstance(value, torch.optim.Optimizer):
        parts = iter([(key, one) for key, one in vars(value).items() if key not in _OF_TORCH])
    else:
        parts = iter([])
    for index, (key, one) in enumerate(parts):
        if not isinstance(key, str):  # an address or a parameter: another in every copy
            key = index
        yield from _walk(one, f"{name}.{key}" if name else str(key), depth - 1, seen, is_list)
