"""`nestling report`: write the HTML report of a run."""

from pathlib import Path

import click

from nestling.cli.output import json_option, write_json


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@json_option
def report(run: Path, json_file: Path | None) -> None:
    """Write report.html of a run folder anew from its records.

    \b
    Example:
      nestling report runs/demo
    """
    from nestling.report import read_run, write_report

    page = write_report(run)
    click.echo(f"report: {page}")
    found = read_run(run)
    if found.note:
        click.echo(f"nestling: {found.note}", err=True)
    if json_file is not None:
        summaries = [dict(r) for r in found.records if r["kind"] == "summary"]
        write_json(json_file, {"report": str(page), "summaries": summaries})
