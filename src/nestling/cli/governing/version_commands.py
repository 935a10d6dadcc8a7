"""`nestling versions`, `diff`, `rollback`, `validate`: what changed in a run, and undoing it."""

import math
from pathlib import Path
from typing import Any

import click

from nestling.cli.output import json_option, show_table, write_json

run_argument = click.argument("run", metavar="RUN", type=click.Path(path_type=Path))


@click.command()
@run_argument
@json_option
def versions(run: Path, json_file: Path | None) -> None:
    """List the versions of RUN: when, how and by whom each came about, and what it changed.

    Changes are relative: how far a level moved, over its size. "since validation" is the largest
    change of a level since the last human validation, or since the first version if nobody has
    validated yet.

    \b
    Example:
      nestling versions runs/learn
    """
    from rich.table import Table

    from nestling.jobs.run_versions import read_versions
    from nestling.ledger.version_log import show_time

    records = read_versions(run).records
    table = Table("version", "when", "origin", "by", "reason", "what changed", "since validation")
    for record in records:
        moved = {name: change for name, change in record.changes.items() if change > 0.0}
        since = record.since_validation
        widest = max(since, key=lambda name: since[name], default="")
        table.add_row(
            record.id,
            show_time(record.at),
            record.origin,
            record.by or "-",
            record.reason,
            ", ".join(f"{name} {_show(change)}" for name, change in moved.items()) or "-",
            f"{widest} {_show(since[widest])}" if widest and since[widest] > 0.0 else "-",
        )
    show_table(table)
    if json_file is not None:
        write_json(json_file, [_plain(record.to_record()) for record in records])


@click.command()
@run_argument
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--data",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV with the run's columns: count the rows whose answer flipped.",
)
@json_option
def diff(run: Path, first: str, second: str, data: Path | None, json_file: Path | None) -> None:
    """Compare versions A and B of RUN: every level, the figures of probes, and flipped answers.

    "cosine" is the angle between a level before and after; "of changes" that between its change
    here and the one before A.

    \b
    Example:
      nestling diff runs/learn v0001 v0002 --data test.csv
    """
    from dataclasses import asdict

    from rich.table import Table

    from nestling.jobs.run_versions import count_run_flips, diff_run

    levels, behaviour = diff_run(run, first, second)
    table = Table("level", "change", "cosine", "of changes", "largest", "tensors changed")
    for one in levels:
        cosine = one.cosine_of_changes
        table.add_row(
            one.level,
            "equal" if one.is_equal else _show(one.relative_change),
            f"{one.cosine:.4f}",
            "-" if cosine is None else f"{cosine:.4f}",
            f"{one.largest_change:.3g}",
            f"{one.num_changed} of {one.num_tensors}",
        )
    show_table(table)
    if behaviour:
        figures = Table("probe/view", first, second)
        for name, pair in behaviour.items():
            figures.add_row(name, *("-" if value is None else f"{value:.4f}" for value in pair))
        show_table(figures)
    flips = None if data is None else count_run_flips(run, first, second, data)
    if flips is not None:
        click.echo(
            f"{flips.num_changed} of {flips.num_rows} answers changed: {flips.num_lost} became "
            f"wrong, {flips.num_gained} became right"
        )
    if json_file is not None:
        found = {
            "levels": [one.to_record() for one in levels],
            "behaviour": {name: list(pair) for name, pair in behaviour.items()},
            "flips": None if flips is None else asdict(flips),
        }
        write_json(json_file, _plain(found))


@click.command()
@run_argument
@click.argument("level", metavar="LEVEL")
@click.option("--to", required=True, metavar="V", help="Version, e.g. v0002.")
@click.option(
    "--keep-feedback",
    is_flag=True,
    help="Let the level alone learn again what the run learned since.",
)
@click.option("--by", default="", metavar="NAME", help="Who rolls back.")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the record.")
@json_option
def rollback(
    run: Path,
    level: str,
    to: str,
    keep_feedback: bool,
    by: str,
    reason: str,
    json_file: Path | None,
) -> None:
    """Put one LEVEL of RUN back to what it was in a version; all other levels stay.

    It is a new version, which the run goes on from; nothing is lost, and it can be undone alike.

    \b
    Example:
      nestling rollback runs/learn head --to v0001 --by Ada --reason "worse for women"
    """
    from nestling.jobs.run_versions import rollback_run

    record = rollback_run(run, level, to, by=by, reason=reason, keep_feedback=keep_feedback)
    click.echo(f"{record.id}: level {level} is as in {to}" + (", and went on" * keep_feedback))
    click.echo(f"undo: nestling rollback {run} {level} --to {record.parent}")
    if json_file is not None:
        write_json(json_file, _plain(record.to_record()))


@click.command()
@run_argument
@click.option("--by", required=True, metavar="NAME", help="Who validated.")
@click.option("--note", default="", metavar="TEXT", help="What was looked at; kept in the record.")
@json_option
def validate(run: Path, by: str, note: str, json_file: Path | None) -> None:
    """Record that a person validated RUN as it stands: changes since validation start anew.

    \b
    Example:
      nestling validate runs/learn --by Ada --note "probes and 50 cases looked at"
    """
    from nestling.jobs.run_versions import validate_run

    record = validate_run(run, by=by, note=note)
    click.echo(f"{record.id}: validated by {by}")
    if json_file is not None:
        write_json(json_file, _plain(record.to_record()))


def _show(change: float) -> str:
    """A relative change as people read it."""
    if not math.isfinite(change):
        return "from zero"
    percent = 100.0 * change
    return f"{percent:,.0f} %" if percent >= 100.0 else f"{percent:.2g} %"


def _plain(value: Any) -> Any:
    from nestling.ledger.record_lines import to_plain_json

    return to_plain_json(value)
