"""The benches of governed change on small made-up rows: what they measure, and what they refuse."""

from pathlib import Path

import pytest
import torch
from governed_rows import make_rows

from nestling.bench.governance import contract_cost, fairness_check, planted_bias
from nestling.bench.governance.two_parts import TwoPartNet, learn_part
from nestling.bench.result import LIMITS
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.data.groups import plant_bias


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CellFolders:
    for module in (contract_cost, fairness_check, planted_bias):
        monkeypatch.setattr(module, "load_census", lambda *_, **__: make_rows(4_000))
    return CellFolders(tmp_path, None, offline=True)


def test_one_part_learns_while_the_other_stands_still() -> None:
    model = TwoPartNet(8, seed=0)
    fast = model.fast.weight.detach().clone()
    learn_part(model, make_rows(200), "spine", num_epochs=2, seed=0)
    assert torch.equal(model.fast.weight, fast)
    assert bool(model.spine.weight.any())
    spine = model.spine.weight.detach().clone()
    learn_part(model, make_rows(200), "fast", num_epochs=1, seed=0)
    assert torch.equal(model.spine.weight, spine)
    assert not torch.equal(model.fast.weight, fast)


@pytest.mark.parametrize("kind", planted_bias.KINDS)
def test_planted_bias_is_found_in_the_spine_while_the_whole_passes(kind: str) -> None:
    elder, others = make_rows(3_000, 1).split(1_200)
    recent, tested = others.split(800)
    governed = planted_bias.run_case(kind, plant_bias(elder, 1, share=0.7), recent, tested, 1)
    found = planted_bias.judge_views(governed)
    assert (found["spine found"], found["whole found"]) == (True, False)
    assert float(str(found["spine gap"])) > 0.3 > 0.1 > float(str(found["whole gap"]))


def test_without_bias_neither_view_fails() -> None:
    elder, others = make_rows(3_000, 1).split(1_200)
    recent, tested = others.split(800)
    found = planted_bias.judge_views(planted_bias.run_case("learner", elder, recent, tested, 1))
    assert (found["spine found"], found["whole found"]) == (False, False)


def test_shares_of_runs_are_the_figures(
    place: CellFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planted_bias, "NUM_WOMEN", 600)
    figures, rows = planted_bias.measure_bias([0], place)
    assert [row["kind"] for row in rows] == list(planted_bias.KINDS)
    assert figures == {"bias_found_spine": 1.0, "bias_found_whole": 0.0}


def test_group_figures_are_those_of_fairlearn(
    place: CellFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fairlearn")
    monkeypatch.setattr(fairness_check, "NUM_TRAIN", 1_000)
    figures, rows = fairness_check.measure_fairness(place)
    assert len(rows) == len(fairness_check.COLUMNS) * len(fairness_check.OURS)
    assert figures["fairness_max_diff"] <= 1e-12
    assert figures["shards_max_diff"] == 0.0
    assert any(float(str(row["nestling"])) > 0.01 for row in rows)


def test_a_difference_to_fairlearn_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fairlearn")
    rows = make_rows(500)
    p_NK = TwoPartNet(8, seed=0)(rows.x).detach().softmax(dim=1)
    monkeypatch.setitem(fairness_check.OURS, "accuracy gap", lambda _: 0.5)
    found = {
        row["figure"]: row["difference"] for row in fairness_check.compare_column(p_NK, rows, "sex")
    }
    assert float(str(found["accuracy gap"])) > 0.1
    assert float(str(found["false negative gap"])) <= 1e-12


def test_cost_is_measured_of_learners_and_of_a_loop(
    place: CellFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract_cost, "NUM_STEPS", 2)
    monkeypatch.setattr(contract_cost, "NUM_ROUNDS", 2)
    figures, rows = contract_cost.measure_cost(place)
    kinds = ("default", "learner", "loop")
    names = {"contract_overhead", "contract_overhead_learner", "contract_overhead_loop"}
    assert figures.keys() == names
    assert all(value > 0.0 for value in figures.values())
    sides = [(row["part"], row["side"]) for row in rows]
    assert sides == [
        (part, side) for part in kinds for side in (contract_cost.WITHOUT, contract_cost.WITH)
    ]


def test_every_promise_of_the_issue_has_a_limit() -> None:
    gaps = {f"poison_{how}_{view}_gap" for how in ("quiet", "loud") for view in ("spine", "whole")}
    assert LIMITS["governance"].keys() >= gaps | {
        *("bias_found_spine", "bias_found_whole", "clean_refused", "fairness_max_diff"),
        *("rollback_over_read", "contract_overhead"),
    }
