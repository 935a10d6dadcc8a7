"""The state of associative memories."""

import pytest
import torch
from associative.drawn_pairs import draw_pairs

from nestling.core.errors import ForeignSnapshot, SettingError, ShapeMismatch
from nestling.memory.associative import (
    DeepFastState,
    FastState,
    WriteRule,
    loop_mlp,
    loop_pairs,
    write_mlp,
    write_pairs,
)


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


@pytest.mark.parametrize("state", [None, {}, torch.zeros(2, 2, 4, 5)])
def test_what_is_no_state_is_refused(state: object) -> None:
    pairs = draw_pairs(3)
    for write in (write_pairs, loop_pairs):
        with pytest.raises(SettingError, match="a FastState works"):
            write(WriteRule(), *pairs.streams()[:4], state)  # type: ignore[arg-type]
    for write_deep in (write_mlp, loop_mlp):
        square = (pairs.keys, pairs.keys, pairs.rates, None)
        with pytest.raises(SettingError, match="a DeepFastState works"):
            write_deep(WriteRule(), *square, state)  # type: ignore[arg-type]


def test_states_of_the_other_kind_of_memory_are_refused() -> None:
    pairs = draw_pairs(3)
    deep = DeepFastState(pairs.state, pairs.state)
    with pytest.raises(SettingError, match="state=DeepFastState of a linear memory"):
        write_pairs(WriteRule(), *pairs.streams()[:4], deep)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="state=FastState of an MLP memory"):
        write_mlp(WriteRule(), pairs.keys, pairs.keys, pairs.rates, None, pairs.state)  # type: ignore[arg-type]


def test_samples_at_different_places_of_a_block_are_merged_and_selected() -> None:
    pairs = draw_pairs(9, num_samples=3)
    valid = torch.arange(9) < torch.tensor([[9], [8], [6]])
    rule = WriteRule(block=4)
    _, state = write_pairs(rule, *pairs.streams()[:4], pairs.state, valid_BT=valid)
    assert state.num_in_block == (1, 0, 2)
    assert state.counts_in_block == (1, 0, 2)
    assert state.select(torch.tensor([2, 0])).num_in_block == (2, 1)
    ended = state.select(torch.tensor([False, True, False]))
    assert ended.num_in_block == 0
    assert ended.in_force is None
    parts = [state.select(torch.tensor([row])) for row in (2, 0, 1)]
    merged = FastState.merge(parts, [[2], [0], [1]])
    for name, value in state.state_dict().items():
        if name != "in_force":
            assert torch.equal(merged.state_dict()[name], value)  # type: ignore[arg-type]


def test_samples_are_selected() -> None:
    pairs = draw_pairs(3, num_samples=3)
    state = pairs.state.select(torch.tensor([2, 0]))
    assert torch.equal(state.weights, pairs.state.weights[[2, 0]])
