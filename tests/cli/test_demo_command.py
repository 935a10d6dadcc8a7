"""The main job at the command line, with one seed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nestling.bench.stream_demo import DemoStream

Run = Callable[..., tuple[int, str, str]]


def test_demo_prints_a_table_and_writes_run_report_and_figures(
    nestling: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is learned is no matter here; tests/bench/test_demo.py runs it whole.
    monkeypatch.setattr("nestling.bench.demo.EPOCHS", 1)
    args = ("demo", "--seeds", "1", "--threads", "1", "--out", "run", "--json", "demo.json")
    code, out, err = nestling(*args)
    assert (code, err) == (0, "")
    for method in ("finetune", "replay", "frozen spine", "nestling"):
        assert method in out
    page = (desk / "run" / "report.html").read_text()
    assert "nestling" in page
    data = json.loads((desk / "demo.json").read_text())
    assert (data["suite"], len(data["rows"])) == ("demo", 4)
    assert data["figures"]["total_seconds"] < 90


def test_demo_refuses_the_folder_of_another_run(nestling: Run, desk: Path) -> None:
    (desk / "run").mkdir()
    (desk / "run" / "config.json").write_text('{"job": {}}')
    code, out, err = nestling("demo", "--out", "run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "another run" in err


def test_demo_stream_says_lines_and_a_table(
    nestling: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("river")
    monkeypatch.setattr(
        "nestling.bench.streams.stream_runs._OUR_LEARNER", "stand_in_streams:StandIn"
    )
    monkeypatch.setattr("nestling.bench.stream_demo.STREAMS", (DemoStream("digits", 400),))
    code, out, err = nestling("demo-stream", "--json", "s.json")
    assert (code, err) == (0, "")
    assert "whole stream: nestling" in out
    assert "logistic_per_cpu_second" in out
    data = json.loads((desk / "s.json").read_text())
    assert (data["suite"], len(data["rows"])) == ("demo-stream", 1)
