"""The training step of a routed bank: only the chosen module learns.

Letters: N examples, D features, C modules.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, Loss, default_loss, read_batch, read_output
from nestling.core.errors import DataError, NonFiniteInput, SettingError, ShapeMismatch
from nestling.memory.checks import check_inputs
from nestling.protect.columns import pack_batch, require_target, unpack_batch
from nestling.protect.routing.module_bank import ModuleBank, compute_loss
from nestling.protect.routing.module_growth import Growth, HeldBatch, MergingRouter, merge_contexts
from nestling.protect.routing.router import Explanation, Router, Score, Task
from nestling.protect.training_step import descend


@dataclass(frozen=True)
class StepResult:
    """Result of `learn_routed`: loss, context, surprise, modules added and merged.

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
    x: object,
    *,
    task: Task | None = None,
    inputs: Tensor | None = None,
) -> Tensor:
    """Predict (N, ...) by the modules that the router picks for each example.

    Args:
        bank: in the mode that it is in.
        router: of as many contexts as the bank has slots.
        x: (N, ...) inputs: a tensor, a tuple of several, or a dict of keyword inputs.
        task: label, where it is known.
        inputs: (N, D) what the router reads; None for the spine's features.
    """
    with torch.no_grad():
        z = _run_spine(bank, read_batch(x if isinstance(x, Batch) else (x,)))
        return bank.apply_modules(z, router.route(_read(z, inputs), task))


def learn_routed(
    bank: ModuleBank,
    router: Router,
    optimizer: torch.optim.Optimizer,
    batch: object,
    *,
    task: Task | None = None,
    context: int | None = None,
    growth: Growth | None = None,
    inputs: Tensor | None = None,
    learn_spine: bool = False,
    loss: Loss = default_loss,
) -> StepResult:
    """Training step with routing: find the context of a batch and train only its module.

    The other modules are neither computed nor changed (a `LearnedRouter` computes their losses,
    without gradients). The batch counts as one context; split batches that mix several.

    Args:
        bank: in training mode.
        router: of as many contexts as the bank has slots.
        optimizer: over the bank's parameters; give the spine a group with a lower rate.
        batch: N >= 1 examples with a target, in any form of `read_batch`.
        task: label, for a router that goes by it.
        context: slot, where it is known while learning; then nothing is found or grown.
        growth: grows and merges modules; None for neither.
        inputs: (N, D) what the router reads; None for the spine's features.
        learn_spine: whether the spine learns too. Its features then move under a router that
            reads them: give `inputs`.
        loss: (output, target) -> scalar ().

    Returns: what was done; its note says so if a gradient was not finite and nothing was learned.

    Raises:
        ShapeMismatch, DataError, NonFiniteInput, UnknownLabel: bad input; nothing changed then.
        SettingError: a router of another number of contexts.
    """
    if router.num_contexts != bank.max_modules:
        raise SettingError(
            f"a router of {router.num_contexts} contexts for a bank of {bank.max_modules} slots; "
            "equal numbers work"
        )
    new = read_batch(batch)
    y = require_target(new)
    if not new.size or new.size != len(y):
        raise ShapeMismatch(f"{new.size} inputs and {len(y)} targets; as many of each, at least 1")
    with torch.no_grad():
        z = _run_spine(bank, new)
    held = HeldBatch(new, _read(z, inputs))
    check_inputs(held.read, held.read.shape[-1])
    if context is None:
        found = router.explain(held.read, task, _make_score(bank, z, y, loss))
    else:
        found = Explanation(context, None)
    bank.check_context(found.context)
    with torch.no_grad():
        value = float(compute_loss(bank.apply_modules(z, context=found.context), y, loss))
    if not math.isfinite(value):
        raise NonFiniteInput(
            f"the loss under module {found.context} is {value}: NaN or infinity in the inputs, the "
            "targets or the module"
        )
    setup = _Setup(bank, router, optimizer, learn_spine, loss)
    if growth is None:
        return StepResult(value, found.context, note=_learn_in(setup, held, found.context))
    return _learn_growing(setup, held, found, growth, value)


def learn_held(
    bank: ModuleBank,
    router: Router,
    optimizer: torch.optim.Optimizer,
    growth: Growth,
    *,
    context: int | None = None,
    learn_spine: bool = False,
    loss: Loss = default_loss,
) -> list[int]:
    """Learn the batches that are still held back, e.g. at the end of a stream.

    Args:
        context: slot for all of them; None for the best of each.

    Returns: the slot of each.
    """
    setup = _Setup(bank, router, optimizer, learn_spine, loss)
    slots = _release(setup, growth, context)
    for slot in set(slots):
        growth.restart(slot)
    return slots


class _Setup(NamedTuple):
    bank: ModuleBank
    router: Router
    optimizer: torch.optim.Optimizer
    learn_spine: bool
    loss: Loss


