"""Lines of a stream become events, and lines that hold none are said."""

import math
from typing import Any

import pytest

from nestling.core.errors import DataError
from nestling.streams.live.event_lines import (
    BrokenLine,
    LineFormat,
    TimedArrival,
    read_event_lines,
    read_time_cell,
)

FORM = LineFormat("y", id="id")


def read(text: str, form: LineFormat = FORM) -> list[Any]:
    return list(read_event_lines(text.splitlines(keepends=True), form))


def read_x(text: str, form: LineFormat = FORM) -> list[Any]:
    return [one.arrival.x for one in read(text, form)]


def test_cells_become_numbers_text_and_gaps() -> None:
    rows = read_x("id,a,b,y\n1,2,red,u\n2, 1e3 ,NA,u\n3,?,,u\n4,x,green,u\n5,1_0,NA,u\n")
    assert rows == [
        {"a": 2.0, "b": "red"},
        {"a": 1000.0, "b": "NA"},  # among text it may be a word
        {"a": None, "b": ""},
        {"a": "x", "b": "green"},
        {"a": "1_0", "b": "NA"},
    ]
    assert read_x("id,b,y\n1,NA,u\n2,red,u\n") == [{"b": None}, {"b": "red"}]
    (row,) = read_x("id,a,y\n1,nan,u\n")
    assert math.isnan(row["a"])


def test_label_id_and_time_are_taken_out() -> None:
    form = LineFormat("y", id="id", time="t")
    (one,) = read("id,t,y\n a1 ,1970-01-01T01:00,yes\n", form)
    assert (one.arrival.y, one.arrival.id, one.time) == ("yes", "a1", 3600.0)
    assert one.arrival.x == {"t": "1970-01-01T01:00"}
    (none,) = read("id,t,y\n,,\n", form)
    assert (none.arrival.y, none.arrival.id, none.time) == (None, None, None)
    assert read_time_cell("17") == 17.0


def test_targets_of_regression_are_numbers() -> None:
    form = LineFormat("y", classifies=False)
    found = read("y,a\n1.5,2\n?,2\n,3\nlow,4\ninf,5\n", form)
    assert [one.arrival.y for one in found[:3]] == [1.5, None, None]
    assert [one.line for one in found[3:]] == [5, 6]
    assert "'low' is no finite number" in found[3].reason


def test_declared_categories_stay_text() -> None:
    form = LineFormat("y", categories=("zip",))
    assert read_x("zip,y\n01067,u\n", form) == [{"zip": "01067"}]
    assert read_x('{"zip": 1067, "y": "u"}\n', form) == [{"zip": "1067"}]


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_other_delimiters_quotes_and_a_mark_of_order(sign: str) -> None:
    text = "\ufeff" + sign.join(["id", "a, b", "y"]) + "\r\n" + sign.join(["1", '"x, ""y"""', "u"])
    assert read_x(text) == [{"a, b": 'x, "y"'}]


def test_broken_lines_are_said_and_the_next_is_read() -> None:
    text = 'id,a,y\n1,2\n\n1,"2,u\n1,2,3,4\n1,\udcff,u\n1,\0,u\n9,5,u\n'
    found = list(read_event_lines(text.split("\n"), FORM))
    assert [one.line for one in found[:-1]] == [2, 4, 5, 6, 7]
    assert all(isinstance(one, BrokenLine) for one in found[:-1])
    assert [one.reason for one in found[:4:3]] == ["2 cells, expected 3", "it is no text in UTF-8"]
    assert isinstance(found[-1], TimedArrival)
    assert found[-1].arrival.id == "9"


def test_json_lines_keep_types_but_labels_and_ids_are_text() -> None:
    text = (
        '{"id": 7, "a": true, "b": "3", "y": true}\n'
        '{"id": "x", "a": null, "new": 2, "y": 1.0}\n\n'
        '[1]\n{"a": [1], "y": 1}\n{"a": \n{"a": 1, "y": {"z": 1}}\n{"id": 8, "y": null}\n'
    )
    found = read(text)
    assert found[0].arrival.x == {"a": True, "b": "3"}
    assert [(one.arrival.id, one.arrival.y) for one in found[:2]] == [("7", "true"), ("x", "1")]
    assert [one.line for one in found[2:6]] == [4, 5, 6, 7]
    assert (found[-1].arrival.id, found[-1].arrival.y) == ("8", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the stream is empty"),
        ("\n \n", "the stream is empty"),
        ("id,a,a,y\n", "'a' twice"),
        ("id,,y\n", "a column without a name"),
        ("id,a,why\n", "no column 'y' to predict"),
        ("nr,a,y\n", r"no column 'id'; known: \['a', 'nr', 'y'\]"),
        ('id,"a,y\n', "the header .* cannot be read"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(text)


def test_the_target_may_lack_where_labels_come_late() -> None:
    (one,) = read("id,a\n1,2\n", LineFormat("y", id="id", may_lack_target=True))
    assert one.arrival.y is None
