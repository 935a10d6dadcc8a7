"""What commands share: options, tables on the terminal, a progress bar, JSON files."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nestling.core.errors import suggest
from nestling.store import write_whole

if TYPE_CHECKING:
    from rich.table import Table

Advance = Callable[[str, float], None]


class Commands(click.Group):
    """A group whose errors name the nearest command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names; fails with the nearest name."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}; {suggest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the result to this file.",
)


def show_table(table: "Table") -> None:
    """Print a table to stdout, as wide as the terminal or, in a pipe, as wide as it needs."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


@contextmanager
def show_progress(title: str) -> Iterator[Advance]:
    """A bar on stderr while a block runs, on a terminal only.

    Args:
        title: what is under way.

    Returns: a function that is told what is done now and the share done, in [0, 1].
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _text, _share: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda text, share: progress.update(task, description=text, completed=share)


@contextmanager
def show_status(text: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr that changes while a block runs, on a terminal only.

    Args:
        text: what it says at first.

    Returns: a function that is told what it shall say.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _text: None
        return
    with console.status(text) as status:
        yield status.update


def write_json(path: Path, data: Mapping[str, object] | Sequence[object]) -> None:
    """Write JSON; the file is there whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    write_whole(path, json.dumps(data, indent=1) + "\n")


def read_options(text: str | None) -> dict[str, object]:
    """Options of a model as JSON on the command line.

    Raises:
        click.BadParameter: no JSON object.
    """
    if text is None:
        return {}
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"--options {text!r} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise click.BadParameter(f"--options {text!r}: write an object, e.g. '{{\"width\": 64}}'")
    return data
