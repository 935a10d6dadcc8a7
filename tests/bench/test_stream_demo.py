"""The demo of streams, with a stand-in for our learner."""

from pathlib import Path

import pytest

from nestling.bench.stream_demo import STREAMS, DemoStream, run
from nestling.bench.streams import stream_runs
from nestling.data.events import open_events

pytest.importorskip("river")


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_runs, "_OUR_LEARNER", "stand_in_streams:StandIn")


def test_a_line_per_look_and_the_change_is_said(tmp_path: Path) -> None:
    lines: list[str] = []
    streams = (DemoStream("digits", 3_493), DemoStream("elec2", 100))
    result = run(streams, folder=tmp_path, say=lines.append)
    (row,) = result.rows
    assert (row["stream"], row["events"]) == ("digits", 3_493)
    assert float(str(row["logistic"])) > float(str(row["nestling"]))
    assert set(result.figures) == {"accuracy_over_logistic_digits", "total_seconds"}
    looks = [line for line in lines if " events: nestling " in line]
    assert len(looks) == 8
    changed = [index for index, line in enumerate(looks) if line.endswith("another concept")]
    assert changed == [3, 6]  # windows of 436: places 1,398 and 2,794
    assert lines[-1].startswith("elec2 is left out: data not fetched")


def test_the_demo_needs_nothing_fetched_but_elec2() -> None:
    assert [one.name for one in STREAMS if open_events(one.name).source] == ["elec2"]
    assert all(one.num_events <= open_events(one.name).num_events for one in STREAMS)
