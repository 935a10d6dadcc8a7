"""What comes in as events, opened: pandas frames and rows, arrays, tensors, lists.

A block of events is read column by column. pandas is imported by whoever gives a frame, not here.

Letters: N events, D columns of what is given.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from nestling.core.errors import DataError, ShapeMismatch
from nestling.streams.events.event_values import (
    NAN,
    Moment,
    Reading,
    count_seconds,
    name_reading,
    read_value,
)

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import TypeIs


@dataclass(frozen=True)
class BlockColumn:
    """One column of a block of events.

    Args:
        name: as it was given.
        kind: what `values` (N,) holds.
        values: numbers, float64; or moments in seconds since 1970, float64; or int64 places
            in `readings`, -1 where nothing is known.
        readings: of "readings", each once, in any order.
    """

    name: object
    kind: Literal["numbers", "moments", "readings"]
    values: np.ndarray
    readings: tuple[Reading, ...] = ()

    def find_first(self) -> tuple[int, Reading]:
        """The first event with a known value, and that; (N, NaN) if there is none."""
        if self.kind == "readings":
            is_known = [one == one and not _is_infinite(one) for one in self.readings]
            known_N = np.array([*is_known, False], dtype=bool)[self.values]
        else:
            known_N = np.isfinite(self.values)
        if not known_N.any():
            return len(known_N), NAN
        row = int(known_N.argmax())
        value = self.values[row]
        if self.kind == "readings":
            return row, self.readings[value]
        return row, Moment(value) if self.kind == "moments" else float(value)

    def count_infinite(self) -> int:
        """How many numbers are infinite."""
        if self.kind == "readings":
            is_infinite = [_is_infinite(one) for one in self.readings]
            return int(np.array([*is_infinite, False], dtype=bool)[self.values].sum())
        return int(np.isinf(self.values).sum())

    def list_readings(self) -> tuple[list[Reading], np.ndarray]:
        """What stands in the column, each once as it first appears, and its place there (N,).

        Returns: readings, and int64 places, -1 where nothing is known.
        """
        known_N = self.values >= 0 if self.kind == "readings" else ~np.isnan(self.values)
        found, first, place = np.unique(
            self.values[known_N], return_index=True, return_inverse=True
        )
        order = np.argsort(first)
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        codes_N = np.full(len(self.values), -1, dtype=np.int64)
        codes_N[known_N] = rank[place]
        values = found[order].tolist()
        if self.kind == "readings":
            return [self.readings[value] for value in values], codes_N
        return [Moment(value) if self.kind == "moments" else value for value in values], codes_N


def _is_infinite(reading: Reading) -> bool:
    return not isinstance(reading, str) and bool(np.isinf(reading))


def is_frame(x: object) -> "TypeIs[pd.DataFrame]":
    """Whether it is a pandas frame."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(x, pandas.DataFrame)


def _is_series(x: object) -> "TypeIs[pd.Series[Any]]":
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(x, pandas.Series)


def open_event(x: object) -> dict[Any, object]:
    """One event as column's name -> value; what has no names is counted from 0.

    Raises:
        ShapeMismatch: a block of events, or a single value.
        DataError: nothing that holds an event.
    """
    if isinstance(x, Mapping):
        return dict(x)
    if _is_series(x):
        if not x.index.is_unique:
            raise DataError("a name stands twice in the index of an event; give each name once")
        return dict(zip(x.index.tolist(), x.tolist(), strict=True))
    if isinstance(x, Tensor):
        x = _open_tensor(x)
    if isinstance(x, np.ndarray):
        if x.ndim != 1:
            raise ShapeMismatch(f"an event has shape {x.shape}, expected (D,); a block is for many")
        x = list(_fill_masked(x))
    if is_frame(x):
        raise ShapeMismatch(f"an event is a frame of {len(x)} rows; a block is for many")
    if isinstance(x, list | tuple):
        return dict(enumerate(x))
    raise DataError(f"an event is a {type(x).__name__}; give a dict, a list, an array or a Series")


