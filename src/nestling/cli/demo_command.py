"""`nestling demo`, on scikit-learn's digits, and `nestling demo-stream`, on streams of events."""

from pathlib import Path

import click

from nestling.cli.output import json_option, show_progress, show_table


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    help="The run folder; an older demo in it is replaced.",
)
@click.option("--seeds", type=click.IntRange(1, 50), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@json_option
def demo(out: Path, seeds: int, threads: int, json_file: Path | None) -> None:
    """Learn digits in four experiences, with and without levels, and compare.

    Some classes, then new ones, then one writer's shifted style, then the old distribution
    again: fine-tuning, fine-tuning with replay, a frozen spine, and nestling's default.

    \b
    Example:
      nestling demo --out runs/demo --json demo.json
    """
    from nestling.bench import build_table, write_result
    from nestling.bench.demo import run

    with show_progress("demo") as advance:
        result = run(num_threads=threads, out=out, seeds=range(seeds), progress=advance)
    show_table(build_table(result.rows, title=f"digits, four experiences, {seeds} seeds"))
    for name, value in result.figures.items():
        click.echo(f"{name}: {value:.3f}")
    click.echo(f"report: {out / 'report.html'}")
    if json_file is not None:
        write_result(json_file, result)


@click.command("demo-stream")
@click.option(
    "--data",
    "data_folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where fetched streams lie; by default as for nestling data fetch.",
)
@json_option
def demo_stream(data_folder: Path | None, json_file: Path | None) -> None:
    """Follow streams of events, beside logistic regression, in under a minute.

    Every event is answered before it is learned. Nothing is fetched; Elec2 is followed too once
    nestling data fetch elec2 was run.

    \b
    Example:
      nestling demo-stream --json demo-stream.json
    """
    from nestling.bench import build_table, write_result
    from nestling.bench.stream_demo import run

    result = run(folder=data_folder, say=click.echo)
    show_table(build_table(result.rows, title="accuracy, test then train"))
    click.echo(f"total_seconds: {result.figures['total_seconds']:.0f}")
    if json_file is not None:
        write_result(json_file, result)
