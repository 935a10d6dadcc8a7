"""One column of the events as they are given, and how to read events that look as usual.

Letters: C columns of a row, D values of an event.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

import numpy as np

from nestling.streams.events.event_values import (
    DATE_PARTS,
    NAN,
    Moment,
    Reading,
    parse_moment,
    read_value,
    split_moments,
)

MAX_CATEGORIES = 256
OTHER = "(other)"
NUMBER, CATEGORY, DATE = "number", "category", "date"
Name = str | int
_INFINITY = float("inf")


class Source:
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

    def __init__(self, sources: Mapping[Name, Source]) -> None:
        names = tuple(sources)
        self.names = names
        self.sources = tuple(sources.values())
        self.size = sum(source.width for source in self.sources)
        self.pack_into: Callable[..., None] = struct.Struct(f"{self.size}d").pack_into
        self.is_plain = all(source.kind == NUMBER for source in self.sources)
        self.is_positional = self.is_plain and names == tuple(range(len(names)))
        self.fetch: Callable[[dict[Any, object]], tuple[object, ...]] = (
            itemgetter(*names) if len(names) > 1 else lambda event: (event[names[0]],)
        )

    def encode(self, event: dict[Any, object]) -> np.ndarray | None:
        """The row (C,) of an event; None where it takes the long way."""
        keys = tuple(event)
        values: Iterable[object]
        if keys == self.names:
            values = event.values()
        elif len(keys) == len(self.names):
            try:
                values = self.fetch(event)
            except KeyError:
                return None
        else:
            return None
        row = np.empty(self.size)
        try:
            # It takes whatever gives a float, and no text.
            self.pack_into(row, 0, *(values if self.is_plain else self._read_mixed(values)))
        except struct.error:
            if not self.is_plain:
                return None
            try:
                self.pack_into(row, 0, *self._read_mixed(values))
            except struct.error:
                return None
        total = sum(row.tolist())  # quicker than numpy on one row, and it warns of no overflow
        return row if total - total == 0.0 or not np.isinf(row).any() else None

    def encode_numbers(self, block: np.ndarray) -> np.ndarray | None:
        """Numbers (..., D) by position as float64; None where they take the long way."""
        if not self.is_positional or block.dtype.kind not in "fiub" or len(block.T) != self.size:
            return None
        rows = np.array(block, dtype=np.float64, order="C")
        return None if np.isinf(rows).any() else rows

    def _read_mixed(self, values: Iterable[object]) -> list[object]:
        """Values as the row's numbers; a text among them says that the event is not as usual."""
        row: list[object] = []
        add = row.append
        for value, source in zip(values, self.sources, strict=True):
            if value is None:
                row += [NAN] * source.width
            elif source.kind == NUMBER:
                add(value)
            elif source.kind == CATEGORY:
                # Only a plain text is looked for: a subclass may compare as it likes.
                add(source.codes.get(value, "new") if type(value) is str else "other type")
            else:
                moment = read_value(value, source.name)
                row += split_moment(moment) if isinstance(moment, Moment) else ["no date"]
        return row


def split_moment(moment: float) -> list[float]:
    """The columns of one point in time, in the order of DATE_PARTS."""
    parts: list[float] = split_moments(np.array([moment]))[0].tolist()
    return parts


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
