"""`nestling data`: data sets by name."""

from pathlib import Path

import click

from nestling.cli.output import Commands, json_option, show_progress, show_table, write_json


@click.group(cls=Commands)
def data() -> None:
    """List or fetch data sets.

    \b
    Example:
      nestling data fetch mnist
    """


@data.command("list")
@json_option
def list_command(json_file: Path | None) -> None:
    """Data sets that a job can name.

    \b
    Example:
      nestling data list
    """
    from nestling.bench.table import build_table
    from nestling.data import list_datasets

    rows: list[dict[str, object]] = [
        {
            "name": one.name,
            "about": one.about,
            "licence": one.licence,
            "megabytes": round(one.num_bytes / 1e6, 1),
        }
        for one in list_datasets()
    ]
    show_table(build_table(rows))
    if json_file is not None:
        write_json(json_file, rows)


@data.command()
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to put it; by default $NESTLING_DATA, else ~/.cache/nestling.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(file_okay=False, path_type=Path),
    help="Copy the archive from this folder instead of fetching it.",
)
@json_option
def fetch(name: str, folder: Path | None, source: Path | None, json_file: Path | None) -> None:
    """Fetch data set NAME and check its sha256.

    \b
    Example:
      nestling data fetch fashion-mnist
    """
    from nestling.data import fetch as fetch_data

    with show_progress(f"fetching {name}"):
        path = fetch_data(name, folder, source=source)
    click.echo(f"{name}: {path}")
    if json_file is not None:
        write_json(json_file, {"name": name, "path": str(path)})
