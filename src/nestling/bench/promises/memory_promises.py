"""Suite `memory`: what the default's memory reaches, and what learning and fresh answers cost.

A list of parts by name; each part's figures are written as soon as they are there, so that an
interrupted run goes on. All of it with one thread.
"""

import functools
from collections.abc import Sequence

from nestling.bench.promises.default_costs import measure_answering, measure_learning
from nestling.bench.promises.kept_parts import Measure, measure_parts
from nestling.bench.promises.sleep_accuracy import measure_sleeping
from nestling.bench.promises.suite_accuracies import measure_encoded, measure_pixels
from nestling.bench.result import SuiteResult
from nestling.bench.suites.parallel_cells import CellFolders, Progress

# Name -> what measures it; a further figure is a further line. The shortest come first.
PARTS: dict[str, Measure] = {
    "split-mnist": functools.partial(measure_pixels, "split-mnist"),
    "split-fashion": functools.partial(measure_pixels, "split-fashion"),
    "permuted-mnist": functools.partial(measure_pixels, "permuted-mnist"),
    "rotated-mnist": functools.partial(measure_pixels, "rotated-mnist"),
    "cifar10-pixels": functools.partial(
        measure_pixels, "split-cifar10", label="split_cifar10_pixels"
    ),
    "cifar10-encoder": functools.partial(
        measure_encoded, "split-cifar10", label="split_cifar10_encoder"
    ),
    "predict": functools.partial(measure_answering, 1_500),
    "predict-pretrained": functools.partial(measure_answering, 3_584, pretrained=True),
    "learn-b10": functools.partial(measure_learning, 10),
    "learn-b32": functools.partial(measure_learning, 32),
    "learn-b128": functools.partial(measure_learning, 128),
    "split-mnist-full": functools.partial(measure_pixels, "split-mnist-full"),
    "split-fashion-full": functools.partial(measure_pixels, "split-fashion-full"),
    "large-split-mnist-full": functools.partial(measure_pixels, "split-mnist-full", size="large"),
    "large-split-fashion-full": functools.partial(
        measure_pixels, "split-fashion-full", size="large"
    ),
    "sleep": functools.partial(measure_sleeping),
}


def run(
    place: CellFolders, names: Sequence[str] = (), *, progress: Progress | None = None
) -> SuiteResult:
    """Measure parts, each once by the same code on the same machine.

    Args:
        place: parts are kept in its folder, in `parts/`; one of other code or another machine is
            measured again.
        names: of PARTS; none for all.
        progress: told what is measured next, and the share that is done.

    Returns: the figures of these parts, `acc_...` and `forgetting_...` in per cent; each row says
        its part and the code that measured it.

    Raises:
        SettingError: no such part.
        JobError: a part's file is damaged.
        DataError: data that cannot be had.
    """
    figures, rows = measure_parts(PARTS, place, names, progress=progress)
    return SuiteResult("memory", figures, rows, num_threads=1)
