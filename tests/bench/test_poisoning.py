"""Poison on small made-up rows: who sends what, which guard holds it, and the suite's parts."""

from pathlib import Path

import pytest
import torch
from governed_rows import make_rows

from nestling.bench.governance import governance_promises, poisoning
from nestling.bench.governance.poisoning import CASES, Guards, make_traffic, run_case
from nestling.bench.result import SuiteResult
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.core.errors import SettingError


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("NUM_TRUSTED", 400), ("NUM_CANARIES", 300), ("NUM_ROWS", 3_000)):
        monkeypatch.setattr(poisoning, name, count)


def test_five_sources_send_a_third_with_flipped_labels() -> None:
    rows = make_rows(4_000)
    quiet, loud, clean = (make_traffic(rows, 0, how) for how in ("quiet", "loud", "clean"))
    is_poison = quiet.y != rows.y
    senders = {quiet.sources[row] for row in is_poison.nonzero()[:, 0].tolist()}
    assert senders == {f"source {number}" for number in range(poisoning.NUM_ATTACKERS)}
    assert float(is_poison.float().mean()) == pytest.approx(poisoning.SHARE, abs=0.03)
    honest = {quiet.sources[row] for row in (~is_poison).nonzero()[:, 0].tolist()}
    assert len(honest) == poisoning.NUM_SOURCES - poisoning.NUM_ATTACKERS
    assert not honest & senders
    assert torch.equal(quiet.x, rows.x)
    assert torch.equal(loud.x[is_poison], 6.0 * rows.x[is_poison])
    assert torch.equal(loud.x[~is_poison], rows.x[~is_poison])
    assert torch.equal(clean.y, rows.y)
    assert len(set(clean.sources)) == poisoning.NUM_SOURCES
    uneven = make_traffic(rows, 0, "uneven")
    assert uneven.sources == quiet.sources
    assert torch.equal(uneven.y, rows.y)
    assert torch.equal(uneven.x, rows.x)


def test_the_suite_measures_seeds_on_which_nothing_was_chosen() -> None:
    _, seeds = governance_promises.SEEDED_PARTS["poison"]
    assert not {0, 1} & set(seeds)
    assert len(seeds) == 5


@pytest.mark.parametrize("attack", ["quiet", "loud"])
def test_all_guards_keep_poison_out_of_spine_and_whole(attack: poisoning.Attack) -> None:
    rows = make_rows(6_000)
    clean = run_case(rows, 0, "clean", CASES["none"])
    bare = run_case(rows, 0, attack, CASES["none"])
    kept = run_case(rows, 0, attack, CASES["all"])
    assert kept.spine > clean.spine - 0.05
    assert kept.whole > clean.whole - 0.05
    assert bare.whole < kept.whole
    assert kept.rows_refused > 0.2


def test_without_poison_little_is_refused() -> None:
    found = run_case(make_rows(6_000), 0, "clean", CASES["all"])
    assert found.rows_refused <= 0.02
    assert found.proposals_refused <= 0.1


def test_without_guards_nothing_is_refused() -> None:
    found = run_case(make_rows(6_000), 0, "loud", Guards())
    assert (found.rows_refused, found.proposals_refused) == (0.0, 0.0)
    assert poisoning.make_source_guard(Guards()) is None


def test_gaps_are_points_under_the_clean_model_without_guards() -> None:
    rows: list[dict[str, object]] = []
    for name, attack, spine, whole, held, refused in (
        ("none", "clean", 0.8, 0.9, 0.0, 0.0),
        ("all", "clean", 0.8, 0.8, 0.01, 0.04),
        ("all", "uneven", 0.8, 0.8, 0.12, 0.0),
        ("all", "quiet", 0.75, 0.9, 0.4, 0.1),
        ("all", "loud", 0.81, 0.6, 0.4, 0.0),
    ):
        rows.append({"guards": name, "attack": attack, "spine": spine, "whole": whole})
        rows[-1] |= {"rows_refused": held, "proposals_refused": refused}
    assert poisoning.build_figures(rows) == pytest.approx(
        {
            "poison_quiet_spine_gap": 5.0,
            "poison_quiet_whole_gap": 0.0,
            "poison_loud_spine_gap": -1.0,
            "poison_loud_whole_gap": 30.0,
            "clean_refused": 0.04,
            "uneven_refused": 0.12,
        }
    )


def test_parts_are_kept_and_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def measure(seeds: tuple[int, ...], _: CellFolders) -> tuple[dict[str, float], list[object]]:
        calls.append(seeds)
        return {"bias_found_spine": 1.0}, []

    monkeypatch.setitem(governance_promises.SEEDED_PARTS, "planted-bias", (measure, range(4, 20)))
    place = CellFolders(tmp_path, None, offline=True)
    for _ in range(2):
        result = governance_promises.run(place, ["planted-bias"], num_seeds=3)
    assert isinstance(result, SuiteResult)
    assert result.figures == {"bias_found_spine": 1.0}
    assert calls == [(4, 5, 6)]
    with pytest.raises(SettingError, match="part 'planted'"):
        governance_promises.run(place, ["planted"])


def test_every_figure_with_a_limit_comes_from_a_part() -> None:
    assert list(governance_promises.list_parts(2)) == [
        *("planted-bias", "poison", "fairness", "rollback", "cost"),
    ]
