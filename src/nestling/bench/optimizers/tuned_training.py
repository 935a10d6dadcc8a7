"""Train small networks with every optimizer: tuned with equal budgets, compared seed by seed."""

import contextlib
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from nestling.bench.optimizers.contenders import (
    CONTENDERS,
    WITHOUT,
    Contender,
    Settings,
    draw_trials,
)
from nestling.bench.optimizers.optimizer_tasks import Batch, OptimizerTask
from nestling.bench.timing import Figures, Rows
from nestling.core.errors import NonFiniteInput
from nestling.core.seeds import make_generator
from nestling.optim import record_layers

TUNING_SEED = 100  # no test seed: those count from 0
NUM_TRIALS, NUM_STEPS = 8, 200
WARM_UP = 0.1  # share of the steps


@dataclass(frozen=True)
class TrainingRun:
    """One training run, judged on what it did not learn from.

    Attributes:
        loss: mean cross-entropy, in nats; at most that of an even guess, which a run that
            diverged counts as.
        accuracy: share of right answers, in per cent.
        milliseconds: of this thread per training step.
        diverged: it was stopped, since its loss or its gradients were no numbers any more.
    """

    loss: float
    accuracy: float
    milliseconds: float
    diverged: bool


def train(
    task: OptimizerTask,
    contender: Contender,
    settings: Settings,
    *,
    seed: int,
    held_out: Batch,
    num_steps: int = NUM_STEPS,
) -> TrainingRun:
    """Train a new model of a task with one optimizer, and judge it.

    Rates warm up over a tenth of the steps and fall to 0 by a cosine, for every optimizer alike.
    Weights and batches depend on the seed alone, so that optimizers are paired.

    Args:
        task: model, batches.
        contender: the optimizer.
        settings: as drawn from its space.
        seed: of weights and batches.
        held_out: where it is judged.
        num_steps: optimizer steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.make_model()
    body = model.get_submodule(task.body)
    optimizers = contender.build_all(model, body, settings)
    generator = make_generator(seed, "batches")
    recorded = record_layers(body) if contender.needs_inputs else contextlib.nullcontext()
    start, step = time.thread_time(), 0
    with recorded:
        while step < num_steps and _learn(
            model,
            optimizers,
            task.draw(generator),
            most=100.0 * task.guess,
            factor=find_rate_factor(step, num_steps),
        ):
            step += 1
    seconds = time.thread_time() - start
    loss, accuracy = judge(model, held_out)
    diverged = step < num_steps or not math.isfinite(loss)
    return TrainingRun(
        loss=task.guess if diverged else min(loss, task.guess),
        accuracy=100.0 / task.num_classes if diverged else accuracy,
        milliseconds=1e3 * seconds / max(step, 1),
        diverged=diverged,
    )


def find_rate_factor(step: int, num_steps: int) -> float:
    """Share of the highest rate that is in force: linear warm-up, then a cosine down to 0.

    >>> [round(find_rate_factor(step, 20), 3) for step in (0, 1, 10, 19)]
    [0.5, 0.994, 0.5, 0.006]
    """
    warm_up = min(1.0, (step + 1) / max(1.0, WARM_UP * num_steps))
    return warm_up * (1.0 + math.cos(math.pi * step / num_steps)) / 2.0


@torch.no_grad()
def judge(model: nn.Module, held_out: Batch) -> tuple[float, float]:
    """(mean cross-entropy in nats, right answers in per cent) on held-out examples."""
    x, y = held_out
    logits_NK = model(x).flatten(0, -2)
    right = (logits_NK.argmax(dim=1) == y.flatten()).double().mean()
    return float(functional.cross_entropy(logits_NK, y.flatten())), 100.0 * float(right)


def compare_optimizers(
    task: OptimizerTask,
    *,
    name: str,
    num_seeds: int,
    num_trials: int = NUM_TRIALS,
    num_steps: int = NUM_STEPS,
    contenders: Mapping[str, Contender] = CONTENDERS,
) -> tuple[Figures, Rows]:
    """Tune every optimizer with the same number of trials, then train each on the test seeds.

    The trial with the lowest loss on the validation part is chosen, with a seed of its own. The
    final runs are judged on the test part; each seed has the same weights and batches for all.

    Args:
        task: see `TASKS`.
        name: of the task; figures begin with it.
        num_seeds: test seeds, from 0.
        num_trials: of each search.
        num_steps: optimizer steps of each run.
        contenders: optimizers by name; the first is what the others are compared with.

    Returns: figures `<task>_<optimizer>_minus_<first>`, the mean over seeds of the difference of
        test losses in nats (below 0 is better); `<task>_<optimizer>_minus_<control>`, the
        same to the rule that lacks what is new in it, see `WITHOUT`; `<task>_<optimizer>_time`,
        the median ratio of the time of a whole training step. A row per optimizer.
    """
    chosen: dict[str, dict[str, float]] = {}
    tuned: dict[str, list[TrainingRun]] = {}
    for label, contender in contenders.items():
        trials = draw_trials(contender.space, num_trials, name)
        tuned[label] = [
            train(
                task,
                contender,
                trial,
                seed=TUNING_SEED,
                held_out=task.validation,
                num_steps=num_steps,
            )
            for trial in trials
        ]
        losses = [run.loss for run in tuned[label]]
        chosen[label] = trials[losses.index(min(losses))]
    runs: dict[str, list[TrainingRun]] = {label: [] for label in contenders}
    for seed in range(num_seeds):  # optimizers by turns, so that a busy machine slows all of them
        for label, contender in contenders.items():
            runs[label].append(
                train(
                    task,
                    contender,
                    chosen[label],
                    seed=seed,
                    held_out=task.test,
                    num_steps=num_steps,
                )
            )
    base = next(iter(contenders))
    figures: Figures = {}
    rows: Rows = []
    for label, found in runs.items():
        row = _describe(found, runs[base])
        if label != base:
            figures[f"{name}_{label}_minus_{base}"] = row["minus"]
            figures[f"{name}_{label}_time"] = row["time"]
        control = WITHOUT.get(label)
        if control in runs:
            gap = _describe(found, runs[control])["minus"]
            figures[f"{name}_{label}_minus_{control}"] = gap
        rows.append(
            {
                "optimizer": label,
                **row,
                "trials": num_trials,
                "diverged": sum(run.diverged for run in tuned[label]),
                "steps": num_steps,
                "seeds": num_seeds,
                **chosen[label],
            }
        )
    return figures, rows


def _learn(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Batch,
    *,
    most: float,
    factor: float,
) -> bool:
    """One step of training; False where nothing can be learned any more."""
    x, y = batch
    loss = functional.cross_entropy(model(x).flatten(0, -2), y.flatten())
    if not float(loss.detach()) < most:  # nor where it is no number
        return False
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    try:
        for optimizer in optimizers:
            _step_at(optimizer, factor)
    except (torch.linalg.LinAlgError, NonFiniteInput):  # type: ignore[attr-defined]
        return False  # gradients, or inputs of DGD, that are no numbers
    return True


def _step_at(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """A step at a share of the optimizer's rates, which stay what they are."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = factor * rate
    try:
        optimizer.step()
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _describe(runs: Sequence[TrainingRun], base: Sequence[TrainingRun]) -> dict[str, float]:
    gaps = [one.loss - other.loss for one, other in zip(runs, base, strict=True)]
    ratios = [one.milliseconds / other.milliseconds for one, other in zip(runs, base, strict=True)]
    return {
        "loss": statistics.mean(run.loss for run in runs),
        "accuracy": statistics.mean(run.accuracy for run in runs),
        "minus": statistics.mean(gaps),
        "least": min(gaps),
        "most": max(gaps),
        "time": statistics.median(ratios),
    }
