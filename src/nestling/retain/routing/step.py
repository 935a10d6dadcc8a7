"""The training step of a routed bank: only the chosen module learns.

Letters: N examples, D features, C modules.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.errors import DataError, NonFiniteInput, PlanError, ShapeMismatch, UnknownLabel
from nestling.memory.checks import check_inputs
from nestling.retain.routing.bank import ModuleBank
from nestling.retain.routing.growth import Growth, HeldBatch, MergingRouter
from nestling.retain.routing.router import Explanation, Router, Score, Task


@dataclass(frozen=True)
class StepResult:
    """What a step did.

    Args:
        loss: of the batch under the best context, before anything was learned.
        context: slot that learned the batch, or that fits it best if it waits.
        surprise: standardised, in standard deviations; None if it was not judged.
        grown: slot of a new module.
        is_held: the batch waits and was not learned yet.
        merged: (kept, freed) slots.
        note: what the user should know, or nothing.
    """

    loss: float
    context: int
    surprise: float | None = None
    grown: int | None = None
    is_held: bool = False
    merged: tuple[tuple[int, int], ...] = ()
    note: str = ""


def predict_routed(
    bank: ModuleBank,
    router: Router,
    x: Tensor,
    *,
    task: Task | None = None,
    inputs: Tensor | None = None,
) -> Tensor:
    """Answers (N, ...) of the modules that the router picks for each example.

    Args:
        bank: in the mode that it is in.
        router: of as many contexts as the bank has slots.
        x: (N, ...) inputs.
        task: label, where it is known.
        inputs: (N, D) what the router reads; None for the spine's features.
    """
    with torch.no_grad():
        z = bank.spine(x)
        return bank.apply_modules(z, router.route(_read(z, inputs), task))


def learn_routed(
    bank: ModuleBank,
    router: Router,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    task: Task | None = None,
    context: int | None = None,
    growth: Growth | None = None,
    inputs: Tensor | None = None,
    learn_spine: bool = False,
) -> StepResult:
    """One step in which the context of a batch is found and only its module learns.

    The other modules are neither computed nor changed (a `LearnedRouter` computes their losses,
    without gradients). The batch counts as one context; split batches that mix several.

    Args:
        bank: in training mode.
        router: of as many contexts as the bank has slots.
        optimizer: over the bank's parameters; give the spine a group with a lower rate.
        x: (N, ...) inputs, N >= 1.
        y: (N,) classes, or floating values of the output's shape.
        task: label, for a router that goes by it.
        context: slot, where it is known while learning; then nothing is found or grown.
        growth: grows and merges modules; None for neither.
        inputs: (N, D) what the router reads; None for the spine's features.
        learn_spine: whether the spine learns too. Its features then move under a router that
            reads them: give `inputs`.

    Returns: what was done.

    Raises:
        ShapeMismatch, DataError, NonFiniteInput, UnknownLabel: bad input; nothing changed then.
        PlanError: a router of another number of contexts.
    """
    if router.num_contexts != bank.max_modules:
        raise PlanError(
            f"a router of {router.num_contexts} contexts for a bank of {bank.max_modules} slots; "
            "equal numbers work"
        )
    if not len(x) or len(x) != len(y):
        raise ShapeMismatch(f"{len(x)} inputs and {len(y)} targets; as many of each, at least 1")
    with torch.no_grad():
        z = bank.spine(x)
    batch = HeldBatch(x, y, _read(z, inputs))
    check_inputs(batch.read, batch.read.shape[-1])
    if context is None:
        found = router.explain(batch.read, task, _make_score(bank, z, y))
    else:
        found = Explanation(context, None)
    bank.check_context(found.context)
    with torch.no_grad():
        loss = float(compute_loss(bank.apply_modules(z, context=found.context), y))
    if not math.isfinite(loss):
        raise NonFiniteInput(
            f"the loss under module {found.context} is {loss}: NaN or infinity in the inputs, the "
            "targets or the module"
        )
    if growth is None:
        _learn_in(bank, router, optimizer, batch, found.context, learn_spine)
        return StepResult(loss, found.context)
    return _learn_growing(bank, router, optimizer, batch, found, growth, learn_spine, loss)


def learn_held(
    bank: ModuleBank,
    router: Router,
    optimizer: torch.optim.Optimizer,
    growth: Growth,
    *,
    context: int | None = None,
    learn_spine: bool = False,
) -> list[int]:
    """Learn the batches that wait, e.g. at the end of a stream.

    Args:
        context: slot for all of them; None for the best of each.

    Returns: the slot of each.
    """
    held, growth.held = growth.held, []
    slots = []
    for batch in held:
        slot = context
        if slot is None:
            with torch.no_grad():
                z = bank.spine(batch.x)
            slot = router.explain(batch.read, None, _make_score(bank, z, batch.y)).context
        _learn_in(bank, router, optimizer, batch, slot, learn_spine)
        growth.record(slot, None)
        slots.append(slot)
    return slots


def merge_contexts(
    bank: ModuleBank, router: MergingRouter, growth: Growth
) -> tuple[tuple[int, int], ...]:
    """Merge modules until none is one too many.

    theta_keep is the average by usage, what the router knows is added exactly.

    Args:
        bank: changed.
        router: changed.
        growth: says which; changed.

    Returns: (kept, freed) slots of each merge.
    """
    merged = []
    while pair := growth.find_merge(router.compare_contexts()):
        bank.merge(*pair, share=growth.merge(*pair))
        router.merge(*pair)
        merged.append(pair)
    return tuple(merged)


def compute_loss(output: Tensor, y: Tensor) -> Tensor:
    """Mean cross entropy in nats, or mean squared error where y is floating: scalar ().

    Raises: UnknownLabel: a class without an output. ShapeMismatch: values of another shape.
    """
    if y.is_floating_point():
        if y.shape != output.shape:
            raise ShapeMismatch(f"targets {tuple(y.shape)} for outputs {tuple(output.shape)}")
        return functional.mse_loss(output, y)
    if int(y.min()) < 0 or int(y.max()) >= output.shape[1]:
        raise UnknownLabel(
            f"labels from {int(y.min())} to {int(y.max())}; modules answer 0 to "
            f"{output.shape[1] - 1}"
        )
    return functional.cross_entropy(output, y)


def _learn_growing(
    bank: ModuleBank,
    router: Router,
    optimizer: torch.optim.Optimizer,
    batch: HeldBatch,
    found: Explanation,
    growth: Growth,
    learn_spine: bool,
    loss: float,
) -> StepResult:
    near, surprise = found
    level = None if surprise is None else growth.standardise(near, surprise)
    is_surprising = surprise is not None and growth.is_surprising(near, surprise)
    note, grown = "", None
    merged: tuple[tuple[int, int], ...] = ()
    if is_surprising:
        assert surprise is not None
        if not growth.grow_when(near, surprise):
            growth.held.append(_copy(batch))
            return StepResult(loss, near, level, is_held=True)
        grown = bank.grow(like=near)
        if grown is None:
            note = (
                f"no module was grown: all {bank.max_modules} are in use; {len(growth.held) + 1} "
                f"surprising batches go to the nearest module, {near}"
            )
        else:
            _clear_state(optimizer, bank.parts[grown])
    slot = near if grown is None else grown
    # What waited goes to the new module, to the nearest if there is none, else where it fits.
    learn_held(
        bank,
        router,
        optimizer,
        growth,
        context=slot if is_surprising else None,
        learn_spine=learn_spine,
    )
    _learn_in(bank, router, optimizer, batch, slot, learn_spine)
    growth.record(slot, None if grown is not None else surprise)
    if growth.clock % growth.merge_every == 0 and isinstance(router, MergingRouter):
        merged = merge_contexts(bank, router, growth)
    return StepResult(loss, slot, level, grown, merged=merged, note=note)


def _learn_in(
    bank: ModuleBank,
    router: Router,
    optimizer: torch.optim.Optimizer,
    batch: HeldBatch,
    slot: int,
    learn_spine: bool,
) -> None:
    # None, not zero: an optimizer leaves parameters without a gradient alone, decay included.
    optimizer.zero_grad(set_to_none=True)
    with torch.set_grad_enabled(learn_spine):
        z = bank.spine(batch.x)
    compute_loss(bank.apply_modules(z, context=slot), batch.y).backward()
    optimizer.step()
    router.observe(batch.read, slot)


def _make_score(bank: ModuleBank, z: Tensor, y: Tensor) -> Score:
    """Mean loss of a batch under each module: (C,), inf for slots that are not in use."""

    def score() -> Tensor:
        losses_C = torch.full((bank.max_modules,), torch.inf)
        with torch.no_grad():
            for slot in bank.list_active():
                losses_C[slot] = compute_loss(bank.apply_modules(z, context=slot), y)
        return losses_C

    return score


def _clear_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """A slot may have had another module before, whose moments are not those of the new one."""
    for param in module.parameters():
        optimizer.state.pop(param, None)


def _read(z: Tensor, inputs: Tensor | None) -> Tensor:
    read = z if inputs is None else inputs
    if len(read) != len(z):
        raise DataError(f"router inputs for {len(read)} examples, but {len(z)} examples came")
    return read.detach().flatten(1)


def _copy(batch: HeldBatch) -> HeldBatch:
    return HeldBatch(*(part.detach().clone() for part in batch))
