"""Quadratic pulls of parameters towards where they were; what EWC, SI, MAS and L2-SP share.

A parameter may have more rows than its anchor (a head that grew): the rows that both have are
pulled, new ones are free.
"""

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import MismatchedParameters, SettingError, suggest
from nestling.core.params import Params, sum_dtype, wide_dtype, widen_half


def check_strength(name: str, value: float) -> float:
    """The value as a float; SettingError unless it is finite and not negative."""
    if not (isinstance(value, Real) and 0.0 <= value < math.inf):
        raise SettingError(f"{name}={value!r}; a finite number of 0 or more works")
    return float(value)


def weighted_distance(params: Params, anchor: Params, importance: Params | None = None) -> Tensor:
    """How far parameters are from an anchor, each scalar with its weight.

    sum_i W_i (theta_i - a_i)^2

    Args:
        params: theta, name -> (S, ...); differentiated. Names that `anchor` lacks are free.
        anchor: a, name -> (R, ...), or the very shape; the first min(R, S) rows count.
        importance: W, names and shapes of `anchor`; None: all 1.

    Returns: scalar () in float32 at least, on the parameters' device; a zero without anchors.

    Raises:
        MismatchedParameters: an anchor of no parameter, or shapes that differ beyond their rows.

    >>> weighted_distance({"w": torch.full((3,), 2.0)}, {"w": torch.zeros(2)})
    tensor(8.)
    """
    terms = []
    for name, old in anchor.items():
        if name not in params:
            raise MismatchedParameters(
                f"anchor {name!r} is of no parameter of the model; " + suggest(name, params)
            )
        # Half precision has no squares of small steps, nor small importances.
        param, old = share_rows(name, widen_half(params[name]), old)
        squares = (param - old.to(param)).square()
        if importance is not None:
            if name not in importance:
                raise MismatchedParameters(
                    f"anchor {name!r} has no importance; " + suggest(name, importance)
                )
            squares = squares * share_rows(name, param, importance[name])[1].to(param)
        terms.append(squares.sum())
    return torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float32, device="cpu")


def add_importance(old: Params, new: Params, decay: float = 1.0) -> dict[str, Tensor]:
    """decay * old + new, name by name; what only one of both has counts as 0 in the other.

    Args:
        old: name -> (R, ...).
        new: name -> (S, ...).
        decay: in [0, 1].

    Returns: name -> (max(R, S), ...), new tensors; float32 at least.

    Raises:
        MismatchedParameters: shapes that differ beyond their rows.

    >>> add_importance({"w": torch.ones(1)}, {"w": torch.ones(2)}, decay=0.5)["w"]
    tensor([1.5000, 1.0000])
    """
    total = {name: widen_half(v.detach()) * decay for name, v in old.items() if name not in new}
    for name, value in ((name, widen_half(value)) for name, value in new.items()):
        before = pad_rows(name, old[name], value) if name in old else torch.zeros_like(value)
        total[name] = decay * before.to(value) + pad_rows(name, value, before)
    return total


