"""The papers' protocols and methods, run whole on small pictures of digits in MNIST's place."""

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nestling.bench.reproduction.reproduce import TARGETS, choose_targets, reproduce
from nestling.bench.suites.parallel_cells import CellFolders, open_suite
from nestling.core.errors import JobError
from nestling.data import load_digits
from nestling.data.suites import paper_protocols as protocols
from nestling.data.suites.paper_protocols import PROTOCOLS, make_protocol

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]


@functools.cache
def load_pictures() -> Pairs:
    x, y = load_digits()
    wide = functional.interpolate(x.reshape(-1, 1, 8, 8), size=(28, 28), mode="bilinear")
    pictures = wide.clamp(0, 1)[:, 0]
    return pictures[:600], y[:600], pictures[1500:], y[1500:]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "load", lambda *_, **__: load_pictures())
    open_suite.cache_clear()


def test_protocols_are_those_of_the_papers() -> None:
    suites = {name: make_protocol(name, "test", None, False) for name in PROTOCOLS}
    for suite in suites.values():
        assert suite.experiences[0].classes == (0, 1)
        assert len(suite.experiences) == 5
        assert sum(len(one.train[0]) for one in suite.experiences) == 600
        assert sum(len(one.test[0]) for one in suite.experiences) == 297
    smnist, hsu = suites["smnist"], suites["hsu_domain"]
    assert (smnist.batch_size, smnist.epochs) == (10, 1)
    assert (hsu.batch_size, hsu.epochs, hsu.num_classes) == (128, 4, 2)
    assert smnist.experiences[2].train[1].unique().tolist() == [4, 5]
    assert smnist.experiences[0].train[0].shape[1] == 784
    first = hsu.experiences[0].train[0]
    assert first.shape[1] == 1024
    assert first.min().item() == pytest.approx((0.0 - 0.1) / 0.2752)  # the border, normalised
    assert set(hsu.experiences[4].train[1].tolist()) == {0, 1}
    assert suites["hsu_task"].known_task_at_test
    assert not suites["hsu_class"].known_task_at_training


# What rehearsal must exceed, by protocol.
FLOORS = {"hsu_class": 60.0, "hsu_domain": 70.0, "hsu_task": 80.0}


# Each penalty runs in one of the protocols, fine-tuning and rehearsal in all.
PENALTIES = {"hsu_class": ("mas",), "hsu_domain": ("lwf", "si"), "hsu_task": ("ewc", "online_ewc")}


@pytest.mark.parametrize("protocol", FLOORS)
def test_hsu_runs_and_rehearsal_keeps_what_fine_tuning_forgets(
    protocol: str, tmp_path: Path
) -> None:
    methods = {"adam", "rehearsal1100", *PENALTIES[protocol]}
    targets = [one for one in choose_targets([protocol]) if one.method in methods]
    result = reproduce(targets, CellFolders(tmp_path), num_seeds=1, num_workers=1)
    found = {str(row["figure"]): float(str(row["ours"])) for row in result.rows}
    scenario = protocol.removeprefix("hsu_")
    assert len(found) == len(methods)
    assert found == result.figures
    rehearsal = found[f"hsu_rehearsal1100_{scenario}"]
    assert rehearsal > FLOORS[protocol]
    assert rehearsal > found[f"hsu_adam_{scenario}"]
    assert min(found.values()) > (5.0 if scenario == "class" else 45.0)


def test_smnist_runs_and_the_plan_is_cls_er(tmp_path: Path) -> None:
    targets = choose_targets(["er200", "derpp200", "clser200", "clser200_plan"])
    result = reproduce(targets, CellFolders(tmp_path), num_seeds=1, num_workers=1)
    found = result.figures
    assert set(found) == {f"smnist_{target.method}_class" for target in targets}
    assert found["smnist_derpp200_class"] > 60.0  # ER and CLS-ER are slow learners
    # Chance moves their copies differently, so they are alike, not equal.
    assert abs(found["smnist_clser200_class"] - found["smnist_clser200_plan_class"]) < 10.0
    row = result.rows[0]
    assert row["is_same"] == (abs(float(str(row["ours"])) - 80.43) <= 2 * 1.89)
    assert row["num_seeds"] == 1
    # What is measured is not measured again.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert reproduce(targets, CellFolders(tmp_path), num_seeds=1, num_workers=1) == result
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}


def test_targets_are_chosen_by_figure_protocol_or_method() -> None:
    assert choose_targets([]) == list(TARGETS)
    assert {one.protocol for one in choose_targets(["hsu_task"])} == {"hsu_task"}
    assert [one.name for one in choose_targets(["hsu_rehearsal1100_class"])] == [
        "hsu_rehearsal1100_class"
    ]
    assert len(choose_targets(["ewc"])) == 3
    with pytest.raises(JobError, match=r"nothing to reproduce is named 'er20'.*'er200'"):
        choose_targets(["er20"])
    names = [one.name for one in TARGETS]
    assert len(set(names)) == len(names)


def test_margins_are_two_standard_deviations() -> None:
    target = next(one for one in TARGETS if one.name == "smnist_clser200_class")
    assert target.margin == pytest.approx(0.42)
    assert torch.tensor([one.margin for one in TARGETS]).min() > 0.1
