"""Events of any form become rows: alone as in a block, and queries leave everything as it is."""

import json
import math
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError, NestlingError, SettingError, ShapeMismatch
from nestling.streams.events.event_columns import EventColumns
from nestling.streams.events.event_values import split_moment, split_moments

NAN = math.nan
NUMBERS = st.one_of(
    *(st.floats(width=32), st.integers(-(10**20), 10**20), st.booleans()),
    st.sampled_from([10**400, np.float32(0.1), np.int64(7), np.bool_(True), Decimal("1.5")]),
)
TEXTS = st.sampled_from(["", "red", "blue", "3", "1e3", "1_0", "inf", "nan", "2024-02-29 12:30"])
MOMENTS = st.sampled_from(
    [
        datetime(2024, 2, 29, 23, 59, 59, 123456),
        datetime(1950, 1, 1, tzinfo=timezone(timedelta(hours=2))),
        date(1970, 1, 2),
        pd.Timestamp("2024-01-01T10:00:00.000000001", tz="Europe/Berlin"),
        pd.NaT,
        np.datetime64("2020-01-01T06"),
        timedelta(minutes=90),
        np.timedelta64(1, "ns"),
        np.datetime64("2024-05-01T12:30", "ns"),
    ]
)
CELLS = st.one_of(NUMBERS, TEXTS, MOMENTS, st.none(), st.just(pd.NA), st.just(("a", 1)))
EVENTS = st.lists(st.dictionaries(st.sampled_from(["a", "b", 0]), CELLS, max_size=3), max_size=12)


def encode_one_by_one(columns: EventColumns, events: list, *, grow: bool = True) -> np.ndarray:
    rows = [columns.encode_one(x, grow=grow) for x in events]
    block = np.full((len(rows), columns.num_columns), NAN)
    for n, row in enumerate(rows):
        block[n, : len(row)] = row
    return block


def assert_same(one: EventColumns, other: EventColumns) -> None:
    assert json.dumps(one.state_dict()) == json.dumps(other.state_dict())


def assert_same_rows(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype == np.float64
    np.testing.assert_array_equal(one, other)


class Color(str, Enum):  # noqa: UP042 - one that str() does not write as its text
    RED = "red"


@pytest.mark.parametrize(
    ("value", "row"),
    [
        (True, [1.0]),
        (np.bool_(False), [0.0]),
        (Decimal("0.5"), [0.5]),
        (torch.tensor(2), [2.0]),
        (torch.tensor([2.5]), [2.5]),
        (np.array(3), [3.0]),
        (10**30, [1e30]),
        (timedelta(minutes=1), [60.0]),
        (np.timedelta64(2, "h"), [7200.0]),
        ("3", [0.0]),  # a text is a category
        (("a", 1), [0.0]),
        (date(1970, 1, 2), [86400.0, 0.0, 1.0, 4.0]),  # a Friday
        ("1970-01-01T06:00:00Z", [21600.0, 1.0, 0.0, 3.0]),
        (datetime(1970, 1, 1, 18, tzinfo=UTC), [64800.0, -1.0, 0.0, 3.0]),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), [0.0, 0.0, 1.0, 3.0]),
        (pd.Timestamp(0, tz="Asia/Tokyo"), [0.0, 0.0, 1.0, 3.0]),
        (np.datetime64("20000-01-01"), [568971820800.0, 0.0, 1.0, 5.0]),
        (np.datetime64("1969-12-31"), [-86400.0, 0.0, 1.0, 2.0]),
    ],
)
def test_a_value_decides_what_its_column_is(value: object, row: list[float]) -> None:
    columns = EventColumns()
    given_row = columns.encode_one({"x": value}, grow=True)
    np.testing.assert_allclose(given_row, row, atol=1e-12)
    assert (
        columns.kinds.tolist()
        == {
            1: [int(columns.list_categories(0) != [])],
            4: [0, 0, 0, 1],
        }[len(row)]
    )


