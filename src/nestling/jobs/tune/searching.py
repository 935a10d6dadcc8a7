"""The search itself: optuna proposes knobs, every plan is run, what was run is kept.

The file of trials is what counts, not optuna's state: each proposal is drawn by a sampler of its
own seed from the trials before it, so that a search that was stopped goes on as if it had not.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from nestling.core.errors import JobError, MissingExtra, NestlingError
from nestling.core.machine import use_threads
from nestling.core.seeds import make_generator
from nestling.data import Experience
from nestling.data.suites.suite import cut_by_class
from nestling.jobs.job import Job
from nestling.jobs.scoring import list_batches, score
from nestling.jobs.tune.front import Point, Preference, choose_point, draw_front, find_front
from nestling.jobs.tune.space import Knob, Value, apply_knobs
from nestling.jobs.tune.trials import PlanTrial, read_trials, show_trial, write_trials
from nestling.jobs.tune.tuning_job import TuneJob
from nestling.learn.learner import Learner
from nestling.levels import Plan
from nestling.report.plots import save_png
from nestling.store import write_whole

if TYPE_CHECKING:
    import optuna

NUM_LOOKS = 5  # within an experience

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Result:
    """Result of a search: trials, Pareto front, chosen plan and its test scores.

    Attributes:
        trials: all, in order.
        front: numbers of trials that none beats in both, by ascending adaptation.
        chosen: number of the trial that was chosen.
        plan: the chosen plan.
        tested: ACC on the test examples, learned from all training ones, of the job's own plan
            ("start") and of the chosen one: held-out figures flatter what they chose.
    """

    trials: list[PlanTrial]
    front: list[int]
    chosen: int
    plan: Plan
    tested: dict[str, float]


def tune(tune_job: TuneJob, *, progress: Progress | None = None) -> Result:
    """Search the hyperparameters of a plan (optuna): retention against adaptation.

    The folder gets trials.json after every trial, then front.json, plan.toml and front.png. If it
    holds trials of the same search, they are kept and the search goes on.

    Args:
        tune_job: see `load_tune_job`.
        progress: told what is under way and the share that is done.

    Raises:
        JobError: one experience only, another search in the folder, or every plan failed.
        MissingExtra: optuna is not installed; or matplotlib, when all but the picture is written.
        NestlingError: whatever is wrong with the data.
    """
    _import_optuna()
    job, settings = tune_job.job, tune_job.settings
    with use_threads(job.num_threads):
        given = job.load_experiences()
        if len(given) < 2:
            raise JobError(
                "a single experience leaves nothing to retain; give two or more, e.g. "
                "experiences = [[0, 1], [2, 3]]"
            )
        inner = [hold_out(one, settings.held_out) for one in given]
        trials = read_trials(tune_job)
        started = time.perf_counter()
        while len(trials) < settings.num_trials:
            late = time.perf_counter() - started
            if settings.timeout_seconds is not None and late > settings.timeout_seconds:
                break
            number = len(trials)
            if progress is not None:
                progress(
                    f"plan {number + 1} of {settings.num_trials}", number / settings.num_trials
                )
            knobs = propose(tune_job.knobs, trials, job.seed) if number else {}
            trials.append(run_trial(tune_job, number, knobs, inner))
            write_trials(tune_job, trials)
        whole = [one for one in trials if one.point is not None]
        if not whole:
            reason = trials[0].failure if trials else "no trial was begun"
            raise JobError(f"none of {len(trials)} plans could be run; the first: {reason}")
        points = [one.point for one in whole if one.point is not None]
        front = find_front(points)
        chosen = whole[choose_point(points, front, settings.prefer)]
        plan = apply_knobs(tune_job.plan, chosen.knobs)
        if progress is not None:
            progress("testing the chosen plan", 1.0)
        tested = {
            "start": run_plan(job, tune_job.plan, given, job.seed).acc,
            "chosen": run_plan(job, plan, given, job.seed).acc,
        }
    numbers = [whole[index].number for index in front]
    result = Result(trials, numbers, chosen.number, plan, tested)
    _write_result(tune_job, result, settings.prefer)
    start = next((i for i, one in enumerate(whole) if one.number == 0), None)
    index = whole.index(chosen)
    figure = draw_front(points, front, index if start is None else start, index)
    save_png(figure, job.out / "front.png")
    return result


def hold_out(experience: Experience, share: float) -> Experience:
    """The experience as a search sees it: judged on a share of its training examples.

    Of every class that share, at least one example, is taken out (of real targets, of all);
    which ones is always the same. The test examples are not touched.

    Raises:
        JobError: too few examples to take one out and have one left.
    """
    x, y = experience.train
    if y.is_floating_point():
        generator = make_generator(0, "hold out", len(y))
        order = torch.randperm(len(y), generator=generator, device="cpu")
        num_out = max(1, round(share * len(y)))
        kept, out = order[num_out:], order[:num_out]
    else:
        kept, out = cut_by_class(y, share)
    if not len(kept):
        raise JobError(
            f"experience {experience.name!r} has {len(y)} training examples, too few to hold "
            f"{share:.0%} of each class out; add examples"
        )
    kept, out = kept.sort().values, out.sort().values
    return replace(experience, train=(x[kept], y[kept]), test=(x[out], y[out]))


def run_trial(
    tune_job: TuneJob, number: int, knobs: dict[str, Value], experiences: Sequence[Experience]
) -> PlanTrial:
    """Run a plan with every seed; a plan that cannot be run is written down as such."""
    started = time.perf_counter()
    job = tune_job.job
    try:
        plan = apply_knobs(tune_job.plan, knobs) if knobs else tune_job.plan
        seeds = range(job.seed, job.seed + tune_job.settings.num_seeds)
        found = [run_plan(job, plan, experiences, seed) for seed in seeds]
    except NestlingError as error:
        failure = " ".join(f"{type(error).__name__}: {error}".split())
        seconds = time.perf_counter() - started
        return PlanTrial(number, knobs, None, seconds=seconds, failure=failure)
    means = {name: statistics.mean(asdict(one)[name] for one in found) for name in asdict(found[0])}
    seconds = time.perf_counter() - started
    if not all(math.isfinite(value) for value in means.values()):
        return PlanTrial(number, knobs, None, seconds=seconds, failure="a figure is not finite")
    return PlanTrial(number, knobs, Point(**means), [one.acc for one in found], seconds)


def run_plan(job: Job, plan: Plan, experiences: Sequence[Experience], seed: int) -> Point:
    """Learn all experiences from the job's first weights, and look on the way.

    Args:
        job: model, epochs, batches, replay.
        plan: of the learner.
        experiences: in order, at least two.
        seed: of weights, order and memories.
    """
    model = job.model_copy(update={"seed": seed}).build_model()
    learner = Learner(model, plan, pretrained=job.pretrained, replay=job.replay, seed=seed)
    looks: list[float] = []
    for index, one in enumerate(experiences):
        x, y = one.train
        met = experiences[: index + 1]
        classes = sorted({label for other in met for label in other.classes})
        num_batches = job.epochs * math.ceil(len(x) / job.batch_size)
        marks = {math.ceil(num_batches * i / NUM_LOOKS) for i in range(1, NUM_LOOKS + 1)}
        batches = list_batches(
            len(x), epochs=job.epochs, batch_size=job.batch_size, seed=seed, index=index
        )
        for number, rows in enumerate(batches, start=1):
            is_new = number <= num_batches // job.epochs
            learner.learn(x[rows], y[rows], task=one.task, again=not is_new)
            if index and number in marks:
                looks.append(score(learner, one, classes))
        learner.end_experience()
    final = [score(learner, one, classes) for one in experiences]
    return Point(
        retention=statistics.mean(final[:-1]),
        adaptation=statistics.mean(looks),
        acc=statistics.mean(final),
    )


def propose(knobs: Sequence[Knob], trials: Sequence[PlanTrial], seed: int) -> dict[str, Value]:
    """The next knobs to try, by optuna's tree-structured Parzen estimator [Watanabe 2023].

    It depends on the trials before and on the seed alone.
    """
    optuna = _import_optuna()
    study = optuna.create_study(
        directions=["maximize", "maximize"],
        sampler=optuna.samplers.TPESampler(seed=seed * 100_003 + len(trials)),
    )
    space = {knob.name: _make_distribution(knob) for knob in knobs}
    for one in trials:
        if not one.knobs:
            continue
        states = optuna.trial.TrialState
        study.add_trial(
            optuna.trial.create_trial(
                params={name: one.knobs[name] for name in space},
                distributions=space,
                values=[one.point.retention, one.point.adaptation] if one.point else None,
                state=states.COMPLETE if one.point else states.FAIL,
            )
        )
    proposed = study.ask(space)
    return {name: proposed.params[name] for name in space}


def _make_distribution(knob: Knob) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if knob.choices:
        return CategoricalDistribution(knob.choices)
    assert knob.low is not None
    assert knob.high is not None
    if knob.is_whole:
        return IntDistribution(int(knob.low), int(knob.high), log=knob.is_log)
    return FloatDistribution(knob.low, knob.high, log=knob.is_log)


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtra("a search needs optuna: pip install 'nestling[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _write_result(tune_job: TuneJob, result: Result, prefer: Preference) -> None:
    out = tune_job.job.out
    content = {
        "prefer": prefer,
        "chosen": result.chosen,
        "tested_acc": result.tested,
        "front": [show_trial(result.trials[number]) for number in result.front],
    }
    write_whole(out / "front.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_whole(out / "plan.toml", result.plan.to_toml())
