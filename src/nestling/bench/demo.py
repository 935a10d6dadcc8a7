"""The demo: digits learned in four experiences, with and without levels, on equal terms.

A model learns some classes, then new ones, then one writer's shifted style, then the old
distribution again. Every method gets the same network, the same first weights, the same batches
in the same order and the same number of passes.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor, nn

from nestling.bench.baselines import Batch, Finetune, FrozenSpine, Replay, Rival, tune_rate
from nestling.bench.result import SuiteResult
from nestling.bench.trial import Record, Trial, run_rival
from nestling.core.errors import JobError
from nestling.core.machine import fingerprint, use_threads
from nestling.data import Experience, demo_experiences
from nestling.jobs.scoring import (
    describe_compute,
)
from nestling.learn import Learner
from nestling.levels import LevelReading
from nestling.models import build_model
from nestling.report import RunWriter, write_demo_picture, write_report

SIZES = (64, 128, 64, 10)
EPOCHS = 5
BATCH_SIZE = 16
CAPACITY = 200  # examples that replay keeps
SEEDS = (0, 1, 2)
# Picked by `tune` on seeds 100-102; see benchmarks/LOG.md.
RATES = {"finetune": 3e-3, "replay": 1e-2, "frozen spine": 3e-2}
METHODS = ("finetune", "replay", "frozen spine", "nestling")

Progress = Callable[[str, float], None]


class Nestling:
    """`nl.Learner(model)` as it comes, as a rival."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        self.learner = Learner(model, seed=seed)

    def fit(self, batches: Iterable[Batch], epochs: int) -> None:
        """`learner.fit(loader, epochs=...)`."""
        self.learner.fit(batches, epochs=epochs)

    def scores(self, x: Tensor) -> Tensor:
        """Probabilities."""
        found: Tensor = self.learner.predict_proba(x)
        return found

    def read_levels(self) -> Sequence[LevelReading]:
        """How its levels stand."""
        return self.learner.read_levels()


def make_rival(method: str, seed: int, lr: float | None = None) -> Rival:
    """A method with fresh weights.

    Args:
        method: one of METHODS.
        seed: of weights and of what is random in it.
        lr: instead of the tuned rate; not for nestling, which has no setting.
    """
    model = build_model("mlp", {"sizes": SIZES}, seed=seed)
    if method == "nestling":
        return Nestling(model, seed)
    rate = RATES[method] if lr is None else lr
    if method == "replay":
        return Replay(model, rate, CAPACITY, seed)
    return FrozenSpine(model, rate) if method == "frozen spine" else Finetune(model, rate)


def try_method(
    method: str, seed: int, experiences: Sequence[Experience], lr: float | None = None
) -> Trial:
    """Let a method learn all experiences; arguments as for `make_rival`."""
    rival = make_rival(method, seed, lr)
    return run_rival(rival, method, seed, experiences, EPOCHS, BATCH_SIZE)


def tune(method: str) -> tuple[float, dict[float, float]]:
    """Pick a rival's learning rate as RATES were picked: by ACC on validation seeds.

    Args:
        method: "finetune", "replay" or "frozen spine".

    Returns: the best rate, and every rate's mean ACC.
    """

    def measure_acc(rate: float, seed: int) -> float:
        experiences = demo_experiences(seed)
        trial = try_method(method, seed, experiences, rate)
        return float(str(trial.summarize([one.name for one in experiences])["acc"]))

    return tune_rate(measure_acc)


