"""Suite `in-context`: each memory and its rivals on each task, a part per task and model.

Each part's figures are written as soon as they are there, so that an interrupted run goes on.
All of it with one thread.
"""

import difflib
import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from nestling.bench.incontext.context_models import CONTEXT_MODELS
from nestling.bench.incontext.context_runs import make_reader, tune_and_run
from nestling.bench.incontext.context_state import count_fast
from nestling.bench.incontext.context_tasks import CONTEXT_TASKS
from nestling.bench.promises.kept_parts import Measure, measure_parts
from nestling.bench.result import SuiteResult
from nestling.bench.streams.stream_cells import identify_files
from nestling.bench.suites.parallel_cells import CellFolders, Progress
from nestling.bench.timing import Figures, Rows
from nestling.core.errors import SettingError

NUM_SEEDS = 3
# What a part's figures depend on: other code in the package leaves them as they are.
CODE = (
    *("bench/incontext", "bench/blocks/formal_languages.py", "memory/associative"),
    *("models/continuum", "models/delta_memory.py"),
)
ACCURACIES = ("within", "beyond", "whole")


def measure_model(
    task: str, model: str, seeds: Sequence[int], place: CellFolders
) -> tuple[Figures, Rows]:
    """Tune a model on a task and run every test seed.

    Args:
        task: name of one of `CONTEXT_TASKS`.
        model: name of one of `CONTEXT_MODELS`.
        seeds: a run each.
        place: not used, for nothing is read.

    Returns: figures `<task>: <model>, within`, `... beyond` and `... whole`, means over the seeds,
        and `... beyond, least`, of the worst seed; a row for each seed.
    """
    del place
    known = CONTEXT_TASKS[task]
    lr, runs = tune_and_run(known, model, seeds)
    num_fast = count_fast(make_reader(known, model))
    figures = {
        f"{task}: {model}, {name}": statistics.mean(getattr(run, name) for run in runs)
        for name in ACCURACIES
    }
    figures[f"{task}: {model}, beyond, least"] = min(run.beyond for run in runs)
    rows: Rows = [
        {"task": task, "model": model, "seed": seed, "lr": lr, "fast": num_fast, **asdict(run)}
        for seed, run in zip(seeds, runs, strict=True)
    ]
    return figures, rows


def list_parts(num_seeds: int) -> dict[str, Measure]:
    """Every part by name, `<task>-<model>`.

    >>> list(list_parts(1))[:2]
    ['recall-transformer', 'recall-linear-attention']
    """
    seeds = tuple(range(num_seeds))
    return {
        f"{task}-{model}": functools.partial(measure_model, task, model, seeds)
        for task in CONTEXT_TASKS
        for model in CONTEXT_MODELS
    }


def expand_names(names: Sequence[str], parts: Mapping[str, object]) -> list[str]:
    """Names of parts, where the name of a task or of a model stands for all of its parts.

    Args:
        names: as the user gave them.
        parts: name -> part.

    >>> expand_names(["recall", "labels-cms"], {"recall-cms": 0, "recall-oja": 0})
    ['recall-cms', 'recall-oja', 'labels-cms']
    """
    found: list[str] = []
    for name in names:
        if name in CONTEXT_TASKS:
            found += [part for part in parts if part.startswith(f"{name}-")]
        elif name in CONTEXT_MODELS:
            found += [part for part in parts if part in {f"{one}-{name}" for one in CONTEXT_TASKS}]
        else:
            found.append(name)
    return found


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
        names: of parts, tasks or models; none for all.
        num_seeds: of weights and sequences.
        progress: told what is measured next, and the share that is done.

    Returns: the figures of these parts, with a row per run.

    Raises:
        SettingError: no such part.
        JobError: a part's file is damaged.
    """
    parts = list_parts(num_seeds)
    known = [*CONTEXT_TASKS, *CONTEXT_MODELS, *parts]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise SettingError(
                f"part {name!r}; a task {list(CONTEXT_TASKS)}, a model {list(CONTEXT_MODELS)}, or "
                f"both as 'recall-cms' works" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    code = identify_files(*CODE)
    figures, rows = measure_parts(
        parts,
        place,
        expand_names(names, parts),
        settings={"num_seeds": num_seeds},
        codes=dict.fromkeys(parts, code),
        progress=progress,
    )
    shown = [{**row, "part": row["task"]} for row in rows]  # a table per task
    return SuiteResult("in-context", figures, shown, num_threads=1)
