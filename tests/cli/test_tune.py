"""Searching for plans at the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nestling.jobs.tune import searching
from nestling.levels import Plan

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")

Run = Callable[..., tuple[int, str, str]]

JOB = """
model = "desk_net:make_net"
data = { train = ["a.csv", "b.csv"], test = "test.csv" }
plan = "plan.toml"
batch_size = 8
num_threads = 1
out = "run"
[tune]
num_trials = 3
num_seeds = 1
"""


@pytest.fixture
def job(desk: Path) -> Path:
    (desk / "job.toml").write_text(JOB)
    return desk / "job.toml"


@pytest.mark.usefixtures("job")
def test_tune_writes_a_front_and_a_plan_that_learn_takes(nestling: Run, desk: Path) -> None:
    code, out, err = nestling("tune", "job.toml", "--json", "result.json")
    assert (code, err) == (0, "")
    assert "front.png" in out
    assert "plan.toml" in out
    for name in ("trials.json", "front.json", "front.png", "plan.toml"):
        assert (desk / "run" / name).exists()
    result = json.loads((desk / "result.json").read_text())
    assert set(result["tested_acc"]) == {"start", "chosen"}
    Plan.load(desk / "run" / "plan.toml")
    text = JOB.split("[tune]")[0].replace("plan.toml", "run/plan.toml").replace('"run"', '"again"')
    (desk / "chosen.toml").write_text(text)
    assert nestling("learn", "chosen.toml")[0] == 0


@pytest.mark.usefixtures("job")
def test_more_trials_go_on_from_those_that_are_there(nestling: Run, desk: Path) -> None:
    assert nestling("tune", "job.toml", "--trials", "2")[0] == 0
    first = json.loads((desk / "run" / "trials.json").read_text())["trials"]
    assert nestling("tune", "job.toml", "--prefer", "adaptation")[0] == 0
    trials = json.loads((desk / "run" / "trials.json").read_text())["trials"]
    assert trials[:2] == first
    assert len(trials) == 3
    assert json.loads((desk / "run" / "front.json").read_text())["prefer"] == "adaptation"


@pytest.mark.usefixtures("job")
def test_ctrl_c_says_how_to_go_on(nestling: Run, desk: Path, monkeypatch) -> None:
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "run_trial", stop)
    code, _, err = nestling("tune", "job.toml")
    assert code == 130
    assert "the same command goes on" in err


def test_bad_input_is_one_line(nestling: Run, desk: Path) -> None:
    (desk / "job.toml").write_text(JOB + '[tune.space]\n"hed.lr" = [1, 2]\n')
    code, _, err = nestling("tune", "job.toml")
    assert code == 2
    assert "hed" in err
    assert err.count("\n") == 1
    assert nestling("tune", "none.toml")[0] == 2
    assert nestling("tune", "job.toml", "--trials", "1")[0] == 2
