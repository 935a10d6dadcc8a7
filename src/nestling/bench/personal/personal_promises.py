"""Suite `personal`, part by part: one default, and no setting of it for any case.

Each part's figures are written as soon as they are there, so that an interrupted run goes on.
All of it with one thread.
"""

import functools
from collections.abc import Callable, Sequence

from nestling.bench.personal.answering_rate import measure_answers
from nestling.bench.personal.changing_streams import measure_changing
from nestling.bench.personal.first_events import measure_first_events
from nestling.bench.personal.gate_cost import measure_gate
from nestling.bench.personal.levels_of_persons import measure_own_levels
from nestling.bench.personal.many_persons import measure_many
from nestling.bench.personal.person_looks import (
    PERSON,
    SHIFT,
    build_person_figures,
    measure_kinds,
    measure_shifts,
    measure_writers,
)
from nestling.bench.personal.watch_minutes import measure_watch
from nestling.bench.promises.kept_parts import Measure, measure_parts
from nestling.bench.result import SuiteResult
from nestling.bench.suites.parallel_cells import CellFolders, Progress
from nestling.bench.timing import Figures, Rows
from nestling.data.persons import FURTHER, KINDS

NUM_SEEDS = 5
MeasureSeeds = Callable[[Sequence[int], CellFolders], tuple[Figures, Rows]]

# Name -> what measures it with every seed; a further figure is a further line.
SEEDED_PARTS: dict[str, MeasureSeeds] = {
    "first-events": measure_first_events,
    "writers": measure_writers,
    "kinds": functools.partial(measure_kinds, KINDS),
    "own-levels": measure_own_levels,
    "further": functools.partial(measure_kinds, FURTHER),
    "person-mnist": measure_shifts,
    "watch-users": measure_watch,
    "conflict": functools.partial(measure_changing, "conflict"),
    "drift": functools.partial(measure_changing, "drift"),
}
# Costs, which no seed changes: rounds are repeated instead.
COST_PARTS: dict[str, Measure] = {
    "gate-cost": measure_gate,
    "answerer": measure_answers,
    "many": lambda _: measure_many(0),
}
# Parts whose rows are judged together: prefix of the figures -> parts, and the looks.
TOGETHER: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "person": (("writers", "kinds"), PERSON.looks),
    "further_person": (("further",), PERSON.looks),
    "person_mnist": (("person-mnist",), SHIFT.looks),
}


def list_parts(num_seeds: int) -> dict[str, Measure]:
    """Every part by name, those with seeds made for seeds 0 to `num_seeds` - 1.

    >>> list(list_parts(1))[:3]
    ['first-events', 'writers', 'kinds']
    """
    seeds = tuple(range(num_seeds))
    seeded = {name: functools.partial(part, seeds) for name, part in SEEDED_PARTS.items()}
    return {**seeded, **COST_PARTS}


def run(
    place: CellFolders,
    names: Sequence[str] = (),
    *,
    num_seeds: int = NUM_SEEDS,
    progress: Progress | None = None,
) -> SuiteResult:
    """Measure parts, each once by the same code on the same machine with as many seeds.

    Args:
        place: parts are kept in its folder, in `parts/`.
        names: of parts; none for all.
        num_seeds: of data, weights and orders.
        progress: told what is measured next, and the share that is done.

    Returns: the figures of these parts; `person_...` of `writers` and `kinds` together, see
        `build_person_figures`.

    Raises:
        SettingError: no such part.
        JobError: a part's file is damaged.
        DataError: data that cannot be had.
    """
    figures, rows = measure_parts(
        list_parts(num_seeds),
        place,
        names,
        settings={"num_seeds": num_seeds},
        progress=progress,
    )
    for prefix, (parts, looks) in TOGETHER.items():
        figures |= build_person_figures([r for r in rows if r["part"] in parts], looks, prefix)
    return SuiteResult("personal", figures, rows, num_threads=1)
