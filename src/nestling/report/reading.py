"""Reading the records of a run: names, curves, matrices, numbers."""

import math
from collections.abc import Sequence

from nestling.core.errors import DataError
from nestling.report.run_folder import METRICS, Run

Record = dict[str, object]


def list_experiences(run: Run) -> list[str]:
    """Names of the experiences in the order in which they came.

    Raises:
        DataError: one is missing between others, so that their indices mean nothing.
    """
    named = {read_int(r["index"]): str(r["name"]) for r in run.select("experience")}
    missing = next((index for index in range(len(named)) if index not in named), None)
    if missing is not None:
        raise DataError(
            f"'{run.folder / METRICS}' has no record of experience {missing}, but of later ones; "
            f"{run.note or 'the line may have been deleted'}"
        )
    return [named[index] for index in sorted(named)]


def find_one_test(run: Run) -> str:
    """What the one test set of all experiences is called; "" if each has its own."""
    tests = {record.get("test") for record in run.select("experience")}
    found = tests.pop() if len(tests) == 1 else None
    return str(found) if found and len(list_experiences(run)) > 1 else ""


def list_methods(run: Run) -> list[str]:
    """Names of the methods that were evaluated, in order of appearance."""
    return list(dict.fromkeys(str(record["method"]) for record in run.select("evaluation")))


def list_boundaries(run: Run) -> list[float]:
    """Examples seen at the end of each experience, mean over methods and seeds."""
    ends: dict[int, list[float]] = {}
    for record in run.select("evaluation"):
        if record["after"] is not None:
            ends.setdefault(read_int(record["after"]), []).append(read_float(record["step"]))
    return [mean(ends[index]) for index in sorted(ends)]


def group_by_seed(run: Run, method: str) -> dict[int, list[Record]]:
    """Seed -> evaluations of one method with it, in order."""
    by_seed: dict[int, list[Record]] = {}
    for record in run.select("evaluation"):
        if record["method"] == method:
            by_seed.setdefault(read_int(record["seed"]), []).append(record)
    return by_seed


def list_accuracies(records: Sequence[Record], name: str) -> list[tuple[float, float]]:
    """(examples seen, accuracy) of one experience in one run, in order."""
    return [
        (read_float(record["step"]), accuracies[name])
        for record in records
        if name in (accuracies := read_accuracies(record))
    ]


def average_curve(
    curves: Sequence[Sequence[tuple[float, float]]],
) -> list[tuple[float, float]]:
    """Point by point over seeds; as long as the shortest.

    >>> average_curve([[(0.0, 0.2), (10.0, 1.0)], [(0.0, 0.4)]])
    [(0.0, 0.3)]
    """
    return [
        (mean([step for step, _ in points]), round(mean([value for _, value in points]), 12))
        for points in zip(*curves, strict=False)
    ]


def read_matrix(records: Sequence[Record], names: Sequence[str]) -> list[list[float]]:
    """The accuracy matrix of one run, NaN where nothing was measured."""
    matrix = [[math.nan] * len(names) for _ in names]
    for record in records:
        after = record["after"]
        # A run stopped at the wrong moment has measured an experience that it did not record.
        if after is not None and read_int(after) < len(names):
            found = read_accuracies(record)
            matrix[read_int(after)] = [found.get(name, math.nan) for name in names]
    return matrix


def read_accuracies(record: Record) -> dict[str, float]:
    """Experience -> accuracy of an evaluation."""
    found = record["accuracies"]
    assert isinstance(found, dict)
    return {str(name): read_float(value) for name, value in found.items()}


def read_float(value: object) -> float:
    """A JSON number; NaN for null."""
    return float(value) if isinstance(value, int | float) else math.nan


def read_int(value: object) -> int:
    """A JSON number that counts."""
    return int(read_float(value))


def mean(values: Sequence[float]) -> float:
    """Mean of what is not NaN; NaN if nothing is.

    >>> mean([1.0, math.nan, 2.0])
    1.5
    """
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
