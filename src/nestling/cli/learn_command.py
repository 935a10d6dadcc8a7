"""`nestling learn`: run a job file."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from nestling.cli.output import json_option, show_progress, show_table, write_json
from nestling.cli.stream_learning import StreamChoices, learn_stream

if TYPE_CHECKING:
    from nestling.jobs.job import Job
    from nestling.jobs.run_position import Position


# What only a stream takes, and what it does not take.
_STREAM_ONLY = (
    *("task", "block", "id_column", "late_labels", "time", "categories"),
    *("predictions", "save", "restore", "strict"),
)
_NOT_OF_STREAMS = ("test", "out", "resume")


@click.command()
@click.argument("source", metavar="JOB.toml|TABLE|-", type=click.Path(path_type=Path))
@click.option("--target", help="Column to predict, for a table or a stream in place of a job.")
@click.option(
    "--test",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Rows to test on, for a table; by default a fifth of its own is held out.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The run folder.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    help="Stream: what the target is; labels by default.",
)
@click.option(
    "--block",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Stream: events that are answered together, then learned together; more is faster.",
)
@click.option("--id", "id_column", help="Stream: column that names events for late labels.")
@click.option(
    "--late-labels",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Stream: CSV of ids and labels, read along; a column 'after' says after how many events.",
)
@click.option("--time", help="Stream: column, here and in late labels, that says when.")
@click.option(
    "--category",
    "categories",
    multiple=True,
    help="Stream: column whose numbers are names; may be given several times.",
)
@click.option(
    "--predictions",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Stream: write every answer to this CSV; - for standard output.",
)
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    help="Stream: save the learner in this folder at the end, or when stopped.",
)
@click.option(
    "--restore",
    type=click.Path(file_okay=False, path_type=Path),
    help="Stream: go on with the learner saved in this folder.",
)
@click.option("--strict", is_flag=True, help="Stream: stop at a broken line in place of skipping.")
@json_option
@click.pass_context
def learn(
    context: click.Context,
    source: Path,
    target: str | None,
    test: Path | None,
    out: Path | None,
    resume: bool,
    task: str | None,
    block: int,
    id_column: str | None,
    late_labels: Path | None,
    time: str | None,
    categories: tuple[str, ...],
    predictions: Path | None,
    save: Path | None,
    restore: Path | None,
    strict: bool,
    json_file: Path | None,
) -> int:
    """Learn the experiences of a job, or a table, in order and write a run folder with a report.

    With - in place of a file: learn a stream of events from standard input, each answered before
    its label is learned.

    A table (.csv, .parquet) may hold numbers, text, dates and blanks: it is encoded, and a model
    is made to fit.

    \b
    Example:
      nestling learn customers.csv --target churned
      nestling learn job.toml
      nestling learn job.toml --resume     # after it was stopped
      nestling learn - --target fraud < payments.csv
      tail -f payments.csv | nestling learn - --target fraud --id payment \\
        --late-labels reports.csv --predictions answers.csv --save learner

    \b
    job.toml:
      model = "my_models:make_net"     # or { name = "mlp", options = { sizes = [64, 128, 10] } }
      data = { train = ["monday.csv", "tuesday.csv"], test = "test.csv", target = "label" }
      out = "runs/days"
      epochs = 2
    """
    is_stream = str(source) == "-"
    _refuse_options(context, _NOT_OF_STREAMS if is_stream else _STREAM_ONLY, is_stream=is_stream)
    if is_stream:
        if target is None:
            raise click.UsageError("which column of the stream is to be predicted? give --target")
        choices = StreamChoices(
            target=target,
            task=task,
            block=block,
            id=id_column,
            late_labels=late_labels,
            time=time,
            categories=categories,
            predictions=predictions,
            save=save,
            restore=restore,
            is_strict=strict,
            json_file=json_file,
        )
        return learn_stream(choices)
    _learn_job(source, target, test, out, resume=resume, json_file=json_file)
    return 0


def _refuse_options(context: click.Context, names: tuple[str, ...], *, is_stream: bool) -> None:
    """Raise UsageError if one of these was given."""
    for parameter in context.command.params:
        name = str(parameter.name)
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            said = "with a job or a table" if is_stream else "with a stream: nestling learn - ..."
            raise click.UsageError(f"{parameter.opts[0]} goes {said}")


def _learn_job(
    source: Path,
    target: str | None,
    test: Path | None,
    out: Path | None,
    *,
    resume: bool,
    json_file: Path | None,
) -> None:
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