@pytest.mark.parametrize("value", [None, NAN, np.nan, pd.NA, pd.NaT, "", np.datetime64("NaT")])
def test_a_missing_value_makes_no_column_and_is_missing_in_each(value: object) -> None:
    columns = EventColumns()
    assert columns.encode_one({"x": value}, grow=True).shape == (0,)
    for known in ({"x": 1.0}, {"x": "red"}, {"x": date(2024, 1, 1)}):
        columns = EventColumns()
        columns.encode_one(known, grow=True)
        assert np.isnan(columns.encode_one({"x": value}, grow=True)).all()
        assert np.isnan(columns.encode_one({}, grow=True)).all()
        assert columns.num_infinite == columns.num_unreadable == 0


@pytest.mark.parametrize("value", [math.inf, -math.inf, np.float32(np.inf), 10**400, -(10**400)])
def test_an_infinite_number_is_missing_and_counted(value: object) -> None:
    columns = EventColumns()
    columns.encode_one({"x": value, "y": 1.0}, grow=True)
    assert columns.names == ["y"]
    for known in (1.0, "red", date(2024, 1, 1)):
        columns = EventColumns()
        columns.encode_one({"x": known}, grow=True)
        for _ in range(2):
            assert np.isnan(columns.encode_one({"x": value}, grow=True)).all()
        assert columns.num_infinite == 2
        assert np.isnan(columns.encode_one({"x": value}, grow=False)).all()
        assert (columns.num_infinite, columns.num_unreadable) == (2, 0)


def test_values_of_another_kind() -> None:
    columns = EventColumns()
    columns.encode_one({"n": 1.0, "c": "red", "d": date(1970, 1, 1)}, grow=True)
    row = columns.encode_one({"n": " 1e3", "c": 10115.0, "d": "1970-01-02"}, grow=True)
    assert row[:3].tolist() == [1000.0, 1.0, 86400.0]
    assert columns.num_unreadable == 0
    row = columns.encode_one({"n": "red", "c": True, "d": 3.0}, grow=True)
    np.testing.assert_array_equal(row, [NAN, 2, NAN, NAN, NAN, NAN])
    row = columns.encode_one({"n": date(1970, 1, 1), "c": date(1970, 1, 1), "d": "x"}, grow=True)
    np.testing.assert_array_equal(row, [NAN, 3, NAN, NAN, NAN, NAN])
    assert columns.num_unreadable == 4
    assert columns.list_categories(1) == ["red", "10115", "1", "1970-01-01T00:00:00"]
    row = columns.encode_one({"c": np.str_("red")}, grow=False)
    assert row[1] == 0
    assert columns.encode_one({"c": Color.RED}, grow=False)[1] == 0
    assert columns.encode_one({"n": "inf"}, grow=True)[0] != 0
    assert columns.num_infinite == 1


def test_columns_and_their_names() -> None:
    columns = EventColumns()
    columns.encode_one(
        {"t": datetime(2024, 1, 1), 3: 1.0, ("a", "b"): 2, np.int64(5): "x"}, grow=True
    )
    assert columns.names == [
        *("t", "t: hour sine", "t: hour cosine", "t: weekday"),
        *(3, "('a', 'b')", 5),
    ]
    assert columns.kinds.tolist() == [0, 0, 0, 1, 0, 0, 1]
    assert columns.kinds.dtype == np.int64
    assert columns.num_codes.tolist() == [0, 0, 0, 7, 0, 0, 1]
    assert columns.list_categories(3)[0] == "Monday"
    assert columns.list_categories(6) == ["x"]
    with pytest.raises(SettingError, match="column 7"):
        columns.list_categories(7)
    # New columns come at the end, known ones stay; the clock may go back.
    row = columns.encode_one({"new": 9, "t": datetime(1960, 1, 1), 5: "y"}, grow=True)
    assert (row[7], row[6]) == (9.0, 1.0)
    assert row[0] < 0