def open_block(
    X: "np.ndarray | Tensor | pd.DataFrame",
) -> tuple[tuple[object, ...], np.ndarray | None]:
    """The columns' names of a frame, an array or a tensor of N events, and its numbers.

    Returns: names (D,), and (N, D) numbers if all columns are plain numbers, else None.
    Raises:
        ShapeMismatch: not 2-D.
        DataError: complex numbers.
    """
    if is_frame(X):
        names = tuple(X.columns.tolist())
        for dtype in X.dtypes:
            if not isinstance(dtype, np.dtype) or dtype.kind not in "fiub":
                return names, None
        return names, X.to_numpy(dtype=np.float64)
    block = _open_array(X)
    return tuple(range(block.shape[1])), block if block.dtype.kind in "fiub" else None


def read_columns(X: "np.ndarray | Tensor | pd.DataFrame") -> list[BlockColumn]:
    """The columns (D,) of a frame, an array or a tensor of N events.

    Raises:
        ShapeMismatch: not 2-D.
        DataError: complex numbers, a cell that holds several values.
    """
    if is_frame(X):
        return [_read_series(cells, name) for name, cells in X.items()]
    block = _open_array(X)
    return [_read_cells(block[:, place], place) for place in range(block.shape[1])]


def _open_array(X: "np.ndarray | Tensor | pd.DataFrame") -> np.ndarray:
    assert not is_frame(X)
    block = _open_tensor(X) if isinstance(X, Tensor) else _fill_masked(X)
    if block.ndim != 2:
        raise ShapeMismatch(f"a block of events has shape {block.shape}, expected (N, D)")
    return block


def _open_tensor(x: Tensor) -> np.ndarray:
    if x.is_complex():
        raise DataError("events are complex numbers; give real ones")
    array: np.ndarray = x.detach().double().cpu().numpy()
    return array


def _fill_masked(x: np.ndarray) -> np.ndarray:
    """What is masked in a masked array is missing."""
    if not isinstance(x, np.ma.MaskedArray):
        return x
    filled: np.ndarray = np.ma.filled(x.astype(object), None)
    return filled


def _read_cells(cells_N: np.ndarray, name: object) -> BlockColumn:
    kind = cells_N.dtype.kind
    if kind in "fiub":
        return BlockColumn(name, "numbers", cells_N.astype(np.float64))
    if kind in "Mm":
        return BlockColumn(name, "moments" if kind == "M" else "numbers", count_seconds(cells_N))
    if kind == "c":
        raise DataError(f"column {name!r} holds complex numbers; give real ones")
    places: dict[tuple[type, Reading], int] = {}
    codes = []
    for cell in cells_N.tolist():
        one = read_value(cell, name)
        codes.append(places.setdefault((type(one), one), len(places)) if one == one else -1)
    readings = tuple(one for _, one in places)
    codes_N = np.array(codes, dtype=np.int64)
    if all(type(one) is float for one in readings):
        return BlockColumn(name, "numbers", np.array([*readings, NAN])[codes_N])
    return BlockColumn(name, "readings", codes_N, readings)


def _read_series(cells: "pd.Series[Any]", name: object) -> BlockColumn:
    import pandas as pd

    dtype = cells.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        texts = [read_value(one, name) for one in dtype.categories.tolist()]
        codes_N = cells.cat.codes.to_numpy().astype(np.int64)
        # What was declared a category is one, though it be written in numbers.
        readings = [one if one != one or _is_infinite(one) else name_reading(one) for one in texts]
        return BlockColumn(name, "readings", codes_N, tuple(readings))
    if isinstance(dtype, pd.StringDtype):
        places_N, uniques = cells.array.factorize()
        words = tuple(read_value(one, name) for one in uniques.tolist())
        return BlockColumn(name, "readings", np.asarray(places_N, dtype=np.int64), words)
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _read_cells(cells.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), name)
    if not isinstance(dtype, np.dtype) and pd.api.types.is_numeric_dtype(dtype):
        return BlockColumn(name, "numbers", cells.to_numpy(dtype=np.float64, na_value=np.nan))
    cells_N = cells.to_numpy() if isinstance(dtype, np.dtype) else cells.to_numpy(dtype=object)
    return _read_cells(cells_N, name)
