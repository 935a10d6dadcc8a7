"""Transfers between levels: averages, merged overlays, refitted memories."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nestling.core.errors import MismatchedParameters, suggest
from nestling.core.params import (
    Params,
    average_into,
    check_same_names,
    combine,
    wide_dtype,
    widen_half,
)


class Refittable(Protocol):
    """A memory that can be filled anew: `RidgeMemory`, `MemoryBank` and the like."""

    def add(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> int:
        """Learn a block of examples; returns the clock."""
        ...

    def state_dict(self) -> dict[str, object]:
        """Everything it knows."""
        ...

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Become what `state` says."""
        ...


def average(weights: Sequence[Params], shares: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Weighted average of the parameters of several models, name by name.

    theta = sum_i s_i theta_i / sum_i s_i   [Izmailov 2018, Eq. 3 with equal s]

    Args:
        weights: at least one name -> tensor mapping, same names and shapes. Tensors that are
            not floating (counters) are taken from the last one.
        shares: s_i >= 0, any scale; None: equal.

    Returns: name -> tensor, dtypes of the first mapping; summed in float64 (float32 on MPS).

    Raises:
        MismatchedParameters: names, shapes or the number of shares differ, or no share is positive.

    >>> average([{"w": torch.zeros(1)}, {"w": torch.ones(1)}], shares=[1, 3])["w"]
    tensor([0.7500])
    """
    shares = [1.0] * len(weights) if shares is None else [float(share) for share in shares]
    if not weights or len(shares) != len(weights) or min(shares) < 0 or sum(shares) <= 0:
        raise MismatchedParameters(
            f"cannot average {len(weights)} mappings with shares {shares}; "
            "give one share >= 0 for each, not all 0"
        )
    for other in weights[1:]:
        check_same_names(weights[0], other)
    total = sum(shares)
    result = {}
    for name, tensor in weights[0].items():
        if not tensor.dtype.is_floating_point:
            result[name] = weights[-1][name].clone()
            continue
        wide = torch.zeros_like(tensor, dtype=wide_dtype(tensor.device))
        for share, mapping in zip(shares, weights, strict=True):
            wide += mapping[name].to(wide.dtype) * (share / total)
        result[name] = wide.to(tensor.dtype)
    return result


def ema_update(slow: Params, fast: Params, decay: float) -> dict[str, Tensor]:
    """One update of an exponential moving average of the weights.

    xi <- tau xi + (1 - tau) theta   [Tarvainen and Valpola 2017, Eq. 1]

    Args:
        slow: xi, name -> tensor.
        fast: theta, same names and shapes. Tensors that are not floating (counters) are its own.
        decay: tau in [0, 1]; 0 copies `fast`, 1 keeps `slow`.

    Returns: name -> tensor, float32 at least: in half precision a slow mean would never move.

    Raises:
        MismatchedParameters: names or shapes differ.

    >>> ema_update({"w": torch.zeros(1)}, {"w": torch.ones(1)}, decay=0.75)["w"]
    tensor([0.2500])
    """
    check_same_names(slow, fast)
    mean = {name: widen_half(value.detach()).clone() for name, value in slow.items()}
    average_into(mean.values(), [fast[name] for name in mean], decay)
    return mean


def merge_overlay(spine: Params, overlay: Params, scale: float = 1.0) -> dict[str, Tensor]:
    """Merge an additive overlay, e.g. low-rank adapters, into the weights below it.

    W <- W + scale * Delta

    Args:
        spine: name -> tensor W.
        overlay: name -> Delta for some of the names, same shapes. A merged overlay is to be
            set to zero, so that the function stays what it was.
        scale: of the overlay in the forward pass.

    Returns: all names of `spine`; those without overlay are the same tensors.

    Raises:
        MismatchedParameters: the overlay names what the spine lacks, or shapes differ.

    >>> merge_overlay({"w": torch.ones(1), "b": torch.ones(1)}, {"w": torch.ones(1)}, scale=0.5)
    {'w': tensor([1.5000]), 'b': tensor([1.])}
    """
    for name in overlay:
        if name not in spine:
            raise MismatchedParameters(
                f"no slow weight {name!r} to merge into; " + suggest(name, spine)
            )
    merged = combine(
        lambda weight, delta: _lay_over(weight, delta, scale),
        {name: spine[name] for name in overlay},
        overlay,
    )
    return {**spine, **merged}


def _lay_over(weight: Tensor, delta: Tensor, scale: float) -> Tensor:
    wide = widen_half(weight)
    return (wide + scale * delta.to(wide.dtype)).to(weight.dtype)


def refit(
    memory: Refittable,
    examples: Iterable[tuple[Tensor, Tensor]],
    *,
    features: Callable[[Tensor], Tensor],
    empty: Refittable,
) -> int:
    """Refit a memory on new features after the backbone below it has changed.

    The examples come from a replay memory, or from wherever the user still has them; what was
    remembered from others is given up. Nothing changes if anything raises on the way.

    Args:
        memory: the memory to rebuild, in place.
        examples: (x, y) blocks, x (N, ...) as the spine takes it, y (N,) or (N, M), in order.
        features: the changed spine as a function, (N, ...) -> (N, D); run without gradients.
        empty: a new memory with the settings of `memory`; it is filled and then copied.

    Returns: the number of examples learned; with 0 the memory is left as it was.
    """
    num_examples = 0
    with torch.no_grad():
        for x, y in examples:
            if len(x):
                empty.add(features(x), y)
                num_examples += len(x)
    if num_examples:
        memory.load_state_dict(empty.state_dict())
    return num_examples
