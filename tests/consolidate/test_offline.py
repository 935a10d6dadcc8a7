"""A slow network learns from replay alone, and nothing else changes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from nestling.consolidate import consolidate_offline
from nestling.core.errors import DataError, PlanError, ShapeMismatch
from nestling.data import load_digits


def make_net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))


def make_sampler(seed: int = 0) -> object:
    x, y = load_digits()
    generator = torch.Generator().manual_seed(seed)

    def sample() -> tuple[Tensor, Tensor]:
        rows = torch.randint(0, 1000, (32,), generator=generator)
        return x[rows], y[rows]

    return sample


def score(model: nn.Module) -> float:
    x, y = load_digits()
    model.eval()
    with torch.no_grad():
        return float((model(x[1000:]).argmax(1) == y[1000:]).float().mean())


def test_it_learns_and_touches_nothing() -> None:
    slow, teacher = make_net(0), make_net(1)
    before = [copy.deepcopy(net.state_dict()) for net in (slow, teacher)]
    slow.train()
    teacher.train()
    state = torch.get_rng_state()
    weights = consolidate_offline(slow, make_sampler(), num_steps=300, teacher=teacher)
    assert torch.equal(torch.get_rng_state(), state)
    assert slow.training
    assert teacher.training
    for net, old in zip((slow, teacher), before, strict=True):
        assert all(param.grad is None for param in net.parameters())
        assert all(torch.equal(value, old[name]) for name, value in net.state_dict().items())
    assert score(copy.deepcopy(slow)) < 0.3
    slow.load_state_dict(weights)
    assert score(slow) > 0.7


def test_a_teacher_without_a_share_is_none() -> None:
    slow, teacher = make_net(0), make_net(1)
    alone = consolidate_offline(slow, make_sampler(), num_steps=5)
    taught = consolidate_offline(
        slow, make_sampler(), num_steps=5, teacher=teacher, distil_share=0.0
    )
    other = consolidate_offline(
        slow, make_sampler(), num_steps=5, teacher=teacher, distil_share=0.9
    )
    assert all(torch.equal(alone[name], taught[name]) for name in alone)
    assert any(not torch.equal(alone[name], other[name]) for name in alone)


def test_it_equals_the_loop_that_a_user_would_write() -> None:
    slow = nn.Linear(64, 10)
    ours = consolidate_offline(
        slow, make_sampler(), num_steps=20, make_optimizer=lambda p: torch.optim.SGD(p, 0.1)
    )
    net, sampler = copy.deepcopy(slow), make_sampler()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(20):
        x, y = sampler()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert all(torch.equal(ours[name], value) for name, value in net.state_dict().items())


def test_what_goes_wrong_changes_nothing() -> None:
    slow = make_net(0)
    before = copy.deepcopy(slow.state_dict())
    state = torch.get_rng_state()
    x, y = load_digits()
    cases = [
        (DataError, "became nan at step 0", lambda: (x[:4] * torch.nan, y[:4])),
        (DataError, "no example at step 0", lambda: (x[:0], y[:0])),
    ]
    for error, said, sampler in cases:
        with pytest.raises(error, match=said):
            consolidate_offline(slow, sampler, num_steps=3)
    with pytest.raises(ShapeMismatch, match="teacher answers"):
        consolidate_offline(slow, make_sampler(), num_steps=1, teacher=nn.Linear(64, 3))
    with pytest.raises(PlanError, match="-1 steps"):
        consolidate_offline(slow, make_sampler(), num_steps=-1)
    with pytest.raises(PlanError, match="no parameter"):
        consolidate_offline(make_net(0).requires_grad_(False), make_sampler(), num_steps=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in slow.state_dict().items())
