"""The state of one gradient level: its clock, its gathered gradient, its own optimizer.

Between two boundaries the parameters are constant. At a boundary the optimizer sees the
gradient averaged (or summed) over the period, so moments move only there.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import PlanError
from nestling.levels.gates import GateState
from nestling.levels.readings import Alarm, LevelReading
from nestling.levels.spec import Level

_PERIODS_UNTIL_DEAD = 20
_UPDATES_PER_MEASUREMENT = 100


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
        self.anchor = [p.detach().clone() for p in self.params]
        self.anchored_at = 0
        self.mean_change = 0.0
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
                if self.num_gradients == 1 and (old := self.gathered[index]) is not None:
                    old.zero_()
                continue
            if grad.layout != torch.strided:
                raise PlanError(
                    f"parameter {self.names[index]!r} of level {self.spec.name!r} has a sparse "
                    f"gradient and period {self.spec.period}; period=1 or sparse=False works"
                )
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
        own = [param.grad for param in self.params]
        is_direct = self.in_place or self.num_gradients == 0
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
                if self.spec.reduce == "mean" and self.num_gradients > 1:
                    torch._foreach_mul_(grads, 1.0 / self.num_gradients)
                self._move(step, factors, judge)
                self.num_idle = 0
            else:
                self._count_idle(step)
        finally:
            if not is_direct:
                for param, grad in zip(self.params, own, strict=True):
                    param.grad = grad
        self.seconds += time.perf_counter() - started

    # --- the update

    def _move(
        self, step: int, factors: Mapping[str, float], judge: Callable[[str], bool] | None
    ) -> None:
        spec, per_weight = self.spec, None
        if spec.gate:
            full = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.params]
            self.factor, per_weight = self.gates.compute_factor(step, full, dict(factors))
        is_careful = self.factor < 1.0 or per_weight or spec.trust is not None or spec.protect
        before = [p.detach().clone() for p in self.params] if is_careful else []
        inner_before = self.export_inner() if spec.protect else {}
        self.inner.step()
        if is_careful:
            self._moderate(before, per_weight)
        if spec.protect and not self._passes(judge):
            with torch.no_grad():
                torch._foreach_copy_(self.params, before)
            self.import_inner(inner_before)
            self.num_refused += 1
            return
        self.num_updates += 1
        if self.num_updates - self.anchored_at >= _UPDATES_PER_MEASUREMENT:
            self.measure(step)

    @torch.no_grad()
    def _moderate(self, before: list[Tensor], per_weight: list[Tensor] | None) -> None:
        change = torch._foreach_sub(self.params, before)
        if per_weight is not None:
            torch._foreach_mul_(change, per_weight)
        scale = self.factor
        if self.spec.trust is not None:
            allowed = self.spec.trust * _norm(before)
            scale = min(scale, allowed / max(_norm(change), 1e-300))
        if scale < 1.0 or per_weight is not None:
            torch._foreach_mul_(change, scale)
            torch._foreach_copy_(self.params, torch._foreach_add(before, change))

    def _passes(self, judge: Callable[[str], bool] | None) -> bool:
        is_finite = all(bool(torch.isfinite(param).all()) for param in self.params)
        return is_finite and (judge is None or judge(self.spec.name))

    # --- what it tells

    @torch.no_grad()
    def measure(self, step: int) -> float:
        """Mean relative change per update since the last measurement; raises alarms."""
        num_updates = self.num_updates - self.anchored_at
        if num_updates == 0:
            return self.mean_change
        base = _norm(self.anchor)
        # In place: a fresh tensor of this size costs more than the arithmetic.
        torch._foreach_sub_(self.anchor, self.params)
        moved = _norm(self.anchor)
        self.mean_change = moved / base / num_updates if base > 0 else 0.0
        torch._foreach_copy_(self.anchor, self.params)
        self.anchored_at = self.num_updates
        low, high = self.spec.band
        if moved == 0.0 and self.factor > 0.0 and self.group["lr"] > 0:
            self._raise("dead", step, f"did not move in {num_updates} updates; check its gradient")
        elif self.mean_change > high:
            self._raise("runaway", step, self._describe_change("lower its lr or set trust"))
        elif self.mean_change < low:
            self._raise("sluggish", step, self._describe_change("raise its lr or widen its band"))
        return self.mean_change

    def _describe_change(self, remedy: str) -> str:
        low, high = self.spec.band
        return f"changes by {self.mean_change:.3g} per update, band {low:g} to {high:g}; {remedy}"

    def _count_idle(self, step: int) -> None:
        self.num_idle += 1
        if self.num_idle == _PERIODS_UNTIL_DEAD:
            text = f"got no gradient in {self.num_idle} periods; is it used in the loss?"
            self._raise("dead", step, text)

    def _raise(self, kind: str, step: int, text: str) -> None:
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
            lr=float(self.group["lr"]),
            share_backward_skipped=self.num_skipped / self.num_steps if self.num_steps else 0.0,
            seconds=self.seconds,
        )

    def turn(self, spec: Level) -> None:
        """Take over a checked specification with other values on its knobs."""
        if spec.optimizer != self.spec.optimizer:
            for knob in ("lr", "weight_decay"):
                self.group[knob] = getattr(spec.optimizer, knob)
        if spec.gate != self.spec.gate:
            self.gates = GateState(spec.gate)
            self.factor = 1.0
        self.spec = spec

    # --- what is saved

    def export_inner(self) -> dict[str, dict[str, object]]:
        """The inner optimizer's state by parameter name; tensors are copies."""
        return {
            name: {key: _clone(value) for key, value in self.inner.state[param].items()}
            for name, param in zip(self.names, self.params, strict=True)
            if param in self.inner.state
        }

    def import_inner(self, state: Mapping[str, Mapping[str, object]]) -> None:
        """Put the inner optimizer back into a state that `export_inner` gave."""
        self.inner.state.clear()
        for name, param in zip(self.names, self.params, strict=True):
            if name in state:
                values = {key: _clone(value) for key, value in state[name].items()}
                self.inner.state[param] = values

    def swap(self, index: int, param: Tensor) -> None:
        """Put a parameter with more rows in the place of another; its state grows with it."""
        old = self.params[index]
        self.params[index] = param
        self.group["params"][index] = param
        if old in self.inner.state:
            values = self.inner.state.pop(old)
            self.inner.state[param] = {key: _pad(v, old, param) for key, v in values.items()}
        gathered = self.gathered[index]
        self.gathered[index] = None if gathered is None else _pad(gathered, old, param)
        fresh = param.detach().clone()
        fresh[: old.shape[0]] = self.anchor[index]
        self.anchor[index] = fresh
        for values in (self.gates.slow, self.gates.importance):
            if values:
                values[index] = _pad(values[index], old, param)


def _clone(value: object) -> object:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _norm(tensors: Sequence[Tensor]) -> float:
    norms = torch._foreach_norm(list(tensors))
    return float(torch.stack([norm.double() for norm in norms]).square().sum().sqrt())


def _pad(value: Any, old: Tensor, new: Tensor) -> Any:
    """`value` with rows of zeros added, if it has the shape of `old`; else as it is."""
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return value
    padded = value.new_zeros(new.shape)
    padded[: old.shape[0]] = value
    return padded
