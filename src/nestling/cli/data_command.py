"""`nestling data`: data sources by name, or by the suite that is made from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nestling.cli.output import Commands, json_option, show_progress, show_table, write_json

if TYPE_CHECKING:
    from nestling.data import Source


@click.group(cls=Commands)
def data() -> None:
    """List or fetch the data of suites and jobs.

    \b
    Example:
      nestling data fetch mnist
    """


@data.command("list")
@json_option
def list_command(json_file: Path | None) -> None:
    """Every data source: its terms, size, sum, and the suites made from it.

    The sums are cut to 12 digits here; --json holds them in full, with each file.

    \b
    Example:
      nestling data list --json sources.json
    """
    from nestling.bench.table import build_table
    from nestling.data import list_sources, list_suite_sources, list_suites

    needs = {suite: list_suite_sources(suite) for suite in list_suites()}
    sources = list_sources()
    made = {one.name: [suite for suite in needs if one.name in needs[suite]] for one in sources}
    show_table(
        build_table(
            [
                {
                    "name": one.name,
                    "about": one.about,
                    "licence": one.licence,
                    "MB": _to_megabytes(one),
                    "sha256": " ".join(digits[:12] for digits in one.sha256),
                    "suites": ", ".join(made[one.name]),
                }
                for one in sources
            ]
        )
    )
    if json_file is not None:
        write_json(json_file, [_describe(one, made[one.name]) for one in sources])


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
    help="Copy the files from this folder instead of fetching them.",
)
@json_option
def fetch(name: str, folder: Path | None, source: Path | None, json_file: Path | None) -> None:
    """Fetch source NAME, or all sources of suite NAME, and check each sha256.

    \b
    Example:
      nestling data fetch fashion-mnist
      nestling data fetch split-mnist
    """
    from nestling.data import fetch_source

    paths: dict[str, str] = {}
    for wanted in _find_sources(name):
        with show_progress(f"fetching {wanted}"):
            paths[wanted] = str(fetch_source(wanted, folder, source=source))
        click.echo(f"{wanted}: {paths[wanted]}")
    if json_file is not None:
        write_json(json_file, {"name": name, "paths": paths})


def _find_sources(name: str) -> Sequence[str]:
    """A source stands for itself, a suite for all that it is made from."""
    from nestling.core.errors import SettingError, suggest
    from nestling.data import list_sources, list_suite_sources, list_suites

    sources = [one.name for one in list_sources()]
    if name in sources:
        return [name]
    suites = list_suites()
    if name not in suites:
        raise SettingError(f"data source or suite {name!r}; {suggest(name, {*sources, *suites})}")
    return list_suite_sources(name)


def _to_megabytes(source: "Source") -> float:
    return round(source.num_bytes / 1e6, 1)


def _describe(source: "Source", suites: Sequence[str]) -> dict[str, object]:
    return {
        "name": source.name,
        "about": source.about,
        "licence": source.licence,
        "megabytes": _to_megabytes(source),
        "files": [
            {
                "name": file.name,
                "num_bytes": file.num_bytes,
                "sha256": file.sha256,
                "command": " ".join(file.command),
            }
            for file in source.files
        ],
        "suites": list(suites),
    }
