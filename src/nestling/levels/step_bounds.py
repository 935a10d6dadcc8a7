"""How far an optimizer's next step can move the weights at most, told before it is taken.

Where that is well within a level's bounds, nothing has to be measured after the step.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache
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


# What an Adam step's bound depends on: rates, decay, betas, and how many parameters have gradients.
Rates = tuple[float, float, tuple[float, float], int]


def read_rates(inner: torch.optim.Optimizer, params: Sequence[Tensor]) -> Rates | None:
    """What the bound of the next step depends on, gradients aside; None if it depends on them."""
    if type(inner) not in (torch.optim.Adam, torch.optim.AdamW):
        return None
    group = inner.param_groups[0]
    return group["lr"], group["weight_decay"], group["betas"], len(params)


class FiniteLook:
    """Looks whether gradients are finite, in one call where torch has one, with room of its own.

    >>> look = FiniteLook()
    >>> look([torch.ones(2)]), look([torch.tensor([torch.inf, 1.0])]), look([torch.ones(1)])
    (True, False, True)
    """

    def __init__(self) -> None:
        self._found = torch.zeros(1, dtype=torch.float32, device="cpu")
        self._one = torch.ones((), dtype=torch.float32, device="cpu")
        # What a gradient scaler takes: it multiplies by 1, which changes no bit.
        self._look = getattr(torch, "_amp_foreach_non_finite_check_and_unscale_", None)

    def __call__(self, grads: list[Tensor]) -> bool:
        """Whether all entries are finite; those whose squares overflow may count as not."""
        if self._look is None or any(grad.device.type != "cpu" for grad in grads):
            return math.isfinite(measure_roughly(grads))
        self._found.zero_()
        self._look(grads, self._found, self._one)
        return not self._found.item()


def bound_step(
    inner: torch.optim.Optimizer,
    params: Sequence[Tensor],
    grads: list[Tensor],
    divisor: int,
    look: FiniteLook,
) -> tuple[float, float]:
    """Upper bound of the next step of torch's SGD, Adam or AdamW: ||change|| <= a + b ||weights||.

    Args:
        inner: with one parameter group; of what is derived of those nothing is known.
        params: those with a gradient, any shapes.
        grads: their gradients, sums over `divisor` steps.
        divisor: >= 1.
        look: whether the gradients are finite.

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
        finite = 1.0 if look(grads) else math.nan
        lr = float(group["lr"])
        return lr * most * finite, lr * decay if is_decoupled else 0.0
    if kind is not torch.optim.SGD or group["nesterov"]:
        return math.inf, 0.0
    lr, size = float(group["lr"]), measure_roughly(grads) / divisor
    if group["momentum"] != 0:
        buffers = [inner.state[param].get("momentum_buffer") for param in params]
        known = [buffer for buffer in buffers if buffer is not None]
        size += group["momentum"] * measure_roughly(known) if known else 0.0
    return lr * size, lr * decay


def measure_roughly(values: Sequence[Tensor]) -> float:
    """Their norm in one call, for a bound that leaves room for rounding."""
    is_half = any(value.dtype in (torch.bfloat16, torch.float16) for value in values)
    norms = torch._foreach_norm(list(values), 2, dtype=torch.float32 if is_half else None)
    return math.hypot(*torch.stack(norms).tolist()) if len(norms) > 1 else float(norms[0])
