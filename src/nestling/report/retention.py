"""Retention between the ends of experiences: dips, half-lives, and paired comparisons."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nestling.judge import Estimate, compare_paired, retention_half_life, worst_case_accuracy
from nestling.report.reading import Record, list_accuracies, mean, read_int, read_matrix


@dataclass(frozen=True)
class RetentionFigures:
    """How one experience fared while later ones were learned; means over seeds.

    Attributes:
        name: of the experience.
        learned: accuracy at its end.
        worst: lowest accuracy at any evaluation since.
        last: accuracy at the last evaluation.
        half_life: examples until accuracy fell to half of its best so far, median over seeds;
            infinity if it did not.
    """

    name: str
    learned: float
    worst: float
    last: float
    half_life: float


def measure_retention(
    runs: Sequence[Sequence[Record]], names: Sequence[str]
) -> list[RetentionFigures]:
    """Retention of every experience that all runs have evaluated after its end.

    Args:
        runs: evaluations of one method, a sequence per seed.
        names: of the experiences, in order.
    """
    found = []
    for index, name in enumerate(names):
        curves = [follow_since(records, index, name) for records in runs]
        if not curves or any(len(curve) < 2 for curve in curves):
            continue
        values = [[accuracy for _, accuracy in curve] for curve in curves]
        found.append(
            RetentionFigures(
                name=name,
                learned=mean([curve[0] for curve in values]),
                worst=mean([min(curve) for curve in values]),
                last=mean([curve[-1] for curve in values]),
                half_life=statistics.median([find_half_life(curve) for curve in curves]),
            )
        )
    return found


def measure_along_the_way(records: Sequence[Record], names: Sequence[str]) -> dict[str, float]:
    """Worst accuracy and stability gap of one run, from every evaluation.

    worst = WC-ACC   [De Lange 2023, eq. 2-3];
    stability_gap = mean_{i>1} mean_{j<i} (R[i-1,j] - min_n A_j(n) within i)

    Args:
        records: evaluations of one method and seed, in order.
        names: of the experiences, in order.

    Returns: "worst" and "stability_gap"; empty if the run is not finished, or has only one
        experience, where nothing can be lost.
    """
    matrix, last = read_matrix(records, names), len(names) - 1
    if last < 1 or math.isnan(matrix[last][last]):
        return {}
    earlier = [_read_values(records, name, index + 1) for index, name in enumerate(names[:last])]
    gaps = []
    for index in range(1, last + 1):
        inside = [record for record in records if read_int(record["during"]) == index]
        falls = [
            matrix[index - 1][j] - min(values)
            for j, name in enumerate(names[:index])
            if (values := _read_values(inside, name, index))
        ]
        gaps.append(mean(falls))
    if not all(earlier) or any(math.isnan(gap) for gap in gaps):
        return {}
    worst = worst_case_accuracy(matrix[last][last], earlier)
    return {"worst": worst, "stability_gap": math.fsum(gaps) / len(gaps)}


def follow_since(records: Sequence[Record], index: int, name: str) -> list[tuple[float, float]]:
    """(examples seen, accuracy) of an experience from its end on; empty if it did not end."""
    start = next((i for i, record in enumerate(records) if record["after"] == index), None)
    curve = [] if start is None else list_accuracies(records[start:], name)
    return [(step, accuracy) for step, accuracy in curve if not math.isnan(accuracy)]


def find_half_life(curve: Sequence[tuple[float, float]]) -> float:
    """Examples from the best so far until half of it, the first time that happens.

    Without the cut at the first fall, an experience that is learned anew later would have its
    best at the end, and so seem never to have been lost.

    Args:
        curve: (examples seen, accuracy), from the end of an experience on.

    >>> find_half_life([(0.0, 0.8), (100.0, 0.0), (200.0, 0.9)])
    50.0
    """
    best = 0.0
    for i, (_, accuracy) in enumerate(curve):
        if best > 0.0 and accuracy <= 0.5 * best:
            seen = [round(step) for step, _ in curve[: i + 1]]
            return retention_half_life(seen, [value for _, value in curve[: i + 1]])
        best = max(best, accuracy)
    return math.inf


def compare_seeds(
    ours: Mapping[int, Mapping[str, float]], theirs: Mapping[int, Mapping[str, float]], figure: str
) -> Estimate | None:
    """Mean difference of a figure over the seeds that both sides finished.

    Args:
        ours: seed -> figure -> value; nothing but an empty mapping for an unfinished seed.
        theirs: the same of another method.
        figure: its name.

    Returns: ours - theirs; None if they share no seed, or if one of these lacks the figure: to
        leave out a seed that never adapted would flatter who failed in it.

    >>> compare_seeds({0: {"acc": 0.5}, 1: {"acc": 0.9}}, {0: {"acc": 0.25}}, "acc")
    Estimate(mean=0.25, half_width=inf, num_seeds=1)
    """
    seeds = [seed for seed in ours if ours[seed] and theirs.get(seed)]
    if not seeds or any(figure not in side[seed] for side in (ours, theirs) for seed in seeds):
        return None
    return compare_paired([ours[s][figure] for s in seeds], [theirs[s][figure] for s in seeds])


def _read_values(records: Sequence[Record], name: str, first: int) -> list[float]:
    """Accuracies on an experience at all evaluations during experience `first` and later."""
    later = [record for record in records if read_int(record["during"]) >= first]
    return [value for _, value in list_accuracies(later, name) if not math.isnan(value)]
