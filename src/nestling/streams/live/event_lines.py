"""Events of a stream, one a line: CSV with a header, or JSON objects."""

import csv
import json
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from nestling.core.errors import DataError, suggest
from nestling.data.table_columns import MARKS
from nestling.streams.events.event_values import parse_moment, parse_number
from nestling.streams.live.follow import Arrival

_DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class BrokenLine:
    """A line that holds no event.

    Attributes:
        line: its number, from 1.
        reason: what is wrong with it.
    """

    line: int
    reason: str


@dataclass(frozen=True)
class LineFormat:
    """What stands in the columns of a stream.

    Attributes:
        target: column of the label or target.
        id: column that names events; None for none. It is no feature.
        time: column by which late labels become due; it stays a feature. None for none.
        categories: columns whose numbers are names.
        classifies: whether the target is a label, which is text as it stands there.
        may_lack_target: whether the target's column may be missing: all labels come late, or never.
    """

    target: str
    id: str | None = None
    time: str | None = None
    categories: Collection[str] = ()
    classifies: bool = True
    may_lack_target: bool = False


@dataclass(frozen=True)
class TimedArrival:
    """An event, and its time for late labels; None where that is not known."""

    arrival: Arrival
    time: float | None = None


def read_event_lines(lines: Iterable[str], form: LineFormat) -> Iterator[TimedArrival | BrokenLine]:
    r"""Read events line by line, as they come; numbers become numbers.

    Every line is an event: a quoted cell does not go on in the next one. The first line is the
    header of a CSV, or the first of JSON objects, one a line. A cell is missing if it is empty, or
    one of the usual marks ("?", "NA", "nan", ...) unless other text has come in its column.

    Args:
        lines: with their ends or without.
        form: what stands in the columns.

    Yields: events, and what is wrong with lines that hold none.

    Raises:
        DataError: no header, a name that stands twice in it, no column of the target or id.

    >>> form = LineFormat("up")
    >>> for found in read_event_lines(["price,colour,up\n", "3,red,yes\n", "4\n"], form):
    ...     print(found)
    TimedArrival(arrival=Arrival(x={'price': 3.0, 'colour': 'red'}, y='yes', id=None), time=None)
    BrokenLine(line=3, reason='1 cells, expected 3')
    """
    numbered = ((number, line.strip("\r\n")) for number, line in enumerate(lines, start=1))
    first = next(((number, line) for number, line in numbered if line.strip("\ufeff \t")), None)
    if first is None:
        raise DataError("no events: the stream is empty; its first line is a header, or JSON")
    number, line = first[0], first[1].removeprefix("\ufeff")
    if line.lstrip().startswith("{"):
        yield _read_json(number, line, form)
        for number, line in numbered:
            if line.strip():
                yield _read_json(number, line, form)
        return
    header, delimiter = read_header(line)
    if form.target not in header and not form.may_lack_target:
        raise DataError(f"no column {form.target!r} to predict; {suggest(form.target, header)}")
    for name in (form.id, form.time):
        if name is not None and name not in header:
            raise DataError(f"no column {name!r}; {suggest(name, header)}")
    texts = set(form.categories)
    for number, line in numbered:
        if not line.strip():
            continue
        cells = split_line(line, delimiter, len(header))
        if isinstance(cells, str):
            yield BrokenLine(number, cells)
        else:
            values: dict[str, object] = dict(zip(header, cells, strict=True))
            yield _make_arrival(number, values, form, texts)


def read_header(line: str) -> tuple[list[str], str]:
    """Names of the columns, and what divides them.

    Raises:
        DataError: a name that stands twice, or is empty.

    >>> read_header("a;b")
    (['a', 'b'], ';')
    """
    delimiter = max(_DELIMITERS, key=line.count)
    cells = split_line(line.rstrip("\r\n").removeprefix("\ufeff"), delimiter, None)
    if isinstance(cells, str):
        raise DataError(f"the header {line[:60]!r} cannot be read: {cells}")
    header = [cell.strip() for cell in cells]
    for name in header:
        if not name or header.count(name) > 1:
            said = f"{name!r} twice" if name else "a column without a name"
            raise DataError(f"the header {line[:60]!r} has {said}; give each column a name")
    return header, delimiter


def split_line(line: str, delimiter: str, num_cells: int | None) -> list[str] | str:
    """The cells of a line; what is wrong with it if it cannot be split into so many."""
    if "\0" in line or any("\ud800" <= sign <= "\udfff" for sign in line):
        return "it is no text in UTF-8"
    try:
        cells: list[str] = next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error as error:
        return str(error)
    if num_cells is not None and len(cells) != num_cells:
        return f"{len(cells)} cells, expected {num_cells}"
    return cells


def read_target_cell(cell: object, *, classifies: bool) -> str | float | None:
    """A label or target as it stands in a cell; None where it is not known.

    Raises:
        DataError: no label, or no finite number.

    >>> read_target_cell(" 3 ", classifies=True), read_target_cell("3", classifies=False)
    ('3', 3.0)
    """
    text = _name(cell).strip()
    if not text or (not classifies and text.lower() in MARKS):
        return None
    if classifies:
        return text
    value = parse_number(text)
    if value is None or not math.isfinite(value):
        raise DataError(f"target {text[:60]!r} is no finite number")
    return value


def read_time_cell(cell: object) -> float | None:
    """A time: a number, or a date in ISO form in seconds since 1970; None where there is none."""
    text = _name(cell).strip()
    value = parse_number(text)
    value = parse_moment(text) if value is None else value
    return None if value is None or math.isnan(value) else value


def read_id_cell(cell: object) -> str | None:
    """An id as text; None where there is none.

    >>> read_id_cell(17), read_id_cell(" a17 "), read_id_cell("")
    ('17', 'a17', None)
    """
    return _name(cell).strip() or None


def _name(cell: object) -> str:
    """A cell as text: that of JSON is the text that a CSV would have."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, str | int | float):
        return str(cell)
    raise DataError(f"{str(cell)[:60]!r} is no text and no number")


def _read_json(number: int, line: str, form: LineFormat) -> TimedArrival | BrokenLine:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BrokenLine(number, f"no JSON: {error}")
    if not isinstance(values, dict):
        return BrokenLine(number, f"a {type(values).__name__} in JSON, expected an object")
    for name, value in values.items():
        if isinstance(value, dict | list):
            return BrokenLine(number, f"column {name!r} holds a {type(value).__name__}")
    return _make_arrival(number, values, form, None)


def _make_arrival(
    number: int, values: dict[str, object], form: LineFormat, texts: set[str] | None
) -> TimedArrival | BrokenLine:
    """An event of its cells; `texts` are the columns of a CSV in which text has come."""
    try:
        y = read_target_cell(values.pop(form.target, None), classifies=form.classifies)
        event_id = None if form.id is None else read_id_cell(values.pop(form.id, None))
        time = None if form.time is None else read_time_cell(values.get(form.time))
    except DataError as error:
        return BrokenLine(number, str(error))
    for name, value in values.items():
        if name in form.categories:
            values[name] = _name(value).strip()
        elif texts is not None and isinstance(value, str):
            values[name] = _read_cell(value, name, texts)
    return TimedArrival(Arrival(values, y, event_id), time)


def _read_cell(cell: str, name: str, texts: set[str]) -> float | str | None:
    value = parse_number(cell)
    if value is not None:
        return value
    text = cell.strip()
    if name not in texts:
        if text.lower() in MARKS or not text:
            return None
        texts.add(name)
    return text
