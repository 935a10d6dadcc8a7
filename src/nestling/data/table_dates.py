"""Dates in a table's cells: which form a column writes them in, and the numbers they become."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

ISO = "iso"
# Tried in this order; where nothing in a column tells day from month, the month comes first.
FORMS = (ISO, "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%d-%m-%Y")
_ISO_START = re.compile(r"\d{4}-\d{2}-\d{2}([T ]|$)")
_TIMES = ("", " %H:%M", " %H:%M:%S")
_EPOCH = datetime(1970, 1, 1)
_DAY = 86400.0

# Names of the numbers a date becomes. Weekday, month and hour go round: sine and cosine put
# Sunday beside Monday.
DATE_PARTS = (
    *("days", "day of month", "weekday sine", "weekday cosine", "month sine", "month cosine"),
    *("hour sine", "hour cosine"),
)
NUM_DAY_PARTS = len(DATE_PARTS) - 2  # of those that need no time of day


def read_date(cell: str, form: str) -> datetime | None:
    """A cell as a date, with a time of day or without; None if it is none in this form.

    Args:
        cell: e.g. "2024-02-29 12:30" or "29.02.2024".
        form: one of FORMS.

    Returns: in UTC if the cell names its zone, else as it stands.

    >>> read_date("29.02.2024", "%d.%m.%Y")
    datetime.datetime(2024, 2, 29, 0, 0)
    """
    if form == ISO:
        if not _ISO_START.match(cell):
            return None
        try:
            found = datetime.fromisoformat(cell)
            return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)
        except (ValueError, OverflowError):
            return None
    for time in _TIMES:
        try:
            return datetime.strptime(cell, form + time)
        except ValueError:
            continue
    return None


def find_form(cells: Sequence[str]) -> str | None:
    """The form in which all of these cells are dates; None if there is none, or no cell.

    >>> find_form(["31/01/2024", "01/02/2024"]), find_form(["2024-01-31", "soon"])
    ('%d/%m/%Y', None)
    """
    for form in FORMS:
        if cells and all(read_date(cell, form) is not None for cell in cells):
            return form
    return None


def split_date(date: datetime) -> NDArray[np.float64]:
    """The numbers of a date, in the order of DATE_PARTS; days count from 1970."""
    day = (date - _EPOCH).total_seconds() / _DAY
    turns = (date.weekday() / 7, (date.month - 1) / 12, day % 1.0)
    circles = [f(2 * math.pi * turn) for turn in turns for f in (math.sin, math.cos)]
    return np.array([day, date.day, *circles])
