"""A learner's whole state to and from a snapshot folder."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nestling.answer.experts import Form
from nestling.answer.readout import Readout
from nestling.core.errors import ForeignSnapshot, MismatchedParameters, NestlingError
from nestling.core.heads import find_head_layer
from nestling.core.params import Params, check_same_names
from nestling.core.seeds import (
    export_generator,
    export_torch_generators,
    import_generator,
    import_torch_generators,
)
from nestling.learn.default import drop_early
from nestling.learn.growth import resize_head
from nestling.levels import Plan
from nestling.store.snapshots import read_snapshot, write_snapshot

if TYPE_CHECKING:
    from nestling.learn.learner import Learner

_COUNTERS = (
    "num_examples",
    "num_refused",
    "num_experiences",
    "seconds",
    "_unscored",
)


def export_learner_state(learner: Learner) -> dict[str, Any]:
    """Everything that the next step and the next answer depend on."""
    rehearsal, readout, optimizer = learner.rehearsal, learner.readout, learner.optimizer
    return {
        "plan": learner.plan.to_data(),
        "counters": {name: getattr(learner, name) for name in _COUNTERS},
        "experts": asdict(learner.experts.form),
        "classes": sorted(learner.classes),
        "task_classes": {str(task): sorted(c) for task, c in learner.task_classes.items()},
        "model": {name: value.clone() for name, value in learner.model.state_dict().items()},
        "fleeting": {n: v.clone() for n, v in _list_fleeting(learner.model).items()},
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "memories": {name: level.state_dict() for name, level in learner.levels.items()},
        "readout": None if readout is None else readout.state_dict(),
        "rehearsal": None if rehearsal is None else rehearsal.state_dict(),
        "protection": learner.protection.state_dict(),
        "generator": export_generator(learner._generator),
        "torch_generators": export_torch_generators(learner.device),
    }


def import_learner_state(learner: Learner, state: dict[str, Any]) -> None:
    """Put a learner back; checks that model and plan are the ones that were saved first.

    Raises:
        ForeignSnapshot: another model, plan or replay; nothing is changed.
    """
    _check_origin(learner, state)
    if resized := _find_resized(learner, state):
        rows = len(state["model"][min(resized)])
        resize_head(learner.model, learner.optimizer, rows, generator=learner._generator)
    if learner.optimizer is not None:
        try:
            learner.optimizer.load_state_dict(state["optimizer"])
        except MismatchedParameters as error:
            raise ForeignSnapshot(f"the snapshot's levels hold other weights: {error}") from None
    learner.model.load_state_dict(state["model"])
    for name, buffer in _list_fleeting(learner.model).items():
        buffer.copy_(state["fleeting"][name])
    for name, level in learner.levels.items():
        level.load_state_dict(state["memories"][name])
    for name in _COUNTERS:
        setattr(learner, name, state["counters"][name])
    learner.experts.form = Form(**state["experts"])
    learner.classes = set(state["classes"])
    learner.task_classes = {int(task): set(c) for task, c in state["task_classes"].items()}
    learner.readout = None
    if learner.task is not None:
        learner.readout = Readout(learner.plan, learner.task)
        learner.readout.load_state_dict(state["readout"])
    if learner.rehearsal is not None:
        learner.rehearsal.load_state_dict(state["rehearsal"])
    learner.protection.load_state_dict(state["protection"])
    import_generator(learner._generator, state["generator"])
    import_torch_generators(learner.device, state["torch_generators"])


def write_learner(learner: Learner, path: Path, *, kind: str, schema: int) -> None:
    """Write a snapshot; see `Learner.snapshot`."""
    write_snapshot(path, export_learner_state(learner), kind=kind, schema=schema)


def read_learner(learner: Learner, path: Path, *, kind: str, schema: int) -> None:
    """Restore a snapshot; see `Learner.restore`."""
    import_learner_state(learner, read_snapshot(path, kind=kind, schema=schema))


def _check_origin(learner: Learner, state: dict[str, Any]) -> None:
    try:
        plan = Plan.from_data(state["plan"], "the snapshot's plan", like=learner.plan)
    except NestlingError as error:
        raise ForeignSnapshot(str(error)) from None
    if learner.may_drop_early and plan != learner.plan and plan == drop_early(learner.plan):
        learner.drop_early("as in the snapshot")
    if plan != learner.plan:
        raise ForeignSnapshot(f"snapshot has {plan!r}, this learner {learner.plan!r}; use its plan")
    if (learner.rehearsal is None) != (state["rehearsal"] is None):
        had = "with" if learner.rehearsal is None else "without"
        raise ForeignSnapshot(f"the snapshot was taken {had} replay; make the learner {had} it")
    learner.protection.check_saved(state["protection"])
    if learner.rehearsal is not None:
        copy.deepcopy(learner.rehearsal).load_state_dict(state["rehearsal"])
    try:
        for name, level in learner.levels.items():
            check_same_names(state["memories"][name]["reader"], level.reader.state_dict())
        own, resized = learner.model.state_dict(), _find_resized(learner, state)
        check_same_names(_without(state["model"], resized), _without(own, resized))
        check_same_names(state["fleeting"], _list_fleeting(learner.model))
    except MismatchedParameters as error:
        raise ForeignSnapshot(f"the snapshot is of another model: {error}") from None
    for name, value in state["model"].items():
        if value.dtype != own[name].dtype:
            raise ForeignSnapshot(
                f"the snapshot is of another model: {name!r} is {value.dtype} there and "
                f"{own[name].dtype} here; convert the model first"
            )


def _list_fleeting(model: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that a module's own state leaves out, which answers may depend on all the same."""
    kept = model.state_dict().keys()
    return {name: value for name, value in model.named_buffers() if name not in kept}


def _without(values: Params, names: set[str]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in values.items() if name not in names}


def _find_resized(learner: Learner, state: dict[str, Any]) -> set[str]:
    """Head parameters that have other rows in the snapshot: the head can get as many."""
    if learner.num_classes is not None:
        return set()
    found = find_head_layer(learner.model)
    if found is None:
        return set()
    head = found[0]
    own, saved = learner.model.state_dict(), state["model"]
    names = [f"{head}.{part}" if head else part for part in ("weight", "bias")]
    return {
        name
        for name in names
        if name in own
        and name in saved
        and own[name].shape != saved[name].shape
        and own[name].shape[1:] == saved[name].shape[1:]
        and len(saved[name]) >= learner.num_built
    }
