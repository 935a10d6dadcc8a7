"""A short run of a plan on a copy of the model: who moved, when, how far; does it resume?"""

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.doctor.check_results import Check, LevelRow, failed, list_names, passed, skipped
from nestling.doctor.examined_model import ExaminedModel
from nestling.doctor.hidden_state import (
    keep_values,
    list_changed,
    list_module_state,
)
from nestling.doctor.practice import Practice
from nestling.levels import Copy, Level, LevelAlarm, NestedOptimizer, Plan
from nestling.optim import DGD, record_layers

PERIOD, STILL, DUE = "period has an effect", "still between due steps", "updates when due"
RESUMES = "resumes bit for bit"
NEVER = 10**6  # a period within which nothing is due
SHORT_RUN = 12


@dataclass
class LevelRun:
    """A model that learns by a plan.

    Args:
        subject: a copy of its own.
        optimizer: over the plan's gradient and copy levels.
        practice: what is learned.
    """

    subject: ExaminedModel
    optimizer: NestedOptimizer
    practice: Practice

    def step(self) -> float:
        """One optimizer step on the whole batch; the loss."""
        at = self.optimizer.num_steps
        self.optimizer.prepare_step()
        self.optimizer.zero_grad()
        with self._record():
            y, _ = self.subject.call(self.subject.x, write=True, salt=at)
            loss = self.practice.loss(y)
            loss.backward()
            self.optimizer.observe(loss)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LevelAlarm)
                self.optimizer.step()
        return float(loss.detach())

    def values(self) -> dict[str, Tensor | float]:
        """Copies of weights, buffers, and what else the model holds."""
        module = self.subject.module
        return keep_values(dict(module.named_parameters()) | list_module_state(module))

    def level_tensors(self, name: str) -> dict[str, Tensor | float]:
        """The tensors of a level, as they are: gradient levels' own, copies' values."""
        levels = self.optimizer.levels
        if name in levels.gradient:
            level = levels.gradient[name]
            return dict(zip(level.names, level.params, strict=True))
        return dict(levels.copies[name].values)

    @contextmanager
    def _record(self) -> Iterator[None]:
        """Inputs of layers are recorded where a level asks for them."""
        specs = [level.optimizer for level in self.optimizer.plan.gradient_levels]
        if not any(isinstance(spec, DGD) for spec in specs):
            yield
            return
        with record_layers(self.subject.module):
            yield


def start_run(subject: ExaminedModel, plan: Plan, practice: Practice) -> LevelRun:
    """A run on a copy of the model.

    Raises:
        SettingError: the plan does not fit the model.
    """
    one = subject.copy()
    with torch.random.fork_rng(devices=[]):  # an optimizer may draw its start: each run the same
        torch.manual_seed(subject.seed)
        return LevelRun(one, NestedOptimizer(one.module, plan), practice)


def examine_levels(
    subject: ExaminedModel, plan: Plan, practice: Practice, *, steps: int
) -> tuple[list[LevelRow], list[Check]]:
    """Run a plan, and see that each level moves when it is due, only then, and at all.

    Args:
        subject: whose copy learns.
        plan: of levels; those that a learner feeds are named, not run.
        practice: what is learned.
        steps: optimizer steps of the run.
    """
    run = start_run(subject, plan, practice)
    levels = run.optimizer.levels
    periods = {s.name: {s.period} for s in plan.levels if isinstance(s, Level | Copy)}
    for outer in plan.copies:  # one with a rule writes into what it copies
        for name in outer.of if outer.rule is not None else ():
            periods[name].add(outer.period)
    names = list(periods)
    start = {name: keep_values(run.level_tensors(name)) for name in names}
    last = dict(start)
    early: dict[str, tuple[int, list[str]]] = {}
    for step in range(1, steps + 1):
        run.step()
        for name in names:
            now = run.level_tensors(name)
            if moved := list_changed(last[name], now):
                if all(step % period for period in periods[name]) and name not in early:
                    early[name] = (step, moved)
                last[name] = keep_values(now)
    rows: list[LevelRow] = []
    checks: list[Check] = []
    for spec in plan.levels:
        if not isinstance(spec, Level | Copy):
            rows.append(LevelRow(spec.name, spec.kind, None, None, None, None, "not examined"))
            reason = f"a {spec.kind} level is fed by nl.Learner, not by an optimizer"
            checks.append(skipped(DUE, spec.name, reason))
            continue
        due, made = steps // spec.period, levels[spec.name].clock.num_updates
        change = _measure_change(start[spec.name], last[spec.name])
        found = [_judge_stillness(spec, early.get(spec.name), steps)]
        found.append(_judge_updates(spec, due, made, change, steps))
        state = next((one.name for one in found if one.outcome == "failed"), "moves as due")
        if not due:
            state = "not due yet"
        elif state == "moves as due" and not change:
            state = "stands still"
        rows.append(LevelRow(spec.name, spec.kind, spec.period, due, made, change, state))
        checks += found
    return rows, checks


