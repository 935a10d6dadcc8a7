"""`NestedOptimizer`: a torch optimizer over the gradient and copy levels of a plan."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor, nn

from nestling.core.errors import LateParameter, SettingError, suggest
from nestling.levels import saving
from nestling.levels.assign import ParameterWatch, assign_levels, collect_aliases, unwrap
from nestling.levels.control import ChangeQueue, Knobs, check_importance
from nestling.levels.copies import make_copies
from nestling.levels.gates import feed_gates
from nestling.levels.gradient import GradientLevel
from nestling.levels.plan import Plan
from nestling.levels.readings import Alarm, Change, LevelAlarm, LevelReading
from nestling.levels.spec import Level


class NestedOptimizer(torch.optim.Optimizer):
    """Lets every level of a plan learn on its own clock, in any training loop.

    Each gradient level is one entry of `param_groups` (so that LR schedulers see it) with an
    optimizer of its own. At a level's boundary, every `period` steps:

        theta <- update(theta, mean of the gradients of the period)   [NL eq. 71]

    and between boundaries theta is constant. A step that `GradScaler` skips moves no clock.

    Differs: the paper sums over C + 1 gradients as printed; we take the period's own, and
    average unless the level says reduce="sum".

    Args:
        model: any module; it is not changed or wrapped. Compiled and data-parallel wrappers
            are looked through.
        plan: gradient and copy levels are run; memory levels are the learner's.
        accumulate: "separate" gathers gradients beside `.grad`, so that clipping and scaling
            see this step's gradient only and `zero_grad()` is harmless. "in_place" gathers in
            `.grad`, which costs nothing, but the loop must clear gradients by this
            optimizer's `zero_grad()` alone and must not change them.
        judge: asked with a level's name after an update of a level with `protect`, while the
            model holds the update; False undoes it.
        seed: of the copies that update by chance.

    Raises:
        SettingError: the plan does not fit the model; see `assign_levels`.

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
        plan: Plan,
        *,
        accumulate: Literal["separate", "in_place"] = "separate",
        judge: Callable[[str], bool] | None = None,
        seed: int = 0,
    ) -> None:
        if accumulate not in ("separate", "in_place"):
            raise SettingError(
                f"accumulate={accumulate!r}; {suggest(accumulate, ['in_place', 'separate'])}"
            )
        if not plan.gradient_levels:
            raise SettingError("the plan has no gradient level to optimize; add nl.Level(...)")
        self.model = unwrap(model)
        self.plan = plan
        self.judge = judge
        aliases = collect_aliases(model)
        claims = assign_levels(model, plan)
        self._owned = {name: aliases[name][0] for names in claims.values() for name in names}
        self.levels: dict[str, GradientLevel] = {}
        for spec in plan.gradient_levels:
            params = [self._owned[name] for name in claims[spec.name]]
            in_place = accumulate == "in_place"
            self.levels[spec.name] = GradientLevel(spec, claims[spec.name], params, in_place)
        buffers = dict(self.model.named_buffers()) | {
            name: param for name, param in self.model.named_parameters() if not param.requires_grad
        }
        self.copies = make_copies(plan.copies, claims, self._owned, buffers, seed)
        self._watch = ParameterWatch(self.model)
        self.queue = ChangeQueue(plan)
        self._sort_levels()
        self.num_steps = 0
        self.released: set[str] = set()
        self.alarms: list[Alarm] = []
        self._loss: float | None = None
        groups = [level.group for level in self.levels.values()]
        defaults = {key: value for key, value in groups[0].items() if key not in ("params", "name")}
        super().__init__([dict(group) for group in groups], defaults)
        # The groups are the inner optimizers' own, so that a scheduler turns the real knobs.
        self.param_groups = groups

    @property
    def changes(self) -> list[Change]:
        """Every turn of a knob so far, oldest first."""
        return self.queue.changes

    def prepare_step(self) -> None:
        """Before a forward pass: stop backward before levels whose gradient will not count.

        Only levels with between="skip", or frozen ones, are affected. `requires_grad` is put
        back by `step`. Under torch.distributed nothing is stopped (data-parallel hooks need
        every gradient); gradients that do not count are then ignored.
        """
        for level in self._order:
            wanted = level.is_wanted(self.num_steps + 1, self.released)
            if wanted == level.is_enabled:
                continue
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                return
            level.enable(wanted)

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

    def advance(self) -> None:
        """`step` without a closure, and without the wrapper that torch puts around it.

        The wrapper serves profilers, step hooks and LR schedulers; at small batches it costs
        as much as all that nestling adds. Raises as `step` does.
        """
        self._watch.check(self._owned)
        for level in self._order:
            level.check(self.num_steps + 1, self.released)
        gated = {level.spec.name: level.gates for level in self._order if level.spec.gate}
        feed_gates(gated, self._loss)
        self._loss = None
        self.num_steps += 1
        factors = {name: level.factor for name, level in self.levels.items()}
        for level in self._order:
            if level.advance(self.num_steps, self.released, factors, self.judge):
                self._apply_waiting(level.spec.name)
            level.enable(True)
            factors[level.spec.name] = level.factor
        for copy in self.copies.values():
            if copy.advance():
                self._apply_waiting(copy.spec.name)
        self._sound_alarms()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, but for those that a level gathers in place."""
        for level in self._order:
            if level.in_place and level.num_gradients > 0:
                continue
            if set_to_none:  # without the wrapper that torch has for its profiler
                for param in level.params:
                    param.grad = None
            else:
                level.inner.zero_grad(set_to_none=False)

    def control(self, name: str, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """Turn knobs of a live level; it takes effect at the level's next boundary.

        Args:
            name: a gradient level or a copy.
            reason: why, kept in `changes`.
            knobs: period, lr, weight_decay, reduce, between, window, gate, freeze, trust of a
                `Level`; period, decay, probability of a `Copy`.

        Returns: the record of the change, whose `applied_at` is filled in at the boundary.

        Raises:
            UnknownLevel: no level has that name.
            SettingError: no reason, no knob, one that the level or its optimizer does not have, or
                a wrong value; nothing is changed.
        """
        live = {key: level.spec for key, level in (self.levels | self.copies).items()}
        if name in self.levels:
            self.levels[name].check_knobs(knobs)
        change = self.queue.ask(live, name, reason, self.num_steps, dict(knobs))
        self._sort_levels()
        return change

    def release(self, event: str) -> None:
        """Say that an event has happened: levels frozen until it begin to learn.

        Raises:
            SettingError: no level waits for that event.
        """
        freezes = [level.spec.freeze for level in self._order if level.spec.freeze is not None]
        awaited = {freeze.until for freeze in freezes if freeze.until is not None}
        if event not in awaited:
            raise SettingError(f"no level waits for event {event!r}; {suggest(event, awaited)}")
        self.released.add(event)

    def set_importance(self, importance: Mapping[str, Tensor]) -> None:
        """Give importance gates a Fisher diagonal instead of their own running estimate.

        Args:
            importance: name -> tensor >= 0 of the parameter's shape, for every parameter of
                each level that it is about.

        Raises:
            MismatchedParameters: a name, shape, or part of a level is missing; nothing is set.
        """
        for level, values in check_importance(self._order, importance):
            level.gates.importance = values
            level.gates.importance_is_given = True

    def read_levels(self) -> list[LevelReading]:
        """How every gradient and copy level stands, in the plan's order."""
        num_all = sum(param.numel() for level in self._order for param in level.params)
        readings = [level.read(self.num_steps, num_all) for level in self.levels.values()]
        readings += [copy.read(num_all) for copy in self.copies.values()]
        self._sound_alarms()
        return readings

    def copy_values(self, name: str) -> dict[str, Tensor]:
        """The values of a copy level, name -> tensor (copies); raises UnknownLevel.

        Those of one that never moves hold the model's buffers, too.
        """
        if name not in self.copies:
            self.plan.find(name)
            raise SettingError(f"level {name!r} is no copy; {suggest(name, self.copies)}")
        level = self.copies[name]
        return {key: value.clone() for key, value in (level.values | level.buffers).items()}

    def state_dict(self) -> dict[str, Any]:
        """Clocks, gathered gradients, moments, gates, copies: all that the next step needs."""
        return saving.export_state(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            MismatchedParameters: it belongs to another plan or model; nothing is changed.
        """
        saving.import_state(self, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        """All of it: torch's own would leave out the levels."""
        return dict(vars(self))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused after construction: parameters are claimed by the plan."""
        if hasattr(self, "_loss") and len(self.param_groups) >= len(self.levels):
            raise LateParameter(
                "a parameter group was added to a nested optimizer; make a new one with a plan "
                "that claims its parameters"
            )
        super().add_param_group(param_group)

    def swap_parameter(self, name: str, param: Tensor) -> None:
        """Take a parameter with other rows in the place of a claimed one (a head that grows).

        Args:
            name: the parameter's name.
            param: same shape but for its rows; those that both have hold the old values.

        Raises:
            LateParameter: no level owns that name.
            MismatchedParameters: another shape, but for its rows.
        """
        owner = next((level for level in self._order if name in level.names), None)
        if owner is None:
            raise LateParameter(f"no level owns {name!r}; {suggest(name, self._owned)}")
        saving.swap_parameter(owner, owner.names.index(name), param)
        for copy in self.copies.values():
            if name in copy.values:
                copy.swap(name, param)
        self._owned[name] = param
        self._watch.refresh()

    def _sort_levels(self) -> None:
        live = {name: level.spec for name, level in self.levels.items()}
        self._order = [self.levels[name] for name in self.queue.sort(live)]

    def _apply_waiting(self, name: str) -> None:
        for change, spec in self.queue.take(name, self.num_steps):
            if isinstance(spec, Level):
                self.levels[name].turn(spec, change.knobs)
            else:
                self.copies[name].spec = spec

    def _sound_alarms(self) -> None:
        raised = [alarm for level in self._order for alarm in level.alarms]
        if not raised:
            return
        self.alarms += raised
        for level in self._order:
            level.alarms.clear()
        for alarm in raised:  # last: a warning may be an error
            warnings.warn(alarm.message, LevelAlarm, stacklevel=3)
