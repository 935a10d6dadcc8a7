"""`nestling data`: data sets by name."""

from pathlib import Path

import click

from nestling.cli.output import Commands, json_option, show_progress, show_table, write_json


@click.group(cls=Commands)
def data() -> None:
    """List or fetch data sets.

    \b
    Example:
      nestling data fetch mnist --folder data
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

    rows: list[dict[str, object]] = [{"name": name} for name in list_datasets()]
    show_table(build_table(rows))
    if json_file is not None:
        write_json(json_file, rows)


@data.command()
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    show_default=True,
)
@json_option
def fetch(name: str, folder: Path, json_file: Path | None) -> None:
    """Fetch data set NAME into a folder and check its sha256.

    \b
    Example:
      nestling data fetch fashion-mnist
    """
    from nestling.data import fetch as fetch_data

    with show_progress(f"fetching {name}"):
        path = fetch_data(name, folder)
    click.echo(f"{name}: {path}")
    if json_file is not None:
        write_json(json_file, {"name": name, "path": str(path)})
