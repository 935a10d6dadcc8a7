"""Torch's fused update without the bookkeeping that torch repeats at every step.

`torch.optim.AdamW.step` looks at every tensor's device, dtype and options anew; for many small
tensors that costs more than the arithmetic. The same kernels are called here with the same
arguments, so the bits are the same.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Not what is derived of them: it may have a step of its own.
_KNOWN = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


def step_fused(
    inner: torch.optim.Optimizer, params: Sequence[Tensor], grads: list[Tensor], divisor: int
) -> bool:
    """Take one step of a fused `AdamW`, `Adam` or `SGD` with one parameter group.

    Args:
        inner: the optimizer whose moments and rates are used.
        params: those of its parameters that have a gradient.
        grads: their gradients, sums over `divisor` steps; they are divided in place.
        divisor: >= 1.

    Returns: whether the step was taken. False, with nothing changed: the first step, or one
        for which only torch's own `step` knows what to do.
    """
    if type(inner) not in _KNOWN:
        return False
    if inner._optimizer_step_pre_hooks or inner._optimizer_step_post_hooks:
        return False  # whoever made it wants to hear of every step
    group = inner.param_groups[0]
    if not group["fused"] or group["differentiable"] or not isinstance(group["lr"], float | int):
        return False
    if len({(param.dtype, param.device) for param in params}) != 1:
        return False
    scale = (
        None
        if divisor == 1
        else torch.tensor(float(divisor), dtype=torch.float32, device=params[0].device)
    )
    if isinstance(inner, torch.optim.Adam):  # AdamW is a kind of Adam
        return _step_adam(inner, params, grads, group, scale)
    assert isinstance(inner, torch.optim.SGD)
    return _step_sgd(inner, params, grads, group, scale)


def _step_adam(
    inner: torch.optim.Adam,
    params: Sequence[Tensor],
    grads: list[Tensor],
    group: dict[str, Any],
    scale: Tensor | None,
) -> bool:
    states = _find_states(inner, params)
    if states is None or group["amsgrad"]:
        return False
    steps = _count_step(states)
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    kernel(
        list(params),
        grads,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        steps,
        amsgrad=False,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
        grad_scale=scale,
        found_inf=None,
    )
    return True


def _step_sgd(
    inner: torch.optim.SGD,
    params: Sequence[Tensor],
    grads: list[Tensor],
    group: dict[str, Any],
    scale: Tensor | None,
) -> bool:
    buffers: list[Tensor] = []
    if group["momentum"] != 0:
        states = _find_states(inner, params)
        if states is None or any(state.get("momentum_buffer") is None for state in states):
            return False
        buffers = [state["momentum_buffer"] for state in states]
    torch._fused_sgd_(
        list(params),
        grads,
        buffers,
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=False,
        grad_scale=scale,
        found_inf=None,
    )
    return True


def _count_step(states: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Add 1 to every parameter's count of steps, in one addition where they lie together."""
    steps: list[Tensor] = [state["step"] for state in states]
    base = steps[0]._base
    if base is None or len(base) != len(steps) or any(step._base is not base for step in steps):
        base = torch.stack(steps)
        steps = list(base.unbind())
        for state, step in zip(states, steps, strict=True):
            state["step"] = step
    base.add_(1)
    return steps


def _find_states(
    inner: torch.optim.Optimizer, params: Sequence[Tensor]
) -> list[dict[str, Any]] | None:
    """The moments of every parameter; None if one has none yet."""
    states = [inner.state.get(param) for param in params]
    return None if not all(states) else states  # type: ignore[return-value]