def test_categories_beyond_the_most_share_the_last_code() -> None:
    columns = EventColumns()
    codes = [columns.encode_one({"c": f"v{n}"}, grow=True)[0] for n in range(300)]
    assert codes == [min(n, 255) for n in range(300)]
    assert columns.num_codes.tolist() == [256]
    assert columns.list_categories(0)[-2:] == ["v254", "(other)"]
    assert columns.encode_one({"c": "never"}, grow=False)[0] == 255
    full = EventColumns()
    for n in range(255):
        full.encode_one({"c": f"v{n}"}, grow=True)
    assert full.encode_one({"c": "never"}, grow=False)[0] == -1
    assert full.num_codes.tolist() == [255]


@pytest.mark.parametrize(
    "event",
    [
        *({"a": [1]}, {"a": {}}, {"a": np.zeros(2)}, {"a": torch.zeros(2)}, {"a": 1j}, {"a": {1}}),
        *({"a": pd.Series([1, 2])}, {1.5: 1, "1.5": 2}, "text", 3.0, None, b"x"),
        *(np.zeros((1, 2)), torch.zeros(1, 2), np.array(1.0), pd.DataFrame({"a": [1]})),
        *(pd.Series([1, 2], index=["a", "a"]), {f"k{n}": 1 for n in range(6)}),
    ],
)
def test_bad_events_change_nothing(event: object) -> None:
    columns = EventColumns(max_columns=5)
    columns.encode_one({"b": "red"}, grow=True)
    before = json.dumps(columns.state_dict())
    bad = {"new": 1.0, **event, "newer": "x"} if isinstance(event, dict) else event
    with pytest.raises(DataError):
        columns.encode_one(bad, grow=True)
    with pytest.raises(DataError):
        columns.encode_many([{"b": "blue", "other": 1}, bad], grow=True)
    assert json.dumps(columns.state_dict()) == before
    assert columns.encode_one({"b": "blue"}, grow=True).tolist() == [1.0]


@pytest.mark.parametrize(
    "block",
    [
        *(np.zeros(3), torch.zeros(3), np.zeros((2, 2, 2)), {"a": [1, 2]}, "text", 3, [1, 2]),
        *(np.zeros((2, 6)), np.zeros((2, 2), dtype=complex), torch.zeros(2, 2, dtype=torch.cfloat)),
        *(pd.DataFrame([[1, 2]], columns=["a", "a"]), pd.DataFrame({"a": [1, [2]]})),
        pd.DataFrame({"a": [1j]}),
    ],
)
def test_bad_blocks_change_nothing(block: object) -> None:
    columns = EventColumns(max_columns=5)
    columns.encode_one({"b": "red"}, grow=True)
    before = json.dumps(columns.state_dict())
    with pytest.raises(DataError):
        columns.encode_many(block, grow=True)
    assert json.dumps(columns.state_dict()) == before


def test_settings() -> None:
    with pytest.raises(SettingError, match="max_columns is 0"):
        EventColumns(max_columns=0)


def test_many_columns() -> None:
    columns = EventColumns()
    wide = {f"f{n}": n for n in range(10_000)}
    assert columns.encode_one(wide, grow=True).tolist() == list(range(10_000))
    assert columns.encode_one({"f7": 1}, grow=True).shape == (10_000,)
    with pytest.raises(DataError, match="at most 20000"):
        columns.encode_one({f"g{n}": n for n in range(10_001)}, grow=True)
    assert columns.num_columns == 10_000


