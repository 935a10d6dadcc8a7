"""What a stream of events is, and the streams that a benchmark of events is made of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

from nestling.core.errors import SettingError, suggest
from nestling.data.events.made_events import (
    NUM_PER_CONCEPT,
    make_agrawal,
    make_hyperplane,
    make_led,
    make_rbf,
    make_sea,
)
from nestling.data.events.stored_events import (
    read_columns_file,
    read_digits,
    read_flights,
    read_held_out_digits,
    read_rainfall,
    read_river,
    read_sensors,
)
from nestling.data.sources import obtain

# A value of an event.
Value = float | int | str | bool
# A label of an event, or the value to be foreseen.
Label = float | int | str | bool
# One event of a stream: its values by name (River names some by numbers), and its label.
Event = tuple[dict[Any, Value], Label]
# Rows that are held out: events and their labels.
HeldOut = dict[str, list[Event]]

_CONCEPT_STARTS = tuple(range(NUM_PER_CONCEPT, 4 * NUM_PER_CONCEPT, NUM_PER_CONCEPT))


@dataclass(frozen=True)
class EventStream:
    """Stream of events with its known drifts: who reads it twice reads the same events.

    A seed is none of its fields: seeds are the learner's, so that all of them meet the same
    events, those of the published figures.

    Attributes:
        name: for `open_events`.
        task: "classification" or "regression".
        about: what an event is, in words.
        num_events: in all.
        classes: labels in the order of their names; empty for numbers.
        source: of `list_sources`; None for what lies in an installed package.
        drifts: places of the first events after an abrupt change, ascending; empty where none is
            known.
        concepts: which concept is in force before the first drift and after each; a name that
            comes twice is a concept that returns.
        make: the events, given the files of the source.
        make_held_out: events that are never part of the stream, by name of their group.
    """

    name: str
    task: Literal["classification", "regression"]
    about: str
    num_events: int
    classes: tuple[Label, ...]
    make: Callable[[list[Path]], Iterator[Event]]
    source: str | None = None
    drifts: tuple[int, ...] = ()
    concepts: tuple[str, ...] = ()
    make_held_out: Callable[[], HeldOut] | None = None

    def read(
        self, limit: int | None = None, *, folder: Path | None = None, offline: bool = False
    ) -> Iterator[Event]:
        """The events in order, at most `limit` of them.

        Args:
            limit: None for all.
            folder: where the source's files lie or go; see `find_folder`.
            offline: do not fetch.

        Raises:
            DataError: files that cannot be had; says which command gets them.
            MissingExtra: a package that is not installed.
        """
        files = [] if self.source is None else obtain(self.source, folder, offline=offline)
        return islice(self.make(files), limit)

    @property
    def segments(self) -> list[tuple[int, int, str]]:
        """Start, end and concept between the known drifts; empty where none is known."""
        edges = (0, *self.drifts, self.num_events)
        pairs = pairwise(edges)
        return [
            (start, stop, concept)
            for (start, stop), concept in zip(pairs, self.concepts, strict=False)
        ]


def _ignore(make: Callable[[], Iterator[Event]], _: list[Path]) -> Iterator[Event]:
    return make()


def _made(
    name: str,
    about: str,
    num_events: int,
    classes: tuple[Label, ...],
    make: Callable[[], Iterator[Event]],
    concepts: tuple[str, ...] = (),
) -> EventStream:
    drifts = _CONCEPT_STARTS if concepts else ()
    return EventStream(
        name,
        "classification",
        about,
        num_events,
        classes,
        partial(_ignore, make),
        drifts=drifts,
        concepts=concepts,
    )


def _stored(
    name: str,
    about: str,
    num_events: int,
    classes: tuple[Label, ...],
    read: Callable[[Path], Iterator[Event]],
    source: str,
    drifts: tuple[int, ...] = (),
    concepts: tuple[str, ...] = (),
) -> EventStream:
    return EventStream(
        name,
        "classification" if classes else "regression",
        about,
        num_events,
        classes,
        lambda files: read(files[0]),
        source=source,
        drifts=drifts,
        concepts=concepts,
    )


_BINARY: tuple[Label, ...] = (0, 1)
_SURFACES = ("brickface", "cement", "foliage", "grass", "path", "sky", "window")

# In the order of the published table; the last four stand outside of it.
_STREAMS = (
    _made(
        "phishing",
        "web pages, 9 findings, phishing or not",
        1_250,
        (False, True),
        partial(read_river, "Phishing"),
    ),
    _made(
        "bananas",
        "points of two bent classes in a plane",
        5_300,
        (False, True),
        partial(read_river, "Bananas"),
    ),
    _made(
        "image-segments",
        "patches of outdoor pictures, 18 figures, 7 surfaces",
        2_310,
        _SURFACES,
        partial(read_river, "ImageSegments"),
    ),
    EventStream(
        "digits",
        "classification",
        "handwritten digits, 64 pixels: 0-4 twice, 5-9 twice, 0-4 again",
        3_493,
        tuple(range(10)),
        partial(_ignore, read_digits),
        drifts=(1_398, 2_794),
        concepts=("0-4", "5-9", "0-4"),
        make_held_out=read_held_out_digits,
    ),
    _made(
        "shuttle",
        "states of a space shuttle's radiators, 9 readings, usual or not",
        49_097,
        _BINARY,
        partial(read_river, "Shuttle"),
    ),
    _stored(
        "flights",
        "every sixth flight from New York in 2013, over 15 minutes late or not",
        54_558,
        _BINARY,
        read_flights,
        "flights",
    ),
    _stored(
        "rainfall",
        "days of weather at an airfield, 8 readings, rain or none",
        18_159,
        _BINARY,
        read_rainfall,
        "rainfall",
    ),
    _stored(
        "elec2",
        "half-hours of electricity in New South Wales, 6 figures, price up or down",
        45_312,
        _BINARY,
        partial(read_columns_file, skip=2),  # date and day tell the place in the file
        "elec2",
    ),
    _made(
        "sea",
        "SEA concepts, 3 numbers",
        40_000,
        (False, True),
        make_sea,
        ("0", "3", "0", "3"),
    ),
    _made(
        "agrawal",
        "people who ask for a loan, 9 figures, two rules by turns",
        40_000,
        _BINARY,
        make_agrawal,
        ("0", "3", "0", "3"),
    ),
    _made(
        "led",
        "seven noisy lights among 24, which digit; lights trade places",
        40_000,
        tuple(range(10)),
        make_led,
        ("0", "3", "5", "7"),
    ),
    _made("hyperplane", "a plane that turns in 10 dimensions", 40_000, _BINARY, make_hyperplane),
    _made("rbf", "50 moving centres of 5 classes", 40_000, tuple(range(5)), make_rbf),
    _stored(
        "covertype",
        "patches of forest, 54 figures, 7 kinds of trees: the first 100,000",
        100_000,
        tuple(range(7)),
        read_columns_file,
        "covertype",
    ),
    _stored(
        "flights-weather",
        "the flights with the weather of the hour; what was not measured is absent",
        54_558,
        _BINARY,
        partial(read_flights, with_weather=True),
        "flights",
    ),
    _stored(
        "sensors",
        "readings of two wireless networks one after the other, anomaly or not",
        37_674,
        _BINARY,
        read_sensors,
        "sensors",
        (18_914,),
        ("single-hop", "multi-hop"),
    ),
    _stored(
        "bike",
        "hours of bicycles hired in Washington, 12 figures, how many",
        17_379,
        (),
        read_columns_file,
        "bike",
    ),
)


def list_event_streams() -> list[EventStream]:
    """Streams of events that `open_events` knows.

    >>> [stream.name for stream in list_event_streams()][:4]
    ['phishing', 'bananas', 'image-segments', 'digits']
    """
    return list(_STREAMS)


def open_events(name: str) -> EventStream:
    """Find a stream of events by its name.

    Raises:
        SettingError: there is none; the nearest names are said.

    >>> stream = open_events("sea")
    >>> stream.drifts
    (10000, 20000, 30000)
    >>> x, y = next(stream.read(1))
    >>> sorted(x), y
    ([0, 1, 2], True)
    """
    streams = {stream.name: stream for stream in list_event_streams()}
    if name not in streams:
        raise SettingError(f"stream of events {name!r}; {suggest(name, streams)}")
    return streams[name]
