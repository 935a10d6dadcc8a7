"""`examine`: all checks that apply to a model, its plan and its optimizer."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from nestling.core.arguments import check_whole
from nestling.core.errors import NestlingError, SettingError
from nestling.core.modes import in_own_modes
from nestling.doctor.check_results import Check, Examination, LevelRow, passed, skipped
from nestling.doctor.examined_model import Examinable, ExaminedModel, prepare_model
from nestling.doctor.example_inputs import guess_inputs
from nestling.doctor.gradient_checks import CHANCE, REACHED, check_chance, check_gradients
from nestling.doctor.level_run import (
    DUE,
    PERIOD,
    RESUMES,
    check_level_periods,
    check_plan_resumes,
    check_state_resumes,
    examine_levels,
    start_run,
)
from nestling.doctor.period_checks import Make, check_declared_periods
from nestling.doctor.practice import Practice, make_practice
from nestling.doctor.purity_checks import PURE, check_purity
from nestling.doctor.rule_checks import DESCENDS, examine_optimizer
from nestling.doctor.sequence_checks import (
    CAUSAL,
    SAMPLES,
    SETTLE,
    check_causal,
    check_repeats,
    check_samples,
)
from nestling.levels import Copy, Level, Plan
from nestling.optim import OptimizerFactory, OptimizerSpec, adamw

LEAST_STEPS, MOST_STEPS = 12, 100


@in_own_modes
def examine(
    model: Examinable | None = None,
    plan: Plan | Path | str | None = None,
    *,
    inputs: Tensor | None = None,
    labels: Tensor | None = None,
    optimizer: OptimizerSpec | OptimizerFactory | None = None,
    make: Make | None = None,
    options: Mapping[str, object] | None = None,
    causal: bool = True,
    steps: int | None = None,
    seed: int = 0,
) -> Examination:
    """Find what is broken in a nested model: periods without effect, leaks, dead write rules.

    Of a model: later tokens and other samples do not leak, every parameter gets gradient, writes
    come to rest, `eval()` is pure, something is learned, declared periods are read, a checkpoint
    holds all. Of its plan: each level moves when due, only then, and another period gives other
    weights. Of optimizers: descent, orthogonal steps where claimed, decay, a trained inner memory.
    Everything is done on deep copies. What cannot be examined is said, and is no pass.

    Args:
        model: a module, plain (x -> y) or with explicit state ((x, state) -> (y, state), or such a
            method `read`), or what `stack_levels` made. None to examine an optimizer alone.
        plan: by which it learns, or its TOML file; None for one level, AdamW at every step.
        inputs: (N, ...) a batch; guessed from the first layer if not given. Numbers (N, T, C) or
            whole numbers (N, T) with outputs (N, T, ...) are a sequence.
        labels: classes, (N,) or (N, T); made if not given.
        optimizer: one more to examine, by itself.
        make: makes the model anew with options by name, for periods that are read when it is made.
        options: such periods with the value in force, e.g. {"update_every": 16}.
        causal: False for a model that may see later tokens.
        steps: optimizer steps of the run; enough for every level's second update, but at most 100,
            if not given.
        seed: of all that is drawn.

    Returns: a row per level, and a line per check.

    Raises:
        SettingError: nothing to examine, a plan that does not fit, a model without parameters.
        ModelError: the model cannot be copied, or raises on the inputs.
        ShapeMismatch, NonFiniteInput: inputs, labels or outputs that cannot be used.

    >>> from torch import nn
    >>> report = examine(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    >>> report.is_healthy, report.failed
    (True, ())
    """
    rows: list[LevelRow] = []
    checks: list[Check] = []
    taken = 0
    if model is None and optimizer is None:
        raise SettingError("nothing to examine; examine(model) works, or examine(optimizer=...)")
    if model is not None:
        if inputs is None:
            module = model if isinstance(model, torch.nn.Module) else model.model
            inputs = guess_inputs(module, seed=seed)
        subject, y = prepare_model(model, inputs, seed=seed)
        practice = make_practice(
            inputs, y, labels=labels, is_sequence=subject.is_sequence, seed=seed
        )
        chosen = Plan.of(plan) if plan is not None else _plan_all()
        taken = _choose_steps(chosen, steps)
        if chosen.gradient_levels and not subject.learns_by_itself and _can_learn(subject):
            start_run(subject, chosen, practice)  # raises where the plan does not fit
        rows, checks = _examine_model(
            subject,
            practice,
            chosen,
            taken,
            (make, options),
            has_plan=plan is not None,
            causal=causal,
        )
        if plan is not None:
            checks += _examine_rules(chosen)
    elif plan is not None or inputs is not None or labels is not None:
        raise SettingError("a plan or inputs without a model; give the model that they belong to")
    if optimizer is not None:
        checks += examine_optimizer(optimizer, "optimizer")
    return Examination(taken, tuple(rows), tuple(checks))


def _can_learn(subject: ExaminedModel) -> bool:
    return any(param.requires_grad for param in subject.module.parameters())


def _plan_all() -> Plan:
    return Plan(Level("model", match=["*"], optimizer=adamw(lr=1e-3)))


def _examine_model(
    subject: ExaminedModel,
    practice: Practice,
    plan: Plan,
    steps: int,
    made: tuple[Make | None, Mapping[str, object] | None],
    *,
    has_plan: bool,
    causal: bool,
) -> tuple[list[LevelRow], list[Check]]:
    """Everything about a model and its plan."""
    rows: list[LevelRow] = []

    def run_levels() -> list[Check]:
        found, checks = examine_levels(subject, plan, practice, steps=steps)
        rows.extend(found)
        return checks

    checks: list[Check] = []
    if subject.learns_by_itself or not plan.gradient_levels:
        reason = "the model learns by its own rule, outside of any optimizer"
        if not subject.learns_by_itself:
            reason = "the plan has no gradient level"
        checks += [skipped(DUE, "model", reason), skipped(RESUMES, "model", reason)]
    elif not _can_learn(subject):
        reason = "no parameter is trainable (requires_grad)"
        checks += [skipped(DUE, "model", reason), skipped(RESUMES, "model", reason)]
    else:
        checks += _attempt(DUE, run_levels)
        if has_plan:
            checks += _attempt(PERIOD, lambda: check_level_periods(subject, plan, practice))
        checks += _attempt(
            RESUMES, lambda: [check_plan_resumes(subject, plan, practice, steps=min(steps, 40))]
        )
    make, options = made
    checks += _attempt(
        PERIOD,
        lambda: check_declared_periods(subject, practice, make=make, options=options),
    )
    if subject.learns_by_itself:
        checks += _attempt(PERIOD, lambda: _check_stacked_chunks(subject))
    if causal:
        checks += _attempt(CAUSAL, lambda: [check_causal(subject)])
    else:
        checks.append(skipped(CAUSAL, "model", "it may see later tokens (causal=False)"))
    checks += _attempt(SAMPLES, lambda: [check_samples(subject)])
    checks += _attempt(REACHED, lambda: [check_gradients(subject, practice)])
    checks += _attempt(SETTLE, lambda: [check_repeats(subject)])
    checks += _attempt(PURE, lambda: [check_purity(subject)])
    state = _attempt(RESUMES, lambda: [one for one in [check_state_resumes(subject)] if one])
    checks += state
    checks += _attempt(CHANCE, lambda: [check_chance(subject, practice)])
    return rows, checks


def _check_stacked_chunks(subject: ExaminedModel) -> list[Check]:
    """Whether each level of stacked levels wrote something in the inputs."""
    _, state = subject.copy().call(subject.x, write=True)
    changes = getattr(state, "changes", {})
    chunks: dict[str, int] = getattr(subject.source, "chunks", {})
    checks = []
    for name, chunk in chunks.items():
        if subject.x.shape[1] < chunk:
            reason = f"due first after {chunk} tokens, the inputs have {subject.x.shape[1]}"
            checks.append(skipped(PERIOD, name, reason))
        elif name in changes and bool(changes[name].any()):
            checks.append(passed(PERIOD, name, f"written every {chunk} tokens"))
        else:
            checks.append(Check(PERIOD, name, "failed", f"nothing written after {chunk} tokens"))
    return checks


def _examine_rules(plan: Plan) -> list[Check]:
    """The optimizers of a plan, each once."""
    checks: list[Check] = []
    seen: list[object] = []
    for level in plan.gradient_levels:
        if level.optimizer in seen:
            continue
        seen.append(level.optimizer)
        try:
            checks += examine_optimizer(level.optimizer, level.name)
        except NestlingError as error:  # it fits its level, not our small problems
            checks.append(skipped(DESCENDS, level.name, str(error)))
    return checks


def _choose_steps(plan: Plan, steps: int | None) -> int:
    if steps is not None:
        return check_whole("steps", steps, 2, "2 or more works")
    periods = [spec.period for spec in plan.levels if isinstance(spec, Level | Copy)]
    return min(max(LEAST_STEPS, 2 * max(periods, default=1) + 1), MOST_STEPS)


def _attempt(name: str, check: Callable[[], list[Check]]) -> list[Check]:
    """The checks, or that they could not be made."""
    try:
        return check()
    except Exception as error:  # whatever a model raises when it is called again
        told = " ".join(str(error).split())[:160]
        return [skipped(name, "model", f"it raises {type(error).__name__}: {told}")]
