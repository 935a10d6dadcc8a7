"""The whole benchmark on a tiny suite, interrupted and asked again."""

import json
from pathlib import Path

import pytest

from nestling.bench.rivals.tunable import make_setup
from nestling.bench.suites.parallel_cells import CellFolders, open_suite
from nestling.bench.timescales.step_costs import measure_costs
from nestling.bench.timescales.timescale_run import (
    TimescaleRequest,
    choose_suites,
    run_timescales,
)
from nestling.core.errors import JobError, SettingError

FEW = "tiny_suites:make_few"


def test_everything_is_measured_once(tmp_path: Path) -> None:
    request = TimescaleRequest(["periods4"], {"few": FEW}, num_seeds=2, num_trials=1)
    told: list[tuple[str, float]] = []
    result = run_timescales(
        request, CellFolders(tmp_path), num_workers=1, progress=lambda *now: told.append(now)
    )
    figures = result.figures
    assert figures["plain_bitwise"] == 1.0
    assert figures["er_acc_few"] > figures["plain_acc_few"]
    assert figures["er_over_plain_few"] == pytest.approx(
        figures["er_acc_few"] - figures["plain_acc_few"]
    )
    for name in ("plain", "er"):
        assert -100.0 < figures[f"periods4_over_{name}_few"] < 100.0
    assert figures["periods4_compute"] < figures["rates4_compute"] == 1.0
    methods = {row["method"] for row in result.rows if row["row"] == "seed"}
    rivals = {name for name in methods if str(name).startswith("plain-x")}
    expected = {"plain", "rates4", "periods4", "er", "er+rates4", "er+periods4"}
    assert methods == expected | rivals
    assert len(rivals) == 1  # for replay, which costs twice as much
    assert json.loads((tmp_path / "result.json").read_text())["figures"] == figures
    assert "## few, over plain training" in (tmp_path / "table.md").read_text()
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert 0.99 < shares[-1] <= 1.0
    # The search saw streams of its own.
    searched = [json.loads(path.read_text()) for path in (tmp_path / "few/search").iterdir()]
    assert {(one["cell"]["split"], one["cell"]["seed"]) for one in searched} == {
        ("validation", 100),
        ("validation", 101),
        ("validation", 102),
    }

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("few/*/*.json")}
    again = run_timescales(request, CellFolders(tmp_path), num_workers=1)
    assert again.figures == figures
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("few/*/*.json")}


def test_costs_are_kept_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    setup = make_setup(open_suite(FEW, 0, "test", None, True), 0)
    first = measure_costs(["plain", "skip16"], setup, tmp_path)
    assert first["skip16"].compute < 0.7 < 0.99 < first["plain"].compute < 1.01
    more = measure_costs(["skip16", "er"], setup, tmp_path)
    assert more["skip16"] == first["skip16"]  # seconds, too: not measured again
    data = json.loads((tmp_path / "costs.json").read_text())
    assert set(data["methods"]) == {"plain", "skip16", "er"}
    (tmp_path / "costs.json").write_text("{")
    with pytest.raises(JobError, match="damaged"):
        measure_costs(["plain"], setup, tmp_path)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(SettingError, match="did you mean 'copy'"):
        TimescaleRequest(["coppy"])
    with pytest.raises(JobError, match="at least 1"):
        TimescaleRequest(num_seeds=0)
    with pytest.raises(JobError, match="at least 1"):
        TimescaleRequest(num_trials=0)
    with pytest.raises(JobError, match="at least 1"):
        TimescaleRequest(suites={})
    with pytest.raises(SettingError, match="did you mean 'split'"):
        choose_suites(["splt"])
    assert list(choose_suites([])) == ["split", "permuted", "rotated"]
