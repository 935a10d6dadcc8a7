"""A learner's whole state to and from a snapshot folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nestling.core.errors import ForeignSnapshot, MismatchedParameters, NestlingError
from nestling.core.params import check_same_names
from nestling.core.seeds import export_generator, import_generator
from nestling.learn.answering.readout import Readout
from nestling.learn.growth import grow_head
from nestling.learn.rehearsal import Rehearsal
from nestling.learn.snapshots.snapshot import read_snapshot, write_snapshot
from nestling.levels import Plan

if TYPE_CHECKING:
    from nestling.learn.learner import Learner

_FORMS = ("task", "layout", "num_outputs")
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
        "experts": {name: getattr(learner.experts, name) for name in _FORMS},
        "classes": sorted(learner.classes),
        "task_classes": {str(task): sorted(c) for task, c in learner.task_classes.items()},
        "model": {name: value.clone() for name, value in learner.model.state_dict().items()},
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "memories": {name: level.state_dict() for name, level in learner.levels.items()},
        "readout": None if readout is None else readout.state_dict(),
        "rehearsal": None if rehearsal is None else rehearsal.state_dict(),
        "generator": export_generator(learner._generator),
        "torch_generator": torch.get_rng_state(),
    }


def import_learner_state(learner: Learner, state: dict[str, Any]) -> None:
    """Put a learner back; checks that model and plan are the ones that were saved first.

    Raises:
        ForeignSnapshot: another model, plan or replay; nothing is changed.
    """
    _check_origin(learner, state)
    num_outputs = state["experts"]["num_outputs"]
    if learner.num_classes is None and _has_grown(learner, state):
        grow_head(learner.model, learner.optimizer, num_outputs, generator=learner._generator)
    if learner.optimizer is not None:
        try:
            learner.optimizer.load_state_dict(state["optimizer"])
        except MismatchedParameters as error:
            raise ForeignSnapshot(f"the snapshot's levels hold other weights: {error}") from None
    learner.model.load_state_dict(state["model"])
    for name, level in learner.levels.items():
        level.load_state_dict(state["memories"][name])
    for name in _COUNTERS:
        setattr(learner, name, state["counters"][name])
    for name in _FORMS:
        setattr(learner.experts, name, state["experts"][name])
    learner.classes = set(state["classes"])
    learner.task_classes = {int(task): set(c) for task, c in state["task_classes"].items()}
    learner.readout = None
    if learner.task is not None:
        learner.readout = Readout(learner.plan, learner.task)
        learner.readout.load_state_dict(state["readout"])
    if learner.rehearsal is not None:
        learner.rehearsal.load_state_dict(state["rehearsal"])
    import_generator(learner._generator, state["generator"])
    torch.set_rng_state(state["torch_generator"])


def write_learner(learner: Learner, path: Path, *, kind: str, schema: int) -> None:
    """Write a snapshot; see `Learner.snapshot`."""
    write_snapshot(path, export_learner_state(learner), kind=kind, schema=schema)


def read_learner(learner: Learner, path: Path, *, kind: str, schema: int) -> None:
    """Restore a snapshot; see `Learner.restore`."""
    import_learner_state(learner, read_snapshot(path, kind=kind, schema=schema))


def _check_origin(learner: Learner, state: dict[str, Any]) -> None:
    try:
        plan = Plan.from_data(state["plan"], "the snapshot's plan")
    except NestlingError as error:
        raise ForeignSnapshot(str(error)) from None
    if plan != learner.plan:
        raise ForeignSnapshot(f"snapshot has {plan!r}, this learner {learner.plan!r}; use its plan")
    if (learner.rehearsal is None) != (state["rehearsal"] is None):
        had = "with" if learner.rehearsal is None else "without"
        raise ForeignSnapshot(f"the snapshot was taken {had} replay; make the learner {had} it")
    if learner.rehearsal is not None:
        store = learner.rehearsal.store
        trial = Rehearsal(store.capacity, learner.loss, seed=store.seed)
        trial.load_state_dict(state["rehearsal"])
    try:
        for name, level in learner.levels.items():
            check_same_names(state["memories"][name]["reader"], level.reader.state_dict())
        check_same_names(_without_head(learner, state), _own_values(learner, state))
    except MismatchedParameters as error:
        raise ForeignSnapshot(f"the snapshot is of another model: {error}") from None


def _has_grown(learner: Learner, state: dict[str, Any]) -> bool:
    own = learner.model.state_dict()
    return any(own[name].shape != value.shape for name, value in state["model"].items())


def _own_values(learner: Learner, state: dict[str, Any]) -> dict[str, torch.Tensor]:
    own = learner.model.state_dict()
    grown = _grown_names(learner, state)
    return {name: value for name, value in own.items() if name not in grown}


def _without_head(learner: Learner, state: dict[str, Any]) -> dict[str, torch.Tensor]:
    grown = _grown_names(learner, state)
    return {name: value for name, value in state["model"].items() if name not in grown}


def _grown_names(learner: Learner, state: dict[str, Any]) -> set[str]:
    """Head parameters that have more rows in the snapshot: the learner can grow to them."""
    from nestling.learn.answering.features import find_last_linear

    if learner.num_classes is not None:
        return set()
    try:
        head = find_last_linear(learner.model)
    except NestlingError:
        return set()
    own, grown = learner.model.state_dict(), set()
    for part in ("weight", "bias"):
        name = f"{head}.{part}" if head else part
        if name in own and name in state["model"]:
            saved = state["model"][name]
            is_longer = saved.shape[0] > own[name].shape[0]
            if is_longer and saved.shape[1:] == own[name].shape[1:]:
                grown.add(name)
    return grown
