"""The accuracy matrix of a sequence of experiences, and the figures that are read off it."""

import math
from collections.abc import Sequence

from nestling.core.errors import DataError, suggest

FORMULAS = {
    "acc": "ACC = mean_j R[T,j]",
    "learning_accuracy": "LA = mean_j R[j,j]",
    "bwt lopez-paz": "BWT = mean_{j<T} (R[T,j] - R[j,j])   [Lopez-Paz and Ranzato 2017]",
    "bwt diaz-rodriguez": "BWT = mean_{j<i} (R[i,j] - R[j,j])   [Diaz-Rodriguez 2018]",
    "fwt lopez-paz": "FWT = mean_{j>1} (R[j-1,j] - b[j])   [Lopez-Paz and Ranzato 2017]",
    "forgetting chaudhry": "F = mean_{j<T} (max_{l<T} R[l,j] - R[T,j])   [Chaudhry 2018]",
    "forgetting peak": "F = mean_{j<T} (max_{l<=T} R[l,j] - R[T,j])",
    "forgetting final": "F = mean_{j<T} (R[j,j] - R[T,j])",
}


def formula(name: str) -> str:
    """The printed definition of a figure.

    Args:
        name: a key of `FORMULAS`.

    Raises:
        DataError: no such figure; names the nearest.

    >>> formula("acc")
    'ACC = mean_j R[T,j]'
    """
    if name not in FORMULAS:
        raise DataError(f"figure {name!r}; {suggest(name, FORMULAS)}")
    return FORMULAS[name]


class AccuracyMatrix:
    """R[i][j]: accuracy on experience j after learning experience i.

    Indices in formulas run from 1 to T; NaN stands for what was not measured and is left out
    of means.

    Args:
        values: T rows of T numbers.
        baseline: b[j], accuracy of an untrained model on each experience, for FWT.

    Raises:
        DataError: not square, or empty.

    >>> R = AccuracyMatrix([[0.8, 0.1, 0.1], [0.9, 0.9, 0.2], [0.95, 0.7, 0.9]])
    >>> round(R.bwt(), 4), round(R.bwt("diaz-rodriguez"), 4)
    (-0.025, 0.0167)
    """

    def __init__(
        self, values: Sequence[Sequence[float]], baseline: Sequence[float] | None = None
    ) -> None:
        size = len(values)
        if size == 0 or any(len(row) != size for row in values):
            raise DataError(
                f"an accuracy matrix of rows {[len(row) for row in values]}; it must be square"
            )
        if baseline is not None and len(baseline) != size:
            raise DataError(f"{len(baseline)} baselines for {size} experiences; give one for each")
        self.values = [[float(value) for value in row] for row in values]
        self.baseline = None if baseline is None else [float(value) for value in baseline]
        self.num_experiences = size

    def acc(self) -> float:
        """Mean accuracy over all experiences at the end; see `formula("acc")`."""
        return _mean(self.values[-1])

    def learning_accuracy(self) -> float:
        """Mean accuracy on each experience right after it was learned."""
        return _mean([self.values[j][j] for j in range(self.num_experiences)])

    def bwt(self, definition: str = "lopez-paz") -> float:
        """Backward transfer: what later learning did to earlier experiences.

        Args:
            definition: "lopez-paz" (at the end) or "diaz-rodriguez" (after every experience).
        """
        formula(f"bwt {definition}")
        last = self.num_experiences - 1
        rows = [last] if definition == "lopez-paz" else range(1, self.num_experiences)
        return _mean([self.values[i][j] - self.values[j][j] for i in rows for j in range(i)])

    def fwt(self) -> float:
        """Forward transfer: accuracy on an experience before it is learned, above the baseline.

        Raises:
            DataError: no baseline was given.
        """
        if self.baseline is None:
            raise DataError("forward transfer needs baseline=[accuracy of an untrained model, ...]")
        return _mean(
            [self.values[j - 1][j] - self.baseline[j] for j in range(1, self.num_experiences)]
        )

    def forgetting(self, definition: str = "chaudhry") -> float:
        """How far accuracy on earlier experiences has fallen at the end.

        Args:
            definition: "chaudhry" (from the best before the end; below 0 if the end is better),
                "peak" (from the best ever), "final" (from right after learning; -BWT).

        >>> R = AccuracyMatrix([[0.8, 0.1, 0.1], [0.9, 0.9, 0.2], [0.95, 0.7, 0.9]])
        >>> [round(R.forgetting(name), 3) for name in ("chaudhry", "peak", "final")]
        [0.075, 0.1, 0.025]
        """
        formula(f"forgetting {definition}")
        last = self.num_experiences - 1
        drops = []
        for j in range(last):
            column = [row[j] for row in self.values]
            best = {
                "chaudhry": _largest(column[:last]),
                "peak": _largest(column),
                "final": column[j],
            }[definition]
            drops.append(best - column[last])
        return _mean(drops)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _largest(values: Sequence[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)
