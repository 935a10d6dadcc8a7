"""`nestling bench`: run a suite, show its figures, and hold them to their limits."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nestling.cli.output import Advance, json_option, show_progress, show_table
from nestling.core.errors import JobError, SettingError, suggest

if TYPE_CHECKING:
    from nestling.bench.result import SuiteResult
    from nestling.bench.suites.suite_run import SuiteRequest

# Of nestling itself, or of papers; all others are suites of learning.
OWN = (
    *("overhead", "ridge", "memory", "spine-cost", "demo", "personal", "streams", "governance"),
    *("blocks", "in-context", "optim", "reproduce", "timescales"),
)
# Kept part by part, with one thread: suite -> module whose `run` takes parts and seeds.
SEEDED = {
    "personal": "nestling.bench.personal.personal_promises",
    "governance": "nestling.bench.governance.governance_promises",
    "blocks": "nestling.bench.blocks.blocks_promises",
    "in-context": "nestling.bench.incontext.context_promises",
    "optim": "nestling.bench.optimizers.optimizer_promises",
}
IN_PARTS = ("memory", *SEEDED, "streams")
NUM_SEEDS = 10


@click.command()
@click.argument("suite")
@json_option
@click.option("--methods", help="Names with commas between; without it, what --budget holds.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    help="Test streams; by default 10, of personal and timescales 5, of our learner on streams, "
    "of blocks, in-context and optim 3.",
)
@click.option(
    "--budget",
    default="small",
    show_default=True,
    help="small (a named subset of the methods), full (all), or trials per search for all.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run folder, from which an interrupted benchmark goes on; by default runs/bench/SUITE.",
)
@click.option(
    "--parts",
    help="Of memory, personal, streams, governance, blocks, in-context, optim or timescales "
    "(split, permuted, rotated): names with commas between; without it, all.",
)
@click.option("--streams", help="Of streams: names with commas between; without it, all.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; by default one per core.")
@click.option(
    "--looks",
    type=click.IntRange(min=1),
    help="Evaluations within each experience; by default 16, on encoded features 6.",
)
@click.option("--offline", is_flag=True, help="Fetch nothing; use what is in --data.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Of torch; suites that have --parts always have 1.",
)
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
    methods: str | None,
    seeds: int | None,
    budget: str,
    out: Path | None,
    parts: str | None,
    streams: str | None,
    workers: int | None,
    looks: int | None,
    offline: bool,
    threads: int,
    data_folder: Path | None,
    check: bool,
) -> None:
    """Run a suite: overhead, ridge, memory, spine-cost, demo, personal, streams, governance,
    blocks, in-context, optim, reproduce, timescales, or one of continual learning.

    A suite of continual learning tunes every method with the same budget on streams of its own,
    runs all of them on the test streams, and compares nestling's defaults with each. SUITE and
    methods may also be the user's own, as module:function.

    \b
    Example:
      nestling bench overhead --json benchmarks/results/overhead.json
      nestling bench split-mnist --methods default,er,derpp --seeds 5
      nestling bench reproduce --methods smnist,hsu_class
      nestling bench memory --parts split-mnist-full,learn-b10
      nestling bench personal --parts first-events,writers --json personal.json
      nestling bench governance --json governance.json
      nestling bench optim --parts toy,mlp --seeds 3 --json optim.json
      nestling bench blocks --parts delta-speed,cms-speed,optimizer-steps
      nestling bench in-context --parts recall,parity-deltanet,parity-delta-to-2
      nestling bench streams --parts accuracy,speed --streams elec2,agrawal --seeds 1
      nestling bench timescales --methods periods16,copy --parts split --seeds 1 --budget 2
    """
    from nestling.bench import build_table, write_result
    from nestling.bench.result import LIMITS, find_missed

    in_parts = (*IN_PARTS, "timescales")
    if parts is not None and suite not in in_parts:
        raise SettingError(
            f"--parts for suite {suite!r}; parts can be measured of {' and '.join(in_parts)}"
        )
    if streams is not None and suite != "streams":
        raise SettingError(f"--streams for suite {suite!r}; only suite 'streams' has streams")

    if suite == "reproduce":
        result = _reproduce(methods, seeds or NUM_SEEDS, out, workers, data_folder, offline)
    elif suite == "timescales":
        result = _compare_timescales(
            methods, parts, seeds, budget, out, workers, data_folder, offline
        )
    elif suite == "streams":
        result = _follow_streams(parts, streams, seeds, out, workers, data_folder, offline)
    elif suite in IN_PARTS:
        result = _measure_parts(suite, parts, seeds, out, data_folder, offline)
        if suite in ("governance", "blocks", "in-context", "optim"):
            _show_parts(result)
    elif suite in OWN:
        with show_progress(suite) as advance:
            result = _run(suite, offline, threads, data_folder, advance)
        show_table(build_table(result.rows, title=suite))
    else:
        request = _make_wish(
            suite, methods, seeds or NUM_SEEDS, budget, out, data_folder, offline, looks
        )
        result = _run_suite(request, workers)
    limits = LIMITS.get(suite, {})
    figures = [
        {"figure": name, "value": value, "limit": str(limits[name]) if name in limits else None}
        for name, value in result.figures.items()
        if suite != "timescales" or name in limits  # hundreds, which its tables show
    ]
    show_table(build_table(figures))
    if json_file is not None:
        write_result(json_file, result)
    missed = find_missed(suite, result.figures) if limits else []
    for line in missed:
        click.echo(line, err=True)
    if check and missed:
        click.get_current_context().exit(1)


def _make_wish(
    suite: str,
    methods: str | None,
    num_seeds: int,
    budget: str,
    out: Path | None,
    data_folder: Path | None,
    offline: bool,
    num_looks: int | None,
) -> "SuiteRequest":
    """What was asked for, checked before anything is read or fetched."""
    from nestling.bench.suites.parallel_cells import CellFolders
    from nestling.bench.suites.suite_run import SuiteRequest
    from nestling.data.suites import list_suites

    known = [*OWN, *list_suites()]
    if suite not in known and ":" not in suite:
        raise JobError(f"suite {suite!r}; {suggest(suite, known)}")
    names = [] if methods is None else [name.strip() for name in methods.split(",")]
    if methods is not None and not all(names):
        raise JobError(f"--methods {methods!r} has an empty name; write e.g. default,er")
    folder = out or Path("runs") / "bench" / suite.replace(":", "..")
    return SuiteRequest(
        suite,
        CellFolders(folder, data_folder, offline),
        names,
        num_seeds,
        int(budget) if budget.isdecimal() else budget,
        num_looks,
    )


def _reproduce(
    names: str | None,
    num_seeds: int,
    out: Path | None,
    num_workers: int | None,
    data_folder: Path | None,
    offline: bool,
) -> "SuiteResult":
    from nestling.bench import build_table
    from nestling.bench.reproduction.reproduce import choose_targets, reproduce
    from nestling.bench.suites.parallel_cells import CellFolders

    targets = choose_targets(_split_names(names))
    place = CellFolders(out or Path("runs") / "bench" / "reproduce", data_folder, offline)
    with show_progress("reproduce") as advance:
        result = reproduce(
            targets, place, num_seeds=num_seeds, num_workers=num_workers, progress=advance
        )
    show_table(build_table(result.rows, title="published figures again"))
    return result


def _follow_streams(
    parts: str | None,
    streams: str | None,
    num_seeds: int | None,
    out: Path | None,
    num_workers: int | None,
    data_folder: Path | None,
    offline: bool,
) -> "SuiteResult":
    from nestling.bench.streams import stream_curves, stream_promises
    from nestling.bench.suites.parallel_cells import CellFolders

    place = CellFolders(out or Path("runs") / "bench" / "streams", data_folder, offline)
    with show_progress("streams") as advance:
        result, outcomes = stream_promises.run(
            place,
            _split_names(parts),
            streams=_split_names(streams),
            num_seeds=num_seeds or stream_promises.NUM_SEEDS,
            num_workers=num_workers,
            progress=advance,
        )
    _show_parts(result)
    if outcomes:
        click.echo(f"written: {stream_curves.write_curves(outcomes, place.folder)}")
    return result


def _compare_timescales(
    names: str | None,
    parts: str | None,
    num_seeds: int | None,
    budget: str,
    out: Path | None,
    num_workers: int | None,
    data_folder: Path | None,
    offline: bool,
) -> "SuiteResult":
    from nestling.bench import build_table
    from nestling.bench.suites.parallel_cells import CellFolders
    from nestling.bench.timescales import timescale_cells, timescale_run, timescale_tables

    if not (budget.isdecimal() or budget in ("small", "full")):
        raise JobError(f"budget {budget!r}; give a number of trials of timescales")
    request = timescale_run.TimescaleRequest(
        _split_names(names),
        timescale_run.choose_suites(_split_names(parts)),
        num_seeds or timescale_run.NUM_SEEDS,
        int(budget) if budget.isdecimal() else timescale_cells.NUM_TRIALS,
    )
    place = CellFolders(out or Path("runs") / "bench" / "timescales", data_folder, offline)
    with show_progress("timescales") as advance:
        result = timescale_run.run_timescales(
            request, place, num_workers=num_workers, progress=advance
        )
    for title, lines in timescale_tables.list_summaries(result.rows).items():
        show_table(build_table(lines, title=title))
    click.echo(f"written to {place.folder}: table.md, result.json")
    return result


def _show_parts(result: "SuiteResult") -> None:
    """A table per part of a suite, of its rows."""
    from nestling.bench import build_table

    for part in dict.fromkeys(str(row["part"]) for row in result.rows):
        shown = [
            {name: value for name, value in row.items() if name not in ("part", "code")}
            for row in result.rows
            if row["part"] == part
        ]
        show_table(build_table(shown, title=part))


def _split_names(names: str | None) -> list[str]:
    return [] if names is None else [one.strip() for one in names.split(",")]


def _measure_parts(
    suite: str,
    names: str | None,
    num_seeds: int | None,
    out: Path | None,
    data_folder: Path | None,
    offline: bool,
) -> "SuiteResult":
    from nestling.bench.promises import memory_promises
    from nestling.bench.suites.parallel_cells import CellFolders

    place = CellFolders(out or Path("runs") / "bench" / suite, data_folder, offline)
    parts = _split_names(names)
    with show_progress(suite) as advance:
        if suite == "memory":
            return memory_promises.run(place, parts, progress=advance)
        module = importlib.import_module(SEEDED[suite])
        result: SuiteResult = module.run(
            place, parts, num_seeds=num_seeds or module.NUM_SEEDS, progress=advance
        )
        return result


def _run_suite(request: "SuiteRequest", num_workers: int | None) -> "SuiteResult":
    from nestling.bench import build_table
    from nestling.bench.suites.suite_run import run_suite

    with show_progress(request.suite) as advance:
        result, summary = run_suite(request, num_workers=num_workers, progress=advance)
    title = f"{request.suite}, {request.num_seeds} seeds, budget {request.budget}"
    show_table(build_table(summary, title=title))
    click.echo(f"written to {request.place.folder}: table.md, result.json, scatter.png, curves.png")
    return result


def _run(
    suite: str,
    offline: bool,
    num_threads: int,
    data_folder: Path | None,
    advance: Advance,
) -> "SuiteResult":
    from nestling.bench.result import SuiteResult

    if suite == "overhead":
        from nestling.bench import overhead

        return overhead.run(num_threads=num_threads, progress=lambda text: advance(text, 0.0))
    if suite == "demo":
        from nestling.bench import demo

        return demo.run(num_threads=num_threads, progress=advance)
    if suite == "spine-cost":
        from nestling.bench import spine_cost

        return spine_cost.run(
            data_folder,
            offline,
            num_threads=num_threads,
            progress=lambda text: advance(text, 0.0),
        )
    from nestling.bench.promises import ridge_promises

    found = ridge_promises.run(data_folder, offline, num_threads)
    return SuiteResult("ridge", found["figures"], found["rows"])
