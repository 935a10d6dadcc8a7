"""A table as people have it, made into numbers: text, dates and blanks by scikit-learn's rules.

An encoding is fitted once per job, over all its training files, kept as JSON, and used again for
every later file. Columns are matched by name. By kind of column:

- numbers: blanks become the mean, beside a column that says where (SimpleImputer), then mean 0
  and deviation 1 (StandardScaler);
- dates: days since 1970 and calendar parts, each as a number;
- text: a column per category and one for all others (OneHotEncoder), blank being a category too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nestling.core.errors import DataError, NonFiniteInput, UnknownLabel, suggest
from nestling.data.table_columns import ColumnCode, encode_column, fit_column, is_blank_cell
from nestling.data.table_files import (
    RawTable,
    Targets,
    are_classes,
    list_inputs,
    narrow,
    read_number,
    read_numbers,
)


@dataclass(frozen=True)
class TableEncoding:
    """How the tables of a job become inputs and targets, fitted on its training files.

    Attributes:
        target: the column to predict.
        targets: "classes" or "values".
        labels: names of the classes by number; empty where the cells are the numbers.
        classes: numbers of the classes that the training files hold, ascending.
        columns: of the inputs, in their order.
        mean: of the training files' values, which a learner sees with mean 0.
        scale: and their standard deviation, which it sees as 1.
    """

    target: str
    targets: Targets
    labels: tuple[str, ...]
    classes: tuple[int, ...]
    columns: tuple[ColumnCode, ...]
    mean: float = 0.0
    scale: float = 1.0

    def encode(self, table: RawTable) -> tuple[Tensor, Tensor]:
        """Inputs (N, D) float32 and targets (N,) int64 or float32 of a table.

        Raises:
            DataError: a missing or unknown column, text among numbers, a blank target.
            NonFiniteInput: a number that is infinite as float32.
            UnknownLabel: a label that no training file has.
        """
        return self.encode_inputs(table), self.encode_targets(table)

    def encode_inputs(self, table: RawTable) -> Tensor:
        """Inputs (N, D) float32 of a table, with its target or without; raises as `encode`."""
        self._check_columns(table)
        parts = [encode_column(code, table) for code in self.columns]
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def encode_targets(self, table: RawTable) -> Tensor:
        """Targets (N,) of a table; raises as `encode`."""
        cells = _read_targets(table, self.target)
        if self.labels:
            known = {label: number for number, label in enumerate(self.labels)}
            names = _name_labels(cells)
            for row, name in enumerate(names):
                if name not in known:
                    raise UnknownLabel(
                        f"'{table.source}' has the label {name!r} in line {table.lines[row]}, "
                        f"which no training file has; {suggest(name, known)}"
                    )
            return torch.tensor([known[name] for name in names], dtype=torch.int64, device="cpu")
        values = read_numbers(table, self.target)
        finite = np.isfinite(narrow(values))
        if not finite.all():
            row = int(np.argmin(finite))
            raise NonFiniteInput(
                f"'{table.source}': {values[row]} in line {table.lines[row]}, column "
                f"{self.target!r}: a target is NaN or infinite as float32; drop or rescale it"
            )
        if self.targets == "values":
            return torch.from_numpy(narrow((values - self.mean) / self.scale))
        if not are_classes(values):
            row = next(row for row, value in enumerate(values) if not are_classes(values[[row]]))
            raise UnknownLabel(
                f"'{table.source}': {values[row]} in line {table.lines[row]}, column "
                f"{self.target!r} is no class of the training files, which are whole numbers "
                "from 0; say targets = 'values' if they are values"
            )
        return torch.from_numpy(values.astype(np.int64))

    def decode_values(self, values: Tensor) -> Tensor:
        """Values (N, ...) as the files have them, float64, from a learner's answers."""
        return values.double() * self.scale + self.mean

    def list_inputs(self) -> list[str]:
        """Names of the D inputs."""
        return [name for code in self.columns for name in code.list_names()]

    def name_class(self, number: int) -> str:
        """What the files call a class."""
        return self.labels[number] if self.labels else str(number)

    def to_data(self) -> dict[str, Any]:
        """The encoding as JSON-ready data, to be read back by `from_data`."""
        return asdict(self)

    @staticmethod
    def from_data(data: Mapping[str, Any], source: str = "encoding") -> "TableEncoding":
        """Read what `to_data` gave; DataError if it is something else."""
        try:
            columns = tuple(
                ColumnCode(
                    **one | {key: tuple(one[key]) for key in ("means", "scales", "categories")}
                )
                for one in data["columns"]
            )
            lists = {key: tuple(data[key]) for key in ("labels", "classes")}
            return TableEncoding(**{**data, **lists, "columns": columns})
        except (KeyError, TypeError) as error:
            raise DataError(f"{source} is damaged: {error}; learn anew") from None

    def _check_columns(self, table: RawTable) -> None:
        names = [code.name for code in self.columns]
        missing = [name for name in names if name not in table.columns]
        unknown = [name for name in table.columns if name not in {*names, self.target}]
        said = [f"lacks the column {name!r}" for name in missing[:1]]
        said += [f"has an unknown column {name!r}" for name in unknown[:1]]
        if said:
            raise DataError(
                f"'{table.source}' {' and '.join(said)}; {suggest((unknown or missing)[0], names)}"
            )


