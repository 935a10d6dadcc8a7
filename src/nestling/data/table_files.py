"""Examples from the user's own files: CSV, Parquet and NPZ."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestling.core.errors import DataError, MissingExtra, NonFiniteInput, ShapeMismatch, suggest

SUFFIXES = (".csv", ".npz", ".parquet")


def read_table(path: Path | str, target: str = "target") -> tuple[Tensor, Tensor, list[str]]:
    """Read inputs and targets from a CSV, Parquet or NPZ file.

    Args:
        path: `.csv` with a header, `.parquet`, or `.npz` with the arrays `x` and the target.
        target: column (or array of the NPZ file) to predict. Whole numbers are labels, others
            real values.

    Returns: inputs (N, D) float32 (any shape (N, ...) from NPZ), targets (N,) int64 or float32,
        and the names of the columns.

    Raises:
        DataError: no such file, an empty one, a column that is missing or not numeric.
        NonFiniteInput: NaN, an empty cell, or what is infinite as float32; names row and column.
        MissingExtra: Parquet without pandas or pyarrow.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DataError(f"'{path}' is no table; {suggest(path.suffix, SUFFIXES)}")
    if not path.is_file():
        near = [found.name for found in path.parent.glob("*") if found.suffix in SUFFIXES]
        raise DataError(f"no file '{path}'; {suggest(path.name, near)}")
    if path.stat().st_size == 0:
        raise DataError(f"'{path}' is empty; give a file with at least one row")
    if path.suffix == ".npz":
        return _read_npz(path, target)
    columns, table = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    if target not in columns:
        raise DataError(f"'{path}' has no column {target!r}; {suggest(target, columns)}")
    names = [name for name in columns if name != target]
    if not names:
        raise DataError(f"'{path}' holds only its target {target!r}; add a column of inputs")
    x = np.stack([table[name] for name in names], axis=1)
    return *from_arrays(x, table[target], names=names, target=target, source=str(path)), names


def from_arrays(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    names: Sequence[str] = (),
    target: str = "target",
    source: str = "arrays",
) -> tuple[Tensor, Tensor]:
    """Convert arrays to checked tensors: float32 inputs, int64 or float32 targets.

    Args:
        x: (N, ...) numbers.
        y: (N,) or (N, M); whole numbers >= 0 in one dimension are labels, if int64 holds them.
        names: of the columns of x, for errors.
        target: name of y, for errors.
        source: what to call them in errors.

    Returns: inputs float32, targets int64 or float32.

    Raises:
        ShapeMismatch: different lengths.
        DataError: no row, or something that is not a number.
        NonFiniteInput: NaN or infinity, also where only float32 has no room for it (from 3.4e38).

    >>> from_arrays(np.ones((2, 1)), np.array([0, 1]))[1]
    tensor([0, 1])
    """
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ShapeMismatch(f"{source}: inputs {x.shape} and targets {y.shape} differ in length")
    if len(x) == 0:
        raise DataError(f"{source}: no rows; give at least one")
    for name, array in (("inputs", x), ("targets", y)):
        if array.dtype.kind not in "biuf":
            raise DataError(f"{source}: {name} are {array.dtype}, not numbers; encode them first")
    inputs = _narrow(x)
    wrong = ~np.isfinite(inputs)
    if wrong.any():
        row, *rest = (int(index) for index in np.argwhere(wrong)[0])
        column = repr(names[rest[0]]) if names else str(rest)
        raise NonFiniteInput(
            f"{source}: {x[(row, *rest)]} in row {row}, column {column} is not finite as float32 "
            f"({int(wrong.sum())} in all); drop, impute or rescale them"
        )
    targets = _narrow(y)
    wrong = ~np.isfinite(targets)
    if wrong.any():
        row, *rest = (int(index) for index in np.argwhere(wrong)[0])
        raise NonFiniteInput(
            f"{source}: {y[(row, *rest)]} in row {row}, column {target!r}: "
            "a target is NaN or infinite as float32; "
            "drop or rescale those rows"
        )
    # A whole number that int64 cannot hold would turn negative, so it is a value, not a label.
    if y.ndim == 1 and bool(((y == np.floor(y)) & (y >= 0) & (y < 2.0**63)).all()):
        return torch.from_numpy(inputs), torch.from_numpy(y.astype(np.int64))
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def _narrow(values: NDArray[Any]) -> NDArray[np.float32]:
    """As float32; what is too large becomes infinite, which the caller looks for."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def _read_csv(path: Path) -> tuple[list[str], dict[str, NDArray[Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows, lines, begin = [], [], 1
            for row in reader:
                if row:
                    rows.append(row)
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
    if len(set(header)) != len(header):
        raise DataError(f"'{path}' names a column twice; rename one of {sorted(header)}")
    table = {}
    for index, name in enumerate(header):
        table[name] = _read_numbers(path, name, [row[index] for row in body], lines)
    return header, table


def _read_numbers(
    path: Path, name: str, cells: Sequence[str], lines: Sequence[int]
) -> NDArray[Any]:
    values = np.empty(len(cells))
    for row, cell in enumerate(cells):
        try:
            values[row] = float(cell) if cell.strip() else np.nan
        except ValueError:
            raise DataError(
                f"'{path}' column {name!r} holds text ({cell!r} in line {lines[row]}); "
                "encode it as numbers or drop it"
            ) from None
    return values


def _read_parquet(path: Path) -> tuple[list[str], dict[str, NDArray[Any]]]:
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
    columns = [str(name) for name in frame.columns]
    for name in columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise DataError(
                f"'{path}' column {name!r} is {frame[name].dtype}, not numbers; "
                "encode it as numbers or drop it"
            )
    return columns, {name: frame[name].to_numpy(dtype=np.float64) for name in columns}


def _read_npz(path: Path, target: str) -> tuple[Tensor, Tensor, list[str]]:
    try:
        # Pickled objects would run code; only plain arrays are read.
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read '{path}': {error}") from None
    except Exception as error:  # zipfile.BadZipFile and zlib.error have no common base
        raise DataError(f"'{path}' is damaged: {error}") from None
    name = target if target in arrays else "y" if target == "target" else target
    if name not in arrays or "x" not in arrays:
        lacking = name if "x" in arrays else "x"
        raise DataError(f"'{path}' has no array {lacking!r}; {suggest(lacking, arrays)}")
    x, y = from_arrays(arrays["x"], arrays[name], source=str(path))
    return x, y, [f"x{index}" for index in range(x[0].numel())]
