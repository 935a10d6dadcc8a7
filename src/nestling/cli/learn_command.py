"""`nestling learn`: run a job file."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nestling.cli.output import json_option, show_progress, show_table, write_json

if TYPE_CHECKING:
    from nestling.jobs.running import Position


@click.command()
@click.argument("job_file", metavar="JOB.toml", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The run folder.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@json_option
def learn(job_file: Path, out: Path | None, resume: bool, json_file: Path | None) -> None:
    """Learn the experiences of a job in order and write a run folder with a report.

    \b
    Example:
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
    from nestling.jobs.job import load_job
    from nestling.jobs.running import run_job
    from nestling.report import read_run

    job = load_job(job_file)
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
