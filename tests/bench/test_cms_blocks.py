"""Benches of continuum memory systems: what they report, and that initial states are learned."""

import pytest

from nestling.bench.blocks import cms_speed
from nestling.bench.blocks.cms_speed import measure_cms_speed
from nestling.bench.blocks.cms_starts import measure_learned_starts


def test_trained_initial_states_beat_frozen_ones() -> None:
    result = measure_learned_starts(num_steps=120, seeds=(0,))
    figures = result.figures
    assert figures["loss_trained"] < 0.8 * figures["loss_frozen"]
    assert figures["loss_trained"] < figures["loss_no_writes"]
    assert {row["side"] for row in result.rows} == {name[5:] for name in figures}
    again = measure_learned_starts(num_steps=120, seeds=(0,))
    assert again.figures == figures


def test_speed_is_reported_of_every_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cms_speed, "NUM_LAYERS", 1)
    monkeypatch.setattr(cms_speed, "LENGTH", 32)
    result = measure_cms_speed(num_rounds=1)
    assert set(result.figures) == {
        *("cms_over_gpt", "cms_first_over_gpt", "cms_over_gpt_4x", "cms_first_over_gpt_4x"),
        *("cms_still_over_gpt", "length_scaling", "length_scaling_all"),
    }
    assert all(value > 0 for value in result.figures.values())
    assert len(result.rows) == 10
