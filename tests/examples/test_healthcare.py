"""The example of governed change: its two stories, and the pages that they leave."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from nestling.core.errors import DataError
from nestling.data.groups import load_census, load_patients

FOLDER = Path(__file__).parents[2] / "examples" / "healthcare"
LIMIT_HEART, LIMIT_ADULT = 0.30, 0.15


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of one run of the whole example."""
    for load in (load_patients, load_census):
        try:
            load(offline=True)
        except DataError as error:
            pytest.skip(str(error).split("; ")[0])
    for extra in ("sklearn", "jinja2", "matplotlib"):
        pytest.importorskip(extra)
    folder, num_threads = tmp_path_factory.mktemp("audit"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        try:
            import_module("healthcare").main(["--out", str(folder), "--offline"])
        finally:
            torch.set_num_threads(num_threads)
        yield folder


def read_figures(runs: Path, case: str) -> dict[str, float]:
    story: dict[str, Any] = json.loads((runs / case / "story.json").read_text())
    return dict(story["figures"])


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def find_events(runs: Path, case: str, happening: str) -> list[dict[str, Any]]:
    events = read_lines(runs / case / "governance.jsonl")
    return [event for event in events if event["happening"] == happening]


def test_the_first_extract_is_refused_by_the_spine_alone(runs: Path) -> None:
    figures = read_figures(runs, "heart")
    assert figures["first extract: missed-by-sex (spine)"] > LIMIT_HEART + 0.1
    assert figures["first extract: missed-by-sex (whole)"] < LIMIT_HEART - 0.1
    (refused,) = find_events(runs, "heart", "refused")
    assert "B2 (spine)" in refused["message"]
    failed = [
        (event["clause"], event["view"])
        for event in find_events(runs, "heart", "judged")
        if event["passed"] is False
    ]
    assert failed == [("B2", "spine")]


def test_a_refused_proposal_leaves_no_trace_in_the_model(runs: Path) -> None:
    versions = read_lines(runs / "heart" / "versions.jsonl")
    spines = [version["digests"]["spine"] for version in versions]
    origins = [version["origin"] for version in versions]
    committed = origins.index("committed")
    assert len(set(spines[:committed])) == 1
    assert len(set(spines)) == 2
    assert len({version["digests"]["fast"] for version in versions}) > 3


def test_the_guideline_changes_one_behaviour_and_the_baseline_holds(runs: Path) -> None:
    figures = read_figures(runs, "heart")
    (committed,) = find_events(runs, "heart", "committed")
    assert (committed["clause"], committed["level"]) == ("M2", "spine")
    approvals = [event["by"] for event in find_events(runs, "heart", "approved")]
    assert approvals == ["Dr. Chen", "M. Okafor"]
    assert committed["by"] not in approvals
    for view in ("spine", "whole"):
        assert figures[f"VA Long Beach: guideline ({view})"] < 0.8
        assert figures[f"guideline: guideline ({view})"] >= 0.8
        fall = (
            figures[f"VA Long Beach: baseline ({view})"] - figures[f"guideline: baseline ({view})"]
        )
        assert fall <= 0.1


def test_a_day_of_wrong_codes_is_rolled_back_and_only_the_fast_level_moves(runs: Path) -> None:
    figures = read_figures(runs, "heart")
    assert figures["wrong codes: baseline (whole)"] < 0.7
    for probe in ("baseline", "guideline", "missed-by-sex"):
        name = f"{probe} (whole)"
        assert figures[f"rolled back: {name}"] == figures[f"guideline: {name}"]
    assert figures["fast as before"] == figures["spine as before"] == 1.0
    versions = {version["id"]: version for version in read_lines(runs / "heart" / "versions.jsonl")}
    last = list(versions.values())[-1]
    (rolled,) = find_events(runs, "heart", "rolled back")
    assert (last["origin"], rolled["level"]) == ("rolled back", "fast")
    good = next(v for v in versions.values() if v["id"] in rolled["message"])
    assert last["digests"] == good["digests"]


def test_the_story_does_not_hang_on_who_is_tested_on(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs.is_dir()  # the data are there
    monkeypatch.syspath_prepend(str(FOLDER))
    example = import_module("healthcare")
    patients = load_patients(offline=True)
    for seed in (0, 3, 4):
        told = example.run_heart(patients, tmp_path / str(seed), seed).told
        assert tuple(told) == example.EXPECTED
        assert all(told.values()), (seed, told)


def test_planted_bias_is_found_in_the_spine_alone(runs: Path) -> None:
    figures = read_figures(runs, "adult")
    name = "after a month: missed-by-sex"
    assert figures[f"{name} (spine)"] > LIMIT_ADULT + 0.3
    assert figures[f"{name} (whole)"] < LIMIT_ADULT - 0.05
    findings = json.loads((runs / "adult" / "findings.json").read_text())["findings"]
    assert {finding["status"] for finding in findings} == {"passed"}  # once learned anew
    assert figures["learned anew: missed-by-sex (spine)"] < LIMIT_ADULT - 0.05


def test_pages_tell_what_was_refused_committed_and_undone(runs: Path) -> None:
    for case, words in {
        "heart": ("B2", "missed-by-sex", "first extract", "Dr. Chen", "M. Okafor", "rollback"),
        "adult": ("B2", "missed-by-sex", "learned anew", "A. Novak"),
    }.items():
        page = (runs / case / "audit.html").read_text()
        for word in words:
            assert word in page, (case, word)