@pytest.mark.parametrize(
    "form",
    [
        lambda row: dict(enumerate(row)),
        lambda row: MappingProxyType(dict(enumerate(row))),
        list,
        tuple,
        np.array,
        lambda row: np.array(row, dtype=object),
        lambda row: torch.tensor(row, dtype=torch.float64),
        lambda row: pd.Series(row),
        lambda row: {2: row[2], 1: row[1], 0: row[0]},
    ],
)
def test_all_forms_of_an_event_are_alike(form) -> None:
    columns = EventColumns()
    rows = [[1.0, 2.0, 3.0], [4.0, NAN, 6.0], [1e300, -1e300, 0.0], [7.0, math.inf, 9.0]]
    for row in rows:
        columns.encode_one(row, grow=True)
    columns.num_infinite = 0
    for row in rows:
        given_row = columns.encode_one(form(row), grow=True)
        expected = [NAN if value == math.inf else value for value in row]
        np.testing.assert_array_equal(given_row, expected)
    assert (columns.num_infinite, columns.names) == (1, [0, 1, 2])


def test_the_row_is_never_the_events_own_array() -> None:
    columns = EventColumns()
    event = np.ones(3)
    for _ in range(3):
        columns.encode_one(event, grow=True)[:] = 5.0
        columns.encode_many(event[None], grow=True)[:] = 5.0
    assert event.tolist() == [1.0, 1.0, 1.0]


def test_a_mapping_with_a_default_stays_as_it_is() -> None:
    from collections import defaultdict

    columns = EventColumns()
    for _ in range(3):
        columns.encode_one({"a": 1.0, "b": 2.0}, grow=True)
    event = defaultdict(float, {"a": 1.0, "z": 3.0})
    np.testing.assert_array_equal(columns.encode_one(event, grow=False), [1.0, NAN])
    assert set(event) == {"a", "z"}


@given(EVENTS)
def test_a_list_of_events_is_as_its_events(events: list[dict]) -> None:
    one, many = EventColumns(), EventColumns()
    assert_same_rows(encode_one_by_one(one, events), many.encode_many(events, grow=True))
    assert_same(one, many)


@given(st.lists(st.floats(-1e11, 1e12), max_size=40))
def test_one_moment_has_the_bits_of_many(seconds: list[float]) -> None:
    many = split_moments(np.array(seconds, dtype=np.float64))
    assert [split_moment(one) for one in seconds] == many.tolist()


def test_events_that_look_as_usual_but_are_not() -> None:
    """What the quick way may not take over: it must see it and go the long way."""
    columns = EventColumns()
    for _ in range(3):
        columns.encode_one({"n": 1.0, "m": 2.0}, grow=True)
    for value, expected in [
        *((np.timedelta64(10**9, "ns"), 1.0), (np.datetime64(10**9, "ns"), NAN), ("5", 5.0)),
        *(("1_0", NAN), (np.str_("7"), 7.0), (Decimal("0.25"), 0.25), (torch.tensor(3), 3.0)),
        *((pd.Timedelta(seconds=4), 4.0), (None, NAN), (-math.inf, NAN), (10**400, NAN)),
    ]:
        for event in ({"n": value, "m": 2.0}, {"m": 2.0, "n": value}, {"n": value}):
            row = columns.encode_one(event, grow=True)
            np.testing.assert_array_equal(row, [expected, 2.0 if "m" in event else NAN])
    assert (columns.num_infinite, columns.num_unreadable) == (6, 6)


@given(EVENTS, EVENTS)
def test_a_query_changes_nothing(events: list[dict], queries: list[dict]) -> None:
    columns = EventColumns()
    columns.encode_many(events, grow=True)
    before = json.dumps(columns.state_dict())
    one = encode_one_by_one(columns, queries, grow=False)
    assert_same_rows(columns.encode_many(queries, grow=False), one)
    columns.encode_many(pd.DataFrame(queries, dtype=object), grow=False)
    assert json.dumps(columns.state_dict()) == before
    # Learned categories have their codes from then on.
    learned = columns.encode_many(events, grow=True)
    assert not (learned[:, columns.kinds == 1] == -1).any()


