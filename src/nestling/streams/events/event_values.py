"""What stands in one cell of an event: a number, a text or a point in time.

Columns decide by these three what they are; see `EventColumns`. Infinite numbers are passed on,
what is missing is NaN.
"""

import math
import re
import struct
import sys
from datetime import date, datetime, timedelta

import numpy as np

from nestling.core.errors import DataError

NAN = math.nan
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# What a column of dates becomes, after its own name: the seconds since 1970 have none.
DATE_PARTS = ("", ": hour sine", ": hour cosine", ": weekday")

_DOUBLE = struct.Struct("d")
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]|$)")
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_DAY = 86400.0
_TIMES = (date, timedelta, np.datetime64, np.timedelta64)


class Moment(float):
    """A point in time, in seconds since 1970, UTC where it names its zone."""


# How a cell is passed on.
Reading = float | str | Moment


def read_value(value: object, name: object) -> Reading:
    """Read one cell of an event as a number, a text or a point in time; NaN if it is missing.

    Missing are None, NaN, NaT, pandas' NA and the empty text. A number is whatever gives a float
    without being text (bool, int, numpy scalars, tensors of one element, Decimal), and a span of
    time in seconds. Everything else that can be hashed is text.

    Args:
        value: of the cell.
        name: of the column, for the message.

    Returns: a finite or infinite float or NaN, a non-empty str, or a Moment.
    Raises:
        DataError: a list, a dict, an array: no single value.

    >>> read_value(True, "up"), read_value("red", "color"), read_value(date(1970, 1, 2), "day")
    (1.0, 'red', 86400.0)
    """
    if value is None:
        return NAN
    if type(value) is float:
        return value
    if isinstance(value, str):
        return str.__str__(value) if value else NAN  # of an Enum of texts: the text
    if isinstance(value, (complex, np.complexfloating)):
        raise DataError(f"column {name!r} of an event holds {value!r}; give real numbers")
    # Before the numbers: numpy's times may pass for counts of their own units.
    if isinstance(value, _TIMES):
        return _read_time(value)
    try:
        return float(_DOUBLE.unpack(_DOUBLE.pack(value))[0])
    except struct.error:
        pass
    if isinstance(value, int):  # beyond what a float holds
        return math.inf if value > 0 else -math.inf
    pandas = sys.modules.get("pandas")
    if pandas is not None and value is pandas.NA:
        return NAN
    if getattr(value, "ndim", 0) or not _can_be_hashed(value):
        raise DataError(
            f"column {name!r} of an event holds {type(value).__name__} {str(value)[:60]!r}; "
            "give one number, text or date per column"
        )
    return str(value) or NAN


def _can_be_hashed(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _read_time(value: date | timedelta | np.datetime64 | np.timedelta64) -> Reading:
    if value != value:  # NaT, of numpy or pandas
        return NAN
    # pandas' own types have nanoseconds, which all ways to read them cut off alike.
    for convert in ("to_datetime64", "to_timedelta64"):
        if hasattr(value, convert):
            value = getattr(value, convert)()
    if isinstance(value, np.datetime64):
        return Moment(count_seconds(value))
    if isinstance(value, np.timedelta64):
        return float(count_seconds(value))
    if isinstance(value, timedelta):
        return value // _MICROSECOND / 1e6
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return _measure(value)


def _measure(moment: datetime) -> Moment:
    if moment.tzinfo is not None:
        offset = moment.utcoffset() or timedelta(0)
        moment = moment.replace(tzinfo=None)
        return Moment(((moment - _EPOCH) - offset) // _MICROSECOND / 1e6)
    return Moment((moment - _EPOCH) // _MICROSECOND / 1e6)


def count_seconds(times: np.ndarray | np.datetime64 | np.timedelta64) -> np.ndarray:
    """Seconds since 1970, or of spans, as float64 of the same shape; NaN for NaT.

    >>> count_seconds(np.array(["1970-01-01T00:01", "NaT"], dtype="datetime64[m]"))
    array([60., nan])
    """
    kind = "datetime64" if times.dtype.kind == "M" else "timedelta64"
    counts = times.astype(f"{kind}[us]").astype(np.int64) / 1e6
    return np.where(np.isnat(times), NAN, counts)


def split_moments(seconds: np.ndarray) -> np.ndarray:
    """The columns (N, 4) of points in time, in the order of DATE_PARTS; NaN stays NaN.

    The hour goes round: 23:59 stands beside 0:00. The weekday is a category, Monday 0.

    Args:
        seconds: since 1970 (N,).
    """
    turn_N = 2 * math.pi * (seconds % _DAY / _DAY)
    weekday_N = (seconds // _DAY + 3) % 7
    return np.stack([seconds, np.sin(turn_N), np.cos(turn_N), weekday_N], axis=1)


def split_moment(moment: float) -> list[float]:
    """The columns of one point in time: to the bit those of `split_moments`, and quicker.

    Args:
        moment: in seconds since 1970.

    >>> split_moment(Moment(0.0))
    [0.0, 0.0, 1.0, 3.0]
    """
    turn = 2 * math.pi * (moment % _DAY / _DAY)
    # By numpy, whose last bit is not always that of `math`.
    return [float(moment), float(np.sin(turn)), float(np.cos(turn)), (moment // _DAY + 3) % 7]


def parse_number(text: str) -> float | None:
    """A text as a number, as Python's `float` reads it, but 1_000 is a code; None if it is none.

    >>> [parse_number(text) for text in (" 1e3", "1_000", "red")]
    [1000.0, None, None]
    """
    if "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def parse_moment(text: str) -> Moment | None:
    """A date in ISO form, with a time of day or without; None if it is none.

    >>> parse_moment("1970-01-01T01:00:00+01:00"), parse_moment("soon")
    (0.0, None)
    """
    if not _ISO.match(text):
        return None
    try:
        return _measure(datetime.fromisoformat(text))
    except ValueError:
        return None


def name_reading(reading: Reading) -> str:
    """The category of a number or a point in time in a column of texts.

    >>> name_reading(10115.0), name_reading(0.5), name_reading(Moment(60.0))
    ('10115', '0.5', '1970-01-01T00:01:00')
    """
    if isinstance(reading, str):
        return reading
    if isinstance(reading, Moment):
        return str(np.datetime64(round(reading * 1e6), "us")).removesuffix(".000000")
    return str(int(reading)) if reading.is_integer() else repr(reading)
