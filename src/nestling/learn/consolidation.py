"""What a learner does when its slow weights are to change, and when a memory's knob is turned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from nestling.answer.held_answers import HeldAnswers
from nestling.consolidate import Judge, Proposal, propose
from nestling.core.batches import read_output
from nestling.core.errors import SettingError, UnknownLevel, suggest
from nestling.learn.guard import flatten_target
from nestling.levels import Change
from nestling.levels.low_rank import merge_low_rank
from nestling.protect import unpack_batch

if TYPE_CHECKING:
    from nestling.learn.learner import Learner


def consolidate(
    learner: Learner,
    judge: Judge | None,
    change: str | Callable[[nn.Module], object],
    tolerance: float,
) -> Proposal:
    """Try a change on a copy of the model, judge it, and keep or refuse it.

    Memories on a frozen copy keep their features. Those on the live model are refitted from
    replay when the change is kept.
    """
    live = [level for level in learner.levels.values() if not level.spec.frozen]
    stale = [level for level in live if level.reader.module is not None and not level.is_empty]
    if stale and learner.rehearsal is None:
        raise SettingError(
            f"memory {stale[0].spec.name!r} reads the live model and would be out of date; give "
            "the learner replay=200 to refit it, or nl.Memory(..., frozen=True)"
        )
    proposal = propose(
        learner.model,
        _choose_change(learner, change),
        judge or _judge_by_replay(learner),
        tolerance=tolerance,
    )
    proposal.settle()
    if proposal.status == "committed":
        _restart_changed(learner, proposal)
        for level in stale:
            _refit(learner, level.spec.name)
    return proposal


def control_memory(
    learner: Learner, name: str, reason: str, switch_rate: float | None, others: dict[str, object]
) -> Change:
    """Turn the knob of a memory level: `switch_rate`, from the next block on."""
    level = learner.levels[name]
    if others or switch_rate is None:
        asked = sorted(others)[0] if others else ""
        known = suggest(asked, ["switch_rate"])
        raise SettingError(f"memory {name!r} has no knob {asked!r}; {known}")
    if not 0.0 <= switch_rate < 1.0:
        raise SettingError(f"memory {name!r}: switch_rate must be in [0, 1), got {switch_rate!r}")
    if not reason.strip():
        raise SettingError(f"a change of memory {name!r} needs a reason; reason='...' is kept")
    if level.bank is None:
        raise SettingError(f"memory {name!r} is empty; turn its knobs once it has learned")
    level.bank.gate.switch_rate = switch_rate
    step = learner.num_examples
    record = Change(name, {"switch_rate": switch_rate}, reason, asked_at=step, applied_at=step)
    if learner.optimizer is not None:
        learner.optimizer.changes.append(record)
    return record


def _choose_change(
    learner: Learner, change: str | Callable[[nn.Module], object]
) -> Callable[[nn.Module], object]:
    if callable(change):
        return change
    if change == "merge":
        return merge_low_rank
    copies = {} if learner.optimizer is None else learner.optimizer.copies
    if change not in copies:
        raise UnknownLevel(f"change {change!r}; {suggest(change, ['merge', *copies])}")
    values = copies[change].values | copies[change].buffers

    def take_average(model: nn.Module) -> None:
        own = dict(model.named_parameters()) | dict(model.named_buffers())
        with torch.no_grad():
            for name, value in values.items():
                # A head that has grown keeps the rows that a copy which never moves does not have.
                own[name][: len(value)].copy_(value) if value.ndim else own[name].copy_(value)

    return take_average


def _judge_by_replay(learner: Learner) -> Judge:
    rehearsal = learner.rehearsal
    if rehearsal is None or len(rehearsal.store) == 0 or learner.task != "classification":
        raise SettingError("consolidate needs a judge; give judge=model -> bool, score or Verdict")
    batch = unpack_batch(rehearsal.draw(learner.device) or {})

    def judge(model: nn.Module) -> float:
        assert batch.target is not None
        with torch.no_grad():
            output = read_output(batch.call(model))
        return -float(learner.loss(output, batch.target))

    return judge


def _restart_changed(learner: Learner, proposal: Proposal) -> None:
    """Moments and gathered gradients of weights that were replaced belong to the old ones."""
    if learner.optimizer is None:
        return
    for level in learner.optimizer.levels.values():
        for name, param in zip(level.names, level.params, strict=True):
            if name in proposal.values:
                level.inner.state.pop(param, None)
    learner.model.zero_grad()


def _refit(learner: Learner, name: str) -> None:
    assert learner.rehearsal is not None
    level = learner.levels[name]
    batch = unpack_batch(learner.rehearsal.store.read_all()).to(learner.device)
    assert batch.target is not None
    assert level.bank is not None
    rows = level.read_rows(batch, batch.target)
    labels, _ = flatten_target(batch.target, None)
    switch_rate = level.bank.gate.switch_rate
    level.make_bank(rows.widths, level.bank.task)
    level.bank.gate.switch_rate = switch_rate
    level.bank.add(rows.features, labels)
    if name == learner.experts.slow and learner.readout is not None:
        learner.readout.held = HeldAnswers()  # of a clock that has begun anew
