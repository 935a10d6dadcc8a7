"""A run's records brought together: curves, matrices and words, means over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nestling.judge import AccuracyMatrix, Estimate, estimate_mean, steps_to_fraction
from nestling.report.reading import (
    Record,
    average_curve,
    find_one_test,
    group_by_seed,
    list_accuracies,
    list_experiences,
    mean,
    read_float,
    read_int,
    read_matrix,
)
from nestling.report.retention import RetentionFigures, measure_along_the_way, measure_retention
from nestling.report.run_folder import Run

NOTABLE = 0.05  # accuracy that must be lost before it is called lost
FIGURES = ("acc", "forgetting", "bwt", "steps_to_adapt", "seconds_per_example")
ALONG_THE_WAY = ("worst", "stability_gap")


@dataclass(frozen=True)
class MethodDigest:
    """One method of a run, means over its seeds.

    Attributes:
        name: of the method.
        seeds: that it was run with, in order of appearance.
        curves: experience -> (examples seen, accuracy) at every evaluation since it began; of one
            test set for all, its name -> the same since the first began.
        matrix: rows of accuracies after each experience; NaN where not measured.
        adaptation: experience -> examples until 90 % of its own best; NaN if never.
        figures: figure -> mean and interval over seeds.
        seed_figures: seed -> figure -> value; what was not measured is left out.
        retention: of every experience that others followed.
        level_curves: level -> rows of (step, num_updates, relative_change) of the first seed.
    """

    name: str
    seeds: list[int]
    curves: dict[str, list[tuple[float, float]]]
    matrix: list[list[float]]
    adaptation: dict[str, float]
    figures: dict[str, Estimate]
    seed_figures: dict[int, dict[str, float]]
    retention: list[RetentionFigures]
    level_curves: dict[str, list[tuple[float, float, float]]]


def digest_method(run: Run, method: str) -> MethodDigest:
    """Bring together what one method did."""
    names, test = list_experiences(run), find_one_test(run)
    by_seed = group_by_seed(run, method)
    runs = list(by_seed.values())
    compared = [] if test else names  # of one test set, experiences cannot be compared
    seed_figures = {seed: measure_along_the_way(one, compared) for seed, one in by_seed.items()}
    finished: set[int] = set()
    for record in run.select("summary"):
        if record["method"] == method:
            finished.add(read_int(record["seed"]))
            found = {figure: read_float(record.get(figure)) for figure in FIGURES}
            known = {key: value for key, value in found.items() if not math.isnan(value)}
            seed_figures.setdefault(read_int(record["seed"]), {}).update(known)
    return MethodDigest(
        name=method,
        seeds=list(by_seed),
        curves={
            test or name: average_curve([list_accuracies(one, name) for one in runs])
            for name in (names[:1] if test else names)
        },
        matrix=_average_matrices([read_matrix(one, names) for one in runs]),
        adaptation={
            name: _average_adaptation([_measure_adaptation(one, index, name) for one in runs])
            for index, name in enumerate(compared)
            if index
        },
        figures=_average_figures([seed_figures[s] for s in finished or seed_figures]),
        seed_figures=seed_figures,
        retention=measure_retention(runs, compared),
        level_curves=_follow_levels(run, method, next(iter(by_seed), None)),
    )


def describe_outcome(digest: MethodDigest, names: Sequence[str], test: str = "") -> list[str]:
    """What was learned, kept and lost, in plain words.

    Args:
        digest: of one method.
        names: experiences in order.
        test: name of the one test set of all experiences; "" if each has its own.

    Returns: one sentence per experience, and one on the whole.
    """
    sentences = []
    for index, name in enumerate(names):
        before, after = digest.matrix[index][index], digest.matrix[-1][index]
        if test and not math.isnan(before):
            sentences.append(f"After '{name}': {before:.1%} of '{test}' are right.")
        elif math.isnan(before):
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
    if not test and not math.isnan(digest.matrix[-1][-1]):
        acc = AccuracyMatrix(digest.matrix).acc()
        sentences.append(f"On all experiences together {acc:.1%} are right at the end.")
    return sentences


def _average_figures(rows: Sequence[dict[str, float]]) -> dict[str, Estimate]:
    """A seed without a figure (it never adapted) must not flatter the mean of the others."""
    return {
        figure: estimate_mean([row[figure] for row in rows])
        for figure in (*FIGURES, *ALONG_THE_WAY)
        if rows and all(figure in row for row in rows)
    }


def _average_matrices(matrices: Sequence[list[list[float]]]) -> list[list[float]]:
    size = len(matrices[0]) if matrices else 0
    return [[mean([matrix[i][j] for matrix in matrices]) for j in range(size)] for i in range(size)]


def _average_adaptation(values: Sequence[float]) -> float:
    """NaN, for never, if any seed never got there."""
    return math.fsum(values) / len(values) if values else math.nan


def _measure_adaptation(records: Sequence[Record], index: int, name: str) -> float:
    curve = list_accuracies([r for r in records if r["during"] == index], name)
    if not curve:
        return math.nan
    start = curve[0][0]
    known = [(int(step - start), value) for step, value in curve if not math.isnan(value)]
    if not known:
        return math.nan
    reached = steps_to_fraction([step for step, _ in known], [value for _, value in known])
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
