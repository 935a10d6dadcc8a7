"""Suite `streams` as a whole, with stand-ins for our learner and for rivals."""

import json
from pathlib import Path

import pytest

from nestling.bench.result import LIMITS
from nestling.bench.streams import stream_promises, stream_rivals, stream_runs
from nestling.bench.streams.stream_cells import OURS, StreamCell
from nestling.bench.streams.stream_figures import BEST
from nestling.bench.streams.stream_promises import (
    list_cell_parts,
    list_expert_cells,
    list_measured_parts,
    run,
)
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.core.errors import SettingError
from nestling.data.events import open_events
from stand_in_streams import StandIn


@pytest.fixture
def place(tmp_path: Path) -> CellFolders:
    return CellFolders(tmp_path, offline=True)


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_runs, "_OUR_LEARNER", "stand_in_streams:StandIn")
    monkeypatch.setattr(stream_promises, "_OUR_VALUES", "stand_in_streams:StandInValues")
    # Names stay, since code and cells go by them.
    for name in stream_rivals.RIVALS:
        monkeypatch.setitem(stream_rivals.RIVALS, name, lambda seed, _: StandIn(seed=seed))


def test_parts_hold_what_the_table_needs() -> None:
    parts = list_cell_parts(3)
    assert len(parts["accuracy"].cells) == 13 * 3
    assert len(parts["rivals"].cells) == 13 * 8
    assert {cell.seed for cell in parts["rivals"].cells} == {0}
    assert {cell.delay for cell in parts["late"].cells} == {1_000}
    assert {cell.system for cell in parts["recovery"].cells} == {OURS, "arf"}
    assert {cell.stream for cell in parts["second-visits"].cells} == {"agrawal", "sea", "digits"}
    assert {cell.stream for cell in parts["extra"].cells} == {
        "covertype",
        "flights-weather",
        "sensors",
    }
    sizes = [open_events(cell.stream).num_events for cell in parts["accuracy"].cells]
    assert sizes == sorted(sizes)  # what is short comes first


def test_every_limit_is_a_figure_of_some_part() -> None:
    said = {
        *("mean_accuracy", "within_best", "worst_gap", "accuracy_elec2", "bike_mae_over_arf"),
        *("retention_0_4", "retention_5_9", "second_visit"),
        *("conflict_over_sgd", "drift_prequential", "drift_final"),
        *("delayed_elec2", "delayed_agrawal", "delayed_flights"),
        *("recovery_over_arf_abrupt", "recovery_over_arf_return"),
        *("speed_over_arf_single", "speed_over_arf_block32", "state_bytes"),
        *("abuse_finite", "abuse_state_growth", "abuse_gap"),
    }
    assert set(LIMITS["streams"]) == said
    assert LIMITS["streams"]["state_bytes"].high == 64 * 1024 * 1024


def test_streams_cut_every_part_down() -> None:
    parts = list_cell_parts(2, ["digits", "elec2"])
    assert {cell.stream for cell in parts["accuracy"].cells} == {"digits", "elec2"}
    assert {cell.stream for cell in parts["late"].cells} == {"elec2"}
    assert parts["extra"].cells == ()


def test_experts_are_left_out_one_by_one() -> None:
    cells = list_expert_cells(["digits"])
    assert [cell.without for cell in cells] == [(), ("last",), ("often",)]
    assert len(list_expert_cells()) == 3 * len(BEST)


def test_a_run_of_some_parts_on_one_stream(
    place: CellFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in stream_rivals.RIVALS if one != "arf"]:
        monkeypatch.delitem(stream_rivals.RIVALS, name)
    parts = ["accuracy", "retention", "second-visits", "rivals-retention", "drop-one", "state"]
    result, outcomes = run(place, parts, streams=["digits"], num_seeds=2, num_workers=1)
    assert set(result.figures) == {
        *("accuracy_digits", "retention_0_4", "retention_5_9"),
        *("second_visit_digits", "second_visit", "least_expert_worth", "state_bytes"),
    }
    assert {row["part"] for row in result.rows} == set(parts)
    # No curve of what is late or lacks an expert; each cell once, though parts share it.
    assert [one.cell.system for one in outcomes] == [OURS, OURS, "arf"]
    assert (place.folder / "parts" / "state.json").exists()
    assert StreamCell(OURS, "digits", 0, ("last",)).find_path(place.folder).exists()
    json.dumps(result.to_data(), allow_nan=False)


def test_measured_parts_are_kept_by_the_code_they_need(
    place: CellFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def make(name: str):  # type: ignore[no-untyped-def]
        def measure(_: CellFolders):  # type: ignore[no-untyped-def]
            measured.append(name)
            figure = "bike_mae_nestling" if name == "bike" else "bike_mae_arf"
            return {figure: {"bike": 30.0, "bike-arf": 40.0}[name]}, []

        return measure

    fakes = {name: make(name) for name in ("bike", "bike-arf")}
    monkeypatch.setattr(stream_promises, "list_measured_parts", lambda *_: fakes)
    codes = {"bike": "one", "bike-arf": "same"}
    monkeypatch.setattr(stream_promises, "_name_code", codes.__getitem__)
    for _ in range(2):
        result, _ = run(place, ["bike", "bike-arf"])
        assert result.figures["bike_mae_over_arf"] == 0.75
    assert measured == ["bike", "bike-arf"]
    codes["bike"] = "two"
    run(place, ["bike", "bike-arf"])
    assert measured == ["bike", "bike-arf", "bike"]


def test_codes_of_parts() -> None:
    names = list_measured_parts(1)
    codes = {name: stream_promises._name_code(name) for name in names}
    assert {code for name, code in codes.items() if name != "bike-arf"} == {codes["bike"]}
    assert codes["bike"] != codes["bike-arf"]


def test_unknown_parts_and_streams(place: CellFolders) -> None:
    with pytest.raises(SettingError, match="did you mean 'accuracy'"):
        run(place, ["acuracy"])
    with pytest.raises(SettingError, match="did you mean 'elec2'"):
        run(place, streams=["elec"])
    assert not place.folder.joinpath("cells").exists()


def test_what_is_absent_is_left_out_with_a_line(tmp_path: Path) -> None:
    place = CellFolders(tmp_path, tmp_path, offline=True)
    parts = ["late", "bike", "bike-arf", "speed"]
    result, outcomes = run(place, parts, streams=["elec2"], num_seeds=1, num_workers=1)
    assert outcomes == []
    assert result.figures == {}
    rows = {str(row["stream"]): row for row in result.rows}
    assert set(rows) == {"elec2", "bike"}  # and no others, of which nothing is asked
    assert {row["part"] for row in result.rows} == {"absent"}
    assert "nestling data fetch elec2 --from DIR" in str(rows["elec2"]["why"])


def test_parts_without_their_streams_are_left_out() -> None:
    assert "bike" not in list_measured_parts(1, absent=["bike"])
    assert "speed" in list_measured_parts(1, absent=["elec2"])
    assert "speed" not in list_measured_parts(1, ["elec2"], ["elec2"])
