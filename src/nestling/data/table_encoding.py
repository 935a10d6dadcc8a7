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
from datetime import datetime
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestling.core.errors import DataError, MissingExtra, NonFiniteInput, UnknownLabel, suggest
from nestling.data.table_dates import (
    DATE_PARTS,
    ISO,
    NUM_DAY_PARTS,
    find_form,
    read_date,
    split_date,
)
from nestling.data.table_files import (
    RawTable,
    Targets,
    are_classes,
    list_inputs,
    narrow,
    read_number,
    read_numbers,
)

# What people write where nothing is known. In a column of numbers or dates such a cell can mean
# nothing else, so it is blank there; among text it may be a word ("NA", Namibia; "none", no
# garage), and as a category of its own it says the same as a mark for blanks would.
MARKS = frozenset({"?", "-", "--", ".", "na", "n/a", "#n/a", "nan", "null", "none"})
# A category seen once teaches nothing of its own, but all of them together what is unknown.
MIN_ROWS_PER_CATEGORY, MAX_CATEGORIES = 2, 100

Kind = Literal["as is", "numbers", "dates", "text"]


@dataclass(frozen=True)
class ColumnCode:
    """How one column becomes numbers.

    Attributes:
        name: of the column.
        kind: "as is" for numbers that are left alone.
        means: of the training rows: of the numbers, or of each part of the dates.
        scales: standard deviations, 1 where nothing varies.
        has_blanks: a column of its own says which cells are blank.
        form: of dates, see `find_form`.
        has_times: whether dates have a time of day.
        categories: of text, in the order of their columns; "" is blank.
    """

    name: str
    kind: Kind
    means: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    has_blanks: bool = False
    form: str = ""
    has_times: bool = False
    categories: tuple[str, ...] = ()

    def list_names(self) -> list[str]:
        """Names of the numbers that the column becomes."""
        if self.kind == "text":
            names = [f"{self.name} = {one or 'blank'}" for one in self.categories]
            return [*names, f"{self.name}: other"]
        names = [self.name]
        if self.kind == "dates":
            names = [f"{self.name}: {part}" for part in DATE_PARTS[: len(self.means)]]
        return [*names, f"{self.name}: blank"] if self.has_blanks else names


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
        parts = [_encode_column(code, table) for code in self.columns]
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
            return torch.tensor([known[name] for name in names])
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
    columns = draft.columns if as_is else tuple(_fit_column(tables, name) for name in names)
    fitted = TableEncoding(target, kind, labels, (), columns)
    if kind == "values":
        if as_is:
            return fitted
        values = torch.cat([fitted.encode_targets(table) for table in tables]).double()
        mean, scale = float(values.mean()), float(values.std(correction=0)) or 1.0
        return replace(fitted, mean=mean, scale=scale)
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
    elif all(_is_blank(cell) or read_number(cell) is not None for cell in cells):
        cells = ["" if _is_blank(cell) else cell for cell in cells]
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


def _fit_column(tables: Sequence[RawTable], name: str) -> ColumnCode:
    try:
        from sklearn.impute import SimpleImputer
        from sklearn.preprocessing import OneHotEncoder, StandardScaler
    except ImportError:
        raise MissingExtra(
            "encoding a table needs scikit-learn: pip install 'nestling[data]'; "
            "or say encode = false in the job's data"
        ) from None
    cells = [table.columns[name] for table in tables]
    words = [cell for part in cells if isinstance(part, list) for cell in part]
    known = [cell for cell in words if not _is_blank(cell)]
    has_numbers = any(not isinstance(part, list) and not np.isnan(part).all() for part in cells)
    if (known or has_numbers) and all(read_number(cell) is not None for cell in known):
        draft = ColumnCode(name, "numbers")
    elif (form := find_form(known)) and not has_numbers:
        draft = ColumnCode(name, "dates", form=form, has_times=_have_times(known, form))
    else:
        column = np.array([word for part in cells for word in _read_words(part)], dtype=object)
        encoder = OneHotEncoder(
            min_frequency=MIN_ROWS_PER_CATEGORY,
            max_categories=MAX_CATEGORIES,
            handle_unknown="infrequent_if_exist",
        ).fit(column[:, None])
        rare = encoder.infrequent_categories_[0]
        kept = set(encoder.categories_[0]) - set([] if rare is None else rare)
        return ColumnCode(name, "text", categories=tuple(sorted(kept)))
    values = np.concatenate([_read_parts(draft, table) for table in tables])
    filled = SimpleImputer().fit_transform(values)
    scaler = StandardScaler().fit(filled)
    return ColumnCode(
        name,
        draft.kind,
        means=tuple(scaler.mean_.tolist()),
        scales=tuple(scaler.scale_.tolist()),
        has_blanks=bool(np.isnan(values).any()),
        form=draft.form,
        has_times=draft.has_times,
    )


