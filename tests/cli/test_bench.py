"""Suites at the command line, with a suite that takes no time."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nestling.bench.result import LIMITS, SuiteResult

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    good = {"order_max_diff": 0.0, "remove_max_diff": 0.0, "merge_max_diff": 0.0}
    good |= {"mnist_accuracy": 96.0, "time_over_matmul": 1.0}
    assert set(good) == set(LIMITS["ridge"])

    def run(*_: object) -> SuiteResult:
        return SuiteResult("ridge", good, [{"part": "one pass", "seconds": 1.0}])

    monkeypatch.setattr("nestling.cli.bench_command._run", run)
    return good


@pytest.mark.usefixtures("figures")
def test_a_result_is_shown_and_written(nestling: Run, desk: Path) -> None:
    code, out, err = nestling("bench", "ridge", "--json", "r.json", "--check")
    assert (code, err) == (0, "")
    assert "mnist_accuracy" in out
    assert ">= 95" in out
    data = json.loads((desk / "r.json").read_text())
    assert set(data) == {"suite", "figures", "rows", "machine"}


def test_a_missed_limit_is_code_1_if_checked(nestling: Run, figures: dict[str, float]) -> None:
    figures["mnist_accuracy"] = 50.0
    assert nestling("bench", "ridge")[0] == 0
    code, _, err = nestling("bench", "ridge", "--check")
    assert (code, err) == (1, "mnist_accuracy = 50, must be >= 95\n")
