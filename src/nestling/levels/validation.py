"""How far a level has moved since a person validated it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestling.core.params import Params, wide_dtype


@dataclass(frozen=True)
class Validation:
    """Validation of all levels by a person: who, when, and every tensor as it was then.

    Attributes:
        by: who validated.
        at: seconds since 1970 (UTC).
        tensors: level -> name -> tensor.
    """

    by: str
    at: float
    tensors: Mapping[str, Mapping[str, Tensor]]

    def state_dict(self) -> dict[str, Any]:
        """As plain data and tensors; copies."""
        return {"by": self.by, "at": self.at, "tensors": clone_tree(self.tensors)}


@torch.no_grad()
def measure_drift(before: Params, after: Params) -> float:
    """Relative change ||after - before|| / ||before|| of a level's tensors, whatever they are.

    Floating tensors count; where a level has none, its integers do (sums of a memory), as float64.
    What is on one side only, a name or the rows of a head that grew, is zero on the other.

    Args:
        before: name -> tensor, any shapes.
        after: likewise.

    Returns: a non-negative number; infinity if `before` is zero and `after` is not.

    >>> measure_drift({"sums": torch.tensor([3, 4])}, {"sums": torch.tensor([3, 4, 5])})
    1.0
    """
    both = [*before.values(), *after.values()]
    is_real = any(value.is_floating_point() or value.is_complex() for value in both)
    moved = base = 0.0
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        some = old if old is not None else new
        assert some is not None
        if is_real and not (some.is_floating_point() or some.is_complex()):
            continue
        if old is not None:
            base += _add_squares(old)
        if old is None or new is None:
            moved += _add_squares(some)
        elif old.shape == new.shape:
            moved += _add_squares(_widen(new) - _widen(old))
        else:
            moved += _compare_shapes(old, new)
    if base == 0.0:
        return 0.0 if moved == 0.0 else float("inf")
    return float((moved / base) ** 0.5)


def _widen(value: Tensor) -> Tensor:
    wide = wide_dtype(value.device)
    return value.to(torch.complex128) if value.is_complex() else value.detach().to(wide)


def _add_squares(value: Tensor) -> float:
    return float(_widen(value).abs().square().sum())


def _compare_shapes(old: Tensor, new: Tensor) -> float:
    """Squared distance of tensors that overlap from the first entry on, zero beyond."""
    if old.dim() != new.dim():
        return _add_squares(old) + _add_squares(new)
    both = tuple(slice(0, min(a, b)) for a, b in zip(old.shape, new.shape, strict=True))
    common = _add_squares(_widen(new)[both] - _widen(old)[both])
    beyond = [_add_squares(value) - _add_squares(value[both]) for value in (old, new)]
    return common + max(0.0, sum(beyond))


def clone_tree(tree: Any) -> Any:
    """A copy of nested dicts and lists, tensors included."""
    if isinstance(tree, Mapping):
        return {key: clone_tree(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [clone_tree(value) for value in tree]
    return tree.detach().clone() if isinstance(tree, Tensor) else tree


def place_tensors(
    values: Mapping[str, Tensor], names: Sequence[str], params: Sequence[Tensor]
) -> list[Tensor]:
    """Saved tensors in the order of the parameters and on their devices; none if none was saved."""
    pairs = zip(names, params, strict=True)
    return [values[name].to(param.device, copy=True) for name, param in pairs] if values else []