def run(
    *,
    num_threads: int = 1,
    out: Path | None = None,
    seeds: Sequence[int] = SEEDS,
    progress: Progress | None = None,
) -> SuiteResult:
    """Run every method with every seed and compare them.

    Args:
        num_threads: torch's threads.
        out: run folder to write, with the report; none if not given.
        seeds: of weights, data and order.
        progress: told the method and the share of trials that are done.

    Returns: one row per method; figures as `compare` names them, and total_seconds.

    Raises:
        JobError: `out` holds another run than a demo.
    """
    if out is not None:
        _clear(out)
    started = time.perf_counter()
    trials: list[Trial] = []
    summaries: list[Record] = []
    with use_threads(num_threads):
        for seed in seeds:
            experiences = demo_experiences(seed)
            for method in METHODS:
                if progress is not None:
                    done = len(trials) / (len(seeds) * len(METHODS))
                    progress(f"{method}, seed {seed}", done)
                trials.append(try_method(method, seed, experiences))
                summaries.append(trials[-1].summarize([one.name for one in experiences]))
        if out is not None:
            write_run(out, trials, summaries, experiences)
        total = {"total_seconds": time.perf_counter() - started}
        return SuiteResult("demo", compare(trials, summaries) | total, average(summaries))


def average(summaries: Sequence[Record]) -> list[Record]:
    """One row per method: the mean of its figures over the seeds."""
    rows: list[Record] = []
    for method in METHODS:
        mine = [record for record in summaries if record["method"] == method]
        names = ("acc", "forgetting", "steps_to_adapt", "seconds_per_example")
        rows.append({"method": method} | {name: _mean(mine, name) for name in names})
    return rows


def compare(trials: Sequence[Trial], summaries: Sequence[Record]) -> dict[str, float]:
    """Figures of the default against its rivals, means over the seeds.

    Returns: acc_<method>; forgetting_over_finetune; new_accuracy_gap in points: accuracy of
        fine-tuning on the new classes at the end of their experience, minus the default's.
    """
    rows = {str(row["method"]): row for row in average(summaries)}
    forgetting = {name: float(str(row["forgetting"])) for name, row in rows.items()}
    new = {
        method: statistics.mean(t.read_accuracy(1) for t in trials if t.method == method)
        for method in METHODS
    }
    acc = {name: float(str(row["acc"])) for name, row in rows.items()}
    return {
        "acc_default": acc["nestling"],
        "acc_replay": acc["replay"],
        "acc_finetune": acc["finetune"],
        "acc_frozen": acc["frozen spine"],
        "acc_over_replay": acc["nestling"] - acc["replay"],
        "forgetting_over_finetune": forgetting["nestling"] / forgetting["finetune"],
        "new_accuracy_gap": 100.0 * (new["finetune"] - new["nestling"]),
    }


def write_run(
    out: Path,
    trials: Sequence[Trial],
    summaries: Sequence[Record],
    experiences: Sequence[Experience],
) -> None:
    """The run folder: config, every record of every trial, and the report."""
    config = {
        "suite": "demo",
        "methods": list(METHODS),
        "epochs": EPOCHS,
        "batch_size": BATCH_SIZE,
        "sizes": list(SIZES),
        "rates": RATES,
        "machine": fingerprint(),
    }
    writer = RunWriter(out, config)
    try:
        for index, one in enumerate(experiences):
            num = len(one.train[0])
            writer.write("experience", {"index": index, "name": one.name, "num_examples": num})
        for trial, summary in zip(trials, summaries, strict=True):
            for record in trial.evaluations:
                writer.write("evaluation", record)
            for record in trial.levels:
                writer.write("level", record)
            for reading in trial.readings:
                signed = {"method": trial.method, "seed": trial.seed}
                writer.write("compute", signed | describe_compute(reading))
            writer.write("summary", summary)
    finally:
        writer.close()
    write_report(out)
    write_demo_picture(out, out / "demo.png")


def _clear(out: Path) -> None:
    """Make room for the run: an older demo goes, anything else is refused before work begins."""
    config = out / "config.json"
    if not config.exists():
        return
    if '"suite": "demo"' not in config.read_text(encoding="utf-8"):
        raise JobError(f"'{out}' holds another run; name another folder with --out")
    (out / "metrics.jsonl").unlink(missing_ok=True)
    config.unlink()


def _mean(records: Sequence[Record], name: str) -> float | None:
    values = [float(str(record[name])) for record in records if record[name] is not None]
    return statistics.mean(values) if values else None
