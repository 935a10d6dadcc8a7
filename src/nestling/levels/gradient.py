"""The state of one gradient level: its clock, its gathered gradient, its own optimizer.

Between two boundaries the parameters are constant. At a boundary the optimizer sees the
gradient averaged (or summed) over the period, so moments move only there.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.levels.gates import GateState
from nestling.levels.readings import (
    PERIODS_UNTIL_DEAD,
    UPDATES_PER_MEASUREMENT,
    Alarm,
    ChangeMeter,
    LevelReading,
    norm,
)
from nestling.levels.saving import export_inner, import_inner
from nestling.levels.spec import Level
from nestling.optim import SGD
from nestling.optim.fused import step_fused


class GradientLevel:
    """Parameters of one level and everything that decides when and how they move.

    Args:
        spec: what the plan says.
        names: names of its parameters.
        params: the parameters themselves, in the order of `names`.
        in_place: gradients gather in `.grad` (whoever owns the loop must not clear them).
    """

    def __init__(
        self, spec: Level, names: Sequence[str], params: Sequence[Tensor], in_place: bool
    ) -> None:
        self.spec = spec
        self.names = list(names)
        self.params = list(params)
        self.in_place = in_place
        self.inner = spec.optimizer.build(self.params)
        self.group = self.inner.param_groups[0]
        self.group["name"] = spec.name
        self.gates = GateState(spec.gate)
        self.gathered: list[Tensor | None] = [None] * len(self.params)
        self.age = self.num_gradients = self.num_steps = self.num_updates = 0
        self.num_refused = self.num_idle = self.num_skipped = 0
        self.factor = 1.0
        self.seconds = 0.0
        self.is_enabled = True
        self.meter = ChangeMeter(self.params)
        self.alarms: list[Alarm] = []

    # --- the clock

    def is_wanted(self, step: int, released: set[str]) -> bool:
        """Whether the gradient of optimizer step `step`, the level's next one, counts."""
        if self.spec.freeze is not None and self.spec.freeze.covers(step, released):
            return False
        return self.spec.between == "accumulate" or self.age >= self.spec.period - self.spec.window

    def enable(self, wanted: bool) -> None:
        """Let gradients reach the parameters, or stop backward before them."""
        if wanted != self.is_enabled:
            for param in self.params:
                param.requires_grad_(wanted)
            self.is_enabled = wanted

    def check(self, step: int, released: set[str]) -> None:
        """Raise SettingError, with nothing changed, if the gradients at hand cannot be used."""
        if (
            self.in_place
            and self.num_gradients > 0
            and self.is_enabled
            and not self.is_wanted(step, released)
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
        released: set[str],
        factors: Mapping[str, float],
        judge: Callable[[str], bool] | None,
    ) -> bool:
        """Take one optimizer step: gather, and update if this is a boundary.

        Args:
            step: number of this optimizer step, from 1.
            released: events that have happened.
            factors: level name -> last factor, for parent gates.
            judge: asked about the update of a protected level.

        Returns: whether this was a boundary.
        """
        wanted = self.is_wanted(step, released)
        self.age += 1
        self.num_steps += 1
        self.num_skipped += not self.is_enabled
        is_boundary = self.age >= self.spec.period
        if is_boundary:
            if wanted or self.num_gradients:
                self._update(step, wanted, factors, judge)
            self.age = self.num_gradients = 0
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
                self.gathered[index] = grad.detach().clone()
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
        wanted: bool,
        factors: Mapping[str, float],
        judge: Callable[[str], bool] | None,
    ) -> None:
        started = time.perf_counter()
        is_direct = self.in_place or self.num_gradients == 0
        own = [] if is_direct else [param.grad for param in self.params]
        if wanted:
            if is_direct:
                self.num_gradients += 1
            else:
                self._gather()
        if not is_direct:
            for param, total in zip(self.params, self.gathered, strict=True):
                param.grad = total
        grads = [param.grad for param in self.params if param.grad is not None]
        try:
            if grads:
                self._move(step, grads, factors, judge)
            else:
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
        factors: Mapping[str, float],
        judge: Callable[[str], bool] | None,
    ) -> None:
        spec, per_weight = self.spec, None
        divisor = self.num_gradients if spec.reduce == "mean" else 1
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
        group_before = dict(self.group)  # an optimizer of the user's own may count in it
        params = [param for param in self.params if param.grad is not None]
        if not step_fused(self.inner, params, grads, divisor):
            if divisor > 1:
                torch._foreach_div_(grads, divisor)
            self.inner.step()
        if is_careful:
            self._moderate(before, per_weight)
        if spec.protect:
            is_accepted = False
            try:
                is_accepted = self._passes(judge)
            finally:  # also if the judge raised
                if not is_accepted:
                    torch._foreach_copy_(self.params, before)
                    import_inner(self.inner, self.names, self.params, inner_before)
                    self.group.update(group_before)
                    self.gates.load_state_dict(gates_before)
            if not is_accepted:
                self.num_refused += 1
                self._count_idle(step, "had {} updates in a row refused; look at its judge")
                return
        self.num_updates += 1
        self.num_idle = 0
        if self.num_updates - self.meter.anchored_at >= UPDATES_PER_MEASUREMENT:
            self.measure(step)

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
            torch._foreach_copy_(self.params, torch._foreach_add(before, change))

    def _passes(self, judge: Callable[[str], bool] | None) -> bool:
        is_finite = all(bool(torch.isfinite(param).all()) for param in self.params)
        return is_finite and (judge is None or judge(self.spec.name))

    # --- what it tells

    def measure(self, step: int) -> float:
        """Mean relative change per update since the last measurement; raises alarms."""
        should_move = self.factor > 0.0 and self.group.get("lr", 1.0) > 0
        found = self.meter.measure(self.params, self.num_updates, self.spec.band, should_move)
        if found is not None:
            self._raise(step, *found)
        return self.meter.mean_change

    def _count_idle(self, step: int, text: str) -> None:
        self.num_idle += 1
        if self.num_idle == PERIODS_UNTIL_DEAD:
            self._raise(step, "dead", text.format(self.num_idle))

    def _raise(self, step: int, kind: str, text: str) -> None:
        message = f"level {self.spec.name!r} {text}"
        self.alarms.append(Alarm(self.spec.name, kind, step, message))

    def read(self, step: int, num_all: int) -> LevelReading:
        """The level's reading; `num_all` is the model's number of trainable scalars."""
        num_parameters = sum(param.numel() for param in self.params)
        return LevelReading(
            level=self.spec.name,
            kind="gradient",
            num_parameters=num_parameters,
            share=num_parameters / num_all,
            period=self.spec.period,
            age=self.age,
            num_steps=self.num_steps,
            num_updates=self.num_updates,
            num_refused=self.num_refused,
            relative_change=self.measure(step),
            factor=self.factor,
            lr=float(self.group["lr"]) if "lr" in self.group else None,
            share_backward_skipped=self.num_skipped / self.num_steps if self.num_steps else 0.0,
            seconds=self.seconds,
        )

    def check_knobs(self, knobs: Mapping[str, object]) -> None:
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
