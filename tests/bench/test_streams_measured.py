"""Parts of the streams' benchmark that are measured as a whole, with small stand-ins."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_suites
from nestling.bench.streams import pixel_events, stream_speed
from nestling.bench.streams.abused_streams import AbuseAmounts, make_abused_events, measure_abuse
from nestling.bench.streams.pixel_events import (
    build_pixel_figures,
    follow_pixels,
    follow_tensors,
    measure_pixels_as_events,
    scale_rows,
)
from nestling.bench.streams.stream_speed import SpeedAmounts, measure_speed, measure_state
from nestling.bench.streams.stream_values import follow_values, measure_values
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.data.events import event_stream, open_events
from stand_in_streams import StandIn, StandInValues


@pytest.fixture
def place(tmp_path: Path) -> CellFolders:
    return CellFolders(tmp_path, offline=True)


# --- speed


def test_both_sides_are_timed_on_the_same_slices(
    place: CellFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[StandIn] = []

    class Slow(StandIn):
        seconds = 0.001

        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def learn_one(self, *args: Any, **named: Any) -> None:
            clock[0] += self.seconds
            super().learn_one(*args, **named)

    class Forest(Slow):
        seconds = 0.008

    clock = [0.0]
    monkeypatch.setattr(stream_speed.time, "process_time", lambda: clock[0])
    amounts = SpeedAmounts(num_warm=10, num_events=50, num_slices=2)
    figures, rows = measure_speed(["digits"], Slow, lambda _: Forest(), place, amounts)
    assert figures == pytest.approx({"speed_over_arf_single": 8.0, "speed_over_arf_block32": 8.0})
    assert rows[0]["single_per_cpu_second"] == pytest.approx(1_000.0)
    assert rows[0]["events_per_slice"] == 50
    first = list(open_events("digits").read(110))
    assert [one.learned for one in made] == [first] * 3


def test_blocks_are_of_32(place: CellFolders) -> None:
    sizes: list[int] = []

    class Blocks(StandIn):
        def learn_many(self, rows: Any, labels: Any) -> None:
            sizes.append(len(rows))
            super().learn_many(rows, labels)

    amounts = SpeedAmounts(num_warm=40, num_events=64, num_slices=1)
    measure_speed(["digits"], Blocks, lambda _: StandIn(), place, amounts)
    assert sizes == [32, 8, 32, 32]


def test_a_short_stream_has_short_slices() -> None:
    assert stream_speed._cut(1_250, SpeedAmounts()) == [500, 150, 150, 150, 150, 150]
    assert stream_speed._cut(50_000, SpeedAmounts()) == [500, *[1_500] * 5]


def test_the_state_is_measured_after_a_hundred_columns_and_ten_classes() -> None:
    learner = StandIn()
    assert measure_state(lambda: learner)[0] == {"state_bytes": 1_000.0}
    assert {len(x) for x, _ in learner.learned} == {100}
    assert len(learner.counts) == 10


# --- abuse

AMOUNTS = AbuseAmounts(num_events=300, num_same=100, num_after=200)


def test_abused_events_have_columns_of_no_use() -> None:
    events = list(make_abused_events(3_000, seed=0))
    assert len(events) == 3_000
    assert events == list(make_abused_events(3_000, seed=0))
    for x, _ in events[:50]:
        assert (x["constant"], x["double"], x["huge"]) == (7.0, x["x0"], x["x1"] * 1e6)
    shares = [np.mean([y == label for _, y in events]) for label in ("low", "middle", "high")]
    assert all(abs(share - 1 / 3) < 0.06 for share in shares)
    # Another seed is another plane.
    assert [y for _, y in make_abused_events(300, 1)] != [y for _, y in events[:300]]


def test_a_life_has_the_same_event_again_and_again() -> None:
    made: list[StandIn] = []

    def make() -> StandIn:
        made.append(StandIn())
        return made[-1]

    figures, (row,) = measure_abuse(make, AMOUNTS)
    abused, fresh = made
    assert (len(abused.learned), len(fresh.learned)) == (500, 200)
    assert abused.learned[300:] == fresh.learned
    same = abused.learned[100]
    assert abused.learned[100:201] == [same] * 101
    assert abused.learned[201] != same
    assert figures["abuse_finite"] == 1.0
    assert figures["abuse_state_growth"] == 0.0
    assert figures["abuse_gap"] == pytest.approx(100 * (row["fresh"] - row["accuracy"]))


def test_what_grows_and_what_is_no_number_shows() -> None:
    class Growing(StandIn):
        @property
        def num_bytes(self) -> int:
            return len(self.learned)

        def predict_proba_one(self, x: Mapping[Any, Any], *, id: int | None = None) -> dict:
            found = super().predict_proba_one(x, id=id)
            return dict.fromkeys(found, math.nan) if len(self.learned) == 150 else found

    figures, _ = measure_abuse(Growing, AMOUNTS)
    assert figures["abuse_finite"] == 0.0
    assert figures["abuse_state_growth"] == 270.0


# --- numbers


def test_values_are_answered_before_they_are_learned() -> None:
    events = iter([({"x": 1.0}, 4.0), ({"x": 1.0}, 8.0), ({"x": 1.0}, 300.0)])
    learner = StandInValues()
    scores = follow_values(learner, events, learner.predict_interval_one)
    assert scores["mae"] == pytest.approx((4.0 + 4.0 + 294.0) / 3)
    assert scores["coverage"] == pytest.approx(2 / 3)
    assert scores["width"] == pytest.approx(360.0)


def test_no_answer_yet_counts_as_zero() -> None:
    class Silent(StandInValues):
        def predict_one(self, _: Mapping[Any, Any]) -> Any:
            return None

    assert follow_values(Silent(), iter([({"x": 1.0}, 4.0)]))["mae"] == 4.0


def test_figures_of_values_are_means_over_seeds(
    place: CellFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = replace(open_events("bike"), source=None, make=lambda _: iter([({"x": 1.0}, 6.0)] * 4))
    monkeypatch.setattr(event_stream, "_STREAMS", (stream,))
    figures, rows = measure_values(
        lambda seed: StandInValues(seed=seed), (0, 1), place, system="us", has_intervals=True
    )
    assert figures == {"bike_mae_us": 1.5, "bike_coverage_us": 1.0}
    assert [row["seed"] for row in rows] == [0, 1]
    assert "r_squared" not in rows[0]  # of labels that are all the same it is no number
    plain, _ = measure_values(
        lambda seed: StandInValues(seed=seed), (0,), place, system="arf", has_intervals=False
    )
    assert plain == {"bike_mae_arf": 1.5}


# --- conflict and drift


def test_pixels_are_followed_event_by_event() -> None:
    learner = StandIn()
    x = torch.arange(8.0).reshape(4, 2)
    right = follow_pixels([(x[:2], torch.tensor([1, 1])), (x[2:], torch.tensor([1, 0]))], learner)
    assert right.tolist() == [False, True, True, False]
    assert learner.learned[1] == ({"pixel 0": 2.0, "pixel 1": 3.0}, 1)


def test_tensors_are_answered_before_they_are_learned() -> None:
    learned: list[int] = []
    batches = [(torch.ones(2, 1), torch.tensor([0, 1])), (torch.ones(2, 1), torch.tensor([0, 1]))]
    right = follow_tensors(
        batches,
        lambda _, y: learned.append(len(y)),
        lambda x: torch.tensor([[1.0, 0.0]]).repeat(len(x), 1) if learned else x,
    )
    assert right.tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", ["conflict", "drift"])
def test_a_changing_stream_of_pixels(
    name: str, place: CellFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pixel_events, "make_suite", lambda _, seed, **__: tiny_suites.make_conflict(seed, "test")
    )
    monkeypatch.setattr(pixel_events, "RATES", {0.0: (0.1,), 0.9: (0.01,)})
    monkeypatch.setattr(pixel_events, "EVENT_RATES", (0.01,))
    figures, rows = measure_pixels_as_events(name, lambda seed: StandIn(seed=seed), (0,), place)
    expected = {f"{name}_prequential", f"{name}_over_sgd", f"{name}_after_changes"}
    assert set(figures) == expected | ({"drift_final"} if name == "drift" else set())
    assert len(rows) == 1 + 4
    best = max(float(row["prequential"]) for row in rows[1:])
    ours = float(rows[0]["prequential"])
    assert figures[f"{name}_over_sgd"] == pytest.approx(100 * (ours - best))


def test_rows_are_scaled_by_what_came() -> None:
    x = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0], [1e3, 5.0]])
    z, further = scale_rows(x, torch.tensor([[1.0, 9.0]]))
    for row in range(1, 4):
        seen = x[: row + 1, 0].double()
        expected = (seen[-1] - seen.mean()) / seen.std(correction=0)
        assert float(z[row, 0]) == pytest.approx(float(expected))
    assert float(z[0, 0]) == 0.0
    assert z[:, 1].tolist() == [0.0] * 4  # a constant says nothing
    seen = x[:, 0].double()
    assert float(further[0, 0]) == pytest.approx(
        float((1.0 - seen.mean()) / seen.std(correction=0))
    )
    wild, _ = scale_rows(torch.tensor([[0.0]] * 999 + [[1.0]]))
    assert float(wild[-1, 0]) == 8.0


def test_the_best_sgd_is_that_of_all_seeds_together() -> None:
    rows: list[dict[str, object]] = [
        {"method": method, "prequential": value, "after_changes": 0.5}
        for method, values in (("nestling", (0.9, 0.7)), ("a", (0.8, 0.2)), ("b", (0.6, 0.6)))
        for value in values
    ]
    assert build_pixel_figures("conflict", rows)["conflict_over_sgd"] == pytest.approx(20.0)
