"""`nestling predict`: the answers of a run to the rows of a file."""

from pathlib import Path

import click

from nestling.cli.output import json_option, write_json


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the answers to this file; else they go to standard output.",
)
@json_option
def predict(run: Path, file: Path, out: Path | None, json_file: Path | None) -> None:
    """Answer each row of FILE with what RUN, a folder of `nestling learn`, has learned.

    FILE has the columns of the run's training files, in any order, with the target or without.
    The answers are a CSV in the order of its rows: the label by name and the probability of each
    class, or the value.

    \b
    Example:
      nestling predict runs/learn new-rows.csv --out answers.csv
    """
    from nestling.jobs.predicting import predict_file
    from nestling.store import write_whole

    answers = predict_file(run, file)
    if out is None:
        click.echo(answers.to_csv(), nl=False)
    else:
        write_whole(out, answers.to_csv())
        click.echo(f"{len(answers.answers)} answers: {out}")
    if json_file is not None:
        write_json(
            json_file,
            {
                "run": str(run),
                "target": answers.target,
                "classes": list(answers.classes),
                "answers": list(answers.answers),
                "probabilities": answers.probabilities.tolist(),
            },
        )