def _learn_growing(
    setup: _Setup, batch: HeldBatch, found: Explanation, growth: Growth, loss: float
) -> StepResult:
    bank, router, near, surprise = setup.bank, setup.router, *found
    level = None if surprise is None else growth.standardise(near, surprise)
    is_surprising = surprise is not None and growth.is_surprising(near, surprise)
    note, grown = "", None
    merged: tuple[tuple[int, int], ...] = ()
    if is_surprising:
        assert surprise is not None
        if not growth.grow_when(near, surprise):
            growth.held.append(_copy(batch))
            return StepResult(loss, near, level, is_held=True)
        grown = _grow(setup, [*growth.held, batch], near)
        if grown is None:
            note = (
                f"no module was grown: all {bank.max_modules} are in use; {len(growth.held) + 1} "
                f"surprising batches go to the nearest module, {near}"
            )
        else:
            _clear_state(setup.optimizer, bank.parts[grown])
    slot = near if grown is None else grown
    # What waited goes to the new module, to the nearest if there is none, else where it fits.
    target = slot if is_surprising else None
    touched = set(_release(setup, growth, target))
    if surprise is not None and near in touched and not is_surprising:
        again = _explain(setup, batch)
        if again.surprise is not None and again.context == near:
            growth.shift(near, again.surprise - surprise)
            surprise = again.surprise
    note = _learn_in(setup, batch, slot) or note
    growth.record(slot, None if is_surprising else surprise)
    for other in touched | ({slot} if is_surprising else set()):
        if is_surprising or other != near:
            growth.restart(other)
    if growth.clock % growth.merge_every == 0 and isinstance(router, MergingRouter):
        merged = merge_contexts(bank, router, growth)
    return StepResult(loss, slot, level, grown, merged=merged, note=note)


def _release(setup: _Setup, growth: Growth, context: int | None) -> list[int]:
    held, growth.held = growth.held, []
    slots = []
    for batch in held:
        slot = _explain(setup, batch).context if context is None else context
        _learn_in(setup, batch, slot)
        growth.record(slot, None)
        slots.append(slot)
    return slots


def _grow(setup: _Setup, held: list[HeldBatch], near: int) -> int | None:
    """A module that starts as it was made, or as the nearest where that one's loss is lower.

    What was learned in an unlike context can be worse than nothing: see docs/routing.md.
    """
    bank = setup.bank
    free = bank.find_free()
    if free is None:
        return None
    gain = 0.0
    with torch.no_grad():
        for one in held:
            z, y = _run_spine(bank, one.batch), require_target(one.batch)
            gain += float(compute_loss(bank.parts[free](z), y, setup.loss)) * len(z)
            gain -= float(compute_loss(bank.parts[near](z), y, setup.loss)) * len(z)
    is_made_better = gain < 0.0 and bool(bank.pristine[free])
    return bank.grow(like=None if is_made_better else near)


def _learn_in(setup: _Setup, held: HeldBatch, slot: int) -> str:
    """One step of one module; why it was refused, or nothing."""
    with torch.set_grad_enabled(setup.learn_spine):
        z = _run_spine(setup.bank, held.batch)
    answers = setup.bank.apply_modules(z, context=slot)
    loss = compute_loss(answers, require_target(held.batch), setup.loss)
    # Gradients are cleared to None, not zero: an optimizer leaves what has none alone, decay
    # included.
    if refused := descend(setup.optimizer, loss):
        return f"step refused: {refused}"
    setup.router.observe(held.read, slot)
    return ""


def _explain(setup: _Setup, held: HeldBatch) -> Explanation:
    with torch.no_grad():
        z = _run_spine(setup.bank, held.batch)
    score = _make_score(setup.bank, z, require_target(held.batch), setup.loss)
    return setup.router.explain(held.read, None, score)


def _make_score(bank: ModuleBank, z: Tensor, y: Tensor, loss: Loss) -> Score:
    """Mean loss of a batch under each module: (C,), inf for slots that are not in use."""

    def score() -> Tensor:
        losses_C = torch.full((bank.max_modules,), torch.inf, dtype=torch.float32, device="cpu")
        with torch.no_grad():
            for slot in bank.list_active():
                losses_C[slot] = compute_loss(bank.apply_modules(z, context=slot), y, loss)
        return losses_C

    return score


def _clear_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """A slot may have had another module before, whose moments are not those of the new one."""
    for param in module.parameters():
        optimizer.state.pop(param, None)


def _run_spine(bank: ModuleBank, batch: Batch) -> Tensor:
    return read_output(batch.call(bank.spine))


def _read(z: Tensor, inputs: Tensor | None) -> Tensor:
    read = z if inputs is None else inputs
    if len(read) != len(z):
        raise DataError(f"router inputs for {len(read)} examples, but {len(z)} examples came")
    return read.detach().flatten(1)


def _copy(held: HeldBatch) -> HeldBatch:
    columns = {name: value.detach().clone() for name, value in pack_batch(held.batch).items()}
    return HeldBatch(unpack_batch(columns), held.read.clone())
