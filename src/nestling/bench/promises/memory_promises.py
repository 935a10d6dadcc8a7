"""Suite `memory`: what the default's memory reaches, and what learning and fresh answers cost.

A list of parts by name; each part's figures are written as soon as they are there, so that an
interrupted run goes on. All of it with one thread.
"""

import functools
import gc
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from nestling.bench.promises.default_costs import measure_answering, measure_learning
from nestling.bench.promises.sleep_accuracy import measure_sleeping
from nestling.bench.promises.suite_accuracies import measure_encoded, measure_pixels
from nestling.bench.result import SuiteResult
from nestling.bench.suites.cell_files import identify_code
from nestling.bench.suites.parallel_cells import CellFolders, Progress
from nestling.bench.timing import Figures, Rows
from nestling.core.errors import JobError, SettingError, suggest
from nestling.core.machine import fingerprint, use_threads
from nestling.store import write_whole

Measure = Callable[[CellFolders], tuple[Figures, Rows]]


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
    for name in names:
        if name not in PARTS:
            raise SettingError(f"part {name!r}; {suggest(name, PARTS)}")
    chosen = [name for name in PARTS if not names or name in names]
    figures: Figures = {}
    rows: Rows = []
    with use_threads(1):
        for number, name in enumerate(chosen):
            if progress is not None:
                progress(name, number / len(chosen))
            found, seen = _measure_once(name, place)
            figures |= found
            rows += [{"part": name, **row, "code": identify_code()} for row in seen]
        return SuiteResult("memory", figures, rows, num_threads=1)


def _measure_once(name: str, place: CellFolders) -> tuple[Figures, Rows]:
    path = place.folder / "parts" / f"{name}.json"
    key: dict[str, object] = {"part": name, "code": identify_code(), "machine": fingerprint()}
    known = _read_part(path, key)
    if known is not None:
        return known
    gc.collect()  # a model and its memory refer to each other, and the last part's are large
    figures, rows = PARTS[name](place)
    write_whole(path, json.dumps({**key, "figures": figures, "rows": rows}, indent=1) + "\n")
    return figures, rows


def _read_part(path: Path, key: dict[str, object]) -> tuple[Figures, Rows] | None:
    """What the file holds; None if there is none, or if it was measured otherwise."""
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if any(data[name] != value for name, value in key.items()):
            return None
        figures = {str(name): float(value) for name, value in data["figures"].items()}
        return figures, [dict(row) for row in data["rows"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(
            f"'{path}' is damaged ({type(error).__name__}); delete it to measure it again"
        ) from None
