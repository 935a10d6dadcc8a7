"""A run's records brought together: curves, matrices and words, means over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nestling.core.errors import DataError
from nestling.judge import AccuracyMatrix, Estimate, estimate_mean, steps_to_fraction
from nestling.ledger.run import METRICS, Run

Record = dict[str, object]
NOTABLE = 0.05  # accuracy that must be lost before it is called lost
FIGURES = ("acc", "forgetting", "bwt", "steps_to_adapt", "seconds_per_example")


@dataclass(frozen=True)
class MethodDigest:
    """One method of a run, means over its seeds.

    Attributes:
        name: of the method.
        num_seeds: how many seeds it was run with.
        curves: experience -> (examples seen, accuracy) at every evaluation since it began.
        matrix: rows of accuracies after each experience; NaN where not measured.
        adaptation: experience -> examples until 90 % of its own best; NaN if never.
        figures: figure -> mean and interval over seeds.
        level_curves: level -> rows of (step, num_updates, relative_change) of the first seed.
    """

    name: str
    num_seeds: int
    curves: dict[str, list[tuple[float, float]]]
    matrix: list[list[float]]
    adaptation: dict[str, float]
    figures: dict[str, Estimate]
    level_curves: dict[str, list[tuple[float, float, float]]]


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


def digest_method(run: Run, method: str) -> MethodDigest:
    """Bring together what one method did."""
    names = list_experiences(run)
    by_seed: dict[object, list[Record]] = {}
    for record in run.select("evaluation"):
        if record["method"] == method:
            by_seed.setdefault(record["seed"], []).append(record)
    runs = list(by_seed.values())
    summaries = [r for r in run.select("summary") if r["method"] == method]
    figures = {}
    for figure in FIGURES:
        values = [read_float(r.get(figure)) for r in summaries]
        # A seed without the figure (it never adapted) must not flatter the mean of the others.
        if values and not any(math.isnan(value) for value in values):
            figures[figure] = estimate_mean(values)
    return MethodDigest(
        name=method,
        num_seeds=len(runs),
        curves={name: average_curve([follow(one, name) for one in runs]) for name in names},
        matrix=_average_matrices([read_matrix(one, names) for one in runs]),
        adaptation={
            name: _average_adaptation([_measure_adaptation(one, index, name) for one in runs])
            for index, name in enumerate(names)
            if index
        },
        figures=figures,
        level_curves=_follow_levels(run, method, next(iter(by_seed), None)),
    )


def follow(records: Sequence[Record], name: str) -> list[tuple[float, float]]:
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


def describe_outcome(digest: MethodDigest, names: Sequence[str]) -> list[str]:
    """What was learned, kept and lost, in plain words.

    Args:
        digest: of one method.
        names: experiences in order.

    Returns: one sentence per experience, and one on the whole.
    """
    sentences = []
    for index, name in enumerate(names):
        before, after = digest.matrix[index][index], digest.matrix[-1][index]
        if math.isnan(before):
            sentences.append(f"'{name}' has not been learned yet.")
        elif math.isnan(after) or index == len(names) - 1:
            sentences.append(f"Learned: '{name}', {before:.1%} right.")
        elif before - after > NOTABLE:
            sentences.append(
                f"Lost: '{name}' fell from {before:.1%} when it was learned to {after:.1%}."
            )
        elif after - before > NOTABLE:
            sentences.append(
                f"Gained: '{name}' rose from {before:.1%} to {after:.1%} by what came later."
            )
        else:
            sentences.append(f"Kept: '{name}', {before:.1%} when it was learned, {after:.1%} now.")
    if not math.isnan(digest.matrix[-1][-1]):
        acc = AccuracyMatrix(digest.matrix).acc()
        sentences.append(f"On all experiences together {acc:.1%} are right at the end.")
    return sentences


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


def _average_matrices(matrices: Sequence[list[list[float]]]) -> list[list[float]]:
    size = len(matrices[0]) if matrices else 0
    return [[mean([matrix[i][j] for matrix in matrices]) for j in range(size)] for i in range(size)]


def _average_adaptation(values: Sequence[float]) -> float:
    """NaN, for never, if any seed never got there."""
    return math.fsum(values) / len(values) if values else math.nan


def _measure_adaptation(records: Sequence[Record], index: int, name: str) -> float:
    curve = follow([r for r in records if r["during"] == index], name)
    if not curve:
        return math.nan
    start = curve[0][0]
    seen = [int(step - start) for step, _ in curve]
    reached = steps_to_fraction(seen, [accuracy for _, accuracy in curve])
    return math.nan if reached is None else float(reached)


def _follow_levels(
    run: Run, method: str, seed: object
) -> dict[str, list[tuple[float, float, float]]]:
    found: dict[str, list[tuple[float, float, float]]] = {}
    for record in run.select("level"):
        if record.get("method") == method and record.get("seed") == seed:
            row = (
                read_float(record["step"]),
                read_float(record["num_updates"]),
                read_float(record["relative_change"]),
            )
            found.setdefault(str(record["level"]), []).append(row)
    return found
