"""Late labels from a second file: each comes when it is due, in a file that may still grow."""

from pathlib import Path
from typing import Any

import pytest

import nestling.streams.live.label_lines as module
from nestling.core.errors import DataError
from nestling.streams.live.event_lines import BrokenLine, LineFormat, TimedArrival
from nestling.streams.live.follow import Arrival
from nestling.streams.live.label_lines import LabelLines, join_late_labels

FORM = LineFormat("y", id="id", may_lack_target=True)


def make_events(ids: str, times: Any = None) -> list[TimedArrival | BrokenLine]:
    return [
        TimedArrival(Arrival({"a": 1.0}, None, one), None if times is None else times[n])
        for n, one in enumerate(ids)
    ]


def run(path: Path, events: Any, form: LineFormat = FORM) -> list[str]:
    """The order of what comes: an event by its id, a label as id=label, a broken line as !."""
    labels, waiting, order = LabelLines(path, form), set(), []
    for one in join_late_labels(events, labels, waiting.__contains__):
        if isinstance(one, BrokenLine):
            order.append(f"!{one.line}")
        elif one.x is not None:
            order.append(str(one.id))
            waiting.add(one.id)
        else:
            order.append(f"{one.id}={one.y}")
            waiting.discard(one.id)
    labels.close()
    return order


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def test_after_so_many_events(path: Path) -> None:
    path.write_text("id,y,after\na,u,2\nc,v,3\nb,w,3\nd,x,9\n")
    assert run(path, make_events("abcd")) == ["a", "b", "a=u", "c", "c=v", "b=w", "d"]


def test_at_a_time(path: Path) -> None:
    path.write_text("t,id,y\n1970-01-01,a,u\n25,b,v\n99,c,w\n")
    form = LineFormat("y", id="id", time="t", may_lack_target=True)
    events = make_events("abcd", [-10.0, 20.0, None, 30.0])
    assert run(path, events, form) == ["a", "a=u", "b", "c", "b=v", "d"]


def test_without_a_time_each_label_follows_its_event(path: Path) -> None:
    path.write_text("id,y\nb,u\nzz,v\na,w\n")
    # Nothing ever waits for zz: it comes at the end, and is counted as unknown there.
    assert run(path, make_events("abc")) == ["a", "a=w", "b", "b=u", "c", "zz=v"]


def test_the_file_may_grow_while_it_is_read(path: Path) -> None:
    path.write_text("id,y\n")

    def grow() -> Any:
        for n, event in enumerate(make_events("abcd")):
            if n == 1:
                with path.open("a") as file:
                    file.write("a,half")
            if n == 2:
                with path.open("a") as file:
                    file.write("way\nb,v\n")
            if n == 3:
                with path.open("a") as file:
                    file.write("c,without an end")
            yield event

    order = run(path, grow())
    assert order == ["a", "b", "a=halfway", "b=v", "c", "d", "c=without an end"]


def test_broken_lines_are_passed_on(path: Path) -> None:
    path.write_text("id,y,after\na,u\n,u,0\na,,0\na,u,soon\n\na,u,1\n")
    assert run(path, [*make_events("a"), BrokenLine(7, "x"), *make_events("b")]) == [
        *("!2", "!3", "!4", "!5", "a", "!7", "a=u", "b"),
    ]


def test_early_labels_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_EARLY", 2)
    monkeypatch.setattr(module, "_LONGEST_EARLY", 3)
    path.write_text("id,y\nx,1\nz,1\nb,1\nc,1\n")
    # x and z never come: they bar the others until they are given up.
    order = run(path, make_events("abcdef"))
    assert order == ["a", "b", "c", "d", "x=1", "z=1", "b=1", "c=1", "e", "f"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "are empty"), ("id,label\n", "no column 'y'"), ("nr,y\n", "no column 'id'")],
)
def test_a_file_that_cannot_be_used_is_refused(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        LabelLines(path, FORM)
    with pytest.raises(DataError, match="no regular file"):
        LabelLines(path.parent, FORM)
