"""A change of slow weights, tried on a copy and judged: what is proposed, by whom it is judged,
and what follows for levels and memories when it is kept."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from nestling.consolidate import (
    Judge,
    Proposal,
    draw_weights,
    dream,
    propose,
    score_agreement,
    teach_asleep,
)
from nestling.core.batches import Batch, Loss, read_output
from nestling.core.errors import DataError, SettingError, UnknownLevel, suggest
from nestling.core.params import digest_tensors
from nestling.learn.guard import flatten_target
from nestling.learn.parts import check_form, select_tensors
from nestling.levels import Levels
from nestling.levels.copies import CopyLevel
from nestling.levels.gradient import GradientLevel
from nestling.levels.level import check_kind
from nestling.levels.low_rank import merge_low_rank
from nestling.levels.memory import MemoryLevel, make_features
from nestling.memory.ridge import Task
from nestling.protect import DERpp, unpack_batch

# Dreams by which a sleep is judged where nobody else judges it.
NUM_JUDGED = 2_000


def consolidate(
    levels: Levels,
    change: str | Callable[[nn.Module], object],
    judge: Judge,
    tolerance: float,
    replay: DERpp | None,
    device: torch.device,
) -> Proposal:
    """Try a change on a copy of the model, judge it, and keep or refuse it.

    Memories on a frozen copy keep their features. Those on the live model are refitted from
    replay when the change is kept.

    Args:
        levels: and the model that they are of.
        change: "merge", the name of a copy or sleep level, or a function that alters a model.
        judge: of the changed copy.
        tolerance: how much score may be lost.
        replay: examples for memories of the live model.
        device: where examples go.

    Returns: the settled proposal.

    Raises:
        UnknownLevel: no copy or sleep level has that name.
        SettingError: a memory reads the live model and there is nothing to refit it from.
    """
    stale = [level for level in levels.memories.values() if _reads_live(level)]
    if stale and replay is None:
        raise SettingError(
            f"memory {stale[0].spec.name!r} reads the live model and would be out of date; give "
            "the learner replay=200 to refit it, or nl.Memory(..., frozen=True)"
        )
    proposal = propose(levels.model, _choose_change(levels, change), judge, tolerance=tolerance)
    proposal.settle()
    if proposal.status != "committed":
        return proposal
    for gradient in levels.gradient.values():
        gradient.forget_moments(proposal.values)
    if isinstance(change, str) and change in levels.sleeps:
        levels.sleeps[change].num_kept += 1
    for level in stale:
        assert replay is not None
        _refit(level, unpack_batch(replay.store.read_all()).to(device))
    return proposal


def put_level_back(
    levels: Levels,
    name: str,
    state: Mapping[str, Any],
    replay: DERpp | None,
    device: torch.device,
) -> None:
    """Put one level back to a saved state; all others stay as they are, bit for bit.

    Memories that read the live model are refitted from replay if its weights change by this.

    Args:
        levels: and the model that they are of.
        name: of the level.
        state: what its `state_dict` gave; or a gradient level's tensors alone, whose moments are
            then forgotten, since they belong to the weights before.
        replay: examples for memories of the live model.
        device: where examples go.

    Raises:
        UnknownLevel: no level has that name.
        MismatchedParameters: the state is of another plan or model.
        SettingError: a memory reads the live model and there is nothing to refit it from.
            Nothing is changed by either.
    """
    if name not in levels:
        raise UnknownLevel(f"no level {name!r}; {suggest(name, levels)}")
    level = levels[name]
    stale: list[MemoryLevel] = []
    weights = state if isinstance(level, GradientLevel) and "spec" not in state else None
    if weights is not None:
        check_form(name, weights, level.tensors())
    elif isinstance(level, GradientLevel | CopyLevel):
        check_kind(state, level.spec, set())
        check_form(name, select_tensors(state), level.tensors())
    if weights is None:
        level.check_state(state)
    after = state.get("weights") if weights is None else weights
    if isinstance(level, GradientLevel) and digest_tensors(after or {}) != level.digest():
        stale = [memory for memory in levels.memories.values() if _reads_live(memory)]
    stored = None if replay is None or not stale else replay.store.read_all()
    if stale and (stored is None or not len(unpack_batch(stored).inputs[0])):
        raise SettingError(
            f"memory {stale[0].spec.name!r} reads the live model and would be out of date; give "
            "the learner replay=200 to refit it, or nl.Memory(..., frozen=True)"
        )
    before = {one: levels[one].state_dict() for one in (name, *(m.spec.name for m in stale))}
    try:
        if isinstance(level, GradientLevel) and weights is not None:
            level.load_weights(weights)
        else:
            level.load_state_dict(state)
            if isinstance(level, GradientLevel):
                level.is_replaced = level.is_written
        levels.load_course({"num_steps": levels.num_steps})
        for memory in stale:
            assert stored is not None
            _refit(memory, unpack_batch(stored).to(device))
    except BaseException:
        for one, was in before.items():
            levels[one].load_state_dict(was)
        levels.load_course({"num_steps": levels.num_steps})
        raise


def learn_alone(
    levels: Levels, name: str, batches: Iterable[Batch], learn: Callable[[Batch], object]
) -> None:
    """Let one level learn batches while every other level stands still, bit for bit.

    Args:
        levels: of the model.
        name: of a gradient or memory level.
        batches: what it learns, in this order.
        learn: takes a training step of all levels on a batch that memories leave out.

    Raises:
        SettingError: a level of that kind learns nothing from examples of its own.
    """
    level = levels[name]
    if isinstance(level, MemoryLevel):
        for batch in batches:
            _teach(level, batch)
        return
    if not isinstance(level, GradientLevel):
        raise SettingError(
            f"level {name!r} is a {level.spec.kind} level, which learns nothing from batches by "
            "itself; roll it back without keeping feedback"
        )
    moving: dict[str, GradientLevel | CopyLevel] = {**levels.gradient, **levels.copies}
    still = {one: other.state_dict() for one, other in moving.items() if one != name}
    model = levels.model
    live = dict(model.named_parameters()) | dict(model.named_buffers())
    rest = {one: value for one, value in levels.rest().items() if one in live}
    for copy in levels.copies.values():
        copy.is_silent = True
    try:
        for batch in batches:
            learn(batch)
            # All that moved beside it goes back before the next batch is answered.
            for one, state in still.items():
                levels[one].load_state_dict(state)
            with torch.no_grad():
                for one, value in rest.items():
                    live[one].copy_(value)
    finally:
        for copy in levels.copies.values():
            copy.is_silent = False
    level.is_replaced = level.is_written
    levels.load_course({"num_steps": levels.num_steps})


def judge_by_replay(replay: DERpp | None, loss: Loss, device: torch.device) -> Judge:
    """A judge that scores a model by its loss on stored examples.

    Raises:
        SettingError: nothing is stored.
    """
    drawn = None if replay is None else replay.draw(device)
    if drawn is None:
        raise SettingError("consolidate needs a judge; give judge=model -> bool, score or Verdict")
    batch = unpack_batch(drawn)

    def judge(model: nn.Module) -> float:
        assert batch.target is not None
        with torch.no_grad():
            output = read_output(batch.call(model))
        return -float(loss(output, batch.target))

    return judge


def judge_by_dreams(levels: Levels, name: str) -> Judge:
    """A judge that scores a model by how well it agrees with a memory on dreams of its own.

    Args:
        levels: of the model.
        name: of the sleep level; the dreams are others than those that teach.
    """
    sleep = levels.sleeps[name]
    memory = levels.memories[sleep.spec.of]
    num_inputs = min(NUM_JUDGED, sleep.spec.num_inputs)
    dreams = dream(sleep, memory, num_inputs=num_inputs, salt="judge")
    return lambda model: score_agreement(model, dreams)


def _reads_live(level: MemoryLevel) -> bool:
    return not level.spec.frozen and level.reader.module is not None and not level.is_empty


def _choose_change(
    levels: Levels, change: str | Callable[[nn.Module], object]
) -> Callable[[nn.Module], object]:
    if callable(change):
        return change
    if change == "merge":
        return merge_low_rank
    if change in levels.sleeps:
        return _choose_sleep(levels, change)
    if change not in levels.copies:
        names: Iterable[str] = ["merge", *levels.copies, *levels.sleeps]
        raise UnknownLevel(f"change {change!r}; {suggest(change, names)}")
    values = levels.copies[change].tensors()

    def take_average(model: nn.Module) -> None:
        own = dict(model.named_parameters()) | dict(model.named_buffers())
        with torch.no_grad():
            for name, value in values.items():
                # A head that has grown keeps the rows that a copy which never moves does not have.
                own[name][: len(value)].copy_(value) if value.ndim else own[name].copy_(value)

    return take_average


def _choose_sleep(levels: Levels, name: str) -> Callable[[nn.Module], object]:
    """A change that teaches a model what a memory knows, from the dreams of a sleep level."""
    sleep = levels.sleeps[name]
    spec, memory = sleep.spec, levels.memories[sleep.spec.of]
    taught = {
        param
        for level in (spec.teaches or levels.gradient.keys())
        for param in levels.gradient[level].names
    }
    dreams = dream(sleep, memory)

    def sleep_on_it(model: nn.Module) -> None:
        params = dict(model.named_parameters())
        if spec.start == "fresh":
            draw_weights(model, taught, seed=spec.seed)
        needed = {param: value.requires_grad for param, value in params.items()}
        for param, value in params.items():
            value.requires_grad_(param in taught)
        weights = teach_asleep(
            model,
            dreams,
            epochs=spec.epochs,
            batch_size=spec.batch_size,
            make_optimizer=spec.optimizer.build,
            seed=spec.seed,
        )
        for param, value in params.items():
            value.requires_grad_(needed[param])
        model.load_state_dict(weights)

    return sleep_on_it


def _teach(level: MemoryLevel, batch: Batch) -> None:
    if batch.target is None:
        raise DataError("the feedback has no targets; give batches (x, y)")
    rows = level.read_rows(batch, batch.target)
    labels, _ = flatten_target(batch.target, None)
    task: Task = "regression" if labels.is_floating_point() else "classification"
    level.learn(level.check(rows, labels, None), task)


def _refit(level: MemoryLevel, batch: Batch) -> None:
    assert batch.target is not None
    assert level.bank is not None
    rows = level.read_rows(batch, batch.target)
    labels, _ = flatten_target(batch.target, None)
    maps = make_features(level.spec, rows.features, rows.widths, rows.image_size)
    level.make_bank(rows.widths, level.bank.task, maps)
    level.bank.add(rows.features, labels)
