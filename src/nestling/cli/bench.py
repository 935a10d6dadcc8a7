"""`nestling bench`: run a suite, show its figures, and hold them to their limits."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nestling.cli.output import Advance, json_option, show_progress, show_table

if TYPE_CHECKING:
    from nestling.bench.result import SuiteResult

SUITES = ("overhead", "ridge", "demo")


@click.command()
@click.argument("suite", type=click.Choice(SUITES))
@json_option
@click.option("--offline", is_flag=True, help="Fetch nothing; use what is in --data.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--data",
    "data_folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where data sets are kept; by default as for nestling data fetch.",
)
@click.option("--check", is_flag=True, help="Exit with 1 if a figure misses its limit.")
def bench(
    suite: str,
    json_file: Path | None,
    offline: bool,
    threads: int,
    data_folder: Path | None,
    check: bool,
) -> None:
    """Run a suite: overhead, ridge or demo.

    \b
    Example:
      nestling bench overhead --json benchmarks/results/overhead.json
    """
    from nestling.bench import build_table, write_result
    from nestling.bench.result import LIMITS, find_missed

    with show_progress(suite) as advance:
        result = _run(suite, offline, threads, data_folder, advance)
    show_table(build_table(result.rows, title=suite))
    limits = LIMITS[suite]
    figures = [
        {"figure": name, "value": value, "limit": str(limits[name]) if name in limits else None}
        for name, value in result.figures.items()
    ]
    show_table(build_table(figures))
    if json_file is not None:
        write_result(json_file, result)
    missed = find_missed(suite, result.figures)
    for line in missed:
        click.echo(line, err=True)
    if check and missed:
        click.get_current_context().exit(1)


def _run(
    suite: str, offline: bool, num_threads: int, data_folder: Path | None, advance: Advance
) -> "SuiteResult":
    from nestling.bench.result import SuiteResult

    if suite == "overhead":
        from nestling.bench import overhead

        return overhead.run(num_threads=num_threads, progress=lambda text: advance(text, 0.0))
    if suite == "demo":
        from nestling.bench import demo

        return demo.run(num_threads=num_threads, progress=advance)
    from nestling.bench import ridge

    found = ridge.run(data_folder, offline, num_threads)
    return SuiteResult("ridge", found["figures"], found["rows"])