def fit_encoding(
    tables: Sequence[RawTable],
    target: str,
    *,
    targets: Targets | None = None,
    as_is: bool = False,
) -> TableEncoding:
    """Decide how the columns of a job's files become numbers, from all training files at once.

    Args:
        tables: the training files.
        target: the column to predict.
        targets: what it holds; by default classes if it holds text, or whole numbers >= 0.
        as_is: leave numbers as they are, and refuse text and blanks.

    Raises:
        DataError: columns that differ, no target, a blank one, or one that is no value.
        NonFiniteInput: a number that is infinite as float32.
        MissingExtra: scikit-learn is not installed.

    >>> table = RawTable("a.csv", {"size": ["1", "3"], "y": ["yes", "no"]}, [2, 3])
    >>> encoding = fit_encoding([table], "y")
    >>> encoding.encode(table)
    (tensor([[-1.], [ 1.]]), tensor([1, 0]))
    """
    names = list_inputs(tables[0], target)
    draft = TableEncoding(target, "values", (), (), tuple(ColumnCode(n, "as is") for n in names))
    for table in tables:
        list_inputs(table, target)
        draft._check_columns(table)
    kind, labels = _fit_targets(tables, target, targets)
    columns = draft.columns if as_is else tuple(fit_column(tables, name) for name in names)
    fitted = TableEncoding(target, kind, labels, (), columns)
    if kind == "values":
        if as_is:
            return fitted
        for table in tables:
            fitted.encode_targets(table)  # refuses what is not finite
        values = np.concatenate([read_numbers(table, target) for table in tables])
        if values.min() == values.max():
            return replace(fitted, mean=float(values[0]))
        return replace(fitted, mean=float(values.mean()), scale=float(values.std()))
    found = [fitted.encode_targets(table) for table in tables]
    classes = tuple(torch.cat(found).unique().tolist())
    return replace(fitted, classes=classes)


def _fit_targets(
    tables: Sequence[RawTable], target: str, targets: Targets | None
) -> tuple[Targets, tuple[str, ...]]:
    """Classes or values, and the names of the classes if their cells are not their numbers."""
    if targets == "values":
        return "values", ()
    cells = [cell for table in tables for cell in _read_targets(table, target)]
    numbers = [read_number(cell) for cell in cells]
    values = np.array([number for number in numbers if number is not None])
    if len(values) == len(cells):
        if are_classes(values):
            return "classes", ()
        if targets is None:
            return "values", ()
    elif targets is None and not all(value.is_integer() for value in values.tolist()):
        where = next(row for row, number in enumerate(numbers) if number is None)
        raise DataError(
            f"target {target!r} holds numbers such as {values[0]} and text such as "
            f"{cells[where]!r}; mend the file, or say targets = 'classes'"
        )
    names = set(_name_labels(cells))
    in_order = sorted(names) if len(values) < len(cells) else sorted(names, key=float)
    return "classes", tuple(in_order)


def _read_targets(table: RawTable, target: str) -> list[str]:
    if target not in table.columns:
        known = suggest(target, table.columns)
        raise DataError(f"'{table.source}' has no column {target!r}; {known}")
    cells = table.columns[target]
    if not isinstance(cells, list):
        cells = ["" if np.isnan(value) else repr(value) for value in cells.tolist()]
    elif all(is_blank_cell(cell) or read_number(cell) is not None for cell in cells):
        cells = ["" if is_blank_cell(cell) else cell for cell in cells]
    if "" in cells:
        line = table.lines[cells.index("")]
        raise DataError(
            f"'{table.source}' column {target!r}, the target, is blank in line {line}; "
            "fill in or drop such rows"
        )
    return cells


def _name_labels(cells: Sequence[str]) -> list[str]:
    """One name per label, however a number is written: 1 and 1.0 are the same."""
    names = []
    for cell in cells:
        number = read_number(cell)
        if number is not None and number.is_integer():
            names.append(str(int(number)))
        else:
            names.append(cell if number is None else repr(number))
    return names
