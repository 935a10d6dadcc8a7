"""Inputs of an older context are told from recent ones, whatever the batches."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import ForeignSnapshot, ShapeMismatch
from nestling.memory import RecentContext


def draw(num: int, *, seed: int, shift: float = 0.0, width: int = 50) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(7)) / width**0.5
    return torch.randn(num, width, generator=generator) @ mixing + shift


def learn_two_contexts(context: RecentContext) -> None:
    context.add(draw(640, seed=0))
    context.add(draw(640, seed=1, shift=1.0))


def test_an_older_context_is_unlike_now() -> None:
    context = RecentContext(50)
    learn_two_contexts(context)
    old, new = draw(500, seed=2), draw(500, seed=3, shift=1.0)
    assert float(context.compare(old).exp().mean()) < 0.1
    assert float(context.compare(new).exp().mean()) > 0.6
    context.add(draw(640, seed=4))  # the old one comes back
    assert float(context.compare(old).exp().mean()) > 0.6
    assert float(context.compare(new).exp().mean()) < 0.2


def test_nothing_changes_while_the_stream_does_not() -> None:
    context = RecentContext(50)
    context.add(draw(2000, seed=0))
    assert float(context.compare(draw(500, seed=1)).exp().mean()) > 0.7


def test_before_the_first_block_all_is_like_now() -> None:
    context = RecentContext(3, block=10)
    context.add(torch.zeros(9, 3))
    assert context.compare(torch.ones(2, 3)).tolist() == [0.0, 0.0]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=8))
def test_batches_do_not_matter(sizes: list[int]) -> None:
    x = draw(sum(sizes), seed=0, width=5)
    whole, parts = RecentContext(5, block=20), RecentContext(5, block=20)
    whole.add(x)
    for part in x.split(sizes):
        parts.add(part)
        parts.compare(part)  # asking changes nothing
    probe = draw(20, seed=1, width=5, shift=0.5)
    assert torch.equal(whole.compare(probe), parts.compare(probe))


def test_it_goes_on_from_its_state() -> None:
    first, second = RecentContext(50), RecentContext(50)
    first.add(draw(333, seed=0))
    second.load_state_dict(first.state_dict())
    for context in (first, second):
        context.add(draw(100, seed=1, shift=1.0))
    probe = draw(20, seed=2)
    assert torch.equal(first.compare(probe), second.compare(probe))
    with pytest.raises(ForeignSnapshot):
        RecentContext(50, half_life=7.0).load_state_dict(first.state_dict())


def test_constant_inputs_are_no_division_by_zero() -> None:
    context = RecentContext(4, block=8)
    context.add(torch.ones(64, 4))
    found = context.compare(torch.tensor([[1.0] * 4, [2.0] * 4]))
    assert bool(found.isfinite().all())
    assert found[0] == 0.0
    assert found[1] < -100.0
    with pytest.raises(ShapeMismatch):
        context.compare(torch.ones(2, 3))
    assert math.isfinite(float(context.compare(torch.full((1, 4), 1e30))))
