"""Cells of the streams' benchmark: answered before learned, kept, and measured once."""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestling.bench.streams import following_events, stream_cells, stream_runs
from nestling.bench.streams.following_events import count_bytes, follow_events
from nestling.bench.streams.stream_cells import (
    StreamCell,
    StreamOutcome,
    identify_files,
    identify_system,
    read_cell,
    write_cell,
)
from nestling.bench.streams.stream_runs import run_stream_cells
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.core.errors import DataError, JobError, SettingError
from nestling.data.events import Event, open_events
from stand_in_streams import StandIn

OWN = "stand_in_streams:StandIn"


@pytest.fixture
def place(tmp_path: Path) -> CellFolders:
    return CellFolders(tmp_path, offline=True)


def make_events(count: int) -> list[Event]:
    return [({"x": float(number)}, "ab"[number // 3 % 2]) for number in range(count)]


# --- following


def test_every_event_is_answered_before_it_is_learned() -> None:
    class Spy(StandIn):
        asked = 0

        def predict_proba_one(self, x: Mapping[Any, Any], *, id: int | None = None) -> dict:
            assert len(self.learned) == self.asked
            self.asked += 1
            return super().predict_proba_one(x, id=id)

    learner = Spy()
    events = make_events(250)
    found = follow_events(learner, iter(events))
    assert learner.learned == events
    assert found.figures["accuracy"] == pytest.approx(found.right.mean())
    # The first is wrong, and so is each of another label than the last one.
    expected = [False] + [a[1] == b[1] for a, b in itertools.pairwise(events)]
    assert found.right.tolist() == expected
    assert (found.num_bytes, found.is_partial) == (1_000, False)


@pytest.mark.parametrize("by_id", [False, True])
def test_labels_that_come_late_are_learned_with_what_was_seen(by_id: bool) -> None:
    learner = StandIn()
    events = make_events(40)
    found = follow_events(learner, iter(events), delay=10, by_id=by_id)
    # The last ten labels have not come.
    assert learner.learned == events[:30]
    assert len(learner.waiting) == (10 if by_id else 0)
    assert len(found.right) == 40
    # Event 11 is the first that is answered by someone who knows a label: the one of event 0.
    assert not found.right[:11].any()
    assert found.right[11] == (events[11][1] == events[0][1])


def test_held_out_events_are_looked_at_and_never_learned() -> None:
    learner = StandIn()
    held_out = {"a": [({"x": 0.0}, "a")] * 3, "mixed": [({"x": 0.0}, "a"), ({"x": 0.0}, "b")]}
    found = follow_events(learner, iter(make_events(6)), looks=(2, 3), held_out=held_out)
    assert found.held_out == {
        "2": {"a": 1.0, "mixed": 0.5},
        "3": {"a": 1.0, "mixed": 0.5},
        "6": {"a": 0.0, "mixed": 0.5},
    }
    assert len(learner.learned) == 6


def test_who_takes_too_long_is_stopped_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(following_events.time, "process_time", lambda: float(next(clock)))
    found = follow_events(StandIn(), iter(make_events(1_000)), max_seconds=2.5)
    assert len(found.right) == 300  # a second per hundred events
    assert found.is_partial
    # At the very end there is nothing left to stop.
    whole = follow_events(StandIn(), iter(make_events(300)), max_seconds=2.5)
    assert not whole.is_partial


def test_bytes_of_what_does_not_say_them() -> None:
    class Plain:
        def __init__(self) -> None:
            self.values = np.zeros(1_000)
            self.again = self.values
            self.names = {f"name {number}": number for number in range(100)}

    assert 8_000 + 100 * 30 < count_bytes(Plain()) < 8_000 + 100 * 200


# --- files


def test_a_cell_is_read_as_it_was_written(tmp_path: Path) -> None:
    cell = StreamCell(OWN, "sea", 2, ("last",), 10, 500)
    outcome = StreamOutcome(
        cell,
        {"accuracy": 0.5, "auc": math.nan},
        "gA==",
        4,
        [0.5],
        500,
        1.5,
        10,
        {"4": {"a": 1.0}},
        True,
        None,
        identify_system(OWN),
    )
    write_cell(tmp_path, outcome)
    found = read_cell(tmp_path, cell)
    assert found is not None
    assert found.read_right().tolist() == [True, False, False, False]
    assert math.isnan(found.figures["auc"])
    assert replace(found, figures={}) == replace(outcome, figures={})


def test_other_code_and_damaged_files(tmp_path: Path) -> None:
    cell = StreamCell(OWN, "sea")
    assert read_cell(tmp_path, cell) is None
    write_cell(tmp_path, StreamOutcome(cell, code="another"))
    assert read_cell(tmp_path, cell) is None
    for text in ("{", "[]", '{"cell": {}}'):
        cell.find_path(tmp_path).write_text(text)
        with pytest.raises(JobError, match="is damaged"):
            read_cell(tmp_path, cell)
    write_cell(tmp_path, StreamOutcome(replace(cell, seed=1), code=identify_system(OWN)))
    replace(cell, seed=1).find_path(tmp_path).rename(cell.find_path(tmp_path))
    with pytest.raises(JobError, match="is damaged"):
        read_cell(tmp_path, cell)


def test_a_rivals_cells_outlive_changes_of_our_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "nestling"
    shared = ("data/events/a.py", "data/digits.py", "judge/stream_scores.py")
    rivals = ("online_networks", "stream_rivals", "following_events")
    ours = ("core", "judge", "memory", "levels", "learn", "streams")
    for name in (*shared, *(f"bench/streams/{one}.py" for one in rivals)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")
    for room in ours:
        (root / room).mkdir(exist_ok=True)
        (root / room / "file.py").write_text("x = 1\n")

    def look() -> tuple[str, str]:
        identify_files.cache_clear()
        return identify_system("arf"), identify_system("nestling")

    monkeypatch.setattr(stream_cells, "__file__", str(root / "bench" / "streams" / "cells.py"))
    first = look()
    (root / "streams" / "file.py").write_text('"""Said."""\n\nx = 1  # why\n')
    assert look() == first
    (root / "streams" / "file.py").write_text("x = 2\n")
    second = look()
    assert second[0] == first[0]
    assert second[1] != first[1]
    (root / "bench" / "streams" / "stream_rivals.py").write_text("x = 2\n")
    third = look()
    assert third[0] != second[0]
    assert third[1] == second[1]
    (root / "data" / "events" / "a.py").write_text("x = 2\n")
    fourth = look()
    assert fourth[0] != third[0]
    assert fourth[1] != third[1]
    monkeypatch.undo()
    identify_files.cache_clear()


# --- runs


def test_a_run_goes_on_where_it_was(place: CellFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [StreamCell(OWN, "digits", seed, limit=200) for seed in range(3)]
    told: list[tuple[str, float]] = []
    run_stream_cells(cells[:2], place, num_workers=1)
    made: list[int] = []
    make = stream_runs.make_system

    def count(cell: StreamCell) -> object:
        made.append(cell.seed)
        return make(cell)

    monkeypatch.setattr(stream_runs, "make_system", count)
    outcomes = run_stream_cells(
        cells, place, num_workers=1, progress=lambda text, share: told.append((text, share))
    )
    assert [one.cell for one in outcomes] == cells
    assert made == [2, 2, 2]  # one before anything starts, and one to warm up
    assert told == [(f"{OWN} on digits, seed 2", 1.0)]
    assert outcomes[0].num_events == 200
    assert set(outcomes[0].held_out) == {"200"}
    data = json.loads(cells[0].find_path(place.folder).read_text())
    assert data["code"] == identify_system(OWN)


def test_retention_is_looked_at_when_the_halves_end(place: CellFolders) -> None:
    (found,) = run_stream_cells([StreamCell(OWN, "digits")], place, num_workers=1)
    assert list(found.held_out) == ["1398", "2794", "3493"]
    assert found.num_events == open_events("digits").num_events


def test_a_system_that_fails_is_written_down(place: CellFolders) -> None:
    cell = StreamCell("stand_in_streams:Failing", "digits", limit=5)
    for _ in range(2):
        (found,) = run_stream_cells([cell], place, num_workers=1)
        assert found.failure == "ZeroDivisionError: nothing to divide by in 64 values, None"
        assert found.figures == {}


def test_what_is_not_there_fails_before_anything_is_measured(place: CellFolders) -> None:
    with pytest.raises(SettingError, match="nosuch"):
        run_stream_cells([StreamCell("nosuch:make", "digits")], place, num_workers=1)
    with pytest.raises(DataError, match="nestling data fetch elec2"):
        run_stream_cells([StreamCell(OWN, "elec2")], replace(place, data=place.folder))
    assert not (place.folder / "cells").exists()


def test_names_of_files_differ() -> None:
    cells = [
        StreamCell("arf", "sea"),
        StreamCell("arf", "sea", 1),
        StreamCell("arf", "sea", delay=5),
        StreamCell("arf", "sea", limit=5),
        *(StreamCell("arf", "sea", without=(one,)) for one in ("a b", "c")),
    ]
    assert len({cell.find_path(Path()) for cell in cells}) == len(cells)