@given(EVENTS, EVENTS)
def test_what_grew_is_counted(events: list[dict], later: list[dict]) -> None:
    columns = EventColumns()
    columns.encode_many(events, grow=True)
    before = columns.num_growths, columns.state_dict()["sources"]
    columns.encode_many(later, grow=True)
    grew = columns.state_dict()["sources"] != before[1]
    assert (columns.num_growths > before[0]) == grew
    twin = EventColumns()
    twin.load_state_dict(columns.state_dict())
    assert twin.num_growths == columns.num_growths


def test_pandas_is_imported_by_who_gives_a_frame() -> None:
    code = (
        "import sys; from nestling.streams.events.event_columns import EventColumns as E; "
        "e = E(); e.encode_one({'a': 'x', 'b': None}, grow=True); "
        "e.encode_many([[1, 2]], grow=True); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(EVENTS, EVENTS)
def test_a_frame_of_objects_is_as_its_rows(events: list[dict], later: list[dict]) -> None:
    one, many = EventColumns(), EventColumns()
    for part in (events, later):
        frame = pd.DataFrame(part, dtype=object, index=range(len(part)))
        rows = [dict(zip(frame.columns, row, strict=True)) for row in frame.to_numpy()]
        assert_same_rows(encode_one_by_one(one, rows), many.encode_many(frame, grow=True))
        assert_same(one, many)


DTYPED = st.lists(
    st.tuples(
        st.floats(width=32),
        st.one_of(st.none(), st.integers(-5, 5)),
        st.one_of(st.none(), st.sampled_from(["red", "blue", "3", "", "2024-01-01"])),
        st.one_of(st.none(), st.booleans()),
        st.one_of(st.none(), st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))),
        st.one_of(st.none(), st.timedeltas(timedelta(days=-9), timedelta(days=9))),
        st.integers(-3, 3),
    ),
    max_size=12,
)
DTYPES = ("float32", "Int64", "string", "boolean", "datetime64[us]", "timedelta64[us]", "int8")


@given(DTYPED, st.permutations(range(7)), EVENTS)
def test_a_frame_with_dtypes_is_as_its_rows(rows: list, places: list[int], before: list) -> None:
    one, many = EventColumns(), EventColumns()
    # Columns may be known already, as of another kind.
    for columns in (one, many):
        columns.encode_many(before, grow=True)
    names = ["a", "b", "c", "d", 0, 1, 2]
    frame = pd.DataFrame(
        {
            names[place]: pd.Series([row[kind] for row in rows], dtype=DTYPES[kind])
            for kind, place in enumerate(places)
        }
    )
    if rows:
        frame["zone"] = pd.date_range("2024-03-31", periods=len(rows), freq="h", tz="Europe/Rome")
        frame["text"] = pd.Categorical([row[2] for row in rows])
    for _ in range(2):
        events = [
            dict(zip(frame.columns, row, strict=True))
            for row in zip(*(frame[name].tolist() for name in frame), strict=True)
        ]
        assert_same_rows(encode_one_by_one(one, events), many.encode_many(frame, grow=True))
        assert_same(one, many)


def test_numbers_go_to_the_columns_of_their_names() -> None:
    columns = EventColumns()
    for _ in range(3):
        columns.encode_many(pd.DataFrame({"a": [1.0], "b": [2.0]}), grow=True)
    other_order = pd.DataFrame({"b": [2.0], "a": [1.0]})
    np.testing.assert_array_equal(columns.encode_many(other_order, grow=False), [[1.0, 2.0]])
    other_names = pd.DataFrame({"c": [2.0], "d": [1.0]})
    np.testing.assert_array_equal(columns.encode_many(other_names, grow=False), [[NAN, NAN]])
    np.testing.assert_array_equal(columns.encode_many(np.ones((1, 2)), grow=False), [[NAN, NAN]])
    np.testing.assert_array_equal(columns.encode_one(np.ones(2), grow=False), [NAN, NAN])
    np.testing.assert_array_equal(
        columns.encode_one(np.ones(2), grow=True), [NAN, NAN, 1.0, 1.0]
    )  # columns 0 and 1


