"""Suites of continual learning at the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]

ASKED = ("bench", "tiny_suites:make_few", "--methods", "default,ncm,tiny_suites:make_slow")
QUICK = ("--seeds", "2", "--budget", "1", "--workers", "1", "--looks", "3")
# What a shell starts in the background ignores Ctrl-C, and all that it starts: tests run there too.
AS_AT_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from nestling.cli.main import main
main()
"""


def test_a_suite_is_measured_shown_and_written(nestling: Run, desk: Path) -> None:
    code, out, err = nestling(*ASKED, *QUICK, "--json", "r.json", "--check")
    assert (code, err) == (0, "")
    assert "no_replay_default_acc" in out
    assert "default minus it" in out
    data = json.loads((desk / "r.json").read_text())
    assert set(data) == {"suite", "figures", "rows", "machine"}
    assert data["figures"]["no_replay_default_acc"] > 0.9
    assert data["figures"]["no_replay_difference"] > 0.0
    methods = {row["method"] for row in data["rows"]}
    # Fine-tuning runs unasked, since costs are measured against it.
    assert methods == {"default", "ncm", "tiny_suites:make_slow", "finetune"}
    folder = desk / "runs" / "bench" / "tiny_suites..make_few"
    page = (folder / "table.md").read_text()
    assert "| **default** | nothing stored |" in page
    assert "scikit-learn digits in 5 pairs." in page
    assert "1 random trials on the validation streams of seeds 100, 101, 102" in page
    assert (folder / "scatter.png").stat().st_size > 10_000
    assert (folder / "curves.png").stat().st_size > 10_000
    # Asked again, nothing is measured again, and the same is said.
    times = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    again = nestling(*ASKED, *QUICK, "--json", "r2.json")
    assert again[1] == out
    assert json.loads((desk / "r2.json").read_text()) == data
    assert times == {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("split-mnits",), "did you mean 'split-mnist'"),
        (("demmo",), "did you mean 'demo'"),
        (("split-mnist", "--methods", "default,fintune"), "did you mean 'finetune'"),
        (("split-mnist", "--methods", "default,,ewc"), "empty name"),
        (("split-mnist", "--budget", "huge"), "small, full or a number"),
        (("split-mnist", "--budget", "0"), "at least 1 trial"),
        (("split-mnist", "--seeds", "0"), "seeds"),
        (("split-mnist", "--offline", "--data", "."), "run: nestling data fetch mnist-10k"),
        (("nowhere:make",), "no module 'nowhere'"),
        (("desk_net:make_list",), "make_list"),
        (("tiny_suites:make_few", "--out", "full", "--methods", "ncm"), "something else"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    nestling: Run, desk: Path, args: tuple[str, ...], said: str
) -> None:
    (desk / "full").mkdir()
    (desk / "full" / "notes.txt").write_text("mine")
    before = sorted(path for path in desk.rglob("*") if "__pycache__" not in path.parts)
    code, out, err = nestling("bench", *args)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert before == sorted(path for path in desk.rglob("*") if "__pycache__" not in path.parts)


def test_a_folder_of_another_suite_is_refused(nestling: Run, desk: Path) -> None:
    (desk / "run").mkdir()
    (desk / "run" / "bench.json").write_text('{"suite": "split-mnist"}')
    code, _, err = nestling(*ASKED, *QUICK, "--out", "run")
    assert code == 2
    assert "holds suite 'split-mnist'; give another folder" in err


def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(desk: Path, nestling: Run) -> None:
    tests = Path(__file__).parents[1]
    asked = ("bench", "tiny_suites:make_few", "--methods", "tiny_suites:make_sleepy")
    few = ("--seeds", "1", "--budget", "1", "--looks", "1", "--out", "run")
    command = [sys.executable, "-c", AS_AT_A_TERMINAL, *asked, *few, "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(tests), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=desk,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 100.0
    while time.monotonic() < deadline and not list(desk.glob("begun-*")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, err = process.communicate(timeout=100.0)
    assert (process.returncode, err.strip()) == (130, "interrupted")
    cells = list((desk / "run" / "search").glob("*.json"))
    # Whatever was under way ended and is kept; the rest (3 seeds of 2 methods) was not begun.
    for begun in desk.glob("begun-*"):
        seed = begun.name.removeprefix("begun-")
        assert any(f"make_sleepy-trial0-seed{seed}-" in path.name for path in cells)
    assert len(cells) < 6
    assert not (desk / "run" / "result.json").exists()
    times = {path: path.stat().st_mtime_ns for path in cells}
    assert nestling(*asked, *few, "--workers", "1")[0] == 0
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert len(list((desk / "run" / "search").glob("*.json"))) == 6
