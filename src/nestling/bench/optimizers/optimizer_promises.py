"""Suite `optim`: the paper's toy of figure 4, and an MLP, a ViT and a language model.

Every optimizer has the same number of trials on seeds of its own. Each part's figures are written
as soon as they are there, so that an interrupted run goes on. All of it with one thread.
"""

import functools
from collections.abc import Sequence

from nestling.bench.optimizers.figure_toy import measure_toy
from nestling.bench.optimizers.optimizer_tasks import TASKS
from nestling.bench.optimizers.tuned_training import compare_optimizers
from nestling.bench.promises.kept_parts import Measure, measure_parts
from nestling.bench.result import SuiteResult
from nestling.bench.suites.parallel_cells import CellFolders, Progress
from nestling.bench.timing import Figures, Rows

NUM_SEEDS = 3


def list_parts(num_seeds: int) -> dict[str, Measure]:
    """Every part by name, measured with test seeds 0 to `num_seeds` - 1.

    >>> list(list_parts(1))
    ['toy', 'mlp', 'vit', 'lm']
    """
    trained = {name: functools.partial(_measure_task, name, num_seeds) for name in TASKS}
    return {"toy": lambda _: measure_toy(num_seeds), **trained}


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
        num_seeds: of starting points, weights and batches in the final runs.
        progress: told what is measured next, and the share that is done.

    Returns: the figures of these parts, see `measure_toy` and `compare_optimizers`, with a row per
        optimizer.

    Raises:
        SettingError: no such part.
        JobError: a part's file is damaged.
        DataError: data that cannot be had.
    """
    figures, rows = measure_parts(
        list_parts(num_seeds), place, names, settings={"num_seeds": num_seeds}, progress=progress
    )
    return SuiteResult("optim", figures, rows, num_threads=1)


def _measure_task(name: str, num_seeds: int, place: CellFolders) -> tuple[Figures, Rows]:
    return compare_optimizers(TASKS[name](place), name=name, num_seeds=num_seeds)
