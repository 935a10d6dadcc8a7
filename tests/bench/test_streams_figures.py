"""Figures, tables and curves of the streams' benchmark, from outcomes that are made up."""

import base64
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from nestling.bench.streams.stream_cells import StreamCell, StreamOutcome
from nestling.bench.streams.stream_figures import (
    BEST,
    build_accuracy_figures,
    build_late_figures,
    build_recovery_figures,
    build_retention_figures,
    build_visit_figures,
    list_held_out,
    list_late,
    list_recoveries,
    list_scores,
    list_worth,
    measure_late,
)
from nestling.data.events import open_events


def make_outcome(
    stream: str,
    accuracy: float = 0.5,
    *,
    system: str = "nestling",
    seed: int = 0,
    errors: Sequence[tuple[int, int]] = (),
    without: tuple[str, ...] = (),
    **fields: object,
) -> StreamOutcome:
    """One that errs from a place on, so many times in a row."""
    num_events = open_events(stream).num_events
    right = np.ones(num_events, np.bool_)
    for start, count in errors:
        right[start : start + count] = False
    given: dict = {
        "figures": {"accuracy": accuracy, "kappa": accuracy / 2},
        "right": base64.b64encode(np.packbits(right).tobytes()).decode(),
        "num_events": num_events,
        "curve": [accuracy] * (num_events // 500),
        "window": 500,
        "cpu_seconds": 2.0,
        "num_bytes": 100 + seed,
    }
    return StreamOutcome(StreamCell(system, stream, seed, without), **{**given, **fields})


def test_accuracies_against_the_best_known() -> None:
    outcomes = [
        make_outcome(name, best + shift, seed=seed)
        for name, best in BEST.items()
        for seed, shift in enumerate((0.01, -0.01))
    ]
    outcomes[0] = make_outcome("phishing", BEST["phishing"] + 0.002)
    figures = build_accuracy_figures(outcomes)
    assert figures["accuracy_phishing"] == pytest.approx(0.908)
    assert figures["accuracy_image_segments"] == pytest.approx(0.912)
    assert figures["mean_accuracy"] == pytest.approx(np.mean([*BEST.values()]) - 0.004 / 13)
    assert figures["within_best"] == 12.0
    assert figures["worst_gap"] == pytest.approx(0.004)


def test_what_is_said_of_all_streams_needs_all_of_them() -> None:
    outcomes = [make_outcome(name) for name in BEST]
    assert "mean_accuracy" in build_accuracy_figures(outcomes)
    assert "mean_accuracy" not in build_accuracy_figures(outcomes[1:])
    failed = [*outcomes[1:], make_outcome("phishing", failure="it broke")]
    assert "mean_accuracy" not in build_accuracy_figures(failed)
    assert build_accuracy_figures([make_outcome("sea", system="arf")])["accuracy_sea"] is not None


def test_the_best_mean_is_that_of_the_table() -> None:
    assert round(np.mean([*BEST.values()]), 3) == 0.880


def test_retention_is_that_after_the_second_half() -> None:
    places = {
        "1398": {"0-4": 1.0, "5-9": 0.0},
        "2794": {"0-4": 0.98, "5-9": 0.96},
        "3493": {"0-4": 1.0, "5-9": 0.5},
    }
    outcomes = [make_outcome("digits", held_out=places)]
    assert build_retention_figures(outcomes) == {"retention_0_4": 0.98, "retention_5_9": 0.96}
    assert [row["0-4"] for row in list_held_out(outcomes)] == [1.0, 0.98, 1.0]
    assert build_retention_figures([make_outcome("digits", held_out={"200": {}})]) == {}


def test_second_visits_are_the_largest() -> None:
    outcomes = [
        make_outcome("sea", errors=[(0, 100), (10_000, 100), (20_000, 20), (30_000, 40)]),
        make_outcome("agrawal", errors=[(0, 200), (20_000, 20)]),
        make_outcome("digits", errors=[(0, 50)]),
    ]
    assert build_visit_figures(outcomes) == pytest.approx(
        {
            "second_visit_sea": 0.3,
            "second_visit_agrawal": 0.1,
            "second_visit_digits": 0.0,
            "second_visit": 0.3,
        }
    )
    # Who never errs at first has nothing that could be compared.
    assert math.isnan(build_visit_figures([make_outcome("sea")])["second_visit"])


def test_recovery_over_the_forest() -> None:
    def make(system: str, at_once: int, again: int) -> list[StreamOutcome]:
        errors = [(10_000, at_once), (20_000, again), (30_000, again)]
        return [make_outcome(name, system=system, errors=errors) for name in ("sea", "agrawal")]

    outcomes = [*make("nestling", 60, 10), *make("arf", 100, 80)]
    assert build_recovery_figures(outcomes) == pytest.approx(
        {"recovery_over_arf_abrupt": 0.6, "recovery_over_arf_return": 0.125}
    )
    assert build_recovery_figures(make("nestling", 1, 1)) == {}
    stopped = [make_outcome(name, system="arf", is_partial=True) for name in ("sea", "agrawal")]
    assert build_recovery_figures([*make("nestling", 1, 1), *stopped]) == {}
    rows = list_recoveries(outcomes)
    assert len(rows) == 2 * 2 * 3
    assert [row["returns"] for row in rows[:3]] == [False, True, True]
    assert rows[0]["excess_over_end"] == 60.0


def test_a_partial_cell_has_no_recoveries() -> None:
    assert list_recoveries([make_outcome("sea", num_events=12_000, is_partial=True)]) == []


def test_late_labels_have_figures_of_ours_alone() -> None:
    outcomes = [make_outcome("elec2"), make_outcome("elec2", system="logistic")]
    assert list(build_late_figures(outcomes)) == ["delayed_elec2"]
    assert [row["system"] for row in list_late(outcomes)] == ["nestling", "logistic"]


def test_answers_before_the_first_label_count_as_all_others() -> None:
    outcome = make_outcome("elec2", errors=[(0, 1_001), (2_000, 312)])
    late = replace(outcome, cell=replace(outcome.cell, delay=1_000))
    assert build_late_figures([late])["delayed_elec2"] == late.figures["accuracy"]
    assert measure_late(late) == pytest.approx(1.0 - 312 / (45_312 - 1_001))
    assert list_late([late])[0]["after_first"] == measure_late(late)


def test_a_row_per_stream_and_system() -> None:
    rows = list_scores(
        [
            make_outcome("sea", 0.8),
            make_outcome("sea", 0.9, seed=1),
            make_outcome("sea", 0.7, system="srp", is_partial=True, num_events=900),
            make_outcome("digits", system="arf", failure="it broke"),
        ]
    )
    assert [(row["stream"], row["system"], row["seeds"]) for row in rows] == [
        ("sea", "nestling", 2),
        ("sea", "srp", 1),
        ("digits", "arf", 1),
    ]
    assert rows[0]["accuracy"] == pytest.approx(0.85)
    assert (rows[0]["best"], rows[0]["bytes"], rows[0]["note"]) == (0.882, 101, "")
    assert rows[0]["events_per_cpu_second"] == 20_000.0
    assert rows[1]["note"] == "stopped after 900 events"
    assert rows[2]["note"] == "it broke"
    assert "accuracy" not in rows[2]


def test_the_worth_of_an_expert_is_what_is_lost_without_it() -> None:
    rows = list_worth(
        [
            make_outcome("sea", 0.9),
            make_outcome("digits", 0.8),
            make_outcome("sea", 0.8, without=("tree",)),
            make_outcome("digits", 0.8, without=("tree",)),
            make_outcome("sea", 0.91, without=("net",)),
            make_outcome("digits", 0.8, without=("net",)),
        ]
    )
    assert [(row["without"], row["most_on"]) for row in rows] == [
        ("tree", "sea"),
        ("net", "digits"),
    ]
    assert [row["worth"] for row in rows] == pytest.approx([0.05, -0.005])


def test_curves_mark_the_drifts_and_draw_ours_last() -> None:
    pytest.importorskip("matplotlib")
    from nestling.bench.streams.stream_curves import draw_streams, smooth_curve

    outcomes = [
        make_outcome("sea", errors=[(0, 200)]),
        make_outcome("sea", errors=[(0, 400)], seed=1),
        make_outcome("sea", system="arf"),
        make_outcome("elec2", system="arf"),
        make_outcome("elec2", failure="it broke", num_events=0),
    ]
    figure = draw_streams(outcomes)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["sea", "elec2"]
    sea, elec2 = figure.axes
    drifts = [line for line in sea.lines if len(set(line.get_xdata())) == 1]
    assert [line.get_xdata()[0] for line in drifts] == [10_000, 20_000, 30_000]
    curves = [line for line in sea.lines if line not in drifts]
    assert [line.get_label() for line in curves] == ["nestling", "arf"]
    assert curves[0].get_zorder() > curves[1].get_zorder()
    assert curves[0].get_ydata()[0] == pytest.approx(70.0)  # of a thousand events each
    assert [line.get_label() for line in elec2.lines] == ["arf"]
    # A line that the first panel lacks is named as well.
    (legend,) = draw_streams([make_outcome("phishing"), *outcomes]).legends
    assert [text.get_text() for text in legend.get_texts()] == ["nestling", "arf"]
    points = smooth_curve(outcomes[:1])
    assert points[0] == (500.0, pytest.approx(80.0))
    assert points[1] == (1_500.0, 100.0)
    assert len(points) == 40
    assert len(smooth_curve([make_outcome("phishing")])) == 25
    assert smooth_curve([]) == []
