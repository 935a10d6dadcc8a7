"""Differences of mechanisms, from outcomes whose figures are known."""

import json
import runpy
from pathlib import Path

import pytest

from nestling.bench.suites.cell_files import Cell, Outcome
from nestling.bench.suites.compare import run_paired_test
from nestling.bench.suites.measuring import Evaluation, Measurement
from nestling.bench.suites.search import Choice
from nestling.bench.timescales.mechanisms import MECHANISMS
from nestling.bench.timescales.step_costs import StepCost
from nestling.bench.timescales.timescale_cells import draw_evenly
from nestling.bench.timescales.timescale_figures import (
    Entry,
    Row,
    SuiteOutcomes,
    build_figures,
    build_rows,
)
from nestling.bench.timescales.timescale_tables import format_page, format_summary, read_rows
from nestling.core.errors import JobError

SEEDS = range(3)
# ACC in % by seed.
ACC = {
    "plain": [20.0, 22.0, 24.0],
    "plain-x0.41": [18.0, 19.0, 23.0],
    "plain-x1.95": [30.0, 29.0, 31.0],
    "rates16": [21.0, 22.5, 24.5],
    "periods16": [22.0, 24.0, 26.5],
    "skip16": [19.0, 21.0, 24.5],
    "er": [60.0, 63.0, 61.0],
    "er-x0.41": [50.0, 53.0, 51.0],
    "er+rates16": [61.0, 63.0, 61.5],
    "er+periods16": [62.0, 63.5, 61.0],
    "er+skip16": [55.0, 57.0, 57.0],
}
COSTS = {
    **dict.fromkeys(("plain", "rates16", "periods16"), StepCost(1.0, 1.1)),
    **dict.fromkeys(("er", "er+rates16", "er+periods16"), StepCost(2.0, 2.5)),
    "skip16": StepCost(0.42, 0.7),
    "er+skip16": StepCost(0.84, 1.7),
}
ENTRIES = [
    Entry(base, name)
    for base in ("plain", "er")
    for name in ("plain", "rates16", "periods16", "skip16")
]


def make_outcome(method: str, seed: int, acc: float, failure: str | None = None) -> Outcome:
    cell = Cell("s", "test", method, seed)
    # The first experience falls from 1 to what is left of the accuracy.
    last = 0.01 * acc
    matrix = [[1.0, 0.0], [2.0 * last - 0.9, 0.9]]
    looks = [Evaluation(0, 10, [1.0]), Evaluation(1, 10, matrix[1])]
    measurement = Measurement(matrix=matrix, looks=looks)
    return Outcome(cell, None if failure else measurement, failure)


def make_rows(failing: str | None = None) -> list[Row]:
    outcomes = [
        make_outcome(method, seed, values[seed], "it broke" if method == failing else None)
        for method, values in ACC.items()
        for seed in SEEDS
    ]
    choices = {method: Choice(method, {"lr": 0.0949}, [0.2] * 7) for method in ACC}
    return build_rows(SuiteOutcomes("s", SEEDS, choices, outcomes), ENTRIES, COSTS)


def find(rows: list[Row], method: str) -> Row:
    (found,) = [row for row in rows if row["row"] == "method" and row["method"] == method]
    return found


def test_figures_are_paired_differences_in_points() -> None:
    figures = build_figures(make_rows())
    assert figures["plain_acc_s"] == pytest.approx(22.0)
    assert figures["er_acc_s"] == pytest.approx(61.0 + 1 / 3)
    assert figures["periods16_over_plain_s"] == pytest.approx((2.0 + 2.0 + 2.5) / 3)
    assert figures["periods16_over_plain_equal_s"] == figures["periods16_over_plain_s"]
    assert figures["periods16_over_rates16_s"] == pytest.approx((1.0 + 1.5 + 2.0) / 3)
    assert figures["periods16_over_er_s"] == pytest.approx((2.0 + 0.5 + 0.0) / 3)
    assert figures["er_periods16_over_er_rates16_s"] == pytest.approx((1.0 + 0.5 - 0.5) / 3)
    assert figures["skip16_over_plain_s"] == pytest.approx((-1.0 - 1.0 + 0.5) / 3)
    assert figures["skip16_over_plain_equal_s"] == pytest.approx((1.0 + 2.0 + 1.5) / 3)
    assert figures["skip16_over_er_equal_s"] == pytest.approx((5.0 + 4.0 + 6.0) / 3)
    assert figures["er_over_plain_s"] == pytest.approx((40.0 + 41.0 + 37.0) / 3)
    assert figures["er_over_plain_equal_s"] == pytest.approx((30.0 + 34.0 + 30.0) / 3)
    assert (figures["skip16_compute"], figures["er_skip16_compute"]) == (0.42, 0.84)
    assert (figures["skip16_seconds"], figures["er_seconds"]) == (0.7, 2.5)
    assert not any("-" in name or "+" in name for name in figures)


