"""Cells: what is measured, and files that make an interrupted benchmark go on."""
# ruff: noqa: ARG002

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nestling.bench.suites.cell_files import Cell, Outcome, read_outcome
from nestling.bench.suites.measuring import Evaluation, Measurement, count_steps, measure, summarize
from nestling.bench.suites.parallel_cells import CellFolders, run_cells
from nestling.core.errors import JobError, SettingError
from nestling.data import Experience, split_by_class
from nestling.data.suites import Suite

DIGITS, OWN = "tiny_suites:make_digits", "tiny_suites:make_own"


def make_cell(method: str, seed: int = 0, **settings: float) -> Cell:
    return Cell(DIGITS, "test", method, seed, settings, num_looks=2)


def test_methods_are_measured_in_parallel_as_they_are_alone(tmp_path: Path) -> None:
    cells = [
        make_cell(method, seed, **settings)
        for seed in (0, 1)
        for method, settings in (
            ("finetune", {"lr": 0.1}),
            (OWN, {"lr": 0.1}),
            ("default", {}),
            ("default-replay200", {}),
        )
    ]
    told: list[tuple[str, float]] = []
    both = run_cells(
        cells, CellFolders(tmp_path / "2"), num_workers=2, progress=lambda *now: told.append(now)
    )
    alone = run_cells(cells[:2], CellFolders(tmp_path / "1"), num_workers=1)
    for one, other in zip(both, alone, strict=False):
        assert one.measurement is not None
        assert other.measurement is not None
        assert one.measurement.matrix == other.measurement.matrix
        assert one.measurement.looks == other.measurement.looks
    assert [one.cell for one in both] == cells
    assert sorted(share for _, share in told)[-1] == 1.0
    acc = {(one.cell.method, one.cell.seed): one.summarize()["acc"] or 0.0 for one in both}
    num_bytes = {one.cell.method: one.summarize()["bytes"] for one in both}
    for seed in (0, 1):
        assert acc["finetune", seed] < 0.3  # only the last pair
        assert acc[OWN, seed] > acc["finetune", seed] + 0.3
        assert acc["default", seed] > acc[OWN, seed]
        assert acc["default-replay200", seed] > acc[OWN, seed]
    assert num_bytes["finetune"] == 0
    assert num_bytes[OWN] == pytest.approx(200 * (64 * 4 + 8), rel=0.02)
    assert (num_bytes["default-replay200"] or 0) > (num_bytes["default"] or 0) > 0


def test_an_interrupted_benchmark_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [make_cell("finetune", seed, lr=0.1) for seed in range(3)]
    first = run_cells(cells[:2], CellFolders(tmp_path))
    measured: list[int] = []

    def refuse(cell: Cell, place: CellFolders) -> None:
        measured.append(cell.seed)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nestling.bench.suites.parallel_cells.run_cell", refuse)
        with pytest.raises(KeyboardInterrupt):
            run_cells(cells, CellFolders(tmp_path), num_workers=1)
    assert measured == [2]
    assert run_cells(cells, CellFolders(tmp_path), num_workers=1)[:2] == first
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda _: "[]", "is damaged"),
        (lambda text: text.replace('"schema": 1', '"schema": 9'), "schema 9"),
        (lambda text: text.replace('"seed": 0', '"seed": 7'), "another cell .seed 7 for 0"),
        (lambda text: text.replace('"lr": 0.1', '"lr": 0.2'), "another cell"),
        (lambda text: text.replace('"matrix": [[', '"matrix": [[7, '), "is damaged"),
    ],
)
def test_files_that_are_no_proof_are_refused(tmp_path: Path, damage: object, said: str) -> None:
    cell = make_cell("finetune", lr=0.1)
    run_cells([cell], CellFolders(tmp_path))
    path = cell.find_path(tmp_path)
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    with pytest.raises(JobError, match=said) as caught:
        run_cells([cell], CellFolders(tmp_path))
    assert "\n" not in str(caught.value)
    assert "delete it" in str(caught.value)


def test_a_method_that_refuses_is_written_down(tmp_path: Path) -> None:
    cell = make_cell("tiny_suites:make_broken", lr=0.05)
    (outcome,) = run_cells([cell], CellFolders(tmp_path))
    assert outcome.failure == "DataError: this method cannot learn anything"
    assert outcome.summarize() == {}
    assert read_outcome(tmp_path, cell) == outcome
    assert json.loads(cell.find_path(tmp_path).read_text())["measurement"] is None


def test_an_unknown_suite_starts_no_process(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="did you mean 'split-mnist'"):
        run_cells([Cell("split-mnits", "test", "finetune", 0, {"lr": 0.1})], CellFolders(tmp_path))


class Oracle:
    """Right on the labels that it was shown, and blind to what it is told to forget."""

    def __init__(self, num_classes: int) -> None:
        self.known = torch.zeros(num_classes)
        self.forgets: dict[int, int] = {}

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:
        self.known[y] = 1.0
        for label in y.tolist():
            if label in self.forgets:
                self.known[self.forgets[label]] = 0.0

    def end_experience(self, loader: object) -> None: ...

    def compute_scores(self, x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(x[:, 0].long(), len(self.known)) * self.known

    def count_bytes(self) -> int:
        return 12


def make_plain_suite(epochs: int = 1) -> Suite:
    y = torch.arange(4).repeat_interleave(10)
    x = y[:, None].float()
    made: list[Experience] = split_by_class(x, y, x, y, [[0, 1], [2, 3]])
    return Suite("plain", "class-incremental", made, 4, 5, epochs, False, False, "vectors", "")


def test_figures_of_a_competitor_whose_answers_are_known() -> None:
    oracle = Oracle(4)
    oracle.forgets = {3: 1}  # the second experience wipes out class 1
    found = measure(oracle, make_plain_suite(epochs=2), seed=0, num_looks=4)
    assert found.matrix == [[1.0, 0.0], [0.5, 1.0]]
    assert found.num_seen == 80
    figures = summarize(found)
    assert figures["acc"] == 0.75
    assert figures["forgetting"] == 0.5
    assert figures["bwt"] == -0.5
    assert figures["worst"] == pytest.approx(0.5 * 1.0 + 0.5 * 0.5)
    assert figures["stability_gap"] == 0.5
    assert figures["bytes"] == 12.0
    assert figures["prequential"] is None


def test_steps_to_90_are_examples_within_the_experience() -> None:
    def make(*accuracies: float) -> Measurement:
        looks = [Evaluation(1, 100 * i, [0.0, value]) for i, value in enumerate(accuracies)]
        return Measurement(looks=[Evaluation(0, 500, [1.0]), *looks])

    assert count_steps(make(0.0, 0.3, 0.54, 0.6), 1) == 200.0  # 90 % of its own best
    assert count_steps(make(0.0, 0.0, 0.0, 0.0), 1) == 300.0  # never adapted: all of it


def test_a_stream_is_scored_before_it_is_learned(tmp_path: Path) -> None:
    cell = Cell("tiny_suites:make_conflict", "test", "finetune", 0, {"lr": 0.3}, num_looks=2)
    (outcome,) = run_cells([cell], CellFolders(tmp_path))
    assert isinstance(outcome, Outcome)
    prequential = outcome.summarize()["prequential"]
    assert prequential is not None
    assert 0.1 < prequential < 0.8
