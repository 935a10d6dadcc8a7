"""Cells in parallel: one process per core, one thread each, each cell's file written at once."""

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from nestling.bench.rivals.methods_by_name import find_method
from nestling.bench.rivals.tunable import Method, make_setup
from nestling.bench.suites.cell_files import (
    Cell,
    Outcome,
    identify_code,
    read_outcome,
    write_outcome,
)
from nestling.bench.suites.encoding import encode_suite
from nestling.bench.suites.measuring import measure
from nestling.core.errors import JobError, NestlingError, SettingError
from nestling.core.imports import import_function
from nestling.core.machine import use_threads
from nestling.data.suites import Suite, make_suite
from nestling.data.suites.paper_protocols import PROTOCOLS, make_protocol
from nestling.data.suites.suite import Part

T = TypeVar("T")
Progress = Callable[[str, float], None]


class CellTask(Protocol):
    """Measures one cell and writes its file."""

    def __call__(self, cell: Cell, place: "CellFolders") -> None:
        """See `run_cell`."""


@dataclass(frozen=True)
class CellFolders:
    """Where cells read and write.

    Args:
        folder: of the run.
        data: where data sets lie; None as for `make_suite`.
        offline: do not fetch.
    """

    folder: Path
    data: Path | None = None
    offline: bool = False


# Reading a suite takes seconds, and the cells of one stream come one after another.
@functools.lru_cache(maxsize=2)
def open_suite(name: str, seed: int, split: Part, data: Path | None, offline: bool) -> Suite:
    """A suite or a paper's protocol by name, or the user's "module:function" for (seed, split).

    Raises:
        DataError: its data are not there.
        SettingError: no such suite, module or function, or the user's function fails, or returns
            something else than a suite.
    """
    if name in PROTOCOLS:
        return make_protocol(name, split, data, offline)
    if ":" not in name:
        raw = make_suite(name, seed, split=split, folder=data, offline=offline)
        return encode_suite(raw, data, offline=offline)
    function = import_function(name)
    try:
        made = function(seed, split)
    except NestlingError:
        raise
    except Exception as error:
        raise SettingError(f"'{name}' failed with {type(error).__name__}: {error}") from error
    if not isinstance(made, Suite):
        raise SettingError(f"'{name}' returned {type(made).__name__}; return a nestling.data Suite")
    return made


def run_cell(cell: Cell, place: CellFolders, find: Callable[[str], Method] | None = None) -> None:
    """Measure one cell and write its file; a method that refuses is written down as such.

    Args:
        cell: what is to be measured.
        place: where to read and write.
        find: the cell's method by its name; None for `find_method`.
    """
    suite = open_suite(cell.suite, cell.seed, cell.split, place.data, place.offline)
    method = (find or find_method)(cell.method)
    try:
        competitor = method.build(make_setup(suite, cell.seed), cell.settings)
        found = measure(competitor, suite, seed=cell.seed, num_looks=cell.num_looks)
        outcome = Outcome(cell, found, code=identify_code())
    except NestlingError as error:
        failure = " ".join(f"{type(error).__name__}: {error}".split())
        outcome = Outcome(cell, None, failure, identify_code())
    write_outcome(place.folder, outcome)


def run_cells(
    cells: Sequence[Cell],
    place: CellFolders,
    *,
    num_workers: int | None = None,
    progress: Progress | None = None,
    task: CellTask | None = None,
) -> list[Outcome]:
    """Measure what a run folder does not hold yet.

    Args:
        cells: all that are wanted.
        place: their files are read and written there.
        num_workers: processes; None for one per core, 1 for this process alone.
        progress: told the last cell and the share that is done.
        task: measures one cell and writes its file; None for `run_cell`.

    Returns: outcomes in the order of `cells`.

    Raises:
        JobError: a file there is damaged or of another cell, or a process died.
        DataError: the suite's data are not there.
    """
    missing = [cell for cell in cells if read_outcome(place.folder, cell) is None]
    # By stream, so that a process reads each suite about once.
    missing.sort(key=lambda cell: (cell.split, cell.seed))
    if missing:
        # Fetches and encodes what is not there, and fails, before any process starts.
        for first in {cell.split: cell for cell in reversed(missing)}.values():
            if progress is not None:
                # The first encoding of a suite takes minutes, in which no cell ends.
                progress(f"reading {first.suite}", 1.0 - len(missing) / len(cells))
            open_suite(first.suite, first.seed, first.split, place.data, place.offline)
    num_done = len(cells) - len(missing)
    for cell in run_all(functools.partial(task or run_cell, place=place), missing, num_workers):
        num_done += 1
        if progress is not None:
            progress(f"{cell.method}, seed {cell.seed}", num_done / len(cells))
    return [_require(place.folder, cell) for cell in cells]


def run_all(
    task: Callable[[T], None], items: Sequence[T], num_workers: int | None = None
) -> Iterator[T]:
    """Do a task for every item, in processes of one thread each; give each item when it is done.

    Args:
        task: what can be sent to a process; it writes its result itself.
        items: as `task` takes them.
        num_workers: processes; None for one per core, 1 for this process alone.

    Raises:
        JobError: a process died.
    """
    num_workers = num_workers or os.cpu_count() or 1
    if num_workers == 1 or len(items) <= 1:
        with use_threads(1):
            for item in items:
                task(item)
                yield item
        return
    # Spawned, since torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(num_workers, len(items)),
        mp_context=context,
        initializer=torch.set_num_threads,
        initargs=(1,),
    )
    try:
        with _holding_interrupts():  # all processes start at the first item
            waiting: dict[Future[None], T] = {pool.submit(task, item): item for item in items}
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                yield waiting.pop(future)
    except BrokenProcessPool:
        raise JobError(
            "a process of the benchmark died (out of memory?); run the same command again to go on"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _holding_interrupts() -> Iterator[None]:
    """Processes started here never see Ctrl-C: a cell that is under way ends and is written.

    To ignore it once they run would be too late, since importing torch takes seconds. A Ctrl-C
    that comes meanwhile reaches this process when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _require(folder: Path, cell: Cell) -> Outcome:
    outcome = read_outcome(folder, cell)
    if outcome is None:
        raise JobError(f"'{cell.find_path(folder)}' vanished while the benchmark ran; run it again")
    return outcome
