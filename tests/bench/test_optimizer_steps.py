"""The bench of optimizer steps: both sides do the same mathematics."""

import pytest
import torch
from torch import nn

from nestling.bench.blocks import optimizer_steps


def test_the_side_in_float32_is_our_muon_and_nearly_torchs() -> None:
    shapes = [(6, 3), (3, 3), (3, 6), (40, 20)]
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    grads = [torch.randn(shape, generator=generator) for shape in shapes]
    sides = [[nn.Parameter(start.clone()) for start in starts] for _ in range(3)]
    loop = optimizer_steps._make_loop(sides[0])
    ours = optimizer_steps._make_muon("float32", sides[1])
    theirs = optimizer_steps._make_torch(sides[2])
    for _ in range(3):
        for params in sides:
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.clone()
        for advance in (loop, ours, theirs):
            advance()
    for one, other, third in zip(*sides, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one, third, rtol=0.05, atol=5e-3)


def test_measures_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_steps, "SHAPES", [(6, 3), (3, 3)])
    monkeypatch.setattr(optimizer_steps, "NUM_STEPS", 2)
    before = torch.get_num_threads()
    found = optimizer_steps.measure_optimizer_steps(num_rounds=1)
    assert torch.get_num_threads() == before
    assert {"muon_over_torch_muon", "m3_over_torch_muon"} < set(found)
    assert all(value > 0.0 for value in found.values())
