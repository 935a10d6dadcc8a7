"""A whole suite: search, test streams, costs, comparison, tables and pictures; resumable."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestling.bench.result import SuiteResult, write_result
from nestling.bench.rivals.methods_by_name import choose_methods, find_method
from nestling.bench.suites import personal_stream as personal
from nestling.bench.suites.cell_files import Cell
from nestling.bench.suites.costs import BASE, time_methods
from nestling.bench.suites.measuring import NUM_LOOKS, NUM_LOOKS_ENCODED
from nestling.bench.suites.parallel_cells import CellFolders, Progress, open_suite, run_cells
from nestling.bench.suites.search import NUM_TRIALS, search
from nestling.bench.suites.suite_figures import Row, SuiteMeasurements, build_figures, build_rows
from nestling.bench.suites.suite_plots import write_plots
from nestling.bench.suites.suite_tables import build_summary, format_report
from nestling.core.errors import JobError
from nestling.store import write_whole

NUM_SEEDS = 10


@dataclass(frozen=True)
class SuiteRequest:
    """What is asked of the benchmark.

    Args:
        suite: name, or "module:function" for one of the user's own.
        place: run folder, and where data lie.
        methods: names; none for what the budget holds. Fine-tuning always runs, since costs
            are measured against it.
        num_seeds: test streams, from seed 0 on.
        budget: "small" for a named subset of the methods, "full" for all, or the number of
            trials of the search for all.
        num_looks: evaluations within an experience; the resolution of curves and of steps to
            90 %. None for NUM_LOOKS, on encoded features NUM_LOOKS_ENCODED.

    Raises:
        JobError: no seed, no look, or a budget that is none.
        SettingError: an unknown method.
    """

    suite: str
    place: CellFolders
    methods: Sequence[str] = ()
    num_seeds: int = NUM_SEEDS
    budget: str | int = "small"
    num_looks: int | None = None

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise JobError(f"{self.num_seeds} seeds; give at least 1")
        if self.num_looks is not None and self.num_looks < 1:
            raise JobError(f"{self.num_looks} looks; give at least 1")
        if isinstance(self.budget, str) and self.budget not in ("small", "full"):
            raise JobError(f"budget {self.budget!r}; give small, full or a number of trials")
        if isinstance(self.budget, int) and self.budget < 1:
            raise JobError(f"budget {self.budget}; a search needs at least 1 trial")
        self.list_methods()

    @property
    def num_trials(self) -> int:
        """Of the search, for every method that has something to tune."""
        return self.budget if isinstance(self.budget, int) else NUM_TRIALS

    def list_methods(self) -> list[str]:
        """What runs, in the order of the table."""
        chosen = choose_methods(self.methods, self.budget)
        return chosen if BASE in chosen else [*chosen, BASE]


def run_suite(
    request: SuiteRequest, *, num_workers: int | None = None, progress: Progress | None = None
) -> tuple[SuiteResult, list[Row]]:
    """Measure what the run folder does not hold yet, and write what was found.

    The folder gets search.json, costs.json, result.json, table.md, scatter.png, curves.png and
    a file per cell.

    Args:
        request: what is asked.
        num_workers: processes; None for one per core.
        progress: told what is done, and the share that is.

    Returns: figures and one row per method and seed; and one row per method.

    Raises:
        JobError: the folder holds another suite, or damaged files.
        SettingError: an unknown suite.
        DataError: its data are not there.
        MissingExtra: matplotlib is not installed; all files but the pictures are written.
    """
    folder = request.place.folder
    suite = open_suite(request.suite, 0, "test", request.place.data, request.place.offline)
    _claim(folder, request.suite)
    methods = request.list_methods()
    chosen = search(
        request.suite,
        methods,
        request.num_trials,
        request.place,
        num_workers=num_workers,
        progress=None if progress is None else lambda t, done: progress(f"search: {t}", 0.5 * done),
    )
    seeds = range(request.num_seeds)
    usual = NUM_LOOKS_ENCODED if suite.features == "encoded" else NUM_LOOKS
    num_looks = request.num_looks or usual
    cells = [
        Cell(request.suite, "test", name, seed, one.settings, num_looks=num_looks)
        for seed in seeds
        for name, one in chosen.items()
    ]
    outcomes = run_cells(
        cells,
        request.place,
        num_workers=num_workers,
        progress=None if progress is None else lambda t, done: progress(t, 0.5 + 0.4 * done),
    )
    settings = {name: one.settings for name, one in chosen.items()}
    ratios = time_methods(
        request.suite,
        settings,
        request.place,
        progress=None if progress is None else lambda t, done: progress(t, 0.9 + 0.1 * done),
    )
    people = {}
    if request.suite == personal.SUITE:
        people = personal.measure_people(
            {name: settings[name] for name in settings if find_method(name).kind != "closed_form"},
            seeds,
            request.place,
            num_workers=num_workers,
            progress=progress,
        )
    measured = SuiteMeasurements(
        suite, seeds, outcomes, settings, ratios, request.num_trials, str(request.budget)
    )
    figures = build_figures(measured) | personal.build_figures(people)
    result = SuiteResult(suite.name, figures, build_rows(measured))
    write_result(folder / "result.json", result)
    report = format_report(measured, figures)
    if people:
        report += f"\n{personal.format_people(people)}\n"
    write_whole(folder / "table.md", report)
    write_plots(measured, folder)
    return result, build_summary(measured)


def _claim(folder: Path, suite: str) -> None:
    """Refuse a folder of another suite or of something else; mark a new one."""
    path = folder / "bench.json"
    if path.exists():
        try:
            held = json.loads(path.read_text(encoding="utf-8"))["suite"]
        except (ValueError, KeyError, TypeError) as error:
            raise JobError(f"'{path}' is damaged ({type(error).__name__}); delete it") from None
        if held != suite:
            raise JobError(f"'{folder}' holds suite {held!r}; give another folder with --out")
        return
    if folder.exists() and any(folder.iterdir()):
        raise JobError(f"'{folder}' holds something else; give an empty folder with --out")
    write_whole(path, json.dumps({"suite": suite}) + "\n")