def test_rows_hold_interval_p_rival_and_what_was_forgotten() -> None:
    rows = make_rows()
    row = find(rows, "skip16")
    assert (row["rival"], row["control"], row["compared_with"]) == (
        "plain-x0.41",
        "periods16",
        "plain",
    )
    assert row["p_base"] == pytest.approx(run_paired_test(ACC["skip16"], ACC["plain"]))
    # Four are compared with plain, replay among them.
    compared = [find(rows, name) for name in ("rates16", "periods16", "skip16", "er")]
    ordered = sorted(compared, key=lambda one: float(str(one["p_base"])))
    smallest = ordered[0]
    assert smallest["p_base_holm"] == pytest.approx(4 * float(str(smallest["p_base"])))
    assert row["newest"] == pytest.approx(95.0)
    assert row["forgetting"] == pytest.approx(100.0 - (2.0 * 21.5 - 90.0))
    assert row["over_base_half"] == pytest.approx(2.151, abs=0.01)
    assert len([one for one in rows if one["row"] == "seed"]) == 3 * len(ACC)
    assert "over_base" not in find(rows, "plain")
    assert row["at_edge"] is False


def test_a_rate_at_the_edge_of_those_tried_is_said() -> None:
    outcomes = [make_outcome("plain", seed, ACC["plain"][seed]) for seed in SEEDS]
    choices = {"plain": Choice("plain", draw_evenly(MECHANISMS["plain"], 3), [0.2] * 7)}
    measured = SuiteOutcomes("s", SEEDS, choices, outcomes)
    rows = build_rows(measured, [Entry("plain", "plain")], COSTS)
    assert rows[0]["at_edge"] is True
    assert "at the edge of the rates" in format_page(rows)


def test_a_method_that_failed_is_named_and_has_no_figure() -> None:
    rows = make_rows(failing="periods16")
    figures = build_figures(rows)
    assert "periods16_over_plain_s" not in figures
    assert "skip16_over_periods16_s" not in figures
    assert "skip16_over_plain_s" in figures
    page = format_page(rows)
    assert "- periods16 on s: it broke" in page


def test_the_tables_say_what_the_rows_hold(tmp_path: Path) -> None:
    rows = make_rows()
    summary = format_summary(rows)
    plain, replay = summary.split("\n\n")
    assert "| over plain | compute | s |" in plain
    assert "| skip16 | 0.42 | -0.5 / +1.5" in plain
    assert "rates16" not in plain  # a control
    assert "| ER itself, over plain | 2.00 | +39.3* / +31.3* / - |" in replay
    assert "plain-x0.41" in format_page(rows)
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"suite": "timescales", "rows": rows}))
    assert format_page(read_rows(path)) == format_page(rows)


def test_the_summary_has_a_place_in_what_helps_when() -> None:
    root = Path(__file__).parents[3]
    recipe = runpy.run_path(str(root / "recipes" / "make_timescales_page.py"))
    text = (root / "docs" / "what-helps-when.md").read_text()
    put = recipe["put_between"](text, "| new |")
    assert put.count("| new |") == 1
    assert recipe["put_between"](put, "| new |") == put
    before, _, rest = text.partition(recipe["BEGIN"])
    assert put.startswith(before)
    assert put.endswith(rest.partition(recipe["END"])[2])
    with pytest.raises(ValueError, match="once each"):
        recipe["put_between"](before, "| new |")


@pytest.mark.parametrize("text", ["{", '{"suite": "demo", "rows": []}', "[]"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(JobError, match="bench timescales"):
        read_rows(path)
    with pytest.raises(JobError, match="bench timescales"):
        read_rows(tmp_path / "absent.json")
