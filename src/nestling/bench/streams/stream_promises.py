"""Suite `streams`, part by part: one default of ours, and no setting of it for any stream.

What is measured stream by stream is kept cell by cell, all else part by part; an interrupted run
goes on, and a change of our learner measures no rival again. Accuracies of rivals are of one seed.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nestling.bench.promises.kept_parts import Measure, measure_parts
from nestling.bench.result import SuiteResult
from nestling.bench.streams.abused_streams import measure_abuse
from nestling.bench.streams.pixel_events import measure_pixels_as_events
from nestling.bench.streams.stream_cells import (
    OUR_CODE,
    OURS,
    RIVALS_CODE,
    SHARED_CODE,
    StreamCell,
    StreamOutcome,
    identify_files,
)
from nestling.bench.streams.stream_figures import (
    BEST,
    build_accuracy_figures,
    build_late_figures,
    build_recovery_figures,
    build_retention_figures,
    build_visit_figures,
    list_held_out,
    list_late,
    list_recoveries,
    list_scores,
    list_worth,
)
from nestling.bench.streams.stream_rivals import RIVALS, make_forest, make_forest_of_values
from nestling.bench.streams.stream_runs import make_system, run_stream_cells
from nestling.bench.streams.stream_speed import measure_speed, measure_state
from nestling.bench.streams.stream_values import measure_values
from nestling.bench.suites.parallel_cells import CellFolders, Progress
from nestling.bench.timing import Figures, Rows
from nestling.core.errors import DataError, SettingError, suggest
from nestling.core.imports import import_function
from nestling.data.events import list_event_streams, open_events

NUM_SEEDS = 3
DELAY = 1_000
EXTRA = ("covertype", "flights-weather", "sensors")
LATE = ("elec2", "agrawal", "flights")
RECOVERING = ("agrawal", "sea")
RETURNING = ("agrawal", "sea", "digits")
# SRP and leveraging bagging are slow, and on the further streams not worth their hours.
EXTRA_RIVALS = tuple(name for name in RIVALS if name not in ("srp", "leveraging-bagging"))
LATE_RIVALS = ("logistic", "network-sgd", "network-adamw")
_FOREST = "arf"
_OUR_VALUES = "nestling.streams:StreamRegressor"

Build = Callable[[Sequence[StreamOutcome]], Figures]
List = Callable[[Sequence[StreamOutcome]], Rows]


@dataclass(frozen=True)
class CellPart:
    """A part that is read from cells.

    Args:
        cells: that it needs; parts share them.
        build: its figures.
        table: its rows.
    """

    cells: tuple[StreamCell, ...]
    build: Build
    table: List


def list_cell_parts(num_seeds: int, streams: Sequence[str] = ()) -> dict[str, CellPart]:
    """The parts that are read from cells, by name.

    Args:
        num_seeds: of ours; rivals have one.
        streams: only these; none for all that a part has.
    """

    def keep(names: Sequence[str]) -> list[str]:
        return [name for name in names if not streams or name in streams]

    def ours(names: Sequence[str], delay: int = 0) -> tuple[StreamCell, ...]:
        seeds = range(num_seeds)
        return tuple(
            StreamCell(OURS, name, seed, (), delay) for name in keep(names) for seed in seeds
        )

    def theirs(
        names: Sequence[str], systems: Sequence[str], delay: int = 0
    ) -> tuple[StreamCell, ...]:
        return tuple(
            StreamCell(system, name, delay=delay) for name in keep(names) for system in systems
        )

    main = sorted(BEST, key=lambda name: open_events(name).num_events)
    return {
        "accuracy": CellPart(ours(main), build_accuracy_figures, list_scores),
        "retention": CellPart(ours(["digits"]), build_retention_figures, list_held_out),
        "second-visits": CellPart(ours(RETURNING), build_visit_figures, list_recoveries),
        "late": CellPart(
            (*ours(LATE, DELAY), *theirs(LATE, LATE_RIVALS, DELAY)), build_late_figures, list_late
        ),
        "recovery": CellPart(
            (*ours(RECOVERING), *theirs(RECOVERING, [_FOREST])),
            build_recovery_figures,
            list_recoveries,
        ),
        "rivals": CellPart(theirs(main, list(RIVALS)), _build_nothing, list_scores),
        "rivals-retention": CellPart(
            theirs(["digits"], list(RIVALS)), _build_nothing, list_held_out
        ),
        "extra": CellPart(
            (*ours(EXTRA), *theirs(EXTRA, EXTRA_RIVALS)), _build_nothing, list_scores
        ),
    }


def list_measured_parts(
    num_seeds: int, streams: Sequence[str] = (), absent: Collection[str] = ()
) -> dict[str, Measure]:
    """The parts that are measured as a whole, by name.

    Args:
        num_seeds: of ours.
        streams: the speed is measured on these only; none for all 13.
        absent: streams that cannot be read; parts that need one are left out.
    """
    seeds = range(num_seeds)
    timed = [name for name in BEST if (not streams or name in streams) and name not in absent]
    parts: dict[str, Measure] = {
        "bike": lambda place: measure_values(
            _make_values, seeds, place, system=OURS, has_intervals=True
        ),
        "bike-arf": lambda place: measure_values(
            make_forest_of_values, (0,), place, system=_FOREST, has_intervals=False
        ),
        "conflict": lambda place: measure_pixels_as_events("conflict", _make_ours, seeds, place),
        "drift": lambda place: measure_pixels_as_events("drift", _make_ours, seeds, place),
        "speed": lambda place: measure_speed(
            timed, _make_ours, functools.partial(make_forest, 0), place
        ),
        "state": lambda _: measure_state(_make_ours),
        "abuse": lambda _: measure_abuse(_make_ours),
    }
    left_out = [*(("bike", "bike-arf") if "bike" in absent else ()), *([] if timed else ["speed"])]
    return {name: part for name, part in parts.items() if name not in left_out}


def list_expert_cells(streams: Sequence[str] = ()) -> tuple[StreamCell, ...]:
    """Ours with one seed on the 13 streams, whole and without each expert by turns."""
    experts: tuple[str, ...] = make_system(StreamCell(OURS, next(iter(BEST)))).expert_names
    names = sorted(
        (name for name in BEST if not streams or name in streams),
        key=lambda name: open_events(name).num_events,
    )
    without: list[tuple[str, ...]] = [(), *((expert,) for expert in experts)]
    return tuple(StreamCell(OURS, name, 0, left_out) for left_out in without for name in names)


def run(
    place: CellFolders,
    names: Sequence[str] = (),
    *,
    streams: Sequence[str] = (),
    num_seeds: int = NUM_SEEDS,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[SuiteResult, list[StreamOutcome]]:
    """Measure parts; what the run folder holds by the same code is not measured again.

    Args:
        place: cells are kept in its folder, in `cells/`, other parts in `parts/`.
        names: of parts; none for all.
        streams: names; parts are cut down to these, and what is said of all streams is left out.
        num_seeds: of our learner.
        num_workers: processes for cells; None for one per core.
        progress: told what is measured, and the share that is done.

    Returns: the figures and rows of these parts, and the outcomes with labels that come at once,
        for curves.

    Raises:
        SettingError: no such part or stream.
        JobError: a kept file is damaged, or a process died.
        DataError: MNIST, which conflict and drift are made of, cannot be had; a stream that
            cannot is left out, and a row of part "absent" says why.
        MissingExtra: what a system or a stream needs is not installed.
    """
    for name in streams:
        open_events(name)
    cell_parts = list_cell_parts(num_seeds, streams)
    known = [*cell_parts, *list_measured_parts(num_seeds), "drop-one"]
    for name in names:
        if name not in known:
            raise SettingError(f"part {name!r}; {suggest(name, known)}")
    chosen = [name for name in known if not names or name in names]
    if "drop-one" in chosen:
        cell_parts["drop-one"] = CellPart(list_expert_cells(streams), _build_worth, list_worth)
    needed = {cell.stream for name in chosen for cell in _list_cells(cell_parts, name)}
    needed |= {name for name in BEST if "speed" in chosen and (not streams or name in streams)}
    needed |= {"bike"} if "bike" in chosen or "bike-arf" in chosen else set()
    absent = _find_absent(needed, place)
    measured_parts = list_measured_parts(num_seeds, streams, absent)
    figures: Figures = {}
    rows: Rows = [{"part": "absent", "stream": name, "why": why} for name, why in absent.items()]
    seen: dict[StreamCell, StreamOutcome] = {}
    for name in [one for one in chosen if one in cell_parts]:
        part = cell_parts[name]
        cells = [cell for cell in part.cells if cell.stream not in absent]
        outcomes = run_stream_cells(cells, place, num_workers=num_workers, progress=progress)
        figures |= part.build(outcomes)
        rows += [{"part": name, **row} for row in part.table(outcomes)]
        seen |= {one.cell: one for one in outcomes}
    whole = {name: part for name, part in measured_parts.items() if name in chosen}
    for name in whole:
        found, further = measure_parts(
            whole,
            place,
            [name],
            settings=_describe_settings(name, num_seeds, streams, absent),
            codes={name: _name_code(name)},
            progress=progress,
        )
        figures |= found
        rows += further
    if "bike_mae_nestling" in figures and "bike_mae_arf" in figures:
        figures["bike_mae_over_arf"] = figures["bike_mae_nestling"] / figures["bike_mae_arf"]
    at_once = [one for cell, one in seen.items() if not cell.delay and not cell.without]
    return SuiteResult("streams", figures, rows, num_threads=1), at_once


def _list_cells(parts: Mapping[str, CellPart], name: str) -> tuple[StreamCell, ...]:
    return parts[name].cells if name in parts else ()


def _find_absent(names: Collection[str], place: CellFolders) -> dict[str, str]:
    """Streams whose files cannot be had, and why."""
    absent: dict[str, str] = {}
    for stream in list_event_streams():
        if stream.name in names and stream.source is not None:
            try:
                stream.read(0, folder=place.data, offline=place.offline)
            except DataError as error:
                absent[stream.name] = str(error)
    return absent


def _describe_settings(
    name: str, num_seeds: int, streams: Sequence[str], absent: Collection[str]
) -> dict[str, int]:
    if name == "speed":
        on = {f"on {stream}": 1 for stream in streams}
        return {**on, **{f"not on {stream}": 1 for stream in absent if stream in BEST}}
    return {"num_seeds": num_seeds} if name in ("bike", "conflict", "drift") else {}


def _name_code(name: str) -> str:
    if name == "bike-arf":
        return identify_files(*SHARED_CODE, *RIVALS_CODE, "bench/streams/stream_values.py")
    return identify_files("bench/streams", "bench/timing.py", "data/events", *OUR_CODE)


def _make_ours(seed: int = 0) -> Any:
    return make_system(StreamCell(OURS, next(iter(BEST)), seed))


def _make_values(seed: int) -> Any:
    make: Any = import_function(_OUR_VALUES)
    return make(seed=seed)


def _build_nothing(_: Sequence[StreamOutcome]) -> Figures:
    return {}


def _build_worth(outcomes: Sequence[StreamOutcome]) -> Figures:
    """`least_expert_worth`: what the mean accuracy loses without the expert it needs least."""
    worth = [float(str(row["worth"])) for row in list_worth(outcomes)]
    return {"least_expert_worth": min(worth)} if worth else {}
