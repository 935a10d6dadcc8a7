"""The columns of a stream: events of any form become rows of numbers.

Letters: N events, C columns (of the rows), D values of an event.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from nestling.core.errors import DataError, SettingError, ShapeMismatch
from nestling.streams.events.event_blocks import (
    BlockColumn,
    is_frame,
    open_block,
    open_event,
    read_columns,
)
from nestling.streams.events.event_plan import (
    CATEGORY,
    DATE,
    NUMBER,
    OTHER,
    Name,
    RowPlan,
    SourceColumn,
    decide_kind,
    name_column,
)
from nestling.streams.events.event_values import (
    DATE_PARTS,
    NAN,
    WEEKDAYS,
    Moment,
    Reading,
    name_reading,
    parse_moment,
    parse_number,
    read_value,
    split_moment,
    split_moments,
)

_INFINITY = float("inf")


class EventColumns:
    """Turn events of any form (dict, pandas row or frame, array, tensor, list) into numeric rows.

    An event is a mapping of columns' names to values, or values by position (named 0, 1, ...).
    A column comes into being with its first known value, at the end of the row, and keeps its
    place and kind for good:

    - number: of bool, int, float, spans of time in seconds. A text is parsed there; what is no
      number is missing and counted in `num_unreadable`, and so is a date.
    - category: of text and whatever else can be hashed; its codes count up as texts appear. Of
      more than 256 all later ones share the last code. "3" is a text: give numbers as numbers.
      A number becomes the text that it is written with ("10115" for 10115.0, "1" for True).
    - date: of date, datetime, Timestamp, datetime64 and ISO text ("2024-05-01 12:30"; JSON has no
      other dates). It becomes four columns: seconds since 1970 under its own name, "name: hour
      sine" and "name: hour cosine", and "name: weekday", a category of seven. A zone is brought to
      UTC. What is no date is missing and counted in `num_unreadable`, numbers too.

    Missing (NaN in the row) are absent columns, None, NaN, NaT, NA, the empty text, and infinite
    numbers, which are counted in `num_infinite`. A column of a frame with a categorical dtype
    starts as a category even where its values are numbers.

    Args:
        max_columns: most columns of a row; an event that needs more is refused.

    Raises:
        SettingError: `max_columns` below 1.

    >>> columns = EventColumns()
    >>> columns.encode_one({"price": 3, "color": "red"}, grow=True)
    array([3., 0.])
    >>> columns.encode_one({"color": "blue", "up": True}, grow=True)
    array([nan,  1.,  1.])
    >>> columns.encode_one({"color": "green", "size": 7}, grow=False)
    array([nan, -1., nan])
    >>> columns.names, columns.kinds
    (['price', 'color', 'up'], array([0, 1, 0]))
    """

    def __init__(self, *, max_columns: int = 20_000) -> None:
        if max_columns < 1:
            raise SettingError(f"max_columns is {max_columns}; give 1 or more")
        self.max_columns = max_columns
        self.num_infinite, self.num_unreadable = 0, 0
        # Columns and codes so far: as long as it stays, names, kinds and codes are what they were.
        self.num_growths = 0
        self._sources: dict[Name, SourceColumn] = {}
        self._size = 0
        self._plan: RowPlan | None = None

    @property
    def num_columns(self) -> int:
        """C, of a row now."""
        return self._size

    @property
    def names(self) -> list[Name]:
        """Names (C,) of the columns, in their order; a date has four."""
        return [
            f"{source.name}{part}" if part else source.name
            for source in self._sources.values()
            for part in (DATE_PARTS if source.kind == DATE else ("",))
        ]

    @property
    def kinds(self) -> np.ndarray:
        """Kinds (C,) int64 of the columns: 0 numbers, 1 codes of categories."""
        return (self.num_codes > 0).astype(np.int64)

    @property
    def num_codes(self) -> np.ndarray:
        """How many codes each column has given out (C,) int64; 0 for numbers."""
        counts: list[int] = []
        for source in self._sources.values():
            counts += [0, 0, 0, len(WEEKDAYS)] if source.kind == DATE else [source.num_codes]
        return np.array(counts, dtype=np.int64)

    @property
    def num_codes_at_once(self) -> np.ndarray:
        """How many codes each column has from its first known value on (C,): weekdays all."""
        counts: list[int] = []
        for source in self._sources.values():
            counts += [0, 0, 0, len(WEEKDAYS)] if source.kind == DATE else [0]
        return np.array(counts, dtype=np.int64)

    def list_categories(self, column: int) -> list[str]:
        """The texts of a column's codes, in their order; empty for numbers.

        Args:
            column: its place in the row.
        """
        for source in self._sources.values():
            if source.first <= column < source.first + source.width:
                if source.kind == DATE:
                    return list(WEEKDAYS) if column == source.first + 3 else []
                return [*source.codes, *([OTHER] if source.has_other else [])]
        raise SettingError(f"column {column}; there are {self._size}, counted from 0")

    def encode_one(self, x: object, *, grow: bool) -> np.ndarray:
        """The row of one event: numbers, codes of categories, NaN where a value is missing.

        Args:
            x: a mapping, a pandas Series, or a 1-D array, tensor, list or tuple of values.
            grow: admit new columns and categories. A query does not: it leaves all as it is,
                unknown columns are ignored, unknown categories get -1.

        Returns: (C,) float64, C as it is afterwards.
        Raises:
            DataError: no event, a value that is a list or an array, a name that stands twice,
                more than `max_columns`; nothing changed then.
            ShapeMismatch: a block of events.
        """
        plan = self._plan
        if type(x) is dict:
            event = x
        elif plan is not None and type(x) is np.ndarray and x.ndim == 1:
            if plan.is_positional and len(x) == plan.size:
                row = plan.encode_numbers(x)
                if row is not None:
                    return row
            event = open_event(x)
        else:
            event = open_event(x)
        if plan is not None:
            row = plan.encode(event)
            if row is not None:
                return row
        return self._encode_unusual(event, grow=grow)

    def encode_many(self, X: object, *, grow: bool) -> np.ndarray:
        """The rows of a block of events, as `encode_one` gives them one after the other.

        Args:
            X: a pandas frame, a 2-D array or tensor, or a sequence of events (N of them).
            grow: as of `encode_one`; a value that came before its column did is NaN.

        Returns: (N, C) float64, C as it is afterwards.
        Raises:
            DataError, ShapeMismatch: as of `encode_one`; nothing changed then.
        """
        if isinstance(X, Mapping):
            raise ShapeMismatch("a block is a mapping: one event; give it to encode_one")
        if isinstance(X, np.ndarray | Tensor) or is_frame(X):
            names, numbers = open_block(X)
            if self._plan is not None and numbers is not None and names == self._plan.names:
                rows = self._plan.encode_numbers(numbers)
                if rows is not None:
                    return rows
            return self._encode_columns(read_columns(X), len(X), grow=grow)
        if not isinstance(X, Iterable) or isinstance(X, str | bytes):
            raise DataError(f"a block is a {type(X).__name__}; give a frame, an array or a list")
        before: dict[str, Any] | None = None
        rows_N = []
        try:
            for x in X:
                row = None
                if self._plan is not None and type(x) is dict:
                    row = self._plan.encode(x)
                if row is None:
                    before = before or (self.state_dict() if grow else None)
                    row = self.encode_one(x, grow=grow)
                rows_N.append(row)
        except BaseException:
            if before is not None:
                self.load_state_dict(before)
            raise
        block = np.full((len(rows_N), self._size), NAN)
        for n, row in enumerate(rows_N):
            block[n, : len(row)] = row
        return block

    def _encode_unusual(self, event: Mapping[Any, object], *, grow: bool) -> np.ndarray:
        found: dict[Name, Reading] = {}
        for key, value in event.items():
            name = key if type(key) is str or type(key) is int else name_column(key)
            _refuse_twice(name, found)
            found[name] = read_value(value, name)
        is_new = [name for name in found if name not in self._sources]
        has_grown = grow and self._admit({name: found[name] for name in is_new})
        row_C = np.full(self._size, NAN)
        for name, reading in found.items():
            source = self._sources.get(name)
            if source is None:
                self.num_infinite += grow and reading in (_INFINITY, -_INFINITY)
            elif source.kind != DATE:
                row_C[source.first] = self._convert(source, reading, 1, grow=grow)[0]
            else:
                end = source.first + source.width
                row_C[source.first : end] = self._convert(source, reading, 1, grow=grow)
        if not has_grown and self._plan is None and self._sources:
            self._plan = RowPlan(self._sources)
        return row_C

    def _encode_columns(
        self, columns: Sequence[BlockColumn], num_events: int, *, grow: bool
    ) -> np.ndarray:
        found: dict[Name, BlockColumn] = {}
        for column in columns:
            name = name_column(column.name)
            _refuse_twice(name, found)
            found[name] = column
        firsts = [
            (*column.find_first(), name)
            for name, column in found.items()
            if grow and name not in self._sources
        ]
        # As the events would have brought them one after the other.
        firsts.sort(key=lambda first: first[0])
        has_grown = self._admit({name: reading for _, reading, name in firsts})
        block = np.full((num_events, self._size), NAN)
        for name, column in found.items():
            source = self._sources.get(name)
            if source is None:
                self.num_infinite += int(grow) * column.count_infinite()
            else:
                end = source.first + source.width
                block[:, source.first : end] = self._convert_column(source, column, grow=grow)
        if not has_grown and self._plan is None and self._sources:
            self._plan = RowPlan(self._sources)
        return block

    def _admit(self, new: Mapping[Name, Reading]) -> bool:
        """Add the columns whose first known values these are; whether there are any."""
        kinds = [(name, kind) for name, one in new.items() if (kind := decide_kind(one))]
        size = self._size + sum(len(DATE_PARTS) if kind == DATE else 1 for _, kind in kinds)
        if size > self.max_columns:
            raise DataError(
                f"an event brings {size - self._size} new columns to {self._size}; at most "
                f"{self.max_columns} are kept, drop some or raise max_columns"
            )
        for name, kind in kinds:
            source = SourceColumn(name, kind, self._size, (), False)
            self._sources[name] = source
            self._size += source.width
        self.num_growths += len(kinds)
        if kinds:
            self._plan = None
        return bool(kinds)

    def _convert(
        self, source: SourceColumn, reading: Reading, times: int, *, grow: bool
    ) -> list[float]:
        """What a reading becomes in the source's columns; `times` it stands in the block."""
        kind = source.kind
        value: Reading | None = reading
        if type(reading) is str and kind != CATEGORY:
            value = parse_number(reading) if kind == NUMBER else parse_moment(reading)
        if isinstance(value, float):
            if value != value:
                return [NAN] * source.width
            if value in (_INFINITY, -_INFINITY):
                self.num_infinite += times * grow
                return [NAN] * source.width
        if value is not None:
            if kind == CATEGORY:
                before = source.num_codes
                code = source.find_code(name_reading(value), grow=grow)
                self.num_growths += source.num_codes - before
                return [code]
            if kind == NUMBER and type(value) is float:
                return [value]
            if kind == DATE and isinstance(value, Moment):
                return split_moment(value)
        self.num_unreadable += times * grow
        return [NAN] * source.width

    def _convert_column(
        self, source: SourceColumn, column: BlockColumn, *, grow: bool
    ) -> np.ndarray:
        """The columns (N, 1) or (N, 4) of the source."""
        if source.kind == NUMBER and column.kind == "numbers":
            is_infinite_N = np.isinf(column.values)
            self.num_infinite += int(is_infinite_N.sum()) * grow
            return np.where(is_infinite_N, NAN, column.values)[:, None]
        if source.kind == DATE and column.kind == "moments":
            return split_moments(column.values)
        readings, codes_N = column.list_readings()  # in the order in which they appear
        counts = np.bincount(codes_N[codes_N >= 0], minlength=len(readings))
        table = np.full((len(readings) + 1, source.width), NAN)  # the last row is of code -1
        for code, (reading, count) in enumerate(zip(readings, counts.tolist(), strict=True)):
            table[code] = self._convert(source, reading, count, grow=grow)
        rows: np.ndarray = table[codes_N]
        return rows

    def state_dict(self) -> dict[str, Any]:
        """As plain data for JSON: columns in their order with their categories, and the counts."""
        return {
            "sources": [
                {
                    "name": source.name,
                    "kind": source.kind,
                    "categories": list(source.codes),
                    "has_other": source.has_other,
                }
                for source in self._sources.values()
            ],
            "num_infinite": self.num_infinite,
            "num_unreadable": self.num_unreadable,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        sources: dict[Name, SourceColumn] = {}
        size = 0
        for one in state["sources"]:
            source = SourceColumn(
                one["name"], one["kind"], size, one["categories"], one["has_other"]
            )
            sources[source.name] = source
            size += source.width
        self.num_infinite, self.num_unreadable = state["num_infinite"], state["num_unreadable"]
        self.num_growths = len(sources) + sum(one.num_codes for one in sources.values())
        self._sources, self._size, self._plan = sources, size, None


def _refuse_twice(name: Name, found: Mapping[Name, object]) -> None:
    if name in found:
        raise DataError(f"column {name!r} stands twice in an event; give each name once")
