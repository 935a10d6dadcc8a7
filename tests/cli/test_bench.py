"""Suites at the command line, with a suite that takes no time."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nestling.bench.personal import personal_promises
from nestling.bench.promises import memory_promises
from nestling.bench.result import LIMITS, SuiteResult
from nestling.bench.streams import stream_runs
from nestling.bench.suites.parallel_cells import CellFolders

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    kinds = ("order", "remove", "merge")
    good = {f"{kind}_{of}_diff": 0.0 for kind in kinds for of in ("max", "answer")}
    good |= {"mnist_accuracy": 98.5, "time_over_matmul": 1.0}
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
    assert ">= 98" in out
    data = json.loads((desk / "r.json").read_text())
    assert set(data) == {"suite", "figures", "rows", "machine"}


def test_a_missed_limit_is_code_1_if_checked(nestling: Run, figures: dict[str, float]) -> None:
    figures["mnist_accuracy"] = 50.0
    assert nestling("bench", "ridge")[0] == 0
    code, _, err = nestling("bench", "ridge", "--check")
    assert (code, err) == (1, "mnist_accuracy = 50, must be >= 98\n")


def test_parts_of_the_memory_suite(
    nestling: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(place: CellFolders) -> tuple[dict[str, float], list[dict[str, object]]]:
        assert place.offline
        return {"acc_split_mnist": 96.5}, [{"seed": 0}]

    monkeypatch.setattr(memory_promises, "PARTS", {"split-mnist": measure, "learn-b10": None})
    asked = ("bench", "memory", "--parts", "split-mnist", "--offline", "--out", "kept")
    code, out, err = nestling(*asked, "--json", "m.json")
    assert code == 0
    assert "acc_split_mnist" in out
    assert ">= 97" in out
    assert "acc_split_mnist = 96.5, must be >= 97" in err
    assert (desk / "kept" / "parts" / "split-mnist.json").exists()
    data = json.loads((desk / "m.json").read_text())
    assert data["figures"] == {"acc_split_mnist": 96.5}
    assert data["machine"]["num_threads"] == 1
    code, _, err = nestling("bench", "memory", "--parts", "split-mnits")
    assert code == 2
    assert "did you mean 'split-mnist'" in err


def test_parts_of_the_personal_suite(
    nestling: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def measure(
        seeds: tuple[int, ...], _: CellFolders
    ) -> tuple[dict[str, float], list[dict[str, object]]]:
        asked.append(seeds)
        return {"first_events_worst": 2.5}, [{"seed": seed} for seed in seeds]

    monkeypatch.setattr(personal_promises, "SEEDED_PARTS", {"first-events": measure})
    words = ("bench", "personal", "--parts", "first-events")
    code, out, err = nestling(*words, "--json", "p.json", "--check")
    assert code == 1
    assert "first_events_worst" in out
    assert "first_events_worst = 2.5, must be <= 1" in err
    assert (desk / "runs" / "bench" / "personal" / "parts" / "first-events.json").exists()
    data = json.loads((desk / "p.json").read_text())
    assert [row["seed"] for row in data["rows"]] == [0, 1, 2, 3, 4]
    assert data["machine"]["num_threads"] == 1
    assert nestling(*words, "--seeds", "2")[0] == 0
    assert asked == [(0, 1, 2, 3, 4), (0, 1)]


def test_other_suites_have_no_parts(nestling: Run) -> None:
    code, out, err = nestling("bench", "ridge", "--parts", "predict")
    assert (code, out) == (2, "")
    assert "--parts for suite 'ridge'; parts can be measured of memory and personal" in err


def test_the_streams_suite_shows_a_table_per_part_and_writes_curves(
    nestling: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(stream_runs, "_OUR_LEARNER", "stand_in_streams:StandIn")
    words = ("bench", "streams", "--streams", "digits", "--seeds", "1", "--workers", "1")
    code, out, err = nestling(*words, "--parts", "accuracy, retention", "--json", "s.json")
    assert code == 0
    assert "accuracy_digits" in out
    assert "retention_0_4 = 0" in err
    assert (desk / "runs" / "bench" / "streams" / "curves.png").exists()
    data = json.loads((desk / "s.json").read_text())
    assert [row["part"] for row in data["rows"]] == ["accuracy", *["retention"] * 3]
    assert data["machine"]["num_threads"] == 1
    code, _, err = nestling("bench", "ridge", "--streams", "digits")
    assert (code, err.count("\n")) == (2, 1)
    assert "only suite 'streams' has streams" in err
    code, _, err = nestling(*words, "--parts", "acuracy")
    assert code == 2
    assert "did you mean 'accuracy'" in err


def test_parts_of_governed_change(
    nestling: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nestling.bench.governance import governance_promises

    def measure(_: CellFolders) -> tuple[dict[str, float], list[dict[str, object]]]:
        return {"fairness_max_diff": 0.5}, [{"column": "sex"}]

    monkeypatch.setattr(governance_promises, "PLAIN_PARTS", {"fairness": measure})
    words = ("bench", "governance", "--parts", "fairness", "--json", "g.json")
    assert nestling(*words)[0] == 0
    code, _, err = nestling(*words, "--check")
    assert code == 1
    assert "fairness_max_diff = 0.5, must be <= 1e-12" in err
    assert json.loads((desk / "g.json").read_text())["rows"][0]["column"] == "sex"
    code, _, err = nestling("bench", "governance", "--parts", "fairnes")
    assert code == 2
    assert "fairness" in err


def test_parts_of_the_optimizers(
    nestling: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nestling.bench.optimizers import optimizer_promises

    asked: list[int] = []

    def measure(num_seeds: int) -> tuple[dict[str, float], list[dict[str, object]]]:
        asked.append(num_seeds)
        return {"toy_delta_over_momentum_steps": 0.5}, [{"optimizer": "delta"}]

    monkeypatch.setattr(optimizer_promises, "measure_toy", measure)
    words = ("bench", "optim", "--parts", "toy", "--json", "o.json")
    code, out, _ = nestling(*words)
    assert code == 0
    assert "toy_delta_over_momentum_steps" in out
    assert (desk / "runs" / "bench" / "optim" / "parts" / "toy.json").exists()
    assert json.loads((desk / "o.json").read_text())["rows"][0]["optimizer"] == "delta"
    assert nestling(*words, "--seeds", "2")[0] == 0
    assert asked == [3, 2]
    code, _, err = nestling("bench", "optim", "--parts", "tyo")
    assert code == 2
    assert "did you mean 'toy'" in err


def test_parts_of_blocks(nestling: Run, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nestling.bench.blocks import blocks_promises

    def measure(_: CellFolders) -> tuple[dict[str, float], list[dict[str, object]]]:
        return {"delta_over_gpt": 1.5}, [{"side": "GPT", "milliseconds": 3.0}]

    monkeypatch.setattr(blocks_promises, "SPEED_PARTS", {"delta-speed": measure})
    words = ("bench", "blocks", "--parts", "delta-speed", "--json", "b.json")
    assert nestling(*words)[0] == 0
    code, _, err = nestling(*words, "--check")
    assert code == 1
    assert "delta_over_gpt = 1.5, must be <= 1.45" in err
    assert json.loads((desk / "b.json").read_text())["rows"][0]["side"] == "GPT"
    code, _, err = nestling("bench", "blocks", "--parts", "delta-sped")
    assert code == 2
    assert "did you mean 'delta-speed'" in err


def test_parts_in_context(nestling: Run, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nestling.bench.incontext import context_promises

    def measure(*_: object) -> tuple[dict[str, float], list[dict[str, object]]]:
        return {"recall: cms, within": 0.75}, [{"task": "recall", "model": "cms", "seed": 0}]

    monkeypatch.setattr(context_promises, "measure_model", measure)
    words = ("bench", "in-context", "--parts", "recall-cms", "--seeds", "1", "--json", "c.json")
    code, out, _ = nestling(*words)
    assert code == 0
    assert "recall: cms, within" in out
    assert json.loads((desk / "c.json").read_text())["rows"][0]["part"] == "recall"
    code, _, err = nestling("bench", "in-context", "--parts", "recall-cmss")
    assert code == 2
    assert "a task ['recall', 'labels', 'parity', 'aa', 'abab']" in err
    assert "did you mean 'recall-cms'" in err
