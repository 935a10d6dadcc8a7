"""Results of suite `in-context` as the tables that the documentation shows."""

from collections.abc import Mapping
from typing import Any


def format_table(data: Mapping[str, Any]) -> str:
    """Markdown table of the accuracies of each model on each task, from a result's JSON data.

    Args:
        data: what `nestling bench in-context --json FILE` wrote.

    Returns: a row per model, a column per task: mean accuracy at the training length and beyond it;
        for formal languages, in brackets, the least share of whole strings over the seeds.

    >>> row = {"task": "recall", "model": "cms", "within": 1.0, "beyond": 0.75, "whole": 0.5}
    >>> print(format_table({"rows": [row]}))
    | model | recall |
    |---|---|
    | cms | 100.0 / 75.0 % |
    """
    rows = data["rows"]
    tasks = list(dict.fromkeys(str(row["task"]) for row in rows))
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    lines = [f"| model | {' | '.join(tasks)} |", "|---" * (1 + len(tasks)) + "|"]
    for model in models:
        cells = [
            _format_cell([row for row in rows if (row["task"], row["model"]) == (task, model)])
            for task in tasks
        ]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def format_sizes(data: Mapping[str, Any]) -> str:
    """Markdown table of parameters, fast numbers, learning rate and seconds of each model and task.

    Args:
        data: as of `format_table`.

    >>> row = {"task": "recall", "model": "cms", "num_parameters": 9, "fast": 4, "lr": 0.01,
    ...        "seconds": 3.14}
    >>> print(format_sizes({"rows": [row]}))
    | task | model | parameters | fast state | rate | seconds a run |
    |---|---|---|---|---|---|
    | recall | cms | 9 | 4 | 0.01 | 3.1 |
    """
    seconds: dict[tuple[str, ...], list[float]] = {}
    for row in data["rows"]:
        shown = (row["task"], row["model"], f"{row['num_parameters']:,}", f"{row['fast']:,}")
        seconds.setdefault((*shown, f"{row['lr']:g}"), []).append(row["seconds"])
    lines = ["| task | model | parameters | fast state | rate | seconds a run |", "|---" * 6 + "|"]
    lines += [
        f"| {' | '.join(shown)} | {sum(taken) / len(taken):.1f} |"
        for shown, taken in seconds.items()
    ]
    return "\n".join(lines)


def _format_cell(runs: list[Mapping[str, Any]]) -> str:
    """Means of runs of one model on one task."""
    if not runs:
        return ""
    within, beyond = (sum(run[name] for run in runs) / len(runs) for name in ("within", "beyond"))
    text = f"{100 * within:.1f} / {100 * beyond:.1f} %"
    if runs[0]["task"] in ("recall", "labels"):
        return text
    return f"{text} ({100 * min(run['whole'] for run in runs):.0f} %)"
