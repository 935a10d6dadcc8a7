"""Events whose labels come late: what is kept of each until its label comes, and for how long."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nestling.core.errors import (
    CorruptSnapshot,
    DataError,
    ForeignSnapshot,
    SettingError,
    UnknownEvent,
)

EventId = str | int
# Of answered events: after so many a delay counts half.
DELAY_HALF_LIFE = 100
_DECAY = 2.0 ** (-1.0 / DELAY_HALF_LIFE)
_FATES = {
    "answered": "it was answered already",
    "age": "it was dropped for its age before its label came",
    "number": "it was dropped because too many newer events wait",
}


class _Waiting(NamedTuple):
    number: int
    record: dict[str, np.ndarray]


class WaitingEvents:
    """Keep what was computed for each event until its label comes, within bounds.

    Memory is bounded: of more than `max_events` the oldest is dropped, `expire` drops what waits
    too long, and of as many ids as `max_events` it is remembered what became of them. The delay
    of labels is followed as m = S/W with S <- g S + d, W <- g W + 1, g = 2^(-1/100), after each
    answer d events late.

    Args:
        max_events: most events that wait, 1 or more.
        max_age: most events that may come after one that waits, 0 or more.

    Raises:
        SettingError: a bound that is too small.

    >>> waiting = WaitingEvents(max_events=2)
    >>> for number, name in enumerate(["a", "b", "c"]):
    ...     dropped = waiting.put(name, number, {"x": np.full(2, number)})
    >>> dropped, waiting.take("b"), waiting.mean_delay
    ('a', ({'x': array([1, 1])}, 1), 1.0)
    >>> waiting.take("a")
    Traceback (most recent call last):
    nestling.core.errors.UnknownEvent: event 'a': it was dropped because too many newer events ...
    """

    def __init__(self, max_events: int = 10_000, max_age: int = 100_000) -> None:
        if max_events < 1 or max_age < 0:
            raise SettingError(
                f"max_events is {max_events}, max_age {max_age}; give 1 or more, and 0 or more"
            )
        self.max_events, self.max_age = max_events, max_age
        self.num_dropped, self.num_answered, self.num_bytes = 0, 0, 0
        # Both in the order in which they came: the oldest is first.
        self._waiting: dict[EventId, _Waiting] = {}
        self._fates: dict[EventId, str] = {}
        self._now = 0
        self._delay_sum, self._delay_weight = 0.0, 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, event_id: object) -> bool:
        return _read_id(event_id) in self._waiting

    @property
    def num_waiting(self) -> int:
        """How many events wait for their labels."""
        return len(self._waiting)

    @property
    def ids(self) -> list[EventId]:
        """Of the events that wait, the oldest first."""
        return list(self._waiting)

    @property
    def mean_delay(self) -> float:
        """How many events late labels come, of late; 0 before the first."""
        return self._delay_sum / self._delay_weight if self._delay_weight else 0.0

    def put(
        self, event_id: object, event_number: int, record: Mapping[str, np.ndarray]
    ) -> EventId | None:
        """Keep an event until its label comes.

        Args:
            event_id: a str or an int that no waiting event has.
            event_number: its place in the stream; never lower than the last.
            record: name -> array of numbers or bools, any shape; copied.

        Returns: the id of the event that had to go for it, or None.
        Raises:
            DataError: the id waits already or is no id, the number goes back, an array of other
                things than numbers; nothing changed then.
        """
        key = self.check_new(event_id)
        self._check_number(event_number)
        kept = {name: _copy_array(name, array) for name, array in record.items()}
        self._now = int(event_number)
        self._fates.pop(key, None)
        self._waiting[key] = _Waiting(self._now, kept)
        self.num_bytes += _count_bytes(kept)
        if len(self._waiting) <= self.max_events:
            return None
        oldest: EventId = next(iter(self._waiting))
        self._drop(oldest, "number")
        return oldest

    def check_new(self, event_id: object) -> EventId:
        """The id of an event that may come to wait.

        Raises:
            DataError: the id waits already or is no id.
        """
        key = _read_id(event_id)
        if key in self._waiting:
            raise DataError(
                f"event {key!r} waits for its label already; give each event an id of its own"
            )
        return key

    def take(self, event_id: object) -> tuple[dict[str, np.ndarray], int]:
        """Give out what was kept of an event, now that its label has come.

        Returns: its record, and how many events came after it.
        Raises:
            UnknownEvent: no such event waits; it says whether it was answered, dropped, or never
                given, as far as that is remembered. Nothing changed then.
            DataError: no id.
        """
        key = _read_id(event_id)
        waiting = self._waiting.get(key)
        if waiting is None:
            fate = self._fates.get(key)
            said = _FATES[fate] if fate else "it was never given, or is long gone"
            raise UnknownEvent(f"event {key!r}: {said}; {len(self._waiting)} wait for their labels")
        del self._waiting[key]
        self.num_bytes -= _count_bytes(waiting.record)
        self.num_answered += 1
        self._remember(key, "answered")
        delay = self._now - waiting.number
        self._delay_sum = _DECAY * self._delay_sum + delay
        self._delay_weight = _DECAY * self._delay_weight + 1.0
        return waiting.record, delay

    def expire(self, event_number: int) -> list[EventId]:
        """Drop the events after which more than `max_age` have come.

        Args:
            event_number: how far the stream is; never lower than the last.

        Returns: their ids, the oldest first.
        Raises:
            DataError: the number goes back.
        """
        self._check_number(event_number)
        self._now = int(event_number)
        old = []
        for key, waiting in self._waiting.items():
            if self._now - waiting.number <= self.max_age:
                break  # all later ones are younger
            old.append(key)
        for key in old:
            self._drop(key, "age")
        return old

    def _check_number(self, event_number: int) -> None:
        if event_number < self._now:
            raise DataError(
                f"event number {event_number} after {self._now}; events are counted upwards"
            )

    def _drop(self, key: EventId, fate: str) -> None:
        self.num_bytes -= _count_bytes(self._waiting.pop(key).record)
        self.num_dropped += 1
        self._remember(key, fate)

    def _remember(self, key: EventId, fate: str) -> None:
        self._fates[key] = fate
        if len(self._fates) > self.max_events:
            del self._fates[next(iter(self._fates))]

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """As plain data for JSON, and arrays for safetensors; nothing is shared.

        Records with the same names, dtypes and shapes are stacked: "0.x" holds the arrays "x" of
        all records of layout 0, in the order of their events.
        """
        layouts: dict[tuple[tuple[str, str, tuple[int, ...]], ...], int] = {}
        members: list[list[dict[str, np.ndarray]]] = []
        events = []
        for key, (number, record) in self._waiting.items():
            layout = tuple((name, one.dtype.str, one.shape) for name, one in record.items())
            place = layouts.setdefault(layout, len(layouts))
            if place == len(members):
                members.append([])
            members[place].append(record)
            events.append([key, number, place])
        arrays = {
            f"{place}.{name}": np.stack([record[name] for record in records])
            for place, records in enumerate(members)
            for name in records[0]
        }
        data = {
            "max_events": self.max_events,
            "max_age": self.max_age,
            "now": self._now,
            "num_dropped": self.num_dropped,
            "num_answered": self.num_answered,
            "delay_sum": self._delay_sum,
            "delay_weight": self._delay_weight,
            "layouts": [[name for name, _, _ in layout] for layout in layouts],
            "events": events,
            "fates": [[key, fate] for key, fate in self._fates.items()],
        }
        return data, arrays

    def load_state_dict(self, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ForeignSnapshot: of other bounds; CorruptSnapshot: arrays that are missing or of
                another length. Nothing changed then.
        """
        bounds = (data["max_events"], data["max_age"])
        if bounds != (self.max_events, self.max_age):
            raise ForeignSnapshot(
                f"waiting events of bounds {bounds}, these have {self.max_events, self.max_age}"
            )
        counts = [0] * len(data["layouts"])
        for _, _, place in data["events"]:
            counts[place] += 1
        for place, names in enumerate(data["layouts"]):
            for name in names:
                found = arrays.get(f"{place}.{name}")
                if found is None or len(found) != counts[place]:
                    raise CorruptSnapshot(
                        f"array '{place}.{name}' of the waiting events has "
                        f"{0 if found is None else len(found)} rows, expected {counts[place]}"
                    )
        waiting: dict[EventId, _Waiting] = {}
        seen = [0] * len(counts)
        for key, number, place in data["events"]:
            names = data["layouts"][place]
            record = {name: np.array(arrays[f"{place}.{name}"][seen[place]]) for name in names}
            seen[place] += 1
            waiting[key] = _Waiting(number, record)
        self._waiting, self._fates, self._now = waiting, dict(data["fates"]), data["now"]
        self.num_bytes = sum(_count_bytes(one.record) for one in waiting.values())
        self.num_dropped, self.num_answered = data["num_dropped"], data["num_answered"]
        self._delay_sum, self._delay_weight = data["delay_sum"], data["delay_weight"]


def _read_id(event_id: object) -> EventId:
    if isinstance(event_id, str):
        return str.__str__(event_id)
    if isinstance(event_id, int | np.integer) and not isinstance(event_id, bool):
        return int(event_id)
    raise DataError(f"event id {event_id!r} is a {type(event_id).__name__}; give a str or an int")


def _copy_array(name: str, array: np.ndarray) -> np.ndarray:
    dtype = array.dtype
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise DataError(f"array {name!r} of an event has dtype {dtype}; give numbers or bools")
    return array.astype(dtype.newbyteorder("="), order="C")  # a copy always


def _count_bytes(record: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in record.values())
