"""The training step with protecting methods, for any torch optimizer."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nestling.core.batches import Loss, default_loss, read_batch, read_output
from nestling.core.params import are_finite
from nestling.levels import NestedOptimizer
from nestling.protect.columns import require_target
from nestling.protect.method import Retention


@dataclass(frozen=True)
class TakenStep:
    """Result of `take_step`: loss and output before the update, and why it was refused if so.

    Args:
        loss: of the new batch alone, before the update.
        output: (N, ...) of the model before the update, detached.
        refused: why nothing was learned; empty if the step was taken.
    """

    loss: float
    output: Tensor
    refused: str = ""


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: object,
    methods: Sequence[Retention] = (),
    *,
    loss: Loss = default_loss,
    precision: AbstractContextManager[object] | None = None,
    buffers: Sequence[Tensor] | None = None,
    is_new: bool = True,
) -> TakenStep:
    """One training step on a batch with protecting methods; refused if anything is not finite.

    Args:
        model: in training mode.
        optimizer: over its parameters: a `NestedOptimizer` or any other that needs no closure.
        batch: N examples with a target, in any form of `read_batch`.
        methods: what protects, called in this order.
        loss: (output, target) -> scalar (), also of what is replayed.
        precision: an autocast context for the forward passes.
        buffers: what a forward pass changes in the model; None: all its buffers.
        is_new: False for a batch that was learned before, in an earlier epoch: methods that
            keep each example once pass over it.

    Returns: what was done. A step that is refused, or one that raises, leaves parameters,
        buffers, moments, gathered gradients (but those gathered in place) and clocks as they
        were.

    Raises:
        DataError: no target, or a batch that the model or a method cannot take.

    >>> model = nn.Linear(2, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
    >>> take_step(model, optimizer, (torch.zeros(1, 2), torch.tensor([0]))).refused
    ''
    """
    read = read_batch(batch)
    target = require_target(read)
    changing = list(model.buffers()) if buffers is None else buffers
    before = [buffer.clone() for buffer in changing]
    if isinstance(optimizer, NestedOptimizer):
        optimizer.prepare_step()
    try:
        with precision or nullcontext():
            seen = output = read_output(read.call(model))
            for method in methods:
                seen = method.restrict(seen, read)
            own = total = loss(seen, target)
            for method in methods:
                extra = method.compute_loss(model, read, output, loss)
                total = total if extra is None else total + extra
        value = own.item()

        def adjust() -> None:
            for method in methods:
                method.adjust_gradients(model, loss)

        refused = descend(optimizer, total, adjust=adjust, own_loss=value)
        if refused:
            _put_back(optimizer, changing, before)
        else:
            for method in methods:
                if is_new or method.takes_repeats:
                    method.observe(model, read, output.detach())
    except Warning:  # an alarm that is an error here: the step was taken before it
        raise
    except BaseException:
        _put_back(optimizer, changing, before)
        raise
    return TakenStep(value, output.detach(), refused)


def descend(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    *,
    adjust: Callable[[], None] | None = None,
    own_loss: float | None = None,
) -> str:
    """Backward pass and optimizer step, refused if the loss or a gradient is not finite.

    Args:
        optimizer: clears the gradients first.
        loss: scalar ().
        adjust: called between backward and the step.
        own_loss: that the surprise gates of a `NestedOptimizer` hear of; None: `loss`.

    Returns: why there was no step; empty if it was taken.
    """
    whole = loss.item()
    if not math.isfinite(whole):
        return f"loss is {whole}"
    optimizer.zero_grad()
    if loss.requires_grad:
        loss.backward()
    if adjust is not None:
        adjust()
    if not _are_finite(optimizer):
        optimizer.zero_grad()
        return "a gradient is not finite"
    if isinstance(optimizer, NestedOptimizer):
        optimizer.observe(whole if own_loss is None else own_loss)
        if not _is_watched(optimizer):
            optimizer.advance()
            return ""
    optimizer.step()
    return ""


def _is_watched(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an LR scheduler or a hook wants to know of every step."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(hooks) or "step" in vars(optimizer)


def _put_back(
    optimizer: torch.optim.Optimizer, buffers: Sequence[Tensor], before: Sequence[Tensor]
) -> None:
    optimizer.zero_grad()
    if isinstance(optimizer, NestedOptimizer):
        optimizer.levels.enable_all()
    with torch.no_grad():
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def _are_finite(optimizer: torch.optim.Optimizer) -> bool:
    params: list[Tensor] = [param for group in optimizer.param_groups for param in group["params"]]
    grads = [
        param.grad.coalesce().values() if param.grad.is_sparse else param.grad
        for param in params
        if param.grad is not None
    ]
    return are_finite(grads)
