"""Cells of the streams' benchmark that a run folder does not hold yet are measured, in parallel."""

import functools
from collections.abc import Sequence
from typing import Any

from nestling.bench.streams.following_events import follow_events
from nestling.bench.streams.stream_cells import (
    OURS,
    StreamCell,
    StreamOutcome,
    build_outcome,
    identify_system,
    read_cell,
    write_cell,
)
from nestling.bench.streams.stream_rivals import RIVALS
from nestling.bench.streams.stream_speed import run_single
from nestling.bench.suites.parallel_cells import CellFolders, Progress, run_all
from nestling.core.errors import JobError, NestlingError
from nestling.core.imports import import_function
from nestling.data.events import open_events

# A rival that takes longer on a stream is stopped, and its figures so far are marked as such.
MAX_RIVAL_SECONDS = 600.0
_NUM_WARM = 100
_OUR_LEARNER = "nestling.streams:StreamClassifier"


def make_system(cell: StreamCell) -> Any:
    """The learner of a cell, fresh.

    Raises:
        SettingError: no such system.
        MissingExtra: what it needs is not installed.
    """
    if cell.system in RIVALS:
        return RIVALS[cell.system](cell.seed, len(open_events(cell.stream).classes))
    source = _OUR_LEARNER if cell.system == OURS else cell.system
    make: Any = import_function(source)
    # Where labels come late one knows which there are long before the first has come. Rivals that
    # are networks are always told how many.
    told = {"classes": open_events(cell.stream).classes} if cell.delay else {}
    return make(seed=cell.seed, without=cell.without, **told)


def run_stream_cell(cell: StreamCell, place: CellFolders) -> None:
    """Measure one cell and write its file; a system that fails is written down as such."""
    stream = open_events(cell.stream)
    events = stream.read(cell.limit, folder=place.data, offline=place.offline)
    is_rival = cell.system in RIVALS
    try:
        if not is_rival:
            # Code is compiled, or read from its cache, before anything is timed.
            warm = stream.read(_NUM_WARM, folder=place.data, offline=place.offline)
            run_single(make_system(cell), list(warm))
        found = follow_events(
            make_system(cell),
            events,
            delay=cell.delay,
            by_id=not is_rival,
            looks=stream.drifts if stream.make_held_out is not None else (),
            held_out=None if stream.make_held_out is None else stream.make_held_out(),
            max_seconds=MAX_RIVAL_SECONDS if is_rival else None,
        )
        outcome = build_outcome(cell, found)
    except (NestlingError, ArithmeticError, LookupError, ValueError) as error:
        failure = " ".join(f"{type(error).__name__}: {error}".split())
        outcome = StreamOutcome(cell, failure=failure, code=identify_system(cell.system))
    write_cell(place.folder, outcome)


def run_stream_cells(
    cells: Sequence[StreamCell],
    place: CellFolders,
    *,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> list[StreamOutcome]:
    """Measure what a run folder does not hold yet.

    Args:
        cells: all that are wanted.
        place: their files are read and written there.
        num_workers: processes; None for one per core, 1 for this process alone.
        progress: told the last cell and the share that is done.

    Returns: outcomes in the order of `cells`; one whose `failure` is set has no figures.

    Raises:
        JobError: a file there is damaged, or a process died.
        DataError: data of a stream that cannot be had.
        MissingExtra: what a stream or a system needs is not installed.
    """
    missing = [cell for cell in cells if read_cell(place.folder, cell) is None]
    for name in sorted({cell.stream for cell in missing}):
        # Fetches what is not there, and fails, before any process starts.
        next(open_events(name).read(1, folder=place.data, offline=place.offline))
    for first in {cell.system: cell for cell in reversed(missing)}.values():
        make_system(first)
    num_done = len(cells) - len(missing)
    for cell in run_all(functools.partial(run_stream_cell, place=place), missing, num_workers):
        num_done += 1
        if progress is not None:
            progress(f"{cell.system} on {cell.stream}, seed {cell.seed}", num_done / len(cells))
    return [_require(place, cell) for cell in cells]


def _require(place: CellFolders, cell: StreamCell) -> StreamOutcome:
    outcome = read_cell(place.folder, cell)
    if outcome is None:
        raise JobError(
            f"'{cell.find_path(place.folder)}' vanished while the benchmark ran; run it again"
        )
    return outcome
