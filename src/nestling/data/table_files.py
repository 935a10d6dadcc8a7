"""Examples from the user's own files: CSV, Parquet and NPZ."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestling.core.errors import DataError, MissingExtra, NonFiniteInput, ShapeMismatch, suggest

SUFFIXES = (".csv", ".npz", ".parquet")
# What the targets of a table are: labels of classes, or numbers.
Targets = Literal["classes", "values"]
# Cells of text as the file has them, white space around them cut; or numbers, NaN for a blank.
Column = list[str] | NDArray[np.float64]


@dataclass(frozen=True)
class RawTable:
    """A file's columns by name.

    Attributes:
        source: what to call it in errors.
        columns: name -> its N cells.
        lines: of the rows; the header is line 1, also of a file that has no lines.
    """

    source: str
    columns: Mapping[str, Column]
    lines: Sequence[int]

    def select(self, rows: Sequence[int]) -> "RawTable":
        """The table of these rows alone, by their index."""
        columns: dict[str, Column] = {}
        for name, cells in self.columns.items():
            if isinstance(cells, list):
                columns[name] = [cells[row] for row in rows]
            else:
                columns[name] = cells[np.asarray(rows)]
        return RawTable(self.source, columns, [self.lines[row] for row in rows])


def read_table(
    path: Path | str, target: str = "target", *, targets: Targets | None = None
) -> tuple[Tensor, Tensor, list[str]]:
    """Read inputs and targets from one file of numbers, as they are.

    A table with text, dates or blanks is read by `read_columns` and encoded by `fit_encoding`.

    Args:
        path: `.csv` with a header, `.parquet`, or `.npz` with the arrays `x` and the target.
        target: column (or array of the NPZ file) to predict.
        targets: what they are; by default whole numbers are classes, others real values.

    Returns: inputs (N, D) float32 (any shape (N, ...) from NPZ), targets (N,) int64 or float32,
        and the names of the columns.

    Raises:
        DataError: no such file, an empty one, a column that is missing, blank or not numeric.
        NonFiniteInput: NaN, or what is infinite as float32; names line and column.
        MissingExtra: Parquet without pandas or pyarrow.
    """
    path = Path(path)
    if path.suffix == ".npz":
        x, y = read_arrays(path, target)
        pair = from_arrays(x, y, target=target, source=str(path), targets=targets)
        return *pair, [f"x{index}" for index in range(pair[0][0].numel())]
    table = read_columns(path)
    names = list_inputs(table, target)
    x = np.stack([read_numbers(table, name) for name in names], axis=1)
    y = read_numbers(table, target)
    pair = from_arrays(
        *(x, y),
        names=names,
        target=target,
        source=str(path),
        targets=targets,
        lines=table.lines,
    )
    return *pair, names


def read_columns(path: Path | str) -> RawTable:
    """Read the columns of a CSV or Parquet file, by name and as they are.

    Args:
        path: `.csv` with a header, or `.parquet`.

    Raises:
        DataError: no such file, an empty one, or one that cannot be read.
        MissingExtra: Parquet without pandas or pyarrow.
    """
    path = check_file(path)
    if path.suffix == ".npz":
        raise DataError(f"'{path}' has arrays, no columns; give .csv or .parquet")
    return _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)


def check_file(path: Path | str) -> Path:
    """Raise DataError unless this is a file of a kind that can be read, and not an empty one."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DataError(f"'{path}' is no table; {suggest(path.suffix, SUFFIXES)}")
    if not path.is_file():
        near = [found.name for found in path.parent.glob("*") if found.suffix in SUFFIXES]
        raise DataError(f"no file '{path}'; {suggest(path.name, near)}")
    if path.stat().st_size == 0:
        raise DataError(f"'{path}' is empty; give a file with at least one row")
    return path


