"""`nestling learn`: run a job file."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nestling.cli.output import json_option, show_progress, show_table, write_json

if TYPE_CHECKING:
    from nestling.jobs.job import Job
    from nestling.jobs.running import Position


@click.command()
@click.argument("source", metavar="JOB.toml|TABLE", type=click.Path(path_type=Path))
@click.option("--target", help="Column to predict, for a table in place of a job.")
@click.option(
    "--test",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Rows to test on, for a table; by default a fifth of its own is held out.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The run folder.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@json_option
def learn(
    source: Path,
    target: str | None,
    test: Path | None,
    out: Path | None,
    resume: bool,
    json_file: Path | None,
) -> None:
    """Learn the experiences of a job, or a table, in order and write a run folder with a report.

    A table (.csv, .parquet) may hold numbers, text, dates and blanks: it is encoded, and a model
    is made to fit.

    \b
    Example:
      nestling learn customers.csv --target churned
      nestling learn job.toml
      nestling learn job.toml --resume     # after it was stopped

    \b
    job.toml:
      model = "my_models:make_net"     # or { name = "mlp", options = { sizes = [64, 128, 10] } }
      data = { train = ["monday.csv", "tuesday.csv"], test = "test.csv", target = "label" }
      out = "runs/days"
      epochs = 2
    """
    from nestling.bench.table import build_table
    from nestling.jobs.running import run_job
    from nestling.report import read_run

    job = _make_job(source, target, test)
    if out is not None:
        job = job.model_copy(update={"out": out})
    with show_progress("learning") as advance:

        def tell(position: "Position", num_batches: int) -> None:
            text = f"experience {position.experience + 1}, {position.num_seen} examples"
            advance(text, position.batch / max(1, num_batches))

        folder = run_job(job, resume=resume, progress=tell)
    summary = [record for record in read_run(folder).records if record["kind"] == "summary"][-1:]
    rows = [{key: value for key, value in row.items() if key != "kind"} for row in summary]
    show_table(build_table(rows))
    click.echo(f"report: {folder / 'report.html'}")
    if json_file is not None:
        write_json(json_file, {"run": str(folder), "summary": rows[0] if rows else {}})


def _make_job(source: Path, target: str | None, test: Path | None) -> "Job":
    """The job of a file, or the one that learns a table."""
    from nestling.data.table_files import SUFFIXES
    from nestling.jobs.job import load_job, read_job

    if source.suffix not in SUFFIXES:
        if target is not None or test is not None:
            raise click.UsageError("--target and --test go with a table; a job says them in data")
        return load_job(source)
    if target is None:
        raise click.UsageError(f"which column of '{source}' is to be predicted? give --target")
    data = {"train": source, "test": () if test is None else test, "target": target}
    return read_job({"data": data})
