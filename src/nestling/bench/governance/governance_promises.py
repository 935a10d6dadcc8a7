"""Suite `governance`, part by part: what gates find, what guards keep out, what a contract costs.

Each part's figures are written as soon as they are there, so that an interrupted run goes on.
All of it with one thread.
"""

import functools
from collections.abc import Callable, Sequence

from nestling.bench.governance.contract_cost import measure_cost
from nestling.bench.governance.fairness_check import measure_fairness
from nestling.bench.governance.planted_bias import measure_bias
from nestling.bench.governance.poisoning import measure_poison
from nestling.bench.governance.rollback_cost import measure_rollback
from nestling.bench.promises.kept_parts import Measure, measure_parts
from nestling.bench.result import SuiteResult
from nestling.bench.suites.parallel_cells import CellFolders, Progress
from nestling.bench.timing import Figures, Rows

NUM_SEEDS = 10
MeasureSeeds = Callable[[Sequence[int], CellFolders], tuple[Figures, Rows]]

# Name -> what measures it with every seed, and which at most: a seed of poison is 36 streams, and
# its settings were chosen on seeds 0 and 1.
SEEDED_PARTS: dict[str, tuple[MeasureSeeds, range]] = {
    "planted-bias": (measure_bias, range(10)),
    "poison": (measure_poison, range(10, 15)),
}
# What no seed changes: figures of one set of predictions, and costs, of which rounds are repeated.
PLAIN_PARTS: dict[str, Measure] = {
    "fairness": measure_fairness,
    "rollback": lambda _: (measure_rollback(), []),
    "cost": measure_cost,
}


def list_parts(num_seeds: int) -> dict[str, Measure]:
    """Every part by name, those with seeds made for the first `num_seeds` of theirs or fewer.

    >>> list(list_parts(1))[:2]
    ['planted-bias', 'poison']
    """
    seeded = {
        name: functools.partial(part, tuple(seeds[:num_seeds]))
        for name, (part, seeds) in SEEDED_PARTS.items()
    }
    return {**seeded, **PLAIN_PARTS}


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
        num_seeds: of data, bias, poison and orders.
        progress: told what is measured next, and the share that is done.

    Returns: the figures of these parts, with a row per run, guard, group figure or side.

    Raises:
        SettingError: no such part.
        JobError: a part's file is damaged.
        DataError: data that cannot be had.
        MissingExtra: fairlearn or scikit-learn is not installed.
    """
    figures, rows = measure_parts(
        list_parts(num_seeds), place, names, settings={"num_seeds": num_seeds}, progress=progress
    )
    return SuiteResult("governance", figures, rows, num_threads=1)