def list_inputs(table: RawTable, target: str) -> list[str]:
    """Names of all columns but the target; DataError if it or every other one is missing."""
    source, columns = table.source, table.columns
    if target not in columns:
        raise DataError(f"'{source}' has no column {target!r}; {suggest(target, columns)}")
    names = [name for name in columns if name != target]
    if not names:
        raise DataError(f"'{source}' holds only its target {target!r}; add a column of inputs")
    return names


def read_number(cell: str) -> float | None:
    """A cell as Python's `float` reads it, but 1_000 is text; None if it is no number.

    >>> [read_number(cell) for cell in ("1e3", " 7 ", "1_000", "red", "")]
    [1000.0, 7.0, None, None, None]
    """
    if "_" in cell:  # a code such as 2021_05, which `float` would read as 202105
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def read_numbers(table: RawTable, name: str) -> NDArray[np.float64]:
    """A column (N,) as numbers; DataError for a blank cell and for text, with its line."""
    cells = table.columns[name]
    if not isinstance(cells, list):
        return cells
    values = np.empty(len(cells))
    for row, cell in enumerate(cells):
        number = read_number(cell)
        if number is None:
            found = f"text ({cell!r}" if cell else "a blank cell ("
            place = f"{' ' if cell else ''}in line {table.lines[row]})"
            raise DataError(
                f"'{table.source}' column {name!r} holds {found}{place}; "
                "encode it as numbers or drop it"
            )
        values[row] = number
    return values


