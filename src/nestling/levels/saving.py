"""A nested optimizer's state: out to plain data, back again, and into a parameter that grew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from nestling.core.errors import MismatchedParameters
from nestling.core.params import check_same_names, keep_rows
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
)
_METER = ("anchored_at", "mean_change", "ringing")
_SPECS: TypeAdapter[Level | Copy] = TypeAdapter(
    Level | Copy, config={"defer_build": True, "ser_json_inf_nan": "constants"}
)


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
                {"change": _find(changes, change), "spec": _dump(spec)}
                for change, spec in optimizer.queue.waiting
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
    state = saved.get("state")
    if not isinstance(state, Mapping) or "levels" not in state or "param_groups" not in saved:
        raise MismatchedParameters(
            "the state is not of a nested optimizer (it has no levels); "
            "NestedOptimizer.state_dict() gives one"
        )
    _check_fit(optimizer, state, saved["param_groups"])
    optimizer.num_steps = state["num_steps"]
    optimizer.released = set(state["released"])
    optimizer.queue.changes = [Change(**entry) for entry in state["changes"]]
    optimizer.queue.waiting = [
        (optimizer.queue.changes[entry["change"]], _load(entry["spec"], optimizer.levels))
        for entry in state["waiting"]
    ]
    optimizer.alarms = [Alarm(**entry) for entry in state["alarms"]]
    for name, level in optimizer.levels.items():
        _import_level(level, state["levels"][name], optimizer.levels)
    for name, copy in optimizer.copies.items():
        _import_copy(copy, state["copies"][name])
    optimizer._sort_levels()
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
        rule = state["levels"][name]["spec"].get("optimizer")
        rule = rule.get("name") if isinstance(rule, Mapping) else rule
        if rule != level.spec.optimizer.name:
            raise MismatchedParameters(
                f"level {name!r} was saved with optimizer {rule!r}, this plan has "
                f"{level.spec.optimizer.name!r}; restore it with the plan it was saved with"
            )
    for name, copy in optimizer.copies.items():
        check_same_names(state["copies"][name]["values"], copy.values)
        check_same_names(state["copies"][name].get("buffers", {}), copy.buffers)


def _export_level(level: GradientLevel) -> dict[str, Any]:
    gathered = [param.grad for param in level.params] if level.in_place else level.gathered
    is_gathering = level.num_gradients > 0
    return {
        "spec": _dump(level.spec),
        **{counter: getattr(level, counter) for counter in _COUNTERS},
        **{entry: getattr(level.meter, entry) for entry in _METER},
        "gathered": {
            name: value.detach().clone()
            for name, value in zip(level.names, gathered, strict=True)
            if is_gathering and value is not None
        },
        "anchor": {n: v.clone() for n, v in zip(level.names, level.meter.anchor, strict=True)},
        "gates": level.gates.state_dict(),
        "inner": export_inner(level.inner, level.names, level.params),
    }


def _import_level(
    level: GradientLevel, saved: Mapping[str, Any], live: Mapping[str, GradientLevel]
) -> None:
    spec = _load(saved["spec"], live)
    if isinstance(spec, Level):
        level.turn(spec, {})  # the rates come with the parameter groups
    for counter in _COUNTERS:
        setattr(level, counter, saved[counter])
    for entry in _METER:
        setattr(level.meter, entry, saved[entry])
    copies = [
        value.to(param.device, copy=True)
        if (value := saved["gathered"].get(name)) is not None
        else None
        for name, param in zip(level.names, level.params, strict=True)
    ]
    if level.in_place:
        for param, value in zip(level.params, copies, strict=True):
            param.grad = value
    else:
        level.gathered = copies
    level.meter.anchor = [
        saved["anchor"][name].to(param.device, copy=True)
        for name, param in zip(level.names, level.params, strict=True)
    ]
    level.gates.load_state_dict(saved["gates"])
    for values in (level.gates.slow, level.gates.importance):
        values[:] = [v.to(p.device) for v, p in zip(values, level.params, strict=False)]
    import_inner(level.inner, level.names, level.params, saved["inner"])


def _export_copy(copy: CopyLevel) -> dict[str, Any]:
    return {
        "spec": _dump(copy.spec),
        "age": copy.age,
        "num_steps": copy.num_steps,
        "num_updates": copy.num_updates,
        "values": {name: value.clone() for name, value in copy.values.items()},
        "buffers": {name: value.clone() for name, value in copy.buffers.items()},
        "generator": export_generator(copy.generator),
    }


def _import_copy(copy: CopyLevel, saved: Mapping[str, Any]) -> None:
    spec = _SPECS.validate_python(saved["spec"])
    if isinstance(spec, Copy):
        copy.spec = spec
    copy.age, copy.num_steps = saved["age"], saved["num_steps"]
    copy.num_updates = saved["num_updates"]
    for kind, values in (("values", copy.values), ("buffers", copy.buffers)):
        for name, value in values.items():
            value.copy_(saved[kind][name])
    import_generator(copy.generator, saved["generator"])


def export_inner(
    inner: torch.optim.Optimizer, names: Sequence[str], params: Sequence[Tensor]
) -> dict[str, dict[str, object]]:
    """A torch optimizer's state by parameter name; tensors are copies."""
    return {
        name: {key: _clone(value) for key, value in inner.state[param].items()}
        for name, param in zip(names, params, strict=True)
        if param in inner.state
    }


