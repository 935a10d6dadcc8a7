"""What a continuum memory system can be given, and what is wrong with the rest."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from nestling.core.arguments import check_whole
from nestling.core.errors import NonFiniteInput, SettingError, ShapeMismatch, suggest

Arrangement = Literal["chain", "nested", "sequential", "independent"]
Transfer = Literal["backprop", "direct", "weights", "context"]
Gradient = Literal["full", "first"] | int


def check_dtype(x: Tensor, weight: Tensor) -> None:
    """Raise unless a layer with this weight can multiply the inputs, or autocast casts both."""
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ShapeMismatch(
            f"inputs are {x.dtype} and the layer is {weight.dtype}; x.to({weight.dtype}) works"
        )


def check_inputs(x_BTD: object, mask_BT: object, width: int) -> None:
    """Raise unless inputs and mask can be read."""
    if not isinstance(x_BTD, Tensor) or x_BTD.dim() != 3 or x_BTD.shape[-1] != width:
        shape = tuple(x_BTD.shape) if isinstance(x_BTD, Tensor) else type(x_BTD).__name__
        raise ShapeMismatch(f"inputs are {shape}; (samples, tokens, {width}) works")
    if not x_BTD.is_floating_point():
        raise ShapeMismatch(f"inputs are {x_BTD.dtype}; floats work, e.g. x.float()")
    check_mask(mask_BT, x_BTD)
    if math.isfinite(x_BTD.detach().sum().item()):  # one pass; sums too large are looked at closely
        return
    finite_BT = torch.isfinite(x_BTD).all(-1)
    if isinstance(mask_BT, Tensor):
        finite_BT = finite_BT | ~mask_BT.to(x_BTD.device)
    if not bool(finite_BT.all()):
        sample, token = (~finite_BT).nonzero()[0].tolist()
        raise NonFiniteInput(
            f"NaN or infinity in sample {sample}, token {token}; mend it or mask the token"
        )


def check_mask(mask_BT: object, like_BT: Tensor) -> None:
    """Raise unless a mask is None or tells of each token whether it is one.

    Args:
        mask_BT: what was given.
        like_BT: (B, T, ...) what it belongs to.
    """
    if mask_BT is None:
        return
    if isinstance(mask_BT, Tensor):
        if mask_BT.dtype == torch.bool and mask_BT.shape == like_BT.shape[:2]:
            return
        shown = f"{mask_BT.dtype} of shape {tuple(mask_BT.shape)}"
    else:
        shown = type(mask_BT).__name__
    raise ShapeMismatch(f"the mask is {shown}; bool of {tuple(like_BT.shape[:2])} works")


def check_chunks(chunks: object) -> tuple[int, ...]:
    """Chunk sizes, fastest first."""
    if isinstance(chunks, str) or not isinstance(chunks, Sequence) or not chunks:
        raise SettingError(f"chunks={chunks!r}; tokens of each level work, e.g. (8, 32, 128, 512)")
    sizes = tuple(check_whole("chunk", chunk, 1, "1 token or more works") for chunk in chunks)
    if list(sizes) != sorted(sizes):
        raise SettingError(
            f"chunks={sizes} are not in order; fastest first: {tuple(sorted(sizes))}"
        )
    return sizes


def check_rates(rate: object, num_levels: int) -> tuple[float, ...]:
    """The most that each level writes, in units of 1 / C."""
    given: list[object] = list(rate) if isinstance(rate, Sequence) else [rate] * num_levels
    if len(given) != num_levels:
        raise SettingError(f"{len(given)} rates for {num_levels} levels; one for each, or one")
    rates = []
    for one in given:
        if isinstance(one, bool) or not isinstance(one, int | float) or not 0 <= one <= 2:
            raise SettingError(f"rate={one!r}; 0 (no writes) to 2 works, in units of 1 / chunk")
        rates.append(float(one))
    return tuple(rates)


def check_gradient(gradient: object) -> Gradient:
    """How gradients pass through writes."""
    if gradient == "full":
        return "full"
    if gradient == "first":
        return "first"
    return check_whole(
        "gradient", gradient, 2, "'full', 'first' or 2 chunks or more (1 would cut off all writes)"
    )


def check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise unless an option is one of the known."""
    if value not in known:
        raise SettingError(f"{name}={value!r}; {suggest(str(value), known)}")
