"""The training step: a short function that a user could have written."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, read_output
from nestling.levels import NestedOptimizer
from nestling.protect import Retention

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Attributes:
        loss: of this batch, before the update; NaN if there was nothing to learn from.
        num_examples: in the batch.
        refused: why the step was refused; empty if it was taken.
    """

    loss: float
    num_examples: int
    refused: str = ""


@dataclass(frozen=True)
class FitReport:
    """What one call of `fit` did.

    Attributes:
        num_examples: seen, repeats by further epochs included.
        num_steps: optimizer steps taken.
        num_refused: steps refused because something was not finite.
        loss: mean over the last epoch.
        seconds: of wall time.
    """

    num_examples: int
    num_steps: int
    num_refused: int
    loss: float
    seconds: float


def take_step(
    model: nn.Module,
    optimizer: NestedOptimizer,
    batch: Batch,
    loss_function: Loss,
    *,
    rehearse: Callable[[nn.Module], Tensor] | None = None,
    methods: Sequence[Retention] = (),
    precision: AbstractContextManager[object] | None = None,
    buffers: Sequence[Tensor] = (),
) -> tuple[float, Tensor, str]:
    """Forward, backward and one optimizer step, refused if anything is not finite.

    Args:
        model: in training mode.
        optimizer: over the model's levels; owns the clearing of gradients.
        batch: N examples with a target.
        loss_function: (output, target) -> scalar ().
        rehearse: model -> scalar (), a replay loss that is added.
        methods: what protects; they need a single input tensor.
        precision: an autocast context for the forward pass.
        buffers: what a forward pass changes in the model (running statistics).

    Returns: the loss, the model's output (detached), and why the step was refused ("" if it
        was taken). A refused step, or one that raises, leaves parameters, buffers, moments,
        gathered gradients and clocks as they were.
    """
    assert batch.target is not None
    before = [buffer.clone() for buffer in buffers]
    optimizer.prepare_step()
    try:
        with precision or nullcontext():
            seen = output = read_output(batch.call(model))
            for method in methods:
                seen = method.restrict(seen, batch.target)
            loss = total = loss_function(seen, batch.target)
            if rehearse is not None:
                total = loss + rehearse(model)
            for method in methods:
                extra = method.compute_loss(model, batch.inputs[0], batch.target, output)
                total = total if extra is None else total + extra
        value = loss.item()
        whole = value if total is loss else total.item()
        refused = "" if math.isfinite(whole) else f"loss is {whole}"
        if not refused:
            optimizer.zero_grad()
            if total.requires_grad:
                total.backward()
            for method in methods:
                method.adjust_gradients(model)
            if not _are_finite(optimizer):
                refused = "a gradient is not finite"
        if refused:
            _undo(optimizer, buffers, before)
        else:
            optimizer.observe(value)
            if _is_watched(optimizer):
                optimizer.step()
            else:
                optimizer.advance()
            for method in methods:
                method.observe(model, batch.inputs[0], batch.target, output.detach())
    except Warning:  # an alarm that is an error here: the step was taken before it
        raise
    except BaseException:
        _undo(optimizer, buffers, before)
        raise
    return value, output.detach(), refused


def _is_watched(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an LR scheduler or a hook wants to know of every step."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(hooks) or "step" in vars(optimizer)


def _undo(optimizer: NestedOptimizer, buffers: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    optimizer.zero_grad()
    for level in optimizer.levels.values():
        level.enable(True)
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def _are_finite(optimizer: NestedOptimizer) -> bool:
    grads = [
        param.grad
        for level in optimizer.levels.values()
        for param in level.params
        if param.grad is not None
    ]
    if all(grad.is_cpu for grad in grads):
        # A sum is the cheapest kernel that every entry reaches: half the time of a norm.
        total = sum([grad.sum().item() for grad in grads])
    else:  # one wait for the device
        total = sum(torch.stack(torch._foreach_norm(grads)).tolist())
    # Finite entries can overflow together, so what is not finite is looked into.
    return math.isfinite(total) or all(bool(grad.isfinite().all()) for grad in grads)
