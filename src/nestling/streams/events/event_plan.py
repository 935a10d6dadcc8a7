"""One column of the events as they are given, and how to read events that look as usual.

Letters: C columns of a row, D values of an event.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from nestling.streams.events.event_values import (
    DATE_PARTS,
    NAN,
    Moment,
    Reading,
    parse_moment,
    read_value,
    split_moment,
)

MAX_CATEGORIES = 256
OTHER = "(other)"
NUMBER, CATEGORY, DATE = "number", "category", "date"
Name = str | int
# Plain numbers; others are looked at, for numpy's times too give a float.
_NUMBERS = frozenset(
    {float, int, bool, np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_}
)


class SourceColumn:
    """One column of the events as they are given: its kind, and which columns it becomes.

    Args:
        name: of the column.
        kind: NUMBER, CATEGORY or DATE, for good.
        first: its first column in the rows.
        categories: known texts, in the order of their codes.
        has_other: the last code is that of all later texts.
    """

    __slots__ = ("codes", "first", "has_other", "kind", "name")

    def __init__(
        self, name: Name, kind: str, first: int, categories: Iterable[str], has_other: bool
    ) -> None:
        self.name, self.kind, self.first = name, kind, first
        self.codes = {text: code for code, text in enumerate(categories)}
        self.has_other = has_other

    @property
    def width(self) -> int:
        """How many columns of the row it becomes."""
        return len(DATE_PARTS) if self.kind == DATE else 1

    @property
    def num_codes(self) -> int:
        """How many codes it has given out."""
        return len(self.codes) + self.has_other

    def find_code(self, text: str, *, grow: bool) -> int:
        """The code of a text; -1 if it has none and may get none."""
        code = self.codes.get(text)
        if code is not None:
            return code
        if len(self.codes) < MAX_CATEGORIES - 1:
            if not grow:
                return -1
            self.codes[text] = len(self.codes)
            return len(self.codes) - 1
        self.has_other |= grow
        return MAX_CATEGORIES - 1 if self.has_other else -1


class RowPlan:
    """How to read events that have exactly the known columns, as nearly all have."""

    def __init__(self, sources: Mapping[Name, SourceColumn]) -> None:
        names = tuple(sources)
        self.names = names
        self.sources = tuple(sources.values())
        self.size = sum(source.width for source in self.sources)
        self.pack_into: Callable[..., None] = struct.Struct(f"{self.size}d").pack_into
        self.is_plain = all(source.kind == NUMBER for source in self.sources)
        self.is_positional = self.is_plain and names == tuple(range(len(names)))
        self.known = frozenset(names)

    def encode(self, event: dict[Any, object]) -> np.ndarray | None:
        """The row (C,) of an event; None where it takes the long way."""
        keys = tuple(event)
        values: Iterable[object]
        if keys == self.names:
            values = event.values()
        elif event.keys() <= self.known:
            values = list(map(event.get, self.names))
        else:
            return None
        if not (self.is_plain and _NUMBERS.issuperset(map(type, values))):
            values = self._read_mixed(values)
        row = np.empty(self.size)
        try:
            self.pack_into(row, 0, *values)
        except struct.error:  # a text says that the event is not as usual
            return None
        total = sum(row.tolist())  # quicker than numpy on one row, and it warns of no overflow
        return row if total - total == 0.0 or not np.isinf(row).any() else None

    def encode_numbers(self, numbers: np.ndarray) -> np.ndarray | None:
        """Numbers (..., D) in the order of `names` as float64; None where they go the long way."""
        if not self.is_plain or numbers.dtype.kind not in "fiub":
            return None
        rows = np.array(numbers, dtype=np.float64, order="C")
        return None if np.isinf(rows).any() else rows

    def _read_mixed(self, values: Iterable[object]) -> list[object]:
        """Values as the row's numbers; a text stands for what is not as usual."""
        row: list[object] = []
        add = row.append
        for value, source in zip(values, self.sources, strict=True):
            if value is None:
                row += [NAN] * source.width
            elif source.kind == NUMBER:
                if type(value) in _NUMBERS:
                    add(value)
                else:
                    reading = read_value(value, source.name)
                    add(reading if type(reading) is float else "no number")
            elif source.kind == CATEGORY:
                # Only a plain text is looked for: a subclass may compare as it likes.
                add(source.codes.get(value, "new") if type(value) is str else "no text")
            else:
                moment = read_value(value, source.name)
                row += split_moment(moment) if isinstance(moment, Moment) else ["no date"]
        return row


def name_column(key: object) -> Name:
    """The name of a column as JSON keeps it: whole numbers as int, the rest as text."""
    if isinstance(key, bool | int | np.integer | np.bool_):
        return int(key)
    if isinstance(key, float) and key.is_integer():  # equal to the int, as a key
        return int(key)
    return str.__str__(key) if isinstance(key, str) else str(key)


def decide_kind(reading: Reading) -> str | None:
    """What a column is whose first known value this is; None: it is not known."""
    if isinstance(reading, str):
        return CATEGORY if parse_moment(reading) is None else DATE
    if isinstance(reading, Moment):
        return DATE
    return NUMBER if np.isfinite(reading) else None
