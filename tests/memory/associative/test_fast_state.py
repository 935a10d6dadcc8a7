"""The state of associative memories."""

import pytest
import torch
from associative.drawn_pairs import draw_pairs

from nestling.core.errors import ForeignSnapshot, ShapeMismatch
from nestling.memory.associative import FastState, WriteRule, write_pairs


def test_it_is_saved_and_restored_bit_for_bit() -> None:
    pairs = draw_pairs(9)
    _, state = write_pairs(
        WriteRule(block=4),
        pairs.keys,
        pairs.values,
        pairs.rates,
        None,
        pairs.state,
        momenta_BHT=pairs.momenta,
    )
    saved = state.state_dict()
    again = FastState.from_state_dict(saved).state_dict()
    assert saved["num_in_block"] == again["num_in_block"] == 1
    assert saved.keys() == again.keys() >= {"weights", "momentum", "in_force"}
    for name in saved.keys() - {"num_in_block"}:
        assert torch.equal(saved[name], again[name])  # type: ignore[arg-type]


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(ForeignSnapshot, match="no associative memory's"):
        FastState.from_state_dict({"weight": torch.zeros(1, 1, 1, 1)})
    with pytest.raises(ForeignSnapshot, match="no associative memory's"):
        FastState.from_state_dict({"num_in_block": 1})


def test_a_state_of_other_axes_is_refused() -> None:
    pairs = draw_pairs(3)
    with pytest.raises(ShapeMismatch, match=r"shape \(4, 5\)"):
        write_pairs(
            WriteRule(),
            pairs.keys,
            pairs.values,
            pairs.rates,
            None,
            FastState(torch.zeros(4, 5)),
        )


def test_samples_are_selected() -> None:
    pairs = draw_pairs(3, num_samples=3)
    state = pairs.state.select(torch.tensor([2, 0]))
    assert torch.equal(state.weights, pairs.state.weights[[2, 0]])
