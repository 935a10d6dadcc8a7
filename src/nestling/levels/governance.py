"""What a contract asks of levels: bounds, what is held fixed, what was validated."""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nestling.core.arguments import check_whole
from nestling.core.errors import MismatchedParameters, SettingError, suggest
from nestling.core.params import keep_rows
from nestling.levels.bounds import ChangeBounds, measure_norm
from nestling.levels.change_budget import ChangeBudget
from nestling.levels.gradient import GradientLevel
from nestling.levels.plan import Plan
from nestling.levels.readings import LevelReading
from nestling.levels.validation import Validation, measure_drift


class HasTensors(Protocol):
    """Something made of named tensors, as every live level is."""

    def tensors(self) -> dict[str, Tensor]:
        """Copies of them."""


class Governance:
    """Bounds, holds and validations of the levels of a plan; without any it costs nothing.

    Args:
        model: unwrapped.
        plan: of all levels.
        gradient: its gradient levels by name.
        aliases: every name of a parameter -> the one by which a level knows it.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        gradient: Mapping[str, GradientLevel],
        aliases: Mapping[str, str],
    ) -> None:
        self.model = model
        self.plan = plan
        self.gradient = gradient
        self.aliases = dict(aliases)
        self.validation: Validation | None = None
        self.held: frozenset[str] = frozenset()  # as they were given
        self._still: dict[str, Tensor] = {}  # buffers that are held, as they must stay
        self._came_with_state = {"held": False, "validation": False}

    def bind(self, name: str, bounds: ChangeBounds, now: Callable[[], float]) -> None:
        """Bound a level; see `Levels.bind`."""
        level = self._find(name)
        before = level.budget
        kept = (100, 1.0) if before is None else (before.good_every, before.explode)
        budget = ChangeBudget(bounds, now, good_every=kept[0], explode=kept[1])
        budget.check_clock(name)
        self._put_under(level, budget)

    def check_bounds(self, name: str, bounds: ChangeBounds) -> None:
        """Raise SettingError unless a level can be held to bounds; see `Levels.bind`."""
        if bounds != ChangeBounds() and measure_norm(_detach(self._find(name))) == 0.0:
            raise SettingError(
                f"level {name!r} has weights that are all zero, of which no change is a share; "
                "bind it after its first update, or let it own further parameters"
            )

    def keep_good(self, name: str, every: int, explode: float) -> None:
        """Brake a level; see `Levels.keep_good`."""
        level = self._find(name)
        check_whole("every", every, 1, "1 or more updates work")
        if isinstance(explode, bool) or not explode > 0.0:
            raise SettingError(f"explode={explode!r}; a number greater than 0 works, e.g. 1.0")
        if level.budget is None:
            self._put_under(level, ChangeBudget(ChangeBounds(), time.time))
        assert level.budget is not None
        level.budget.good_every, level.budget.explode = every, float(explode)

    def _find(self, name: str) -> GradientLevel:
        if name not in self.gradient:
            kind = self.plan.find(name).kind
            raise SettingError(
                f"level {name!r} is a {kind} level; only gradient levels can be bound: "
                f"{sorted(self.gradient)}"
            )
        return self.gradient[name]

    def _put_under(self, level: GradientLevel, budget: ChangeBudget) -> None:
        self.check_bounds(level.spec.name, budget.bounds)
        before = level.budget
        if before is not None:
            budget.take_over(before, level.params)
        else:
            budget.restart(level.params)
            if self.validation is not None:
                budget.validate(_read_anchor(level, self.validation))
        level.budget = budget
        budget.moving = _find_moving(level)
        if not budget.good:
            level.keep_good()

    def mark_validated(self, levels: Mapping[str, HasTensors], by: str, at: float) -> None:
        """Keep every level's tensors as validated; see `Levels.mark_validated`."""
        if not isinstance(by, str) or not by.strip():
            raise SettingError(f"by={by!r}; name who validated, e.g. by='A. Jones'")
        if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
            raise SettingError(f"at={at!r}; seconds since 1970 work, e.g. at=time.time()")
        if self.validation is not None and at < self.validation.at:
            raise SettingError(
                f"at={at:.17g} is before the last validation, at={self.validation.at:.17g}; "
                "set the clock right"
            )
        found = Validation(by, float(at), {name: one.tensors() for name, one in levels.items()})
        self.validation = found
        self._came_with_state["validation"] = False
        for level in self.gradient.values():
            if level.budget is not None:
                level.budget.validate(_read_anchor(level, found))

    def hold(self, names: Collection[str]) -> None:
        """Hold parameters and buffers bit for bit; see `Levels.hold`."""
        if isinstance(names, str):
            raise SettingError(f"hold({names!r}); a list works: hold([{names!r}])")
        buffers = dict(self.model.named_buffers())
        known = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        for name in names:
            if name not in known and name not in buffers:
                hint = suggest(name, known | set(buffers))
                raise SettingError(f"no parameter or buffer {name!r} to hold; {hint}")
        self._came_with_state["held"] = False
        self._let_stand(frozenset(names))
        for level in self.gradient.values():
            if level.budget is not None:
                level.keep_good()  # what is held may have moved since the last one

    def _let_stand(self, names: frozenset[str]) -> None:
        """Hold these, as they are now."""
        self.held = names
        buffers = dict(self.model.named_buffers())
        own = {self.aliases.get(name, name) for name in names}
        self._still = {n: v.detach().clone() for n, v in buffers.items() if n in self.held}
        for level in self.gradient.values():
            level.held = frozenset(own & set(level.names) | self._still.keys() & level.buffers)
            level.num_held = sum(name in level.held for name in level.names)
            for index, name in enumerate(level.names):
                if name in level.held:
                    level.gathered[index] = level.params[index].grad = None
            if level.budget is not None:
                level.budget.moving = _find_moving(level)

    def drop_gradients(self) -> None:
        """Before a step: no optimizer sees what is held, not even to decay it."""
        for level in self.gradient.values():
            if level.num_held:
                for name, param in zip(level.names, level.params, strict=True):
                    if name in level.held:
                        param.grad = None

    @torch.no_grad()
    def put_back(self) -> None:
        """After a step: buffers that are held are as they were."""
        if self._still:
            buffers = dict(self.model.named_buffers())
            for name, value in self._still.items():
                buffers[name].copy_(value)

    def check_swap(self, name: str) -> None:
        """Raise SettingError if a parameter that is held would get other rows."""
        if any(self.aliases.get(held, held) == name for held in self.held):
            raise SettingError(
                f"parameter {name!r} is held fixed and cannot get other rows; declare all classes "
                "with num_classes=, or hold the others only"
            )

    def measure_change(self, name: str, level: HasTensors) -> float | None:
        """Relative change of a level since it was validated; None if it never was."""
        if self.validation is None or name not in self.validation.tensors:
            return None
        return measure_drift(self.validation.tensors[name], level.tensors())

    def add_change(self, reading: LevelReading, level: HasTensors) -> LevelReading:
        """A reading with its relative change since the last validation."""
        change = self.measure_change(reading.level, level)
        return reading if change is None else replace(reading, change_since_validation=change)

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """What is held and what was validated; tensors are copies. Empty if not in use."""
        if not self.held and self.validation is None:
            return {}
        return {
            "held": sorted(self.held),
            "validation": None if self.validation is None else self.validation.state_dict(),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise MismatchedParameters unless `load_state_dict` will work; nothing is changed."""
        known = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        known |= {name for name, _ in self.model.named_buffers()}
        if unknown := sorted(set(state.get("held", ())) - known):
            raise MismatchedParameters(
                f"{unknown[0]!r} is held fixed in the state; {suggest(unknown[0], known)}"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, after the levels have taken over theirs.

        What was asked for here stays; what came with another state goes.
        """
        if not self.held or self._came_with_state["held"]:
            self._came_with_state["held"] = True
            self._let_stand(frozenset(state.get("held", ())))
        elif self.held:
            self._let_stand(self.held)
        found = state.get("validation")
        if found is None:
            if self._came_with_state["validation"]:
                self.validation = None
            return
        self._came_with_state["validation"] = True
        self.validation = Validation(found["by"], found["at"], self._place(found["tensors"]))
        for level in self.gradient.values():
            if level.budget is not None:
                level.budget.attach(_read_anchor(level, self.validation))

    def _place(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Copies of saved tensors, those of gradient levels on the devices of their parameters."""
        placed: dict[str, dict[str, Tensor]] = {}
        for level, values in tensors.items():
            live = self.gradient.get(level)
            device = live.params[0].device if live is not None else None
            placed[level] = {n: v.detach().to(device, copy=True) for n, v in values.items()}
        return placed


def join_governed(state: dict[str, Any], governed: dict[str, Any]) -> dict[str, Any]:
    """A state of levels with what is asked of them: validated tensors beside each level's own, so
    that a snapshot can keep them in a file of their own."""
    if governed:
        found = governed["validation"]
        for name, tensors in {} if found is None else found.pop("tensors").items():
            state["levels"][name]["validated"] = tensors
        state["course"]["governed"] = governed
    return state


def split_governed(state: Mapping[str, Any]) -> dict[str, Any]:
    """What `join_governed` put into a state of levels; empty if nothing."""
    governed = dict(state["course"].get("governed", {}))
    if governed.get("validation"):
        levels = state["levels"].items()
        tensors = {name: one["validated"] for name, one in levels if "validated" in one}
        governed["validation"] = governed["validation"] | {"tensors": tensors}
    return governed


def _detach(level: GradientLevel) -> list[Tensor]:
    return [param.detach() for param in level.params]


def _find_moving(level: GradientLevel) -> list[int] | None:
    """Places of a level's parameters that are not held; None if none is."""
    moving = [index for index, name in enumerate(level.names) if name not in level.held]
    return None if len(moving) == len(level.names) else moving


def _read_anchor(level: GradientLevel, found: Validation) -> list[Tensor]:
    """The validated weights of a level, with the rows that it has now."""
    values = found.tensors[level.spec.name]
    pairs = zip(level.names, level.params, strict=True)
    return [values[n] if values[n].shape == p.shape else keep_rows(values[n], p) for n, p in pairs]
