"""The training step with protecting methods, for any torch optimizer."""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nestling.core.batches import Loss, default_loss, read_batch, read_output
from nestling.core.params import are_finite
from nestling.levels import NestedOptimizer
from nestling.levels.assign import unwrap
from nestling.levels.input_recording import record_inputs
from nestling.protect.columns import require_target
from nestling.protect.method import Retention

Place = tuple[nn.Module, str]  # a module and the name of a buffer in it


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
    buffers: Sequence[Place] | None = None,
    is_new: bool = True,
) -> TakenStep:
    """One training step on a batch with protecting methods; refused if anything is not finite.

    Args:
        model: in training mode; of a compiled one the methods see the module inside.
        optimizer: over its parameters: a `NestedOptimizer` or any other that needs no closure.
        batch: N examples with a target, in any form of `read_batch`.
        methods: what protects, called in this order.
        loss: (output, target) -> scalar (), also of what is replayed.
        precision: an autocast context for the forward passes.
        buffers: what a forward pass changes in the model, see `list_places`; None: all of it.
        is_new: False for a batch that was learned before, in an earlier epoch: methods that
            keep each example once pass over it.

    Returns: what was done. A step that is refused, or one that raises, leaves parameters,
        buffers, moments, gathered gradients (but those gathered in place), clocks and what the
        methods draw from as they were; also if a method cannot take in a step that was taken.

    Raises:
        DataError: no target, or a batch that the model or a method cannot take.

    >>> model = nn.Linear(2, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
    >>> take_step(model, optimizer, (torch.zeros(1, 2), torch.tensor([0]))).refused
    ''
    """
    read = read_batch(batch)
    target, inner = require_target(read), unwrap(model)
    places = list_places(inner) if buffers is None else buffers
    before = _mark_buffers(places)
    drawn = [generator for method in methods for generator in method.list_generators()]
    stood = [generator.get_state() for generator in drawn]
    is_taken, undo = False, _mark_step(optimizer, methods)
    if isinstance(optimizer, NestedOptimizer):
        optimizer.prepare_step()
    with record_inputs(inner, optimizer) as forget:
        try:
            with precision or nullcontext():
                seen = output = read_output(read.call(model))
                for method in methods:
                    seen = method.restrict(seen, read)
                own = total = loss(seen, target)
                for method in methods:
                    extra = method.compute_loss(inner, read, output, loss)
                    total = total if extra is None else total + extra
            value = own.item()

            def adjust() -> None:
                for method in methods:
                    method.adjust_gradients(inner, loss)

            refused = descend(optimizer, total, adjust=adjust, own_loss=value)
            is_taken = not refused
            if is_taken:
                for method in methods:
                    if is_new or method.takes_repeats:
                        method.observe(inner, read, output.detach())
        except Warning:  # an alarm that is an error here: the step was taken before it
            raise
        except BaseException:
            if is_taken:
                undo()
            _put_back(optimizer, before, forget)
            _put_generators(drawn, stood)
            raise
        if refused:
            _put_back(optimizer, before, forget)
            _put_generators(drawn, stood)
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
            optimizer.advance(is_finite=True)
            return ""
    optimizer.step()
    return ""


def _is_watched(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an LR scheduler or a hook wants to know of every step."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(hooks) or "step" in vars(optimizer)


def list_places(model: nn.Module) -> list[Place]:
    """Where a model keeps buffers: each module with a name in it, also one that is None yet.

    A place, and not the tensor that is there now: `forward` may put another one there.
    """
    return [(module, name) for module in model.modules() for name in module._buffers]


def _mark_buffers(places: Sequence[Place]) -> list[tuple[Place, Tensor | None, Tensor | None]]:
    """Each place with the tensor that is there, and a copy of what that holds."""
    marked: list[tuple[Place, Tensor | None, Tensor | None]] = []
    for module, name in places:
        buffer = module._buffers.get(name)
        marked.append(((module, name), buffer, None if buffer is None else buffer.clone()))
    return marked


def _put_back(
    optimizer: torch.optim.Optimizer,
    before: Sequence[tuple[Place, Tensor | None, Tensor | None]],
    forget: Callable[[], None],
) -> None:
    optimizer.zero_grad()
    forget()
    if isinstance(optimizer, NestedOptimizer):
        optimizer.levels.enable_all()
    with torch.no_grad():
        for (module, name), buffer, value in before:
            module._buffers[name] = buffer
            if buffer is not None and value is not None:
                buffer.copy_(value)


def _put_generators(generators: Sequence[torch.Generator], states: Sequence[Tensor]) -> None:
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


def _mark_step(
    optimizer: torch.optim.Optimizer, methods: Sequence[Retention]
) -> Callable[[], None]:
    """What undoes a step that was taken, its methods included.

    Our own methods refuse before the step what they could not take in after it. Of others that
    is not known, so that with one of them everything is copied that a step changes.
    """
    if all(type(method).observe.__module__.startswith("nestling.") for method in methods):
        return _leave
    params: list[Tensor] = [param for group in optimizer.param_groups for param in group["params"]]
    values = [param.detach().clone() for param in params]
    state = copy.deepcopy(optimizer.state_dict())
    states = [copy.deepcopy(method.state_dict()) for method in methods]

    def undo() -> None:
        with torch.no_grad():
            for param, value in zip(params, values, strict=True):
                param.copy_(value)
        optimizer.load_state_dict(state)
        for method, kept in zip(methods, states, strict=True):
            method.load_state_dict(kept)

    return undo


def _leave() -> None:
    """Nothing is undone."""


def _are_finite(optimizer: torch.optim.Optimizer) -> bool:
    params: list[Tensor] = [param for group in optimizer.param_groups for param in group["params"]]
    grads = [
        param.grad.coalesce().values() if param.grad.is_sparse else param.grad
        for param in params
        if param.grad is not None
    ]
    return are_finite(grads)
