"""One column of a table: what kind it is, and the numbers that it becomes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nestling.core.errors import DataError, MissingExtra, NonFiniteInput
from nestling.data.table_dates import (
    DATE_PARTS,
    ISO,
    NUM_DAY_PARTS,
    find_form,
    read_date,
    split_date,
)
from nestling.data.table_files import RawTable, narrow, read_number, read_numbers

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


def is_blank_cell(cell: str) -> bool:
    """Whether a cell of a column of numbers or dates is blank: empty, or one of MARKS.

    >>> [is_blank_cell(cell) for cell in ("", "?", "N/A", "0")]
    [True, True, True, False]
    """
    return not cell or cell.lower() in MARKS


def fit_column(tables: Sequence[RawTable], name: str) -> ColumnCode:
    """Decide what a column is and how it becomes numbers, from all training files.

    It holds numbers if every cell that is not blank is one, else dates if every one is a date of
    the same form, else text.

    Args:
        tables: the training files.
        name: of the column.

    Raises:
        NonFiniteInput: a number that is infinite as float32.
        MissingExtra: scikit-learn is not installed.
    """
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
    known = [cell for cell in words if not is_blank_cell(cell)]
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
    return replace(
        draft,
        means=tuple(scaler.mean_.tolist()),
        scales=tuple(scaler.scale_.tolist()),
        has_blanks=bool(np.isnan(values).any()),
    )


def _have_times(cells: Sequence[str], form: str) -> bool:
    dates = (read_date(cell, form) for cell in cells)
    return any(
        date is not None and (date.hour, date.minute, date.second) != (0, 0, 0) for date in dates
    )


def encode_column(code: ColumnCode, table: RawTable) -> NDArray[np.float32]:
    """The numbers (N, D) that a column becomes, in the order of `code.list_names()`.

    Args:
        code: of the column; what it is and its means come from the training files.
        table: any file of the job.

    Raises:
        DataError: text in a column of numbers, something else in a column of dates.
        NonFiniteInput: a number that is infinite as float32, or becomes so.
    """
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
    if not code.has_blanks:
        return scaled
    return np.concatenate([scaled, is_blank[:, :1]], axis=1, dtype=np.float32)


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


def _read_number(cell: str, code: ColumnCode, table: RawTable, row: int) -> float:
    if is_blank_cell(cell):
        return np.nan
    number = read_number(cell)
    if number is None:
        raise DataError(
            f"'{table.source}' column {code.name!r} holds text ({cell!r} in line "
            f"{table.lines[row]}), in the training files it holds numbers only; mend the cell"
        )
    return number


def _read_date(cell: str, code: ColumnCode, table: RawTable, row: int) -> datetime | None:
    if is_blank_cell(cell):
        return None
    date = read_date(cell, code.form)
    if date is None:
        shown = "2024-12-31" if code.form == ISO else code.form
        raise DataError(
            f"'{table.source}' column {code.name!r} holds {cell!r} in line {table.lines[row]}, "
            f"in the training files it holds dates such as {shown}; mend the cell"
        )
    return date