def from_arrays(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    names: Sequence[str] = (),
    target: str = "target",
    source: str = "arrays",
    targets: Targets | None = None,
    lines: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Convert arrays to checked tensors: float32 inputs, int64 or float32 targets.

    Args:
        x: (N, ...) numbers.
        y: (N,) or (N, M).
        names: of the columns of x, for errors.
        target: name of y, for errors.
        source: what to call them in errors.
        targets: what y is; by default classes if it has one dimension and holds whole numbers
            >= 0 that int64 can hold, else values.
        lines: of a file where the rows stand, for errors.

    Returns: inputs float32, targets int64 or float32.

    Raises:
        ShapeMismatch: different lengths.
        DataError: no row, something that is not a number, or no class though `targets` says so.
        NonFiniteInput: NaN or infinity, also where only float32 has no room for it (from 3.4e38).

    >>> from_arrays(np.ones((2, 1)), np.array([0, 1]))[1]
    tensor([0, 1])
    >>> from_arrays(np.ones((2, 1)), np.array([0, 1]), targets="values")[1]
    tensor([0., 1.])
    """
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ShapeMismatch(f"{source}: inputs {x.shape} and targets {y.shape} differ in length")
    if len(x) == 0:
        raise DataError(f"{source}: no rows; give at least one")
    for name, array in (("inputs", x), ("targets", y)):
        if array.dtype.kind not in "biuf":
            raise DataError(f"{source}: {name} are {array.dtype}, not numbers; encode them first")
    inputs, values = narrow(x), narrow(y)
    wrong = ~np.isfinite(inputs)
    if wrong.any():
        row, *rest = (int(index) for index in np.argwhere(wrong)[0])
        column = repr(names[rest[0]]) if names else str(rest)
        raise NonFiniteInput(
            f"{source}: {_name_value(x[(row, *rest)], lines)} in {name_place(row, lines)}, column "
            f"{column} is not finite as float32 ({int(wrong.sum())} in all); "
            "drop, impute or rescale them"
        )
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, *rest = (int(index) for index in np.argwhere(wrong)[0])
        raise NonFiniteInput(
            f"{source}: {_name_value(y[(row, *rest)], lines)} in {name_place(row, lines)}, "
            f"column {target!r}: a target is NaN or infinite as float32; drop or rescale those rows"
        )
    if targets == "values" or (targets is None and not are_classes(y)):
        return torch.from_numpy(inputs), torch.from_numpy(values)
    if not are_classes(y):
        if y.ndim != 1:
            raise ShapeMismatch(f"{source}: classes of shape {y.shape}; one per row, (N,), works")
        row = int(np.argmin([are_classes(y[row : row + 1]) for row in range(len(y))]))
        raise DataError(
            f"{source}: {y[row]} in {name_place(row, lines)}, column {target!r} is no class; "
            "classes are whole numbers from 0; or say targets = 'values'"
        )
    return torch.from_numpy(inputs), torch.from_numpy(y.astype(np.int64))


def are_classes(y: NDArray[Any]) -> bool:
    """Whether targets can be classes: one whole number >= 0 per row, (N,).

    A whole number that int64 cannot hold would turn negative, so it is a value.
    """
    return y.ndim == 1 and bool(((y == np.floor(y)) & (y >= 0) & (y < 2.0**63)).all())


def name_place(row: int, lines: Sequence[int]) -> str:
    """Where a row stands: its line in a file, or its index in arrays."""
    return f"line {lines[row]}" if len(lines) else f"row {row}"


def _name_value(value: object, lines: Sequence[int]) -> str:
    return f"blank ({value})" if len(lines) and value != value else str(value)


def narrow(values: NDArray[Any]) -> NDArray[np.float32]:
    """As float32; what is too large becomes infinite, which the caller looks for."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def _read_csv(path: Path) -> RawTable:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows, lines, begin = [], [], 1
            for row in reader:
                if row:
                    rows.append([cell.strip() for cell in row])
                    lines.append(begin)
                # A quoted cell may go over several lines: the row is where it begins.
                begin = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read '{path}': {error}") from None
    if len(rows) < 2:
        raise DataError(f"'{path}' has no rows; give a header and at least one row")
    header, body, lines = rows[0], rows[1:], lines[1:]
    for number, row in zip(lines, body, strict=True):
        if len(row) != len(header):
            raise DataError(f"'{path}' line {number} has {len(row)} cells, header {len(header)}")
    _check_names(path, header)
    return RawTable(
        str(path), {name: [row[at] for row in body] for at, name in enumerate(header)}, lines
    )


def _read_parquet(path: Path) -> RawTable:
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("Parquet needs pandas: pip install 'nestling[data]'") from None
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise MissingExtra("Parquet needs pyarrow: pip install 'nestling[data]'") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {str(error).splitlines()[0]}") from None
    if len(frame) == 0:
        raise DataError(f"'{path}' has no rows; give at least one")
    names = [str(name) for name in frame.columns]
    _check_names(path, names)
    columns: dict[str, Column] = {}
    for at, name in enumerate(names):
        series = frame.iloc[:, at]
        if pd.api.types.is_numeric_dtype(series):
            columns[name] = series.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            cells = zip(series, series.isna(), strict=True)
            columns[name] = ["" if is_blank else str(cell).strip() for cell, is_blank in cells]
    return RawTable(str(path), columns, range(2, len(frame) + 2))


def _check_names(path: Path, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise DataError(f"'{path}' names a column twice; rename one of {sorted(names)}")


def read_arrays(path: Path | str, target: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The arrays `x` and the target (or `y`, if that is not named) of an NPZ file; DataError."""
    arrays = read_archive(path)
    name = target if target in arrays else "y" if target in ("target", "label") else target
    if name not in arrays or "x" not in arrays:
        lacking = name if "x" in arrays else "x"
        raise DataError(f"'{path}' has no array {lacking!r}; {suggest(lacking, arrays)}")
    return arrays["x"], arrays[name]


def read_archive(path: Path | str) -> dict[str, NDArray[Any]]:
    """All arrays of an NPZ file by name; DataError if it is damaged or holds pickled objects."""
    path = check_file(path)
    try:
        # Pickled objects would run code; only plain arrays are read.
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read '{path}': {error}") from None
    except Exception as error:  # zipfile.BadZipFile and zlib.error have no common base
        raise DataError(f"'{path}' is damaged: {error}") from None
