"""Paired tests, the search, and the figures that they give."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.bench.rivals.methods_by_name import METHODS, choose_methods, find_method
from nestling.bench.rivals.tunable import draw_settings
from nestling.bench.suites import costs
from nestling.bench.suites.cell_files import Cell, Outcome
from nestling.bench.suites.compare import compare_all, correct_holm, run_paired_test
from nestling.bench.suites.costs import time_methods
from nestling.bench.suites.measuring import Evaluation, Measurement
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.suites.search import SEEDS, list_trials, search
from nestling.bench.suites.suite_figures import SuiteMeasurements, build_figures, build_rows
from nestling.core.errors import DataError, JobError, SettingError
from nestling.data.suites import Suite
from tiny_suites import make_conflict, make_digits

DIGITS = "tiny_suites:make_digits"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12))
def test_the_paired_test_is_that_of_scipy(pairs: list[tuple[float, float]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    differences = [a - b for a, b in pairs]
    if max(differences) - min(differences) > 1e-6:
        expected = float(stats.ttest_rel(ours, theirs).pvalue)
        assert run_paired_test(ours, theirs) == pytest.approx(expected, abs=1e-9)


def test_what_shows_nothing_or_everything() -> None:
    assert run_paired_test([0.9], [0.1]) == 1.0  # one seed
    assert run_paired_test([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert run_paired_test([0.75, 1.0], [0.5, 0.75]) == 0.0  # the same difference every time
    with pytest.raises(DataError, match="pairs need the same seeds"):
        run_paired_test([1.0, 2.0], [1.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_corrects_upwards_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = correct_holm(p_values)
    assert min(corrected) == pytest.approx(min(1.0, len(p_values) * min(p_values)))
    for p, q in zip(p_values, corrected, strict=True):
        assert p <= q <= 1.0
        others = [b for a, b in zip(p_values, corrected, strict=True) if a <= p]
        assert q == max(others)


def test_a_rival_is_corrected_for_all_rivals() -> None:
    values = {"ours": [0.9, 0.8, 0.95], "a": [0.5, 0.5, 0.5], "b": [0.6, 0.5, 0.7]}
    first, second = compare_all("ours", values, ["a", "b"])
    assert first.difference.mean == pytest.approx(0.3833, abs=1e-4)
    assert second.p_corrected == pytest.approx(max(second.p, 2 * min(first.p, second.p)))


def test_every_method_can_be_built_and_has_fair_starts() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert method.is_default == (not method.space and "default" in name)
        for knob in method.space.values():
            assert 0.0 < knob.low <= knob.start <= knob.high
        assert draw_settings(method, 3) == draw_settings(method, 3)
        for knob_name, value in draw_settings(method, 3).items():
            assert method.space[knob_name].low <= value <= method.space[knob_name].high
    small = choose_methods([], "small")
    assert {"default", "default-replay200", "finetune"} <= set(small)
    assert set(small) < set(choose_methods([], "full")) == set(choose_methods([], 5))


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("fine-tune", SettingError, "did you mean 'finetune'"),
        ("tiny_suites:make_slo", SettingError, "did you mean 'make_slow'"),
        ("builtins:dict", SettingError, "returned dict; return a bench Method"),
    ],
)
def test_unknown_methods_are_refused(name: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        find_method(name)


def test_the_search_is_equal_resumable_and_on_other_streams(tmp_path: Path) -> None:
    methods = ["finetune", "ncm", "tiny_suites:make_slow"]
    found = search(DIGITS, methods, 2, CellFolders(tmp_path), num_workers=1)
    cells = list_trials(DIGITS, "finetune", 2)
    assert {(one.seed, one.split) for one in cells} == {(s, "validation") for s in SEEDS}
    assert len(list((tmp_path / "search").iterdir())) == 2 * 2 * len(SEEDS)
    assert found["ncm"].settings == {}
    scores = found["finetune"].scores
    best = scores.index(max(scores))
    assert found["finetune"].settings == draw_settings(METHODS["finetune"], best)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "search").iterdir()}
    # More trials later: the old ones are read, not measured again.
    again = search(DIGITS, methods, 3, CellFolders(tmp_path), num_workers=1)
    assert list(again["finetune"].scores)[:2] == list(scores)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert json.loads((tmp_path / "search.json").read_text())["num_trials"] == 3


def test_a_method_that_never_goes_through_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="failed in every trial: DataError: this method"):
        search(DIGITS, ["tiny_suites:make_broken"], 1, CellFolders(tmp_path), num_workers=1)


def test_costs_are_ratios_kept_until_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[dict[str, float]] = []

    def time_rounds(sides: Mapping[str, Callable[[], float]], num_rounds: int) -> object:
        measured.append({name: side() for name, side in sides.items()})
        # A method twice and three times as dear as fine-tuning; once the machine stood still.
        return {"ours": [2.0, 30.0, 6.0, 30.0, 2.0], "plain": [1.0, 10.0, 2.0, 1.0, 1.0]}

    monkeypatch.setattr(costs, "time_rounds", time_rounds)
    settings = {"finetune": {"lr": 0.1}, "ewc": {"lr": 0.1, "strength": 1.0}}
    place = CellFolders(tmp_path)
    ratios = time_methods(DIGITS, settings, place)
    assert ratios == {"finetune": 1.0, "ewc": 3.0}
    (first,) = measured
    assert set(first) == {"ours", "plain"}
    assert min(first.values()) > 0.0  # each learned, and took time for it
    assert time_methods(DIGITS, settings, place) == ratios
    assert len(measured) == 1
    changed = {**settings, "ewc": {"lr": 0.1, "strength": 2.0}}
    time_methods(DIGITS, changed, place)
    assert len(measured) == 2
    kept = json.loads((tmp_path / "costs.json").read_text())["methods"]["ewc"]["used"]
    assert kept["settings"] == changed["ewc"]
    with pytest.raises(JobError, match="against 'finetune'"):
        time_methods(DIGITS, {"ewc": settings["ewc"]}, place)
    (tmp_path / "costs.json").write_text("{")
    with pytest.raises(JobError, match="is damaged"):
        time_methods(DIGITS, settings, place)


def make_outcome(method: str, seed: int, acc: float, steps: int = 100) -> Outcome:
    """Two experiences: the first is remembered to `acc`, the second is learned to `acc`."""
    looks = [
        Evaluation(0, 1000, [1.0]),
        Evaluation(1, 0, [1.0, 0.0]),
        Evaluation(1, steps, [acc, acc]),
        Evaluation(1, 1000, [acc, acc]),
    ]
    found = Measurement([[1.0, 0.0], [acc, acc]], looks, None, 64, 1.5, 0.1, 2000)
    return Outcome(Cell(DIGITS, "test", method, seed), found)


def make_measurements(
    suite: Suite | None = None, **acc: tuple[float, float, float]
) -> SuiteMeasurements:
    names = {name: name.replace("_", "-") for name in acc}
    outcomes = [
        make_outcome(names[name], seed, values[seed])
        for seed in range(3)
        for name, values in acc.items()
    ]
    settings: dict[str, dict[str, float]] = {names[name]: {} for name in acc}
    ratios = dict.fromkeys(settings, 2.0)
    return SuiteMeasurements(suite or make_digits(0, "test"), range(3), outcomes, settings, ratios)


def test_figures_have_their_names_and_values() -> None:
    measured = make_measurements(
        default=(0.9, 0.92, 0.94),
        finetune=(0.2, 0.2, 0.2),
        ewc=(0.4, 0.5, 0.3),
        ncm=(0.8, 0.82, 0.83),
        joint=(0.99, 0.99, 0.99),
        default_replay200=(0.9, 0.92, 0.95),
    )
    figures = build_figures(measured)
    assert figures["no_replay_default_acc"] == pytest.approx(0.92)
    assert figures["no_replay_default_forgetting"] == pytest.approx(0.08)
    assert figures["no_replay_default_steps_to_90"] == 100.0
    assert figures["no_replay_default_bytes"] == 64.0
    assert figures["no_replay_default_seconds_over_finetune"] == 2.0
    assert figures["no_replay_best_gradient_acc"] == pytest.approx(0.4)
    assert figures["no_replay_best_closed_form_acc"] == pytest.approx(0.8167, abs=1e-4)
    assert figures["no_replay_difference"] == pytest.approx(10.33, abs=0.01)  # points, to ncm
    p_values = [run_paired_test((0.9, 0.92, 0.94), (0.8, 0.82, 0.83))]
    assert p_values[0] < figures["no_replay_p_value"] <= 3 * p_values[0]
    # No method with replay but the default ran: no difference is claimed.
    assert "replay200_difference" not in figures
    assert "no_replay_er200_steps_to_90" not in figures
    assert figures["replay200_default_acc"] == pytest.approx(0.9233, abs=1e-4)
    rows = build_rows(measured)
    assert len(rows) == 18
    needed = {"suite", "scenario", "method", "seed", "ACC", "forgetting", "BWT", "worst"}
    assert needed | {"bytes", "seconds", "steps_to_90"} <= set(rows[0])


def test_pairs_are_of_one_seed_in_whatever_order_they_lie() -> None:
    measured = make_measurements(default=(0.9, 0.92, 0.94), ncm=(0.8, 0.82, 0.83))
    backwards = sorted(
        measured.outcomes, key=lambda one: (one.cell.method == "ncm") * -one.cell.seed
    )
    shuffled = SuiteMeasurements(measured.suite, measured.seeds, backwards, measured.settings)
    assert shuffled.list_values("ncm", "acc") == measured.list_values("ncm", "acc")
    p_value = build_figures(shuffled)["no_replay_p_value"]
    assert p_value == build_figures(measured)["no_replay_p_value"]
    assert p_value == run_paired_test((0.9, 0.92, 0.94), (0.8, 0.82, 0.83))


def test_a_rival_that_failed_once_is_in_no_comparison() -> None:
    measured = make_measurements(
        default=(0.9, 0.92, 0.94), ewc=(0.4, 0.5, 0.3), ncm=(0.8, 0.8, 0.8)
    )
    broken = Outcome(Cell(DIGITS, "test", "ncm", 1), None, "DataError: no")
    kept = [one for one in measured.outcomes if (one.cell.method, one.cell.seed) != ("ncm", 1)]
    figures = build_figures(
        SuiteMeasurements(measured.suite, measured.seeds, [*kept, broken], measured.settings)
    )
    assert "no_replay_best_closed_form_acc" not in figures
    assert figures["no_replay_difference"] == pytest.approx(52.0)


def test_streams_are_judged_by_prequential_accuracy() -> None:
    measured = make_measurements(
        make_conflict(0, "test"), default=(0.5, 0.5, 0.5), ewc=(0.9, 0.9, 0.9)
    )
    for one in measured.outcomes:
        assert one.measurement is not None
        one.measurement.prequential = 0.8 if one.cell.method == "default" else 0.7
    figures = build_figures(measured)
    assert figures["no_replay_default_prequential"] == pytest.approx(0.8)
    assert figures["no_replay_difference"] == pytest.approx(10.0)
    assert figures["no_replay_best_gradient_acc"] == pytest.approx(0.9)
