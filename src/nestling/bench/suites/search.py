"""Equal random search: every method gets the same number of trials on streams kept for tuning."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nestling.bench.rivals.methods_by_name import find_method
from nestling.bench.rivals.tunable import draw_settings
from nestling.bench.suites.cell_files import Cell, Outcome
from nestling.bench.suites.parallel_cells import CellFolders, Progress, run_cells
from nestling.core.errors import JobError
from nestling.store import write_whole

SEEDS = (100, 101, 102)  # of validation streams; no result uses them
NUM_TRIALS = 8


@dataclass(frozen=True)
class Choice:
    """What the search found for one method.

    Attributes:
        method: its name.
        settings: of the best trial; empty for a method with nothing to tune.
        scores: mean over SEEDS of each trial's measure; 0 for a trial that failed.
    """

    method: str
    settings: Mapping[str, float]
    scores: Sequence[float]


def list_trials(suite: str, method: str, num_trials: int) -> list[Cell]:
    """The cells of a method's search; none if it has nothing to tune.

    >>> [(c.trial, c.seed) for c in list_trials("split-mnist", "finetune", 2)]
    [(0, 100), (0, 101), (0, 102), (1, 100), (1, 101), (1, 102)]
    >>> list_trials("split-mnist", "default", 8)
    []
    """
    found = find_method(method)
    if not found.space:
        return []
    return [
        Cell(suite, "validation", method, seed, draw_settings(found, trial), trial)
        for trial in range(num_trials)
        for seed in SEEDS
    ]


def search(
    suite: str,
    methods: Sequence[str],
    num_trials: int,
    place: CellFolders,
    *,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Choice]:
    """Tune every method with the same number of trials; resumable, cell by cell.

    A trial is drawn from the method's space by its number alone (trial 0 is the start values),
    run on the validation streams of SEEDS, and judged by mean ACC, or by mean prequential
    accuracy where the suite is an ordered stream. The choices are also written to search.json.

    Args:
        suite: name, or "module:function".
        methods: names.
        num_trials: per method, at least 1.
        place: where to read and write.
        num_workers: see `run_cells`.
        progress: see `run_cells`.

    Returns: method -> what was chosen.

    Raises:
        JobError: fewer than one trial, or a method that failed in every trial.
    """
    if num_trials < 1:
        raise JobError(f"{num_trials} trials; give at least 1")
    trials = {method: list_trials(suite, method, num_trials) for method in methods}
    cells = [cell for listed in trials.values() for cell in listed]
    outcomes = run_cells(cells, place, num_workers=num_workers, progress=progress)
    found = {
        method: choose(method, [one for one in outcomes if one.cell.method == method])
        for method in methods
    }
    _write(place.folder, num_trials, found)
    return found


def choose(method: str, outcomes: Sequence[Outcome]) -> Choice:
    """The best trial; the earlier of equals.

    Raises:
        JobError: no trial went through.
    """
    if not outcomes:
        return Choice(method, {}, [])
    by_trial: dict[int, list[Outcome]] = {}
    for one in outcomes:
        by_trial.setdefault(one.cell.trial or 0, []).append(one)
    scores = [_score(by_trial[trial]) for trial in sorted(by_trial)]
    if all(one.failure for one in outcomes):
        raise JobError(f"method {method!r} failed in every trial: {outcomes[0].failure}")
    best = max(range(len(scores)), key=scores.__getitem__)
    return Choice(method, dict(by_trial[best][0].cell.settings), scores)


def read_measure(figures: Mapping[str, float | None]) -> float:
    """What a run is judged by: prequential accuracy if there is one, else ACC."""
    prequential = figures.get("prequential")
    found = figures.get("acc") if prequential is None else prequential
    return 0.0 if found is None else found


def _score(outcomes: Sequence[Outcome]) -> float:
    if any(one.failure for one in outcomes):
        return 0.0
    return statistics.mean(read_measure(one.summarize()) for one in outcomes)


def _write(folder: Path, num_trials: int, found: Mapping[str, Choice]) -> None:
    data = {
        "num_trials": num_trials,
        "seeds": SEEDS,
        "methods": {
            name: {"settings": dict(one.settings), "scores": list(one.scores)}
            for name, one in found.items()
        },
    }
    write_whole(folder / "search.json", json.dumps(data, indent=1) + "\n")
