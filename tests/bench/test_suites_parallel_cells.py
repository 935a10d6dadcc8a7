"""Cells: what is measured, and files that make an interrupted benchmark go on."""

import json
from pathlib import Path

import pytest

from nestling.bench.suites.cell_files import Cell, read_outcome
from nestling.bench.suites.parallel_cells import CellFolders, run_cells
from nestling.core.errors import JobError, SettingError

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
    first = run_cells(cells[:2], CellFolders(tmp_path), num_workers=1)
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
