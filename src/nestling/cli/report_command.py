"""`nestling report`: write the HTML report of a run, or its audit page."""

import time
from pathlib import Path

import click

from nestling.cli.output import json_option, write_json


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--audit", is_flag=True, help="Write audit.html of a governed run instead.")
@json_option
def report(run: Path, audit: bool, json_file: Path | None) -> int:
    """Write report.html of a run folder anew from its records.

    With --audit: what an auditor asks of a run under a contract, as one page; exit code 1 if
    lines of its records are damaged.

    \b
    Example:
      nestling report runs/demo
      nestling report --audit runs/ward
    """
    if audit:
        return _audit(run, json_file)
    from nestling.report import read_run, write_report

    page = write_report(run)
    click.echo(f"report: {page}")
    found = read_run(run)
    if found.note:
        click.echo(f"nestling: {found.note}", err=True)
    if json_file is not None:
        summaries = [dict(r) for r in found.records if r["kind"] == "summary"]
        write_json(json_file, {"report": str(page), "summaries": summaries})
    return 0


def _audit(run: Path, json_file: Path | None) -> int:
    from nestling.report.audit import describe_audit, write_audit

    at = time.time()
    page = write_audit(run, lambda: at)
    sections = describe_audit(run, lambda: at)
    click.echo(f"audit: {page}")
    damage = sections["head"]["damage"]
    for line in damage:
        click.echo(f"nestling: {line}", err=True)
    if json_file is not None:
        write_json(json_file, {"audit": str(page), **sections})
    return 1 if damage else 0
