"""Results of suite `in-context` as the tables that the documentation shows."""

import statistics
from collections.abc import Mapping
from typing import Any

from nestling.bench.table import format_markdown


def format_table(data: Mapping[str, Any]) -> str:
    """Markdown table of the accuracies of each model on each task, from a result's JSON data.

    Args:
        data: what `nestling bench in-context --json FILE` wrote.

    Returns: a row per model, a column per task: mean accuracy at the training length / beyond it,
        and in brackets the least share of longer strings without an error over the seeds.

    >>> row = {"task": "recall", "model": "cms", "within": 1.0, "beyond": 0.75, "whole": 0.5}
    >>> print(format_table({"rows": [row]}))
    | model | recall |
    |---|---|
    | cms | 100.0 / 75.0 % (50 %) |
    """
    runs: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in data["rows"]:
        runs.setdefault(row["model"], {}).setdefault(row["task"], []).append(row)
    return format_markdown(
        [
            {"model": model, **{task: _format_cell(found) for task, found in tasks.items()}}
            for model, tasks in runs.items()
        ]
    )


def format_sizes(data: Mapping[str, Any]) -> str:
    """Markdown table of parameters, fast numbers, learning rate and seconds of each model and task.

    Args:
        data: as of `format_table`.

    >>> row = {"task": "recall", "model": "cms", "num_parameters": 9000, "fast": 4, "lr": 0.01,
    ...        "seconds": 3.14159}
    >>> print(format_sizes({"rows": [row]}))
    | task | model | parameters | fast state | rate | seconds a run |
    |---|---|---|---|---|---|
    | recall | cms | 9,000 | 4 | 0.01 | 3.1 |
    """
    runs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in data["rows"]:
        runs.setdefault((row["task"], row["model"]), []).append(row)
    return format_markdown(
        [
            {
                "task": task,
                "model": model,
                "parameters": found[0]["num_parameters"],
                "fast state": found[0]["fast"],
                "rate": found[0]["lr"],
                "seconds a run": f"{statistics.mean(run['seconds'] for run in found):.1f}",
            }
            for (task, model), found in runs.items()
        ]
    )


def _format_cell(runs: list[Mapping[str, Any]]) -> str:
    """Means of runs of one model on one task."""
    within, beyond = (
        100 * statistics.mean(run[name] for run in runs) for name in ("within", "beyond")
    )
    whole = 100 * min(run["whole"] for run in runs)
    return f"{within:.1f} / {beyond:.1f} % ({whole:.0f} %)"
