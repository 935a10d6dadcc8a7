"""The accuracy matrix of a sequence of experiences, and the figures that are read off it."""

import json
import math
from collections.abc import Sequence
from typing import Self

from nestling.core.errors import DataError, SettingError, suggest

# Formulas of the measures by name, as text; see `formula`.
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
_FIELDS = ("values", "baseline")  # of a matrix in JSON


def formula(name: str) -> str:
    """Formula of a measure as text, e.g. of backward transfer or forgetting.

    Args:
        name: a key of `FORMULAS`.

    Raises:
        SettingError: no such figure; names the nearest.

    >>> formula("acc")
    'ACC = mean_j R[T,j]'
    """
    if name not in FORMULAS:
        raise SettingError(f"figure {name!r}; {suggest(name, FORMULAS)}")
    return FORMULAS[name]


class AccuracyMatrix:
    """Accuracy matrix of continual learning: R[i][j] on experience j after experience i.

    Indices in formulas run from 1 to T; NaN stands for what was not measured. Means leave out
    every term that needs it, and are NaN where none is left; a largest value is the largest that
    was measured.

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

    def to_json(self) -> str:
        """The matrix as JSON; null stands for what was not measured.

        Raises:
            DataError: an entry is infinite, for which JSON has no number.

        >>> AccuracyMatrix([[0.5, math.nan], [0.25, 1.0]]).to_json()
        '{"values": [[0.5, null], [0.25, 1.0]], "baseline": null}'
        """
        values = [_write_row(row, f"values[{i}]") for i, row in enumerate(self.values)]
        baseline = None if self.baseline is None else _write_row(self.baseline, "baseline")
        return json.dumps({"values": values, "baseline": baseline}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The matrix that `to_json` wrote.

        Args:
            text: a JSON object with "values" and, if there is one, "baseline".

        Raises:
            DataError: not JSON, or a field that is missing, unknown or of the wrong kind;
                names the field.

        >>> AccuracyMatrix.from_json('{"values": [[0.5, null], [0.25, 1.0]]}').acc()
        0.625
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"an accuracy matrix that is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise DataError(
                f"an accuracy matrix in JSON is {_name_kind(data)}; it must be an object "
                'with the field "values"'
            )
        for name in data:
            if name not in _FIELDS:
                raise DataError(f"field {name!r} of an accuracy matrix; {suggest(name, _FIELDS)}")
        rows = data.get("values")
        if not isinstance(rows, list):
            found = _name_kind(rows) if "values" in data else "missing"
            raise DataError(f"field 'values' is {found}; it must be a list of rows")
        baseline = data.get("baseline")
        return cls(
            [_read_row(row, f"values[{i}]") for i, row in enumerate(rows)],
            None if baseline is None else _read_row(baseline, "baseline"),
        )

    def acc(self) -> float:
        """Average accuracy (ACC) over all experiences at the end; see `formula("acc")`."""
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
        """Forgetting: how far accuracy on earlier experiences has fallen at the end.

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


def _write_row(row: Sequence[float], field: str) -> list[float | None]:
    for place, value in enumerate(row):
        if math.isinf(value):
            raise DataError(f"{field}[{place}] is {value}; JSON holds finite numbers only")
    return [None if math.isnan(value) else value for value in row]


def _read_row(row: object, field: str) -> list[float]:
    if not isinstance(row, list):
        raise DataError(f"field '{field}' is {_name_kind(row)}; it must be a list of numbers")
    return [_read_entry(value, f"{field}[{place}]") for place, value in enumerate(row)]


def _read_entry(value: object, field: str) -> float:
    """A number, or NaN for null; `json` itself would let NaN, Infinity and 1e999 through."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"field '{field}' is {_name_kind(value)}; it must be a number or null")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"field '{field}' is not a finite number; write null if not measured")
    return number


def _name_kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a truth value", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")