def fold(
    importance: Params, anchor: Params, new_importance: Params, new_anchor: Params
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Two quadratic pulls as one, exactly: cost and memory do not grow with their number.

    W (t - a)^2 + V (t - b)^2 = (W + V) (t - m)^2 + W V / (W + V) (a - b)^2,
    m = (W a + V b) / (W + V)

    The weighted mean m is kept rather than the sum W a + V b, which cancels when it is used.

    Args:
        importance: W >= 0, name -> (R, ...).
        anchor: a, same names and shapes.
        new_importance: V >= 0, name -> (S, ...).
        new_anchor: b, same names and shapes as V.

    Returns: W + V and m, name -> (max(R, S), ...), and the constant, summed over all scalars.

    Raises:
        MismatchedParameters: shapes that differ beyond their rows.

    >>> one = {"w": torch.ones(1)}
    >>> fold(one, {"w": torch.zeros(1)}, one, {"w": torch.full((1,), 2.0)})
    ({'w': tensor([2.])}, {'w': tensor([1.])}, 2.0)
    """
    total = add_importance(importance, new_importance)
    mean = {name: widen_half(value.detach()).clone() for name, value in anchor.items()}
    constant = 0.0
    for name, new in new_anchor.items():
        if name not in anchor:
            mean[name] = widen_half(new.detach()).clone()
            continue
        old = pad_rows(name, anchor[name], new, fill=new)
        new = pad_rows(name, new.detach(), old, fill=old)
        wide = wide_dtype(total[name].device)
        part = pad_rows(name, new_importance[name], old).to(wide)
        whole = total[name].to(wide)
        share = torch.where(whole > 0, part / whole, torch.ones_like(whole))
        change = new.to(wide) - old.to(whole)
        mean[name] = (old.to(whole) + share * change).to(sum_dtype(new.dtype))
        constant += float(((whole - part) * share * change.square()).sum())
    return total, mean, constant


class Pull:
    """W, a and a constant: what one quadratic pull keeps between steps.

    The tensors are replaced and never written to, so that they may be shared.
    """

    def __init__(self) -> None:
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self.constant = 0.0

    def measure(self, params: Params) -> Tensor | None:
        """sum_i W_i (theta_i - a_i)^2 + constant, a scalar (); None before the first anchor."""
        if not self.anchor:
            return None
        for name, old in self.anchor.items():
            if name in params and old.device != params[name].device:
                # A state that was loaded lies on the CPU; moved once, not at every step.
                self.anchor[name] = old.to(params[name].device)
                self.importance[name] = self.importance[name].to(params[name].device)
        return weighted_distance(params, self.anchor, self.importance) + self.constant

    def fold_in(self, importance: Params, anchor: Params) -> None:
        """Add a second pull; see `fold`."""
        total, mean, constant = fold(self.importance, self.anchor, importance, anchor)
        self.importance, self.anchor = total, mean
        self.constant += constant

    def move(self, importance: Mapping[str, Tensor], params: Params) -> None:
        """Take a new importance, with the parameters as they are now for an anchor."""
        anchor = {name: params[name].detach().clone() for name in importance if name in params}
        for name in importance.keys() - anchor.keys():
            anchor[name] = self.anchor[name]
        padded = {
            name: pad_rows(name, value, anchor[name])[: len(anchor[name])] if value.ndim else value
            for name, value in importance.items()
        }
        self.importance, self.anchor = padded, anchor

    def count_bytes(self) -> int:
        """Of both mappings."""
        return count_tensor_bytes([*self.importance.values(), *self.anchor.values()])

    def state_dict(self) -> dict[str, Any]:
        """Both mappings, copied, and the constant."""
        return {
            "importance": copy_tensors(self.importance),
            "anchor": copy_tensors(self.anchor),
            "constant": self.constant,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the pull that was saved."""
        importance, anchor = copy_tensors(state["importance"]), copy_tensors(state["anchor"])
        constant = float(state["constant"])
        self.importance, self.anchor, self.constant = importance, anchor, constant


def copy_tensors(tensors: Params) -> dict[str, Tensor]:
    """Detached copies, name by name."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def count_tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def share_rows(name: str, param: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both cut to the rows that both have; MismatchedParameters if they differ beyond rows."""
    if param.shape == other.shape:
        return param, other
    _check_rows(name, param, other)
    num_rows = min(len(param), len(other))
    return param[:num_rows], other[:num_rows]


def pad_rows(name: str, values: Tensor, like: Tensor, fill: Tensor | None = None) -> Tensor:
    """`values` with at least the rows of `like`; new rows are 0, or those of `fill`."""
    if values.shape == like.shape:
        return values.detach()
    _check_rows(name, values, like)
    if len(values) >= len(like):
        return values.detach()
    rest = torch.zeros_like(like) if fill is None else fill.detach()
    return torch.cat([values.detach(), rest[len(values) :].to(values)])


def _check_rows(name: str, left: Tensor, right: Tensor) -> None:
    if left.shape[1:] != right.shape[1:] or not left.ndim or not right.ndim:
        raise MismatchedParameters(
            f"{name!r} has shape {tuple(left.shape)} where {tuple(right.shape)} was kept; "
            "only its number of rows may change"
        )
