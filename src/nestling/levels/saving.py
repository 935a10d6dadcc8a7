"""A nested optimizer's state as nested dicts of tensors and JSON values, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter

from nestling.core.errors import MismatchedParameters
from nestling.core.params import check_same_names
from nestling.core.seeds import export_generator, import_generator
from nestling.levels.readings import Alarm, Change
from nestling.levels.spec import Copy, Level

if TYPE_CHECKING:
    from nestling.levels.copies import CopyLevel
    from nestling.levels.gradient import GradientLevel
    from nestling.levels.optimizer import NestedOptimizer

_COUNTERS = (
    "age",
    "num_gradients",
    "num_steps",
    "num_updates",
    "num_refused",
    "num_idle",
    "num_skipped",
    "factor",
    "seconds",
    "anchored_at",
    "mean_change",
)
_SPECS: TypeAdapter[Level | Copy] = TypeAdapter(Level | Copy, config={"defer_build": True})


def describe_knobs(knobs: Mapping[str, object]) -> dict[str, object]:
    """JSON-ready values of knobs, for the record of a change."""

    def plain(value: object) -> object:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [plain(entry) for entry in value]
        return value

    return {knob: plain(value) for knob, value in knobs.items()}


def export_state(optimizer: NestedOptimizer) -> dict[str, Any]:
    """All that the next step depends on; tensors are copies."""
    changes = optimizer.changes
    return {
        "state": {
            "num_steps": optimizer.num_steps,
            "released": sorted(optimizer.released),
            "levels": {name: _export_level(level) for name, level in optimizer.levels.items()},
            "copies": {name: _export_copy(copy) for name, copy in optimizer.copies.items()},
            "changes": [asdict(change) for change in changes],
            "waiting": [
                {"change": changes.index(change), "spec": _dump(spec)}
                for change, spec in optimizer._waiting
            ],
            "alarms": [asdict(alarm) for alarm in optimizer.alarms],
        },
        "param_groups": [
            {key: _plain(value) for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ],
    }


def import_state(optimizer: NestedOptimizer, saved: Mapping[str, Any]) -> None:
    """Put an optimizer back into a state that `export_state` gave; checks all of it first.

    Raises:
        MismatchedParameters: it belongs to another plan or model; nothing is changed.
    """
    state = saved["state"]
    _check_fit(optimizer, state, saved["param_groups"])
    optimizer.num_steps = state["num_steps"]
    optimizer.released = set(state["released"])
    optimizer.changes = [Change(**entry) for entry in state["changes"]]
    optimizer._waiting = [
        (optimizer.changes[entry["change"]], _SPECS.validate_python(entry["spec"]))
        for entry in state["waiting"]
    ]
    optimizer.alarms = [Alarm(**entry) for entry in state["alarms"]]
    for name, level in optimizer.levels.items():
        _import_level(level, state["levels"][name])
    for name, copy in optimizer.copies.items():
        _import_copy(copy, state["copies"][name])
    for group, values in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({key: _restore(value, group.get(key)) for key, value in values.items()})


def _check_fit(
    optimizer: NestedOptimizer, state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> None:
    for kind, ours in (("levels", optimizer.levels), ("copies", optimizer.copies)):
        if list(ours) != list(state[kind]):
            raise MismatchedParameters(
                f"the state has {kind} {list(state[kind])}, this plan has {list(ours)}; "
                "restore it with the plan it was saved with"
            )
    if [group["name"] for group in groups] != list(optimizer.levels):
        raise MismatchedParameters("the state's parameter groups are not those of this plan")
    for name, level in optimizer.levels.items():
        now = dict(zip(level.names, level.params, strict=True))
        check_same_names(state["levels"][name]["anchor"], now)
    for name, copy in optimizer.copies.items():
        check_same_names(state["copies"][name]["values"], copy.values)


def _export_level(level: GradientLevel) -> dict[str, Any]:
    gathered = [param.grad for param in level.params] if level.in_place else level.gathered
    is_gathering = level.num_gradients > 0
    return {
        "spec": _dump(level.spec),
        **{counter: getattr(level, counter) for counter in _COUNTERS},
        "gathered": {
            name: value.detach().clone()
            for name, value in zip(level.names, gathered, strict=True)
            if is_gathering and value is not None
        },
        "anchor": {n: v.clone() for n, v in zip(level.names, level.anchor, strict=True)},
        "gates": level.gates.state_dict(),
        "inner": level.export_inner(),
    }


def _import_level(level: GradientLevel, saved: Mapping[str, Any]) -> None:
    spec = _SPECS.validate_python(saved["spec"])
    if isinstance(spec, Level):
        level.turn(spec)
    for counter in _COUNTERS:
        setattr(level, counter, saved[counter])
    gathered = [saved["gathered"].get(name) for name in level.names]
    copies = [None if value is None else value.detach().clone() for value in gathered]
    if not level.in_place:
        level.gathered = copies
    elif level.num_gradients > 0:
        for param, value in zip(level.params, copies, strict=True):
            param.grad = value
    level.anchor = [
        saved["anchor"][name].to(param.device, copy=True)
        for name, param in zip(level.names, level.params, strict=True)
    ]
    level.gates.load_state_dict(saved["gates"])
    level.import_inner(saved["inner"])


def _export_copy(copy: CopyLevel) -> dict[str, Any]:
    return {
        "spec": _dump(copy.spec),
        "age": copy.age,
        "num_steps": copy.num_steps,
        "num_updates": copy.num_updates,
        "values": {name: value.clone() for name, value in copy.values.items()},
        "generator": export_generator(copy.generator),
    }


def _import_copy(copy: CopyLevel, saved: Mapping[str, Any]) -> None:
    spec = _SPECS.validate_python(saved["spec"])
    if isinstance(spec, Copy):
        copy.spec = spec
    copy.age, copy.num_steps = saved["age"], saved["num_steps"]
    copy.num_updates = saved["num_updates"]
    for name, value in copy.values.items():
        value.copy_(saved["values"][name])
    import_generator(copy.generator, saved["generator"])


def _dump(spec: Level | Copy) -> dict[str, Any]:
    data: dict[str, Any] = _SPECS.dump_python(spec, mode="json")
    return data


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return list(value) if isinstance(value, tuple) else value


def _restore(value: object, now: object) -> object:
    return tuple(value) if isinstance(now, tuple) and isinstance(value, list) else value
