"""The state of one gradient level: its clock, its gathered gradient, its own optimizer.

Between two boundaries the parameters are constant. At a boundary the optimizer sees the
gradient averaged (or summed) over the period, so moments move only there.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from nestling.core.errors import MismatchedParameters, SettingError
from nestling.core.params import (
    are_finite,
    check_same_names,
    digest_tensors,
    keep_rows,
    sum_dtype,
)
from nestling.core.pauses import pause, resume
from nestling.levels.bounds import ChangeBounds, pull_within
from nestling.levels.change_budget import ChangeBudget
from nestling.levels.control import Knobs, WaitingChanges, turn_level
from nestling.levels.events import Alarm, Bounded, Braked, Change, Event, Refusal
from nestling.levels.gates import GateState
from nestling.levels.level import Clock, check_kind
from nestling.levels.readings import (
    PERIODS_UNTIL_DEAD,
    UPDATES_PER_MEASUREMENT,
    ChangeMeter,
    LevelReading,
    norm,
)
from nestling.levels.spec import Level, dump_spec, load_spec
from nestling.levels.step_bounds import bound_step, read_rates
from nestling.optim import SGD
from nestling.optim.fused import step_fused
from nestling.optim.inner_state import (
    GathersInputs,
    export_group,
    export_inner,
    fit_rows,
    import_group,
    import_inner,
)

_COUNTS = (
    "num_gradients",
    "num_refused",
    "num_idle",
    "num_skipped",
    "is_released",
    "factor",
    "seconds",
)
_COURSE = ("clock", "counts", "meter", "gathered", "gates", "moments", "waiting")


class GradientLevel:
    """Parameters of one level and everything that decides when and how they move.

    Args:
        spec: what the plan says.
        names: names of its parameters.
        params: the parameters themselves, in the order of `names`.
        in_place: gradients gather in `.grad` (whoever owns the loop must not clear them).
        buffers: running statistics beside its parameters: name -> (module, name in it).
    """

    def __init__(
        self,
        spec: Level,
        names: Sequence[str],
        params: Sequence[Tensor],
        in_place: bool,
        buffers: Mapping[str, tuple[nn.Module, str]],
    ) -> None:
        self.spec = spec
        self.names = list(names)
        self.params = list(params)
        self.in_place = in_place
        self.buffers = dict(buffers)
        self.inner = spec.optimizer.build(self.params)
        # Asked once: to ask a protocol costs as much as a small step.
        self.gathering = self.inner if isinstance(self.inner, GathersInputs) else None
        self.group = self.inner.param_groups[0]
        self.group["name"] = spec.name
        self.gates = GateState(spec.gate)
        self.gathered: list[Tensor | None] = [None] * len(self.params)
        self.clock = Clock("steps")
        self.num_gradients = self.num_refused = self.num_idle = self.num_skipped = 0
        self.factor = 1.0
        self.seconds = 0.0
        self.is_enabled = True
        self.is_released = False  # from a freeze until an event
        self.budget: ChangeBudget | None = None  # of its bounds, if it has some or is braked
        self.is_written = False  # the rule of a copy level writes into it
        self.is_replaced = False  # and its weights were put in from elsewhere since
        self._start: tuple[int, list[Tensor]] = (0, [])  # step, weights before its update
        self.knows_finite = False  # whoever takes the step has looked at this step's gradients
        self.held: frozenset[str] = frozenset()  # parameters and buffers that stay as they are
        self.num_held = 0  # parameters among them
        self._still: dict[str, Tensor] = {}
        self.meter = ChangeMeter(self.params)
        self.events: list[Event] = []
        self.changes: WaitingChanges[Level] = WaitingChanges(self._turn_checked)
        self.num_all = sum(param.numel() for param in self.params)  # of the model's scalars

        self._check_sums(spec)

    def _check_sums(self, spec: Level) -> None:
        """Raise SettingError if a period's gradients would be added up in half precision."""
        sums = spec.period > 1 and (spec.between == "accumulate" or spec.window > 1)
        half = next((p for p in self.params if p.dtype != sum_dtype(p.dtype)), None)
        if self.in_place and sums and half is not None:
            raise SettingError(
                f"level {spec.name!r} has weights in {half.dtype}, in which the gradients of a "
                "period cannot be added up in place; accumulate='separate' works"
            )

    def _turn_checked(self, spec: Level, knobs: dict[str, object]) -> Level:
        changed = turn_level(spec, knobs)
        self._check_sums(changed)
        return changed

    # --- the clock

    def is_frozen(self, step: int) -> bool:
        """Whether it stands still at optimizer step `step`, its next one."""
        freeze = self.spec.freeze
        return freeze is not None and freeze.covers(step, is_released=self.is_released)

    def is_wanted(self, step: int) -> bool:
        """Whether the gradient of optimizer step `step`, the level's next one, counts."""
        if self.is_frozen(step) or self.is_held:
            return False
        return (
            self.spec.between == "accumulate"
            or self.clock.age >= self.spec.period - self.spec.window
        )

    @property
    def is_held(self) -> bool:
        """Whether all its parameters stay as they are: nobody needs its gradient then.

        One that gathers in place goes on, since what is in `.grad` may be others' as well.
        """
        return not self.in_place and self.num_held == len(self.params)

    def enable(self, wanted: bool) -> None:
        """Let gradients reach the parameters, or stop backward before them."""
        if wanted != self.is_enabled:
            for param in self.params:
                resume(param) if wanted else pause(param)
            self.is_enabled = wanted

    def hear(self, event: str, step: int) -> None:
        """End freezes until an event, asked for or in force, and open gates: it was said after
        optimizer step `step`."""
        self.gates.hear(event, step)
        self.is_released |= self.spec.freeze is not None and self.spec.freeze.until == event
        for waiting in self.changes.waiting:
            if waiting.spec.freeze is not None and waiting.spec.freeze.until == event:
                waiting.is_released = True

    def list_awaited(self) -> set[str]:
        """Events that end a freeze, in force or asked for, or open a gate."""
        specs = [self.spec, *(waiting.spec for waiting in self.changes.waiting)]
        ends = {one.freeze.until for one in specs if one.freeze and one.freeze.until}
        return ends | self.gates.awaited

    def remember_buffers(self, step: int) -> None:
        """Before step `step`: if it is frozen then, what its running statistics must stay."""
        self._still = {}
        if self.buffers and self.is_frozen(step):
            self._still = {
                name: getattr(module, own).detach().clone()
                for name, (module, own) in self.buffers.items()
            }

    def put_back_buffers(self) -> None:
        """After a forward pass of a loop that does not prepare its steps: as they were."""
        for name, value in self._still.items():
            module, own = self.buffers[name]
            getattr(module, own).copy_(value)

    def check(self, step: int) -> None:
        """Raise SettingError, with nothing changed, if the gradients at hand cannot be used, or
        the clock of its bounds went back."""
        if self.budget is not None:
            self.budget.check_clock(self.spec.name)
        if (
            self.in_place
            and self.num_gradients > 0
            and self.is_enabled
            and not self.is_wanted(step)
        ):
            raise SettingError(
                f"level {self.spec.name!r} gathers in place and froze in the middle of a period; "
                "optimizer.prepare_step() before the forward pass keeps its gradient clean"
            )
        grads = [param.grad for param in self.params]
        if all(g is None or g.layout == torch.strided for g in grads) or self._takes_sparse():
            return
        for name, grad in zip(self.names, grads, strict=True):
            if grad is not None and grad.layout != torch.strided:
                raise SettingError(
                    f"parameter {name!r} of level {self.spec.name!r} has a sparse gradient; "
                    "sparse=False works, or period=1 without gates and nl.sgd(fused=False)"
                )

    def _takes_sparse(self) -> bool:
        rule = self.spec.optimizer
        is_plain = isinstance(rule, SGD) and rule.fused is False and not self.spec.gate
        return is_plain and self.spec.period == 1

    @torch.no_grad()
    def advance(
        self,
        step: int,
        factors: Mapping[str, float],
        judge: Callable[[str], bool] | None,
    ) -> bool:
        """Take one optimizer step: gather, and update if this is a boundary.

        What was gathered before a freeze is dropped at a boundary inside of it.

        Args:
            step: number of this optimizer step, from 1.
            factors: level name -> last factor, for parent gates.
            judge: asked about the update of a protected level.

        Returns: whether this was a boundary.
        """
        wanted = self.is_wanted(step)
        if self.budget is not None:
            self.budget.note_time()
        self.clock.age += 1
        self.clock.num_ticks += 1
        self.num_skipped += not self.is_enabled
        is_boundary = self.clock.age >= self.spec.period
        if is_boundary:
            if wanted:
                self._update(step, factors, judge)
            self.clock.age = self.num_gradients = 0
            if self.gathering is not None:
                self.gathering.drop_gathered()
        elif wanted:
            self._gather()
        return is_boundary

    # --- the gradient

    def _gather(self) -> None:
        self.num_gradients += 1
        if self.in_place:
            return
        fresh, sums, news = [], [], []
        for index, param in enumerate(self.params):
            grad = param.grad
            if grad is None:
                if self.num_gradients == 1:
                    self.gathered[index] = None  # what is left there is of the last period
                continue
            target = self.gathered[index]
            if target is None:
                self.gathered[index] = grad.detach().to(sum_dtype(grad.dtype), copy=True)
            elif self.num_gradients == 1:
                fresh.append((target, grad))
            else:
                sums.append(target)
                news.append(grad)
        if fresh:
            torch._foreach_copy_([t for t, _ in fresh], [g for _, g in fresh])
        if sums:
            torch._foreach_add_(sums, news)

    def _update(
        self,
        step: int,
        factors: Mapping[str, float],
        judge: Callable[[str], bool] | None,
    ) -> None:
        started = time.perf_counter()
        is_direct = self.in_place or self.num_gradients == 0
        own = [] if is_direct else [param.grad for param in self.params]
        if is_direct:
            self.num_gradients += 1
        else:
            self._gather()
        divisor, fault = (self.num_gradients if self.spec.reduce == "mean" else 1), ""
        if not is_direct:
            sums, divisor = _narrow_sums(self.gathered, self.params, divisor)
            for param, total in zip(self.params, sums, strict=True):
                param.grad = total
        if self.num_gradients > 1:
            fault = self._find_overflow()
        grads = [param.grad for param in self.params if param.grad is not None]
        try:
            if fault:
                self._refuse(step, fault)
            elif grads:
                self._move(step, grads, divisor, factors, judge)
            elif self.num_held < len(self.params):
                self._count_idle(step, "got no gradient in {} periods; is it used in the loss?")
        finally:
            if not is_direct:
                for param, grad in zip(self.params, own, strict=True):
                    param.grad = grad
        self.seconds += time.perf_counter() - started

    # --- the update

    def _move(
        self,
        step: int,
        grads: list[Tensor],
        divisor: int,
        factors: Mapping[str, float],
        judge: Callable[[str], bool] | None,
    ) -> None:
        spec, per_weight = self.spec, None
        if self.is_written and math.isfinite(self._find_bound()):
            self._start = (step, [param.detach().clone() for param in self.params])
        gates_before = self.gates.state_dict() if spec.protect else {}
        if spec.gate:
            if divisor > 1:  # gates look at the mean
                torch._foreach_div_(grads, divisor)
                divisor = 1
            full = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.params]
            self.factor, per_weight = self.gates.compute_factor(step, full, dict(factors))
        is_careful = self.factor < 1.0 or per_weight or spec.trust is not None or spec.protect
        before = [p.detach().clone() for p in self.params] if is_careful else []
        inner_before = export_inner(self.inner, self.names, self.params) if spec.protect else {}
        # An optimizer of the user's own may count in its group.
        group_before = dict(self.group) if spec.protect else {}
        params = [param for param in self.params if param.grad is not None]
        budget, is_free = self.budget, False
        if budget is not None:
            rates = read_rates(self.inner, params)
            is_finite = budget.num_free > 0 and (self.knows_finite or budget.look(grads))
            is_free = is_finite and budget.is_free(rates)
            if not budget.good:
                self.keep_good()
            if not is_free:
                most = bound_step(self.inner, params, grads, divisor, budget.look)
                budget.begin(self.params, most, rates)
        if not step_fused(self.inner, params, grads, divisor):
            if divisor > 1:
                torch._foreach_div_(grads, divisor)
            self.inner.step()
        if is_careful:
            self._moderate(before, per_weight)
        if budget is not None and not is_free and not self._bound(step):
            return
        if spec.protect:
            reason = "the judge raised"
            try:
                reason = self._find_fault(judge)
            finally:  # also if the judge raised
                if reason:
                    torch._foreach_copy_(self.params, before)
                    import_inner(self.inner, self.names, self.params, inner_before)
                    self.group.update(group_before)
                    self.gates.load_state_dict(gates_before)
            if reason:
                self._refuse(step, reason)
                return
        self.clock.num_updates += 1
        self.num_idle = 0
        if self.budget is not None and self.budget.num_good >= self.budget.good_every:
            self.keep_good()
        if self.clock.num_updates - self.meter.anchored_at >= UPDATES_PER_MEASUREMENT:
            self.measure(step)

    # --- what the rule of a copy level writes

    def list_moving(self, step: int) -> list[str]:
        """Names of the parameters into which a rule may write after optimizer step `step`.

        None of a level that is frozen, or whose gate was closed at its last update.
        """
        if self.is_frozen(step) or self.factor == 0.0:
            return []
        return [name for name in self.names if name not in self.held]

    def _find_bound(self) -> float:
        """How far it may move in one update, relative to its weights: by trust, and by bounds."""
        bounds = [self.spec.trust, None if self.budget is None else self.budget.bounds.per_update]
        return min([bound for bound in bounds if bound is not None], default=math.inf)

    @torch.no_grad()
    def write(
        self, step: int, values: Mapping[str, Tensor], judge: Callable[[str], bool] | None
    ) -> Literal["whole", "bounded", "undone"]:
        """Take over what a rule made of its weights, as far as an update might have moved them.

        What the optimizer did in the same step and what is written hold the bounds together.

        Args:
            step: number of this optimizer step.
            values: name -> new weights, finite, in the dtype of the parameter.
            judge: asked if it is protected.

        Returns: whether the weights are now these; others within its bounds; or as they were
            before, since the judge refused them, or a brake put them back (then `is_replaced`).
        """
        params = [p for n, p in zip(self.names, self.params, strict=True) if n in values]
        before = [p.detach().clone() for p in params] if self.spec.protect else []
        bound, budget = self._find_bound(), self.budget
        began_at, start = self._start
        if began_at != step:
            start = [p.detach().clone() for p in self.params] if math.isfinite(bound) else []
        size = norm(start) if start else 0.0
        if budget is not None:
            if not budget.good:
                self.keep_good()
            budget.forget()
            budget.begin(self.params, (math.inf, 0.0), None)
        torch._foreach_copy_(params, list(values.values()))
        if budget is not None and not self._bound(step):
            return "undone"
        if size > 0.0:
            first = [s for n, s in zip(self.names, start, strict=True) if n in values]
            _, is_pulled = pull_within(params, first, bound * size)
            if is_pulled and budget is not None:
                budget.forget()
                budget.note("per update", f"with a copy's rule it was pulled back to {bound:g}")
                self._tell_notes(step)
        reason = "the judge raised"
        try:
            reason = self._find_fault(judge) if self.spec.protect else ""
        finally:  # also if the judge raised
            if reason:
                torch._foreach_copy_(params, before)
        if reason:
            self.num_refused += 1
            text = f"what a copy's rule would write: {reason}"
            self.events.append(Refusal(self.spec.name, step, text))
            return "undone"
        if budget is None and size == 0.0:
            return "whole"
        pairs = zip(params, values.values(), strict=True)
        return "whole" if all(torch.equal(a, b) for a, b in pairs) else "bounded"

    def _moderate(self, before: list[Tensor], per_weight: list[Tensor] | None) -> None:
        change = torch._foreach_sub(self.params, before)
        if per_weight is not None:
            torch._foreach_mul_(change, per_weight)
        scale = self.factor
        size = norm(before) if self.spec.trust is not None else 0.0
        if self.spec.trust is not None and size > 0.0:
            scale = min(scale, self.spec.trust * size / max(norm(change), 1e-300))
        if scale < 1.0 or per_weight is not None:
            torch._foreach_mul_(change, scale)
            moderated = list(torch._foreach_add(before, change))
            for index, name in enumerate(self.names if self.num_held else ()):
                if name in self.held:
                    moderated[index] = before[index]  # to the sign of a zero
            torch._foreach_copy_(self.params, moderated)

    def _bound(self, step: int) -> bool:
        """Hold the bounds after an update; False if the level was put back instead."""
        assert self.budget is not None
        if reason := self.budget.finish(self.params):
            self._put_back_good()
            self.events.append(Braked(self.spec.name, step, reason))
            self._count_idle(step, "was braked {} times in a row; lower its lr")
            return False
        self._tell_notes(step)
        return True

    def _tell_notes(self, step: int) -> None:
        assert self.budget is not None
        name = self.spec.name
        for kind, text in self.budget.notes:
            if kind == "drift budget":
                self._raise(step, kind, text)
            else:
                self.events.append(Bounded(name, kind, step, f"level {name!r}: {text}"))
        self.budget.notes.clear()

    def keep_good(self) -> None:
        """Keep its weights, running statistics and moments as what a brake puts back."""
        assert self.budget is not None
        self.budget.num_good = 0
        self.budget.good = {
            "weights": self.tensors(),
            "moments": export_inner(self.inner, self.names, self.params),
            "gates": self.gates.state_dict(),
            "factor": self.factor,
        }

    def _put_back_good(self) -> None:
        """To the last good state. Rates stay as they are: whoever turned them wants them."""
        assert self.budget is not None
        self.is_replaced = self.is_written
        good = self.budget.good
        for name, value in self._list_tensors().items():
            if name not in self.held:
                value.copy_(good["weights"][name])
        import_inner(self.inner, self.names, self.params, good["moments"])
        heard = {"open_until": self.gates.open_until}
        self.gates.load_state_dict(good["gates"] | heard)
        self.factor = good["factor"]

    def _refuse(self, step: int, reason: str) -> None:
        self.num_refused += 1
        self.events.append(Refusal(self.spec.name, step, reason))
        self._count_idle(step, "had {} updates in a row refused; look at its judge")

    def _find_overflow(self) -> str:
        """Why the gradients of a whole period make no update; empty if they do.

        Each may have been finite where their sum is not.
        """
        if are_finite([param.grad for param in self.params if param.grad is not None]):
            return ""
        remedy = "a smaller loss" if self.spec.reduce == "mean" else "reduce='mean'"
        return f"the gradients of its period are not finite together; {remedy} works"

    def _find_fault(self, judge: Callable[[str], bool] | None) -> str:
        """Why the update must not stay; empty if it may."""
        for name, param in zip(self.names, self.params, strict=True):
            if not bool(torch.isfinite(param).all()):
                return f"{name!r} was not finite after the update"
        return "" if judge is None or judge(self.spec.name) else "the judge refused the update"

    # --- what it tells

    def measure(self, step: int) -> float:
        """Mean relative change per update since the last measurement; raises alarms."""
        should_move = self.factor > 0.0 and self.group.get("lr", 1.0) > 0
        found = self.meter.measure(self.params, self.clock.num_updates, self.spec.band, should_move)
        if found is not None:
            self._raise(step, *found)
        return self.meter.mean_change

    def _count_idle(self, step: int, text: str) -> None:
        self.num_idle += 1
        if self.num_idle == PERIODS_UNTIL_DEAD:
            self._raise(step, "dead", text.format(self.num_idle))

    def _raise(self, step: int, kind: str, text: str) -> None:
        message = f"level {self.spec.name!r} {text}"
        self.events.append(Alarm(self.spec.name, kind, step, message))

    def read(self) -> LevelReading:
        """How it stands; measures how far it moved since the last time, and may raise an alarm."""
        num_parameters = sum(param.numel() for param in self.params)
        num_steps = self.clock.num_ticks
        return LevelReading(
            level=self.spec.name,
            kind="gradient",
            num_parameters=num_parameters,
            share=num_parameters / self.num_all,
            period=self.spec.period,
            age=self.clock.age,
            num_steps=num_steps,
            num_updates=self.clock.num_updates,
            num_refused=self.num_refused,
            relative_change=self.measure(self.clock.num_ticks),
            factor=self.factor,
            lr=float(self.group["lr"]) if "lr" in self.group else None,
            share_backward_skipped=self.num_skipped / num_steps if num_steps else 0.0,
            seconds=self.seconds,
        )

    def _check_rates(self, knobs: Mapping[str, object]) -> None:
        """Raise SettingError if the optimizer has no such rate to turn."""
        for knob in ("lr", "weight_decay"):
            if knob in knobs and knob not in self.group:
                raise SettingError(
                    f"optimizer {self.spec.optimizer.name!r} of level {self.spec.name!r} has no "
                    f"{knob}; make it with a group that has one"
                )

    def turn(self, spec: Level, knobs: Mapping[str, object]) -> None:
        """Take over a checked specification; `knobs` are those that were turned.

        A rate that was not turned stays where a scheduler has put it.
        """
        for knob in ("lr", "weight_decay"):
            if knob in knobs:
                # An optimizer of the user's own has its rates in its group only.
                self.group[knob] = getattr(spec.optimizer, knob, knobs[knob])
        if spec.gate != self.spec.gate:
            self.gates = GateState(spec.gate)
            self.factor = 1.0
        self.spec = spec

    # --- what it is made of

    def tensors(self) -> dict[str, Tensor]:
        """Its parameters and the running statistics beside them, by name; copies."""
        return {name: value.detach().clone() for name, value in self._list_tensors().items()}

    def digest(self) -> str:
        """The sha256 of its tensors, names, shapes and dtypes included."""
        return digest_tensors(self._list_tensors())

    def _list_tensors(self) -> dict[str, Tensor]:
        values: dict[str, Tensor] = dict(zip(self.names, self.params, strict=True))
        return values | {name: getattr(module, own) for name, (module, own) in self.buffers.items()}

    def control(self, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """Turn knobs; see `NestedOptimizer.control`."""
        self._check_rates(knobs)
        change = self.changes.ask(self.spec, dict(knobs), reason, self.clock.num_ticks)
        if self.clock.age == 0:  # it stands at a boundary
            self.apply_changes(self.clock.num_ticks)
        return change

    def apply_changes(self, step: int) -> None:
        """Let changes that waited come into force, at the boundary of optimizer step `step`."""
        for waiting in self.changes.take(step):
            self.turn(waiting.spec, waiting.change.knobs)
            if "freeze" in waiting.change.knobs:  # it waits anew
                self.is_released = waiting.is_released
            self.events.append(waiting.change)
        self.remember_buffers(step + 1)

    def state_dict(self) -> dict[str, Any]:
        """Weights, running statistics, moments, clock, gathered gradients, rates; copies."""
        return {
            **self.export_course(),
            "weights": self.tensors(),
            "rates": export_group(self.group),
        }

    def export_course(self) -> dict[str, Any]:
        """The state without weights and rates, which a torch optimizer's user saves elsewhere."""
        gathered = [param.grad for param in self.params] if self.in_place else self.gathered
        is_gathering = self.num_gradients > 0
        return {
            "spec": dump_spec(self.spec),
            "clock": self.clock.state_dict(),
            "counts": {name: getattr(self, name) for name in _COUNTS},
            "meter": self.meter.state_dict(self.names),
            "gathered": {
                name: value.detach().clone()
                for name, value in zip(self.names, gathered, strict=True)
                if is_gathering and value is not None
            },
            "gates": self.gates.state_dict(),
            "moments": export_inner(self.inner, self.names, self.params),
            "waiting": self.changes.state_dict(),
            **({} if self.budget is None else {"guard": self.budget.state_dict(self.names)}),
            **({"is_replaced": True} if self.is_replaced else {}),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise MismatchedParameters unless `load_state_dict` will work; nothing is changed."""
        self.check_course(state)
        check_kind(state, self.spec, {"weights", "rates"})
        own = self._list_tensors()
        check_same_names(state["weights"], own)
        for name, value in state["weights"].items():
            if value.dtype != own[name].dtype:
                raise MismatchedParameters(
                    f"{name!r} is {value.dtype} in the state and {own[name].dtype} here; "
                    "convert the model before its levels are assigned"
                )

    def check_course(self, state: Mapping[str, Any]) -> None:
        """As `check_state`, for what `export_course` gave."""
        check_kind(state, self.spec, set(_COURSE))
        check_same_names(state["meter"]["anchor"], dict(zip(self.names, self.params, strict=True)))
        rule = state["spec"].get("optimizer")
        rule = rule.get("name") if isinstance(rule, Mapping) else rule
        if rule != self.spec.optimizer.name:
            raise MismatchedParameters(
                f"level {self.spec.name!r} was saved with optimizer {rule!r}, this plan has "
                f"{self.spec.optimizer.name!r}; restore it with the plan it was saved with"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the level that was saved, in this learner or another of the same plan.

        Raises:
            MismatchedParameters: it is of another plan or model; nothing is changed.
        """
        self.check_state(state)
        with torch.no_grad():
            for name, value in self._list_tensors().items():
                value.copy_(state["weights"][name])
        self.import_course(state)
        import_group(self.group, state["rates"])

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over its tensors alone; moments and gathered gradients of those before go.

        Raises:
            MismatchedParameters: they are of another level; nothing is changed.
        """
        own = self._list_tensors()
        check_same_names(weights, own)
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(weights[name])
        self.forget_moments(self.names)
        self.num_gradients = 0

    def import_course(self, state: Mapping[str, Any]) -> None:
        """Take over what `export_course` gave."""
        spec = load_spec(state["spec"], self.spec)
        assert isinstance(spec, Level)
        self.turn(spec, {})  # the rates come with the parameter group
        self.clock.load_state_dict(state["clock"])
        for name in _COUNTS:
            setattr(self, name, state["counts"][name])
        self.meter.load_state_dict(state["meter"], self.names, self.params)
        copies = [
            value.to(
                param.device,
                param.dtype if self.in_place else sum_dtype(param.dtype),
                copy=True,
            )
            if (value := state["gathered"].get(name)) is not None
            else None
            for name, param in zip(self.names, self.params, strict=True)
        ]
        if self.in_place:
            for param, value in zip(self.params, copies, strict=True):
                param.grad = value
        else:
            self.gathered = copies
        self.gates.load_state_dict(state["gates"])
        for values in (self.gates.slow, self.gates.importance):
            values[:] = [v.to(p.device) for v, p in zip(values, self.params, strict=False)]
        import_inner(self.inner, self.names, self.params, state["moments"])
        self.changes.load_state_dict(state["waiting"], self.spec)
        self._import_guard(state.get("guard"))
        self.is_replaced = state.get("is_replaced", False)

    def _import_guard(self, state: Mapping[str, Any] | None) -> None:
        """Go on with a saved budget, under the bounds that are in force here, if there are some."""
        if state is None:
            if self.budget is not None and self.budget.came_with_state:
                self.budget = None
            elif self.budget is not None:
                self.budget.restart(self.params)
            return
        if self.budget is None:
            self.budget = ChangeBudget(
                ChangeBounds(**state["bounds"]),
                time.time,
                good_every=state["good_every"],
                explode=state["explode"],
            )
            self.budget.came_with_state = True
        self.budget.load_state_dict(state, self.names, self.params)

    def swap(self, name: str, param: Tensor) -> None:
        """Put a parameter with other rows in the place of another; its state gets as many.

        Raises:
            MismatchedParameters: another shape, but for its rows.
        """
        index = self.names.index(name)
        old = self.params[index]
        if param.dim() == 0 or param.shape[1:] != old.shape[1:]:
            raise MismatchedParameters(
                f"{name!r} has shape {tuple(old.shape)}, its successor "
                f"{tuple(param.shape)}; only more or fewer rows of the same shape work"
            )
        self.params[index] = param
        self.group["params"][index] = param
        if old in self.inner.state:
            values = self.inner.state.pop(old)
            # Moments of another shape (Adafactor keeps rows and columns) begin anew.
            moments = [v for v in values.values() if isinstance(v, Tensor) and v.dim() > 0]
            if all(moment.shape == old.shape for moment in moments):
                self.inner.state[param] = {k: fit_rows(v, old, param) for k, v in values.items()}
        if self.in_place and self.num_gradients > 0 and old.grad is not None:
            param.grad = fit_rows(old.grad, old, param)
        if (gathered := self.gathered[index]) is not None:
            self.gathered[index] = fit_rows(gathered, old, param)
        self.meter.anchor[index] = keep_rows(self.meter.anchor[index], param)
        if self.budget is not None:
            self.budget.swap(index, param)
            self.budget.good = {}  # of other rows
        for values in (self.gates.slow, self.gates.importance):
            if values:
                values[index] = fit_rows(values[index], old, param)

    def zero_grad(self, set_to_none: bool) -> None:
        """Clear its gradients, but for those that it gathers in place.

        What was gathered within a period stays; inputs of a step that was left out go, too.
        """
        if self.num_gradients == 0 and self.gathering is not None:
            self.gathering.drop_gathered()
        if self.in_place and self.num_gradients > 0:
            return
        for param in self.params:
            if set_to_none:
                param.grad = None
            elif param.grad is not None:
                param.grad.zero_()

    def forget_moments(self, names: Collection[str]) -> None:
        """Drop moments and gradients of weights that were replaced: they belong to the old ones."""
        self.drop_moments(names)
        self.is_replaced |= self.is_written and not set(self.names).isdisjoint(names)
        for param in self.params:
            param.grad = None
        if self.gathering is not None:
            self.gathering.drop_gathered()

    def drop_moments(self, names: Collection[str]) -> None:
        """Drop the optimizer's moments of these weights, and nothing else."""
        for name, param in zip(self.names, self.params, strict=True):
            if name in names:
                self.inner.state.pop(param, None)


def _narrow_sums(
    sums: list[Tensor | None], params: Sequence[Tensor], divisor: int
) -> tuple[list[Tensor | None], int]:
    """Sums of gradients in the parameters' own dtypes, and what they are yet to be divided by.

    Those that were kept wider are divided first: the mean of half precision has room in it where
    the sum has none.
    """
    if all(s is None or s.dtype == p.dtype for s, p in zip(sums, params, strict=True)):
        return sums, divisor
    pairs = zip(sums, params, strict=True)
    return [None if total is None else (total / divisor).to(p.dtype) for total, p in pairs], 1
