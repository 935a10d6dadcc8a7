"""Late labels of a stream, from a second file that is read along."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from nestling.core.errors import DataError, suggest
from nestling.streams.live.event_lines import (
    BrokenLine,
    LineFormat,
    TimedArrival,
    read_header,
    read_id_cell,
    read_target_cell,
    read_time_cell,
    split_line,
)
from nestling.streams.live.follow import Arrival

# The column of a label file that says after how many events a label is known.
AFTER = "after"
# Labels that came before their events: so many are kept, for so many events.
_MOST_EARLY, _LONGEST_EARLY = 10_000, 100_000


class LabelLines:
    """Labels of a CSV file, each given out when it is due.

    The file has a column of ids and one of labels, named as in the stream. With a column "after",
    a label is due when so many events have come; where events have times, when one comes that is
    not before the label's. With neither it is due as soon as it is read. Labels are given out in
    the order of the file, which may still grow while it is read.

    Args:
        path: a regular file.
        form: of the stream.

    Raises:
        DataError: no regular file, a header without these columns.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, form: LineFormat) -> None:
        if path.exists() and not path.is_file():
            raise DataError(f"late labels '{path}' are no regular file; give a CSV file")
        self._file: TextIO = path.open(encoding="utf-8", errors="surrogateescape", newline="")
        try:
            self._header, self._delimiter = self._read_header(path, form)
        except DataError:
            self._file.close()
            raise
        self._path, self._form = path, form
        self.is_timed = AFTER in self._header or form.time is not None
        self._number = 1
        self._rest = ""
        self._next: tuple[float, Arrival] | BrokenLine | None = None

    def _read_header(self, path: Path, form: LineFormat) -> tuple[list[str], str]:
        line = self._file.readline()
        if not line.strip():
            raise DataError(f"late labels '{path}' are empty; their first line is a header")
        header, delimiter = read_header(line)
        for name in (form.id, form.target, form.time):
            if name is not None and name not in header:
                raise DataError(
                    f"late labels '{path}': no column {name!r}; {suggest(name, header)}"
                )
        return header, delimiter

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def take_due(
        self, num_events: int, time: float | None, *, is_last: bool = False
    ) -> Iterator[Arrival | BrokenLine]:
        """Labels that are due now, and lines that hold none, in the order of the file.

        Args:
            num_events: that have come.
            time: of the event that comes; None where there is none.
            is_last: no more will be written: a line that has no end is whole.
        """
        while True:
            if self._next is None:
                self._next = self._read_line(is_last=is_last)
            if self._next is None:
                return
            found: Arrival | BrokenLine
            if isinstance(self._next, BrokenLine):
                found = self._next
            else:
                due, found = self._next
                now = time if self._form.time is not None else float(num_events)
                if self.is_timed and (now is None or due > now):
                    return
            self._next = None  # before it is given out: whoever takes it may not come back
            yield found

    def _read_line(self, *, is_last: bool) -> tuple[float, Arrival] | BrokenLine | None:
        while True:
            self._rest += self._file.readline()
            if not self._rest or not (self._rest.endswith("\n") or is_last):
                return None
            line, self._rest = self._rest.strip("\r\n"), ""
            self._number += 1
            if line.strip():
                return self._read_cells(line)

    def _read_cells(self, line: str) -> tuple[float, Arrival] | BrokenLine:
        found = split_line(line, self._delimiter, len(self._header))
        if isinstance(found, str):
            return self._break(found)
        cells = dict(zip(self._header, found, strict=True))
        event_id = read_id_cell(cells[str(self._form.id)])
        try:
            y = read_target_cell(cells[self._form.target], classifies=self._form.classifies)
        except DataError as error:
            return self._break(str(error))
        if event_id is None or y is None:
            return self._break(f"no {'id' if event_id is None else 'label'}")
        due: float | None = 0.0
        if self.is_timed:
            due = read_time_cell(cells[AFTER if self._form.time is None else self._form.time])
        if due is None:
            return self._break("it does not say when the label is known")
        return due, Arrival(y=y, id=event_id)

    def _break(self, reason: str) -> BrokenLine:
        return BrokenLine(self._number, f"late labels '{self._path}': {reason}")


def join_late_labels(
    events: Iterable[TimedArrival | BrokenLine],
    labels: LabelLines,
    is_waiting: Callable[[str], bool],
) -> Iterator[Arrival | BrokenLine]:
    """A stream of events with the late labels in it, each where it is due.

    A label that says when it is known comes before the first event after that. One that does not,
    and is read before its event, comes right after it.

    Args:
        events: as they come.
        labels: as they come.
        is_waiting: whether an event of this id waits now.
    """
    early: dict[str, tuple[int, Arrival]] = {}
    num_events = 0
    for event in events:
        if isinstance(event, BrokenLine):
            yield event
            continue
        yield from _take(labels, num_events, event.time, early, is_waiting)
        yield event.arrival
        num_events += 1
        event_id = event.arrival.id
        if isinstance(event_id, str) and event_id in early and event.arrival.y is None:
            yield early.pop(event_id)[1]
        for name in _list_old(early, num_events):
            yield early.pop(name)[1]  # nothing waits for it: it is reported as unknown
    yield from _take(labels, num_events, None, early, is_waiting, is_last=True)
    yield from (arrival for _, arrival in early.values())


def _take(
    labels: LabelLines,
    num_events: int,
    time: float | None,
    early: dict[str, tuple[int, Arrival]],
    is_waiting: Callable[[str], bool],
    *,
    is_last: bool = False,
) -> Iterator[Arrival | BrokenLine]:
    """Labels that are due; those that came before their events are put aside."""
    if len(early) >= _MOST_EARLY and not is_last:
        return
    for label in labels.take_due(num_events, time, is_last=is_last):
        if (
            isinstance(label, BrokenLine)
            or labels.is_timed
            or is_last
            or not isinstance(label.id, str)
            or is_waiting(label.id)
        ):
            yield label
            continue
        if label.id in early:
            yield early.pop(label.id)[1]
        early[label.id] = (num_events, label)
        if len(early) >= _MOST_EARLY:
            return


def _list_old(early: dict[str, tuple[int, Arrival]], num_events: int) -> list[str]:
    old: deque[str] = deque()
    for name, (number, _) in early.items():
        if num_events - number <= _LONGEST_EARLY:
            break  # all later ones are younger
        old.append(name)
    return list(old)