def _have_times(cells: Sequence[str], form: str) -> bool:
    dates = (read_date(cell, form) for cell in cells)
    return any(
        date is not None and (date.hour, date.minute, date.second) != (0, 0, 0) for date in dates
    )


def _encode_column(code: ColumnCode, table: RawTable) -> NDArray[np.float32]:
    """The numbers (N, D) that a column becomes, in the order of `code.list_names()`."""
    if code.kind == "text":
        index = {word: at for at, word in enumerate(code.categories)}
        other = len(index)
        words = _read_words(table.columns[code.name])
        return np.eye(other + 1, dtype=np.float32)[[index.get(word, other) for word in words]]
    values = _read_parts(code, table)
    if code.kind == "as is":
        return narrow(values)
    is_blank = np.isnan(values)
    scaled = narrow(np.where(is_blank, 0.0, (values - code.means) / code.scales))
    finite = np.isfinite(scaled).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise NonFiniteInput(
            f"'{table.source}': {values[row, 0]} in line {table.lines[row]}, column {code.name!r} "
            f"is too far from the training files' mean of {code.means[0]:g}; drop or mend it"
        )
    return (
        np.concatenate([scaled, is_blank[:, :1]], 1, dtype=np.float32)
        if code.has_blanks
        else scaled
    )


def _read_words(cells: Sequence[str] | NDArray[np.float64]) -> list[str]:
    if isinstance(cells, np.ndarray):
        return ["" if np.isnan(value) else repr(value) for value in cells.tolist()]
    return list(cells)


def _read_parts(code: ColumnCode, table: RawTable) -> NDArray[np.float64]:
    """A column's numbers (N, 1), or the parts of its dates (N, P); NaN where it is blank."""
    if code.kind == "as is":
        values = read_numbers(table, code.name)
        _refuse_infinite(code, table, values, np.isfinite(narrow(values)))
        return values[:, None]
    cells = table.columns[code.name]
    if isinstance(cells, np.ndarray):
        if code.kind == "dates" and not np.isnan(cells).all():
            raise DataError(
                f"'{table.source}' column {code.name!r} holds numbers, the training files' dates"
            )
        width = len(DATE_PARTS) if code.kind == "dates" else 1
        parts = np.repeat(cells[:, None], width, axis=1)
    elif code.kind == "dates":
        blank = np.full(len(DATE_PARTS), np.nan)
        dates = [_read_date(cell, code, table, row) for row, cell in enumerate(cells)]
        parts = np.array([blank if date is None else split_date(date) for date in dates])
    else:
        read = [_read_number(cell, code, table, row) for row, cell in enumerate(cells)]
        parts = np.array(read)[:, None]
    _refuse_infinite(code, table, parts[:, 0], ~np.isinf(narrow(parts[:, 0])))
    # Without times of day the hour says nothing.
    return parts[:, :NUM_DAY_PARTS] if code.kind == "dates" and not code.has_times else parts


def _refuse_infinite(
    code: ColumnCode, table: RawTable, values: NDArray[np.float64], is_fine: NDArray[np.bool_]
) -> None:
    if not is_fine.all():
        row = int(np.argmin(is_fine))
        raise NonFiniteInput(
            f"'{table.source}': {values[row]} in line {table.lines[row]}, column {code.name!r} "
            f"is not finite as float32 ({int((~is_fine).sum())} in all); drop or mend it"
        )


def _is_blank(cell: str) -> bool:
    return not cell or cell.lower() in MARKS


def _read_number(cell: str, code: ColumnCode, table: RawTable, row: int) -> float:
    if _is_blank(cell):
        return np.nan
    number = read_number(cell)
    if number is None:
        raise DataError(
            f"'{table.source}' column {code.name!r} holds text ({cell!r} in line "
            f"{table.lines[row]}), in the training files it holds numbers only; mend the cell"
        )
    return number


def _read_date(cell: str, code: ColumnCode, table: RawTable, row: int) -> datetime | None:
    if _is_blank(cell):
        return None
    date = read_date(cell, code.form)
    if date is None:
        shown = "2024-12-31" if code.form == ISO else code.form
        raise DataError(
            f"'{table.source}' column {code.name!r} holds {cell!r} in line {table.lines[row]}, "
            f"in the training files it holds dates such as {shown}; mend the cell"
        )
    return date
