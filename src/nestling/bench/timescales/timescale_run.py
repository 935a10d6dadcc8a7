"""`nestling bench timescales`: what several timescales add, cell by cell, resumable.

Compute is counted (see `compute_count`): a step of plain SGD is 1. Every mechanism sees the same
examples once, one step per batch, and is compared three times: with its base (plain training, or
replay) on the same examples; with the base at equal compute, which takes more or fewer steps per
batch, spread evenly, at the nearest of the ratios 1.25^k from 0.41 to 3.81 and is tuned for that
ratio; and with its control. What costs more than 3.81 steps is compared with 3.81.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nestling.bench.result import SuiteResult, write_result
from nestling.bench.rivals.tunable import make_setup
from nestling.bench.suites.cell_files import Cell
from nestling.bench.suites.parallel_cells import CellFolders, Progress, open_suite
from nestling.bench.timescales.step_costs import check_plain, measure_costs
from nestling.bench.timescales.timescale_cells import (
    BASES,
    NUM_TRIALS,
    TUNING_SEEDS,
    list_mechanisms,
    measure_cells,
    tune,
)
from nestling.bench.timescales.timescale_figures import (
    Entry,
    Row,
    SuiteOutcomes,
    build_figures,
    build_rows,
)
from nestling.bench.timescales.timescale_tables import format_page
from nestling.core.errors import JobError, SettingError, suggest
from nestling.store import write_whole

NUM_SEEDS = 5
SUITES: Mapping[str, str] = {
    "split": "split-mnist",
    "permuted": "permuted-mnist",
    "rotated": "rotated-mnist",
}


@dataclass(frozen=True)
class TimescaleRequest:
    """What is asked of the benchmark.

    Args:
        mechanisms: names; none for all. Bases and controls come with them.
        suites: label -> suite's name, or "module:function"; all have the network and batch size
            of the first, on which costs are measured.
        num_seeds: test streams, from seed 0 on.
        num_trials: of the search, the same for every method.

    Raises:
        JobError: no seed, no trial, no suite.
        SettingError: no such mechanism.
    """

    mechanisms: Sequence[str] = ()
    suites: Mapping[str, str] = field(default_factory=lambda: SUITES)
    num_seeds: int = NUM_SEEDS
    num_trials: int = NUM_TRIALS

    def __post_init__(self) -> None:
        if min(self.num_seeds, self.num_trials, len(self.suites)) < 1:
            raise JobError(
                f"{self.num_seeds} seeds, {self.num_trials} trials, {len(self.suites)} suites; "
                "give at least 1 of each"
            )
        self.list_entries()

    def list_entries(self) -> list[Entry]:
        """What is measured, in the order of the table."""
        return [
            Entry(base, name) for base in BASES for name in list_mechanisms(base, self.mechanisms)
        ]


def choose_suites(labels: Sequence[str]) -> dict[str, str]:
    """The suites by their labels; all without labels.

    Raises:
        SettingError: no such label; says the nearest.

    >>> choose_suites(["rotated"])
    {'rotated': 'rotated-mnist'}
    """
    for label in labels:
        if label not in SUITES:
            raise SettingError(f"part {label!r}; {suggest(label, SUITES)}")
    return {label: name for label, name in SUITES.items() if not labels or label in labels}


def run_timescales(
    request: TimescaleRequest,
    place: CellFolders,
    *,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> SuiteResult:
    """Measure what the run folder does not hold yet; write result.json and table.md there.

    Args:
        request: what is asked.
        place: run folder, and where data lie; a folder per suite is made in it.
        num_workers: processes; None for one per core.
        progress: told what is done, and the share that is.

    Raises:
        JobError: damaged files in the run folder, or a method that failed in every trial.
        DataError: data that cannot be had.
    """
    entries = request.list_entries()
    methods = [one.method for one in entries]
    first = open_suite(next(iter(request.suites.values())), 0, "test", place.data, place.offline)
    setup = make_setup(first, 0)
    costs = measure_costs(methods, setup, place.folder, progress=_share(progress, 0.0, 0.02))
    rivals = [one.choose_rival(costs) for one in entries if one.method != one.compared_with]
    methods += [name for name in dict.fromkeys(rivals) if name not in methods]
    rows: list[Row] = []
    for number, (label, suite) in enumerate(request.suites.items()):
        measured = _measure_suite(
            label,
            suite,
            methods,
            request,
            place,
            num_workers,
            _share(
                progress, 0.02 + 0.98 * number / len(request.suites), 0.98 / len(request.suites)
            ),
        )
        rows += build_rows(measured, entries, costs)
    figures = {"plain_bitwise": float(check_plain(setup)), **build_figures(rows)}
    result = SuiteResult("timescales", figures, rows, num_threads=1)
    write_result(place.folder / "result.json", result)
    write_whole(place.folder / "table.md", format_page(rows) + "\n")
    return result


def _measure_suite(
    label: str,
    suite: str,
    methods: Sequence[str],
    request: TimescaleRequest,
    place: CellFolders,
    num_workers: int | None,
    progress: Progress | None,
) -> SuiteOutcomes:
    folders = CellFolders(place.folder / label, place.data, place.offline)
    num_search = len(TUNING_SEEDS) * request.num_trials
    share = num_search / (num_search + request.num_seeds)
    choices = tune(
        suite,
        methods,
        request.num_trials,
        folders,
        num_workers=num_workers,
        progress=_share(progress, 0.0, share, f"{label}, search: "),
    )
    seeds = range(request.num_seeds)
    cells = [
        Cell(suite, "test", name, seed, choices[name].settings)
        for seed in seeds
        for name in methods
    ]
    outcomes = measure_cells(
        cells,
        folders,
        num_workers=num_workers,
        progress=_share(progress, share, 1.0 - share, f"{label}: "),
    )
    return SuiteOutcomes(label, seeds, choices, outcomes)


def _share(
    progress: Progress | None, start: float, size: float, before: str = ""
) -> Progress | None:
    if progress is None:
        return None
    return lambda text, done: progress(f"{before}{text}", start + size * done)
