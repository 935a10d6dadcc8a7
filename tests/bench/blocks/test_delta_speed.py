"""The bench of the delta-rule memory's speed, in small."""

import torch

from nestling.bench.blocks.delta_speed import DeltaBlock, measure_delta_speed


def test_it_measures_both_figures() -> None:
    threads = torch.get_num_threads()
    result = measure_delta_speed(num_rounds=1, length=16, chunk=8)
    assert result.figures.keys() == {"delta_over_gpt", "delta_length_scaling"}
    assert all(0 < figure < 100 for figure in result.figures.values())
    assert len(result.rows) == 3
    assert torch.get_num_threads() == threads


def test_a_delta_block_is_causal() -> None:
    torch.manual_seed(0)
    block = DeltaBlock(16, 2)
    x = torch.randn(2, 12, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(block(x)[:, 5].sum(), x)
    assert slope[:, 6:].abs().max() == 0
    assert slope[:, 0].abs().max() > 0
