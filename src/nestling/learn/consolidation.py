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
from nestling.core.errors import SettingError, UnknownLevel, suggest
from nestling.learn.guard import flatten_target
from nestling.levels import Levels
from nestling.levels.low_rank import merge_low_rank
from nestling.levels.memory import MemoryLevel, make_features
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
    stale = _list_stale(levels, replay)
    proposal = propose(levels.model, _choose_change(levels, change), judge, tolerance=tolerance)
    proposal.settle()
    if proposal.status != "committed":
        return proposal
    for gradient in levels.gradient.values():
        gradient.forget_moments(proposal.values)
    if isinstance(change, str) and change in levels.sleeps:
        levels.sleeps[change].num_kept += 1
    _refit_all(stale, replay, device)
    return proposal


def load_level(
    levels: Levels,
    name: str,
    state: Mapping[str, Any],
    replay: DERpp | None,
    device: torch.device,
) -> None:
    """Let one level become what was saved; memories that read the live model are refitted.

    Args:
        levels: that it is one of; all others stay as they are, bit for bit, but for those memories.
        name: of the level.
        state: of its `state_dict`; or name -> tensor of a gradient level's weights alone, whose
            moments are then forgotten, since they belong to the weights before.
        replay: examples for memories of the live model.
        device: where examples go.

    Raises:
        UnknownLevel: no level has that name.
        MismatchedParameters: it is of another level, plan or model.
        SettingError: a memory reads the live model and there is nothing to refit it from.
            Nothing is changed by any of these.
    """
    if name not in levels:
        raise UnknownLevel(f"no level {name!r}; {suggest(name, levels)}")
    gradient = levels.gradient.get(name)
    stale = [] if gradient is None else _list_stale(levels, replay)
    if gradient is not None and "spec" not in state:
        gradient.load_weights(state)
    else:
        levels[name].load_state_dict(state)
    _refit_all(stale, replay, device)


def _list_stale(levels: Levels, replay: DERpp | None) -> list[MemoryLevel]:
    """Memories that read the live model; SettingError if nothing is stored to refit them from."""
    stale = [level for level in levels.memories.values() if _reads_live(level)]
    if stale and replay is None:
        raise SettingError(
            f"memory {stale[0].spec.name!r} reads the live model and would be out of date; give "
            "the learner replay=200 to refit it, or nl.Memory(..., frozen=True)"
        )
    return stale


def _refit_all(stale: Iterable[MemoryLevel], replay: DERpp | None, device: torch.device) -> None:
    for level in stale:
        assert replay is not None
        _refit(level, unpack_batch(replay.store.read_all()).to(device))


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


def _refit(level: MemoryLevel, batch: Batch) -> None:
    assert batch.target is not None
    assert level.bank is not None
    rows = level.read_rows(batch, batch.target)
    labels, _ = flatten_target(batch.target, None)
    maps = make_features(level.spec, rows.features, rows.widths, rows.image_size)
    level.make_bank(rows.widths, level.bank.task, maps)
    level.bank.add(rows.features, labels)