def test_what_is_infinite_decides_no_column_of_a_frame() -> None:
    columns = EventColumns()
    frame = pd.DataFrame({"a": [math.inf, "red", -math.inf], "b": [math.inf, 1.0, 2.0]})
    rows = columns.encode_many(frame, grow=True)
    np.testing.assert_array_equal(rows, [[NAN, NAN], [0.0, 1.0], [NAN, 2.0]])
    assert columns.kinds.tolist() == [1, 0]
    assert columns.num_infinite == 3


def test_a_categorical_of_numbers_is_a_category() -> None:
    columns = EventColumns()
    frame = pd.DataFrame({"c": pd.Categorical([3, 1, 3, None], categories=[1, 2, 3])})
    rows = columns.encode_many(frame, grow=True)[:, 0]
    np.testing.assert_array_equal(rows, [0.0, 1.0, 0.0, NAN])
    assert columns.list_categories(0) == ["3", "1"]


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "int16", "bool", "O", "U3", "M8[s]", "m8[h]"]
)
def test_an_array_is_as_its_rows(dtype: str) -> None:
    block = np.arange(6).reshape(3, 2).astype("int64").astype(dtype)
    one, many = EventColumns(), EventColumns()
    for _ in range(3):
        assert_same_rows(encode_one_by_one(one, list(block)), many.encode_many(block, grow=True))
    assert_same(one, many)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_tensor_is_as_its_rows(dtype: torch.dtype) -> None:
    block = torch.arange(6).reshape(3, 2).to(dtype)
    one, many = EventColumns(), EventColumns()
    for _ in range(3):
        assert_same_rows(encode_one_by_one(one, list(block)), many.encode_many(block, grow=True))
    assert_same(one, many)
    np.testing.assert_array_equal(many.encode_many(block, grow=True), block.double().numpy())


def test_what_is_masked_in_an_array_is_missing() -> None:
    columns = EventColumns()
    masked = np.ma.masked_array([[1.0, 2.0], [3.0, 4.0]], [[False, False], [True, False]])
    for _ in range(3):
        rows = columns.encode_many(masked, grow=True)
        np.testing.assert_array_equal(rows, [[1.0, 2.0], [NAN, 4.0]])
        np.testing.assert_array_equal(columns.encode_one(masked[1], grow=True), [NAN, 4.0])


@given(EVENTS, EVENTS)
def test_the_state_resumes_exactly(events: list[dict], later: list[dict]) -> None:
    columns = EventColumns()
    columns.encode_many(events, grow=True)
    twin = EventColumns()
    twin.load_state_dict(json.loads(json.dumps(columns.state_dict())))
    assert_same_rows(columns.encode_many(later, grow=True), twin.encode_many(later, grow=True))
    assert_same(columns, twin)
    assert columns.names == twin.names


@given(EVENTS, st.integers(0, 11))
def test_a_bad_event_leaves_a_block_unlearned(events: list[dict], place: int) -> None:
    columns = EventColumns()
    columns.encode_many(events[:3], grow=True)
    before = json.dumps(columns.state_dict())
    with pytest.raises(NestlingError):
        columns.encode_many([*events[:place], {"a": [1]}, *events[place:]], grow=True)
    assert json.dumps(columns.state_dict()) == before


def test_shapes_of_empty_things() -> None:
    columns = EventColumns()
    assert columns.encode_one({}, grow=True).shape == (0,)
    assert columns.encode_many([], grow=True).shape == (0, 0)
    columns.encode_one({"a": 1}, grow=True)
    assert columns.encode_many([], grow=True).shape == (0, 1)
    assert columns.encode_many(pd.DataFrame({"a": []}), grow=True).shape == (0, 1)
    assert columns.encode_many(pd.DataFrame(index=range(3)), grow=True).shape == (3, 1)
    assert columns.encode_many(np.zeros((3, 0)), grow=True).shape == (3, 1)
    with pytest.raises(ShapeMismatch):
        columns.encode_many(np.zeros((0,)), grow=True)
