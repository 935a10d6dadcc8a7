"""Outer steps of slow weights: Lookahead, and Nesterov momentum over it (DiLoCo, SNOO)."""

import torch
from torch import Tensor

from nestling.core.params import Params, check_same_names, widen_half


def lookahead_step(slow: Params, fast: Params, step_size: float) -> dict[str, Tensor]:
    """Lookahead step: move the slow weights towards the fast ones.

    phi <- phi + alpha (theta_k - phi)   [Zhang 2019, Eq. 1]

    Args:
        slow: phi, name -> tensor.
        fast: theta after its k steps; same names and shapes. Tensors that are not floating
            (counters) are its own.
        step_size: alpha in [0, 1]; at 1 the result is theta, to the bit. The fast weights are then
            to be restarted from the result.

    Returns: name -> tensor, float32 at least.

    Raises:
        MismatchedParameters: names or shapes differ.

    >>> lookahead_step({"w": torch.zeros(1)}, {"w": torch.ones(1)}, 0.5)["w"]
    tensor([0.5000])
    """
    return outer_step(slow, fast, {}, step_size=step_size, momentum=0.0)[0]


@torch.no_grad()
def outer_step(
    slow: Params, fast: Params, velocity: Params, *, step_size: float, momentum: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One outer Nesterov step on the pseudo-gradient of K inner steps.

    s = w - w_K,  b <- mu b + s,  w <- w - eta (mu b + s)   [DiLoCo, Douillard 2023; SNOO, 2025]

    With mu = 0 it is `lookahead_step` of size eta, to the bit.

    Args:
        slow: w, name -> tensor, where the fast steps started.
        fast: w_K, same names and shapes. Tensors that are not floating (counters) are its own.
        velocity: b, same names and shapes; zeros at first. Without momentum it may be empty.
        step_size: eta > 0.
        momentum: mu in [0, 1).

    Returns: the new slow weights, from which the fast ones restart, and the new velocity, empty if
        it was; float32 at least.

    Raises:
        MismatchedParameters: names or shapes differ.

    >>> w, fast, b = {"w": torch.ones(1)}, {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    >>> outer_step(w, fast, b, step_size=0.5, momentum=0.5)
    ({'w': tensor([0.1250])}, {'w': tensor([1.5000])})
    """
    check_same_names(slow, fast)
    if velocity or momentum:
        check_same_names(slow, velocity)
    result, fresh = {}, {}
    for name, value in slow.items():
        if not (value.is_floating_point() or value.is_complex()):
            result[name] = fast[name].clone()
            if velocity:
                fresh[name] = velocity[name].clone()
            continue
        start, end = widen_half(value), widen_half(fast[name])
        moved = start - end
        if velocity:  # in place where nobody else has it: fresh memory is what costs
            fresh[name] = (momentum * widen_half(velocity[name])).add_(moved)
        if momentum:
            way = (momentum * fresh[name]).add_(moved).mul_(step_size)
            result[name] = torch.sub(start, way, out=way)
        elif step_size == 1.0:  # rounding would not quite arrive
            result[name] = end.to(start.dtype, copy=True)
        else:
            way = moved.mul_(step_size)
            result[name] = torch.sub(start, way, out=way)
    return result, fresh


def read_fast(slow: Tensor, live: Tensor) -> Tensor:
    """Live weights in the dtype of the slow ones from which they started, rounded to their own.

    Where the live dtype is the coarser one, only what came since counts: rounding is no change.

    Args:
        slow: any shape.
        live: same shape, started at `slow.to(live.dtype)`.

    Returns: same shape, dtype of `slow`.

    >>> slow = torch.tensor([1.001])
    >>> torch.equal(read_fast(slow, slow.to(torch.bfloat16)), slow)
    True
    """
    if slow.dtype == live.dtype:
        return live
    return slow + (live.to(slow.dtype) - slow.to(live.dtype).to(slow.dtype))
