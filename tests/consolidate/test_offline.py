"""A slow network learns from replay alone, and nothing else changes."""

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from nestling.consolidate import consolidate_offline, distil_divergence
from nestling.core.errors import DataError, SettingError, ShapeMismatch, UnknownLabel
from nestling.data import load_digits
from nestling.protect.penalties import distillation_loss


def make_net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))


def make_sampler(seed: int = 0) -> Callable[[], tuple[Tensor, Tensor]]:
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
    slow.train()
    slow[2].eval()  # modes differ within a network, and come back one by one
    teacher.train()
    for net in (slow, teacher):
        net(torch.ones(1, 64)).sum().backward()
    nets = (slow, teacher)
    before = [copy.deepcopy(net.state_dict()) for net in nets]
    grads = [[param.grad.clone() for param in net.parameters()] for net in nets]
    modes = [[module.training for module in net.modules()] for net in nets]
    state = torch.get_rng_state()
    weights = consolidate_offline(slow, make_sampler(), num_steps=300, teacher=teacher)
    assert torch.equal(torch.get_rng_state(), state)
    for net, old, old_grads, old_modes in zip(nets, before, grads, modes, strict=True):
        assert [module.training for module in net.modules()] == old_modes
        assert all(
            torch.equal(param.grad, grad)
            for param, grad in zip(net.parameters(), old_grads, strict=True)
        )
        assert all(torch.equal(value, old[name]) for name, value in net.state_dict().items())
    assert score(copy.deepcopy(slow)) < 0.3
    slow.load_state_dict(weights)
    assert score(slow) > 0.7
    with torch.no_grad():  # what was returned is not the network's own memory
        slow[0].weight.zero_()
    assert bool(weights["0.weight"].any())


def test_a_good_teacher_alone_teaches() -> None:
    teacher, slow = make_net(1), make_net(0)
    teacher.load_state_dict(consolidate_offline(teacher, make_sampler(), num_steps=400))

    def sample_wrong() -> tuple[Tensor, Tensor]:
        x, y = sampler()
        return x, (y + 1) % 10  # a share of 1 reads no label

    sampler = make_sampler(1)
    weights = consolidate_offline(
        slow, sample_wrong, num_steps=400, teacher=teacher, distil_share=1.0
    )
    slow.load_state_dict(weights)
    assert score(slow) > 0.7


def test_a_teacher_answers_without_its_dropout() -> None:
    slow = nn.Linear(64, 10)
    teacher = nn.Sequential(nn.Linear(64, 10), nn.Dropout(0.5), nn.BatchNorm1d(10)).train()
    settled = copy.deepcopy(teacher).eval()
    learned = [
        consolidate_offline(slow, make_sampler(), num_steps=5, teacher=one, distil_share=1.0)
        for one in (teacher, settled)
    ]
    assert all(torch.equal(value, learned[1][name]) for name, value in learned[0].items())


def test_the_share_is_the_teachers() -> None:
    slow, teacher = nn.Linear(64, 10), make_net(1).eval()

    def make_sgd(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, 0.1)

    ours = consolidate_offline(
        slow,
        make_sampler(),
        num_steps=3,
        make_optimizer=make_sgd,
        teacher=teacher,
        distil_share=0.2,
        temperature=3.0,
    )
    net, sampler = copy.deepcopy(slow), make_sampler()
    optimizer = make_sgd(net.parameters())
    for _ in range(3):
        x, y = sampler()
        optimizer.zero_grad()
        taught = distil_divergence(net(x), teacher(x).detach(), 3.0)
        (0.8 * nn.functional.cross_entropy(net(x), y) + 0.2 * taught).backward()
        optimizer.step()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6)


def test_values_are_learned_too() -> None:
    generator = torch.Generator().manual_seed(0)
    slow, wanted = nn.Linear(3, 1), torch.tensor([[1.0], [-2.0], [0.5]])

    def sample() -> tuple[Tensor, Tensor]:
        x = torch.randn(16, 3, generator=generator)
        return x, x @ wanted

    weights = consolidate_offline(
        slow, sample, num_steps=200, make_optimizer=lambda p: torch.optim.SGD(p, 0.1)
    )
    torch.testing.assert_close(weights["weight"], wanted.T, atol=1e-3, rtol=0.0)
    x, y = torch.eye(3), torch.tensor([1.0, 5.0, 9.0])
    flat, column = (  # broadcast, the flat ones would be learned as their mean
        consolidate_offline(slow, lambda y=y: (x, y), num_steps=3)["weight"]
        for y in (y, y[:, None])
    )
    assert torch.equal(flat, column)
    with pytest.raises(ShapeMismatch, match="targets"):
        consolidate_offline(slow, lambda: (torch.ones(4, 3), torch.ones(4, 2)), num_steps=1)


def test_a_frozen_spine_keeps_its_buffers() -> None:
    spine = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16)).requires_grad_(False)
    slow = nn.Sequential(spine, nn.Linear(16, 10), nn.BatchNorm1d(10))
    before = copy.deepcopy(slow.state_dict())
    weights = consolidate_offline(slow, make_sampler(), num_steps=3)
    for name, value in weights.items():
        assert torch.equal(value, before[name]) == name.startswith("0."), name


def test_both_rooms_mean_the_same_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    new, old = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    for temperature in (0.5, 1.0, 3.0):
        ours = distil_divergence(new, old, temperature)
        torch.testing.assert_close(ours, distillation_loss(new, old, temperature))
    with pytest.raises(ShapeMismatch):
        distil_divergence(new, old[:, :3], 1.0)


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
        (UnknownLabel, "label 10 and 10 logits", lambda: (x[:4], torch.tensor([0, 1, 10, 3]))),
        (UnknownLabel, "label -1 ", lambda: (x[:2], torch.tensor([0, -1]))),
        (ShapeMismatch, "labels", lambda: (x[:4], y[:3])),
    ]
    for error, said, sampler in cases:
        with pytest.raises(error, match=said):
            consolidate_offline(slow, sampler, num_steps=3)
    with pytest.raises(DataError, match="by step 0 of 1"):  # its loss was finite still
        consolidate_offline(
            slow,
            make_sampler(),
            num_steps=1,
            make_optimizer=lambda p: torch.optim.SGD(p, float("inf")),
        )
    with pytest.raises(ShapeMismatch, match="teacher answers"):
        consolidate_offline(slow, make_sampler(), num_steps=1, teacher=nn.Linear(64, 3))
    with pytest.raises(SettingError, match="-1 steps"):
        consolidate_offline(slow, make_sampler(), num_steps=-1)
    with pytest.raises(SettingError, match="no parameter"):
        consolidate_offline(make_net(0).requires_grad_(False), make_sampler(), num_steps=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in slow.state_dict().items())