def check_level_periods(subject: ExaminedModel, plan: Plan, practice: Practice) -> list[Check]:
    """Whether another period of a level gives other weights, level by level."""
    checks: list[Check] = []
    base: dict[str, Tensor | float] | None = None
    for spec in plan.levels:
        if not isinstance(spec, Level | Copy):
            continue
        if isinstance(spec, Level) and spec.freeze is not None and spec.freeze.covers(SHORT_RUN):
            checks.append(skipped(PERIOD, spec.name, "it is frozen now"))
            continue
        if isinstance(spec, Copy) and spec.decay == 1.0:
            checks.append(skipped(PERIOD, spec.name, "a copy of decay 1 never moves"))
            continue
        if base is None:
            base = _run_short(subject, plan, practice)
        other = NEVER if spec.period <= SHORT_RUN else 1
        try:
            changed = replace(spec, period=other)
            if isinstance(changed, Level):
                changed = replace(changed, window=1)
        except SettingError as error:
            checks.append(skipped(PERIOD, spec.name, f"period {other:,} cannot be: {error}"))
            continue
        plan_2 = Plan(
            *(changed if one is spec else one for one in plan.levels), readout=plan.readout
        )
        moved = list_changed(base, _run_short(subject, plan_2, practice))
        pair = f"{spec.period:,} and {other:,}"
        if moved:
            text = f"periods {pair} differ in {len(moved)} tensors after {SHORT_RUN} steps"
            checks.append(passed(PERIOD, spec.name, text))
        elif _may_pause(spec):
            reason = f"no update within {SHORT_RUN} steps: frozen, gated or by chance"
            checks.append(skipped(PERIOD, spec.name, reason))
        else:
            text = (
                f"periods {pair} give the same bits after {SHORT_RUN} steps; see that gradient "
                "reaches the level and that its rate is not 0"
            )
            checks.append(failed(PERIOD, spec.name, text))
    return checks


def check_plan_resumes(
    subject: ExaminedModel, plan: Plan, practice: Practice, *, steps: int
) -> Check:
    """Whether a run that was saved and restored ends with the bits of one that was not.

    What `state_dict()` of model and optimizer say is put into fresh copies of both, in the middle
    of a period where there is one.
    """
    cut = _choose_cut(plan, steps)
    whole = start_run(subject, plan, practice)
    for _ in range(cut):
        whole.step()
    saved_model = copy.deepcopy(whole.subject.module.state_dict())
    saved_optimizer = copy.deepcopy(whole.optimizer.state_dict())
    again = start_run(subject, plan, practice)
    try:
        again.subject.module.load_state_dict(saved_model)
    except RuntimeError as error:
        told = " ".join(str(error).split())[:160]
        return failed(RESUMES, "model", f"its own state_dict() cannot be loaded: {told}")
    again.optimizer.load_state_dict(saved_optimizer)
    lost = list_changed(whole.values(), again.values())
    differing: list[str] = []
    step = cut
    while step < steps and not differing:  # a clock that is late may be right again at the end
        step += 1
        whole.step()
        again.step()
        differing = list_changed(whole.values(), again.values())
    if differing:
        missing = list_names(lost) if lost else "something that a checkpoint does not hold"
        return failed(
            RESUMES,
            "model",
            f"saved at step {cut}, {len(differing)} tensors and numbers differ at step {step}; "
            f"not in state_dict(): {missing}; keep it in a persistent buffer",
        )
    return passed(RESUMES, "model", f"saved at step {cut}, the same bits at step {steps}")


