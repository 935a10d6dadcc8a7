"""Suite `blocks`: its parts, its figures, and the limits they are held to."""

from pathlib import Path

import pytest

from nestling.bench.blocks import blocks_promises
from nestling.bench.result import LIMITS, SuiteResult, find_missed
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.core.errors import SettingError


def list_runs(delta: float, rival: float) -> SuiteResult:
    """A run of our memory and one of a rival."""
    rows = [
        {"model": blocks_promises.REFLECTING, "whole_strings": delta, "seconds": 3.0},
        {"model": "transformer", "whole_strings": rival, "seconds": 99.0},
    ]
    return SuiteResult("formal-languages", {}, rows)


def test_every_limit_has_a_part_that_measures_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = CellFolders(tmp_path, None, offline=True)
    speeds = {"delta_over_gpt": 1.0, "cms_over_gpt": 2.0, "cms_first_over_gpt": 1.5}
    steps = {"m3_over_torch_muon": 0.5, "muon_over_torch_muon": 0.7}
    rows = [{"part": "other", "side": "GPT", "milliseconds": 1.0}]
    found = SuiteResult("x", {**speeds, "length_scaling": 4.1}, rows)
    monkeypatch.setattr(blocks_promises, "measure_delta_speed", lambda: found)
    monkeypatch.setattr(blocks_promises, "measure_cms_speed", lambda: found)
    monkeypatch.setattr(blocks_promises, "measure_optimizer_steps", lambda: steps)
    monkeypatch.setattr(blocks_promises, "run_formal_languages", lambda **_: list_runs(1.0, 0.25))
    losses = {"trained": 0.2, "frozen": 0.5, "whole_trained": 0.3, "whole_frozen": 0.3}
    starts = [{"side": side, "seed": 0, "loss": loss} for side, loss in losses.items()]
    monkeypatch.setattr(
        blocks_promises, "measure_learned_starts", lambda **_: SuiteResult("x", {}, starts)
    )
    result = blocks_promises.run(place, num_seeds=1)
    assert result.figures.keys() >= LIMITS["blocks"].keys()
    assert find_missed("blocks", result.figures) == ["muon_over_torch_muon = 0.7, must be <= 0.6"]
    assert {row["part"] for row in result.rows} == set(blocks_promises.list_parts(1)) - {
        "optimizer-steps"
    }
    with pytest.raises(SettingError, match="delta-sped"):
        blocks_promises.run(place, ["delta-sped"])


def test_the_worst_run_is_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*list_runs(1.0, 0.2).rows, *list_runs(0.9, 0.6).rows]
    monkeypatch.setattr(
        blocks_promises, "run_formal_languages", lambda **_: SuiteResult("x", {}, rows)
    )
    assert blocks_promises.measure_formal_languages([0, 1])[0] == {
        "formal_delta_min": 0.9,
        "formal_rivals_max": 0.6,
        "formal_seconds_max": 3.0,
    }


def test_the_worst_seed_of_learned_starts_is_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = ("trained", "frozen", "whole_trained", "whole_frozen")
    losses = {0: (0.2, 0.5, 0.3, 0.3), 1: (0.4, 0.45, 0.4, 0.3)}
    rows = [
        {"part": "initial states", "side": side, "seed": seed, "loss": loss}
        for seed, found in losses.items()
        for side, loss in zip(sides, found, strict=True)
    ]
    monkeypatch.setattr(
        blocks_promises, "measure_learned_starts", lambda **_: SuiteResult("x", {}, rows)
    )
    figures, seen = blocks_promises.measure_starts([0, 1])
    assert figures["starts_learned_minus_frozen"] == pytest.approx(-0.05)
    assert figures["starts_whole_minus_frozen"] == pytest.approx(0.1)
    assert "part" not in seen[0]
