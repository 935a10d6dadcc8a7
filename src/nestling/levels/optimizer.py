"""`NestedOptimizer`: a torch optimizer over the gradient and copy levels of a plan."""

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, Unpack, overload

import torch
from torch import Tensor, nn

from nestling.core.arguments import check_model
from nestling.core.errors import LateParameter, MismatchedParameters, SettingError, suggest
from nestling.levels.control import Knobs
from nestling.levels.events import Alarm, Change, Event, LevelAlarm
from nestling.levels.level import check_level_names
from nestling.levels.plan import Plan
from nestling.levels.readings import LevelReading
from nestling.levels.stack import Levels
from nestling.optim.inner_state import export_group, import_group

# Events that nobody takes: the oldest go.
_MAX_EVENTS = 1000


class NestedOptimizer(torch.optim.Optimizer):
    """PyTorch optimizer that updates each level of a plan at its own period, in any loop.

    Each gradient level is one entry of `param_groups` (so that LR schedulers see it) with an
    optimizer of its own. At a level's boundary, every `period` steps:

        theta <- update(theta, mean of the gradients of the period)   [NL eq. 71]

    and between boundaries theta is constant. A step that `GradScaler` skips moves no clock.

    Differs: the paper sums over C + 1 gradients as printed; we take the period's own, and
    average unless the level says reduce="sum".

    Args:
        model: any module; it is not changed or wrapped. Compiled and data-parallel wrappers
            are looked through.
        plan: gradient and copy levels are run, memory levels are the learner's; or the path of
            its TOML file.
        accumulate: "separate" gathers gradients beside `.grad`, so that clipping and scaling
            see this step's gradient only and `zero_grad()` is harmless. "in_place" gathers in
            `.grad`, which costs nothing, but the loop must clear gradients by this
            optimizer's `zero_grad()` alone and must not change them; half precision has no room
            for such sums. Beside `.grad` they are kept in float32 or more. A period whose
            gradients are not finite together makes no update, but an event.
        judge: asked with a level's name after an update of a level with `protect`, while the
            model holds the update; False undoes it.
        seed: of the copies that update by chance.

    Raises:
        SettingError: the plan does not fit the model, see `assign_levels`; or half precision is to
            gather in place.

    >>> import nestling as nl
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> plan = nl.Plan(
    ...     nl.Level("head", match=["2.*"], optimizer=nl.sgd(lr=0.1)),
    ...     nl.Level("spine", match=["*"], period=4, optimizer=nl.sgd(lr=0.1)),
    ... )
    >>> optimizer = nl.NestedOptimizer(model, plan)
    >>> for _ in range(4):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(1, 4)).square().sum().backward()
    ...     _ = optimizer.step()
    >>> [(reading.level, reading.num_updates) for reading in optimizer.read_levels()]
    [('head', 4), ('spine', 1)]
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan | Path | str,
        *,
        accumulate: Literal["separate", "in_place"] = "separate",
        judge: Callable[[str], bool] | None = None,
        seed: int = 0,
    ) -> None:
        if accumulate not in ("separate", "in_place"):
            raise SettingError(
                f"accumulate={accumulate!r}; {suggest(str(accumulate), ['in_place', 'separate'])}"
            )
        check_model(model, "NestedOptimizer")
        plan = Plan.of(plan)
        self._adopt(Levels(model, plan, accumulate=accumulate, judge=judge, seed=seed))

    @classmethod
    def over(cls, levels: Levels) -> Self:
        """Make the optimizer over levels that exist already."""
        made = cls.__new__(cls)
        made._adopt(levels)
        return made

    def _adopt(self, levels: Levels) -> None:
        if not levels.gradient:
            raise SettingError("the plan has no gradient level to optimize; add nl.Level(...)")
        self.levels = levels
        self._loss: float | None = None
        self._events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        groups = [level.group for level in levels.gradient.values()]
        defaults = {key: value for key, value in groups[0].items() if key not in ("params", "name")}
        super().__init__([dict(group) for group in groups], defaults)
        # The groups are the inner optimizers' own, so that a scheduler turns the real knobs.
        self.param_groups = groups

    @property
    def model(self) -> nn.Module:
        """The user's own module, without compiled or data-parallel wrappers."""
        return self.levels.model

    @property
    def plan(self) -> Plan:
        """The plan as it was given."""
        return self.levels.plan

    @property
    def num_steps(self) -> int:
        """Optimizer steps taken so far."""
        return self.levels.num_steps

    def prepare_step(self) -> None:
        """Call before a forward pass: stops backward before levels that do not learn now.

        Only levels with between="skip", or frozen ones, are affected. `requires_grad` is put
        back by `step`. Under torch.distributed nothing is stopped (data-parallel hooks need
        every gradient); gradients that do not count are then ignored.
        """
        self.levels.prepare_step()

    def observe(self, loss: float | Tensor) -> None:
        """Tell this step's loss to the surprise gates; `step(closure)` does it by itself."""
        self._loss = float(loss.detach() if isinstance(loss, Tensor) else loss)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step: gather gradients, and update the levels whose period is over.

        Args:
            closure: computes the loss and its gradients anew, as for any torch optimizer.

        Returns: what the closure returned.

        Raises:
            LateParameter: the model has a trainable parameter that no level claimed.
            SettingError: a surprise gate has not been told the loss, or a gradient is sparse.
                Nothing is changed by either.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            if loss is not None:
                self.observe(loss)
        self.advance()
        return loss

    def advance(self, *, is_finite: bool = False) -> None:
        """`step` without a closure, and without the wrapper that torch puts around it.

        The wrapper serves profilers, step hooks and LR schedulers; at small batches it costs
        as much as all that nestling adds. Raises as `step` does. `is_finite` says that somebody has
        seen that all gradients are.
        """
        loss, self._loss = self._loss, None
        self._note(self.levels.step(loss, is_finite=is_finite))

    def take_events(self) -> list[Event]:
        """Take the events since the last call: alarms, refused updates, changed hyperparameters.

        The newest thousand are kept until they are taken; they are no part of the state.
        """
        happened = list(self._events)
        self._events.clear()
        return happened

    def _note(self, happened: list[Event]) -> None:
        if not happened:
            return
        self._events += happened
        for event in happened:  # last: a warning may be an error
            if isinstance(event, Alarm):
                warnings.warn(event.message, LevelAlarm, stacklevel=3)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, but for those that a level gathers in place."""
        self.levels.zero_grad(set_to_none)

    def control(self, name: str, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """Change hyperparameters of a live level; takes effect at the level's next boundary.

        Args:
            name: a gradient level or a copy.
            reason: why, kept in the record of the change.
            knobs: period, lr, weight_decay, reduce, between, window, gate, freeze, trust of a
                `Level`; period, decay, probability of a `Copy`, or period and those of its rule
                (rate, or lr and momentum).

        Returns: the record of the change, whose `applied_at` is filled in at the boundary.

        Raises:
            UnknownLevel: no level has that name.
            SettingError: no reason, no knob, one that the level or its optimizer does not have, or
                a wrong value; nothing is changed.
        """
        return self.levels.control(name, reason=reason, **knobs)

    def release(self, event: str) -> None:
        """Release the levels that are frozen until this event, and open gates that wait for it.

        Raises:
            SettingError: no level waits for that event.
        """
        self.levels.release(event)

    def set_importance(self, importance: Mapping[str, Tensor]) -> None:
        """Give importance gates a Fisher diagonal instead of their own running estimate.

        Args:
            importance: name -> tensor >= 0 of the parameter's shape, for every parameter of
                each level that it is about.

        Raises:
            MismatchedParameters: a name, shape, or part of a level is missing; nothing is set.
        """
        self.levels.set_importance(importance)

    def read_levels(self) -> list[LevelReading]:
        """Current statistics of every gradient and copy level, in the plan's order."""
        readings = self.levels.read()
        self._note(self.levels.take_events())
        return readings

    def copy_values(self, name: str) -> dict[str, Tensor]:
        """The values of a copy level in the model's dtypes, name -> tensor; raises UnknownLevel.

        Those of one that never moves hold the model's buffers, too.
        """
        copies = self.levels.copies
        if name not in copies:
            self.plan.find(name)
            raise SettingError(f"level {name!r} is no copy; {suggest(name, copies)}")
        return copies[name].tensors()

    def state_dict(self) -> dict[str, Any]:
        """State of all levels: clocks, gathered gradients, moments, gates, copies; without weights,
        which are the model's own state."""
        levels = self.levels
        governed = levels.governance.state_dict()
        return {
            "state": {
                "num_steps": levels.num_steps,
                "levels": {n: level.export_course() for n, level in levels.gradient.items()},
                "copies": {name: copy.state_dict() for name, copy in levels.copies.items()},
                **({"governed": governed} if governed else {}),
            },
            "param_groups": [export_group(group) for group in self.param_groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            MismatchedParameters: it belongs to another plan or model; nothing is changed.
        """
        whole = isinstance(state_dict, Mapping)
        state, levels = (state_dict.get("state") if whole else None), self.levels
        parts = {"num_steps", "levels", "copies"}
        if not isinstance(state, Mapping) or parts - state.keys():
            raise MismatchedParameters(
                "the state is not of a nested optimizer (it has no levels); "
                "NestedOptimizer.state_dict() gives one"
            )
        check_level_names("levels", levels.gradient, state["levels"])
        check_level_names("copies", levels.copies, state["copies"])
        groups = state_dict.get("param_groups", ())
        if [group.get("name") for group in groups] != list(levels.gradient):
            raise MismatchedParameters("the state's parameter groups are not those of this plan")
        try:
            for name, level in levels.gradient.items():
                level.check_course(state["levels"][name])
            for name, copy in levels.copies.items():
                copy.check_state(state["copies"][name])
            levels.governance.check_state(state.get("governed", {}))
        except MismatchedParameters as error:
            raise MismatchedParameters(
                f"the state is of another model or plan: {error}; load it where model and plan are "
                "those it was saved with"
            ) from None
        for (name, level), group in zip(levels.gradient.items(), groups, strict=True):
            level.import_course(state["levels"][name])
            import_group(level.group, group)
        for name, copy in levels.copies.items():
            copy.load_state_dict(state["copies"][name])
        levels.load_course(state)
        levels.governance.load_state_dict(state.get("governed", {}))

    def __getstate__(self) -> dict[str, Any]:
        """All of it: torch's own would leave out the levels."""
        return dict(vars(self))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused after construction: parameters are claimed by the plan."""
        if hasattr(self, "_loss") and len(self.param_groups) >= len(self.levels.gradient):
            raise LateParameter(
                "a parameter group was added to a nested optimizer; make a new one with a plan "
                "that claims its parameters"
            )
        super().add_param_group(param_group)

    def swap_parameter(self, name: str, param: Tensor) -> None:
        """Replace a claimed parameter by one with other rows (a head that grows).

        Args:
            name: the parameter's name.
            param: same shape but for its rows; those that both have hold the old values.

        Raises:
            LateParameter: no level owns that name.
            MismatchedParameters: another shape, but for its rows.
        """
        self.levels.swap_parameter(name, param)