def import_inner(
    inner: torch.optim.Optimizer,
    names: Sequence[str],
    params: Sequence[Tensor],
    state: Mapping[str, Mapping[str, object]],
) -> None:
    """Put a torch optimizer back into a state that `export_inner` gave."""
    inner.state.clear()
    for name, param in zip(names, params, strict=True):
        if name in state:
            inner.state[param] = {
                # A step counter may live on another device than its parameter: not ours to move.
                key: value.to(param.device, copy=True)
                if isinstance(value, Tensor) and (value.shape == param.shape or value.dim() > 0)
                else _clone(value)
                for key, value in state[name].items()
            }


def swap_parameter(level: GradientLevel, index: int, param: Tensor) -> None:
    """Put a parameter with other rows in the place of another; its state gets as many."""
    old = level.params[index]
    if param.dim() == 0 or param.shape[1:] != old.shape[1:]:
        raise MismatchedParameters(
            f"{level.names[index]!r} has shape {tuple(old.shape)}, its successor "
            f"{tuple(param.shape)}; only more or fewer rows of the same shape work"
        )
    level.params[index] = param
    level.group["params"][index] = param
    if old in level.inner.state:
        values = level.inner.state.pop(old)
        # Moments of another shape (Adafactor keeps rows and columns) begin anew.
        if all(v.dim() == 0 or v.shape == old.shape for v in values.values() if torch.is_tensor(v)):
            level.inner.state[param] = {key: _fit(v, old, param) for key, v in values.items()}
    if level.in_place and level.num_gradients > 0 and old.grad is not None:
        param.grad = _fit(old.grad, old, param)
    if (gathered := level.gathered[index]) is not None:
        level.gathered[index] = _fit(gathered, old, param)
    level.meter.anchor[index] = keep_rows(level.meter.anchor[index], param)
    for values in (level.gates.slow, level.gates.importance):
        if values:
            values[index] = _fit(values[index], old, param)


def _find(changes: Sequence[Change], change: Change) -> int:
    # By identity: the same knob may be turned twice at one step, for the same reason.
    return next(index for index, other in enumerate(changes) if other is change)


def _clone(value: object) -> object:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _fit(value: Any, old: Tensor, new: Tensor) -> Any:
    """`value` with the rows of `new`, zeros in further ones, if it is shaped as `old`."""
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return value
    return keep_rows(value, value.new_zeros(new.shape))


def _load(saved: Mapping[str, Any], live: Mapping[str, GradientLevel]) -> Level | Copy:
    """The specification that `_dump` gave; an optimizer of the user's own is the live one."""
    if isinstance(saved.get("optimizer"), str):
        saved = {**saved, "optimizer": live[saved["name"]].spec.optimizer}
    return _SPECS.validate_python(saved)


def _dump(spec: Level | Copy) -> dict[str, Any]:
    data: dict[str, Any] = _SPECS.dump_python(spec, mode="json")
    return data


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return list(value) if isinstance(value, tuple) else value


def _restore(value: object, now: object) -> object:
    return tuple(value) if isinstance(now, tuple) and isinstance(value, list) else value
