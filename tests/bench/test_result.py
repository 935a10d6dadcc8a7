"""The one form of results."""

import json
from pathlib import Path

import pytest
import torch

from nestling.bench import SuiteResult, build_table, format_markdown, read_figures, write_result
from nestling.bench.result import LIMITS, find_missed


def test_a_result_says_suite_figures_rows_and_machine(tmp_path: Path) -> None:
    result = SuiteResult("demo", {"acc": 0.5}, [{"method": "a", "acc": 0.5}])
    write_result(tmp_path / "new" / "r.json", result)
    data = json.loads((tmp_path / "new" / "r.json").read_text())
    assert (data["suite"], data["figures"], len(data["rows"])) == ("demo", {"acc": 0.5}, 1)
    assert data["machine"]["num_threads"] == torch.get_num_threads()


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", SuiteResult("demo", {"a": float("nan")}))
    assert read_figures(tmp_path / "r.json") == {"a": None}


def test_a_failed_write_leaves_the_old_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_result(tmp_path / "r.json", SuiteResult("demo", {"a": 1.0}))

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_result(tmp_path / "r.json", SuiteResult("demo", {"a": 2.0}))
    assert read_figures(tmp_path / "r.json") == {"a": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_tables_show_every_row_and_dashes_for_gaps() -> None:
    rows: list[dict[str, object]] = [{"method": "a", "acc": 0.25}, {"method": "b"}]
    assert build_table(rows).row_count == 2
    assert format_markdown(rows).splitlines()[-1] == "| b | - |"


def test_a_figure_that_was_not_measured_is_missed() -> None:
    assert len(find_missed("ridge", {})) == len(LIMITS["ridge"])
    assert "time_over_matmul = nan" in find_missed("ridge", {"time_over_matmul": float("nan")})[-1]
