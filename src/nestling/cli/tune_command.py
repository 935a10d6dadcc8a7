"""`nestling tune`: search over the knobs of a job's plan."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nestling.cli.output import json_option, show_progress, show_table, write_json

if TYPE_CHECKING:
    from nestling.jobs.tune import PlanTrial, Result


@click.command()
@click.argument("job_file", metavar="JOB.toml", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The run folder.")
@click.option("--trials", type=click.IntRange(min=2), help="Plans to try; by default the job's.")
@click.option(
    "--prefer",
    type=click.Choice(["balance", "retention", "adaptation"]),
    help="Which plan of the front is chosen: by final accuracy, or by one of the two.",
)
@json_option
def tune(
    job_file: Path, out: Path | None, trials: int | None, prefer: str | None, json_file: Path | None
) -> None:
    """Search for plans that retain more or adapt faster, and write out the front and a choice.

    Plans are judged on examples held out of the job's training data. The run folder gets
    trials.json, front.json, front.png and plan.toml; the same command goes on where it stopped.

    \b
    Example:
      nestling tune job.toml --trials 20
      nestling tune job.toml --prefer adaptation     # choose anew, from the same trials

    \b
    job.toml, as for nestling learn, and if you like:
      [tune]
      num_trials = 40
      [tune.space]
      "network.optimizer.lr" = { low = 0.001, high = 0.1, log = true }
      "network.period" = [1, 2, 4]
    """
    from nestling.bench.table import build_table
    from nestling.jobs.tune import TuneJob, load_tune_job
    from nestling.jobs.tune import tune as search

    loaded = load_tune_job(job_file)
    changed = {"num_trials": trials, "prefer": prefer}
    asked = {name: value for name, value in changed.items() if value is not None}
    tune_job = TuneJob(
        loaded.job if out is None else loaded.job.model_copy(update={"out": out}),
        loaded.plan,
        loaded.settings.model_copy(update=asked),
        loaded.knobs,
    )
    folder = tune_job.job.out
    try:
        with show_progress("searching") as advance:
            result = search(tune_job, progress=advance)
    except KeyboardInterrupt:
        click.echo(f"trials so far are in {folder}; the same command goes on", err=True)
        raise
    show_table(build_table(list_rows(result)))
    failed = [one for one in result.trials if one.failure]
    if failed:
        click.echo(f"{len(failed)} of {len(result.trials)} plans failed; see {folder}/trials.json")
    start, chosen = (100.0 * result.tested[name] for name in ("start", "chosen"))
    click.echo(f"on the test examples: the job's plan {start:.1f} %, the chosen one {chosen:.1f} %")
    click.echo(f"front: {folder / 'front.png'}")
    click.echo(f'chosen: plan {result.chosen}; use it: plan = "{folder / "plan.toml"}" in the job')
    if json_file is not None:
        rows = list_rows(result)
        write_json(json_file, {"run": str(folder), "front": rows, "tested_acc": result.tested})


def list_rows(result: "Result") -> list[dict[str, object]]:
    """One row per plan of the front, and the job's own where it is not in it."""
    numbers = result.front if 0 in result.front else [0, *result.front]
    return [_describe(result.trials[number], result) for number in numbers]


def _describe(trial: "PlanTrial", result: "Result") -> dict[str, object]:
    point = trial.point
    row: dict[str, object] = {
        "plan": trial.number,
        "is": " ".join(
            word
            for word, holds in (
                ("the job's", trial.number == 0),
                ("chosen", trial.number == result.chosen),
            )
            if holds
        ),
        "retention %": None if point is None else round(100 * point.retention, 1),
        "adaptation %": None if point is None else round(100 * point.adaptation, 1),
        "ACC %": None if point is None else round(100 * point.acc, 1),
    }
    known = {name for one in result.trials for name in one.knobs}
    return row | {name: trial.knobs.get(name) for name in sorted(known)}