def check_state_resumes(subject: ExaminedModel) -> Check | None:
    """Whether a sequence that is read in two pieces, by the state between them, reads the same.

    None for models without a state.
    """
    if not subject.has_state or not subject.is_sequence:
        return None
    x = subject.x
    length = x.shape[1]
    cut = max(1, (2 * length) // 5 | 1)
    with subject.without_graph():
        y, _ = subject.copy().call(x, write=True)
        first, state = subject.copy().call(x[:, :cut], write=True)
        second, _ = subject.copy().call(x[:, cut:], copy.deepcopy(state), write=True)
    scale = max(float(y.abs().max()), 1e-6)
    gap = float((torch.cat([first, second], 1) - y).abs().max()) / scale
    if gap > 1e-3:
        return failed(
            RESUMES,
            "state",
            f"cut at token {cut} of {length}, outputs differ by {gap:.2g} of the largest; clocks, "
            "momenta and gathered writes belong into the state",
        )
    return passed(RESUMES, "state", f"cut at token {cut} of {length}: outputs differ by {gap:.1g}")


def _judge_stillness(spec: Level | Copy, early: tuple[int, list[str]] | None, steps: int) -> Check:
    if early is not None:
        step, moved = early
        return failed(
            STILL,
            spec.name,
            f"{list_names(moved)} moved at step {step}, due every {spec.period} steps; nothing but "
            "the level's optimizer may write them",
        )
    if spec.period == 1:
        return skipped(STILL, spec.name, "period 1: every step is due")
    return passed(STILL, spec.name, f"the same bits between due steps, {steps} steps")


def _judge_updates(spec: Level | Copy, due: int, made: int, change: float, steps: int) -> Check:
    counts = f"{made} of {due} updates in {steps} steps"
    if not due:
        return skipped(
            DUE, spec.name, f"due first at step {spec.period:,}, after {steps} steps of this run"
        )
    if isinstance(spec, Copy) and spec.decay == 1.0:
        return skipped(DUE, spec.name, "a copy of decay 1 never moves")
    pauses = _may_pause(spec)
    if pauses and not made:
        return skipped(DUE, spec.name, f"{counts}: frozen, gated or by chance")
    if (
        isinstance(spec, Copy)
        and spec.rule is not None
        and made < (few := len(spec.rule.parts) - 1)
    ):
        reason = f"{counts}; its slowest part moves first at update {few}"
        return skipped(DUE, spec.name, reason)
    if made != due and not pauses:
        return failed(DUE, spec.name, f"{counts}; look at its gradients: are they finite?")
    if not math.isfinite(change):
        return failed(DUE, spec.name, f"{counts}, and its weights become NaN or infinity; lower lr")
    if change == 0.0:
        return failed(DUE, spec.name, f"{counts}, and its weights are the same bits: no gradient")
    return passed(DUE, spec.name, f"{counts}, relative change {change:.2g}")


def _may_pause(spec: Level | Copy) -> bool:
    """Whether a level may let an update go by though it is due."""
    if isinstance(spec, Copy):
        return spec.probability is not None
    return spec.freeze is not None or bool(spec.gate) or bool(spec.protect)


def _measure_change(
    start: Mapping[str, Tensor | float], end: Mapping[str, Tensor | float]
) -> float:
    """||end - start|| / ||start||; of a start at zero ||end||."""
    pairs = [(start[name], end[name]) for name in start]
    wide = [
        (first.double(), second.double())
        for first, second in pairs
        if isinstance(first, Tensor) and isinstance(second, Tensor)
    ]
    moved = math.sqrt(sum(float((second - first).square().sum()) for first, second in wide))
    base = math.sqrt(sum(float(first.square().sum()) for first, _ in wide))
    return moved / base if base else moved


def _run_short(subject: ExaminedModel, plan: Plan, practice: Practice) -> dict[str, Any]:
    run = start_run(subject, plan, practice)
    for _ in range(SHORT_RUN):
        run.step()
    copies = run.optimizer.levels.copies
    beside = {f"{name}: {key}": v for name in copies for key, v in run.level_tensors(name).items()}
    return run.values() | keep_values(beside)


def _choose_cut(plan: Plan, steps: int) -> int:
    """A step near the middle at which no level of a period above 1 is due."""
    periods = [spec.period for spec in plan.levels if isinstance(spec, Level | Copy)]
    middle = max(1, steps // 2)
    for cut in [*range(middle, steps), *range(middle, 0, -1)]:
        if all(cut % period for period in periods if period > 1):
            return int(cut)
    return middle
