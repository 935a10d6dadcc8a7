"""How far an optimizer's next step can move the weights at most, told before it is taken.

Where that is well within a level's bounds, nothing has to be measured after the step.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def adam_bound(beta1: float, beta2: float) -> float:
    """Largest |m| / sqrt(v) that Adam's moments can have, whatever the gradients were.

    By Cauchy and Schwarz, m being a mean of gradients and v one of their squares:
    (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)), or 1 at the first step. Infinite if b1^2 >= b2.

    >>> round(adam_bound(0.9, 0.999), 2)
    7.27
    """
    ratio = beta1 * beta1 / beta2 if beta2 > 0.0 else 1.0
    if ratio >= 1.0 or beta2 >= 1.0:
        return math.inf
    return max(1.0, (1.0 - beta1) / math.sqrt((1.0 - beta2) * (1.0 - ratio)))


def bound_step(
    inner: torch.optim.Optimizer,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    divisor: int,
) -> tuple[float, float]:
    """Upper bound of the next step of torch's SGD, Adam or AdamW: ||change|| <= a + b ||weights||.

    Args:
        inner: with one parameter group; of what is derived of those nothing is known.
        params: those with a gradient, any shapes.
        grads: their gradients, sums over `divisor` steps.
        divisor: >= 1.

    Returns: a and b, >= 0; infinity or NaN where there is no bound, as where a gradient is not
        finite.
    """
    group, kind = inner.param_groups[0], type(inner)
    decay = float(group.get("weight_decay", 0.0))
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        if group["amsgrad"] or not group["eps"] >= 0.0:
            return math.inf, 0.0
        num = sum(param.numel() for param in params)
        most = adam_bound(*group["betas"]) * math.sqrt(num)
        is_decoupled = group.get("decoupled_weight_decay", kind is torch.optim.AdamW)
        # NaN where a gradient is not finite; else one.
        finite = _measure_roughly(grads)
        finite = 1.0 if math.isfinite(finite) else math.nan
        lr = float(group["lr"])
        return lr * most * finite, lr * decay if is_decoupled else 0.0
    if kind is not torch.optim.SGD or group["nesterov"]:
        return math.inf, 0.0
    lr, size = float(group["lr"]), _measure_roughly(grads) / divisor
    if group["momentum"] != 0:
        buffers = [inner.state[param].get("momentum_buffer") for param in params]
        known = [buffer for buffer in buffers if buffer is not None]
        size += group["momentum"] * _measure_roughly(known) if known else 0.0
    return lr * size, lr * decay


def _measure_roughly(values: Sequence[Tensor]) -> float:
    """Their norm in one call, for a bound that leaves room for rounding."""
    is_half = any(value.dtype in (torch.bfloat16, torch.float16) for value in values)
    norms = torch._foreach_norm(list(values), 2, dtype=torch.float32 if is_half else None)
    return math.hypot(*torch.stack(norms).tolist()) if len(norms) > 1 else float(norms[0])
