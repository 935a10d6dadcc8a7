"""Every deep optimizer goes down from its default settings, and is a plain torch optimizer."""

import copy

import pytest
import torch
from torch import Tensor, nn

from nestling.optim import OptimizerSpec
from nestling.optim.deep import DMGD, M3, MemoryMomentum, Muon, delta_momentum

SPECS: dict[str, OptimizerSpec] = {
    "muon": Muon(),
    "m3": M3(),
    "m3-bfloat16": M3(precision="bfloat16"),
    "momentum": MemoryMomentum(),
    "momentum-l2": MemoryMomentum(objective="l2"),
    "momentum-huber": MemoryMomentum(objective="huber"),
    "delta-element": delta_momentum(),
    "delta-matrix": delta_momentum(erase="matrix"),
    "preconditioned": MemoryMomentum(preconditioner="diagonal"),
    "preconditioned-matrix": MemoryMomentum(preconditioner="matrix"),
    "feature-tanh": MemoryMomentum(feature_map="tanh"),
    "feature-sign": MemoryMomentum(feature_map="sign"),
    "readout-tanh": MemoryMomentum(readout="tanh"),
    "readout-orthogonal": MemoryMomentum(readout="orthogonal"),
    "dmgd": DMGD(),
}
NUM_STEPS = 1600  # some defaults are slow: an average is a tenth of the sum that momentum is
every_spec = pytest.mark.parametrize("name", SPECS)


def find_quadratic(weight: Tensor) -> Tensor:
    scale = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=weight.dtype)
    return (scale * (weight - 1.0).square()).sum() / 2


def find_rosenbrock(weight: Tensor) -> Tensor:
    """Its valley in every row of a matrix (n, 2); a tenth of it, where slopes are not hundreds."""
    x, y = weight.unbind(-1)
    return ((1 - x).square() + 100.0 * (y - x.square()).square()).sum() / 10


@every_spec
@pytest.mark.parametrize("find_loss", [find_quadratic, find_rosenbrock])
def test_descends(name: str, find_loss: object) -> None:
    assert callable(find_loss)
    columns = 4 if find_loss is find_quadratic else 2
    weight = nn.Parameter(torch.zeros(3, columns) - torch.tensor([[0.2], [0.5], [0.9]]))
    rule = SPECS[name].build([weight])
    first = find_loss(weight).item()
    for _ in range(NUM_STEPS):
        rule.zero_grad()
        find_loss(weight).backward()
        rule.step()
    assert find_loss(weight).item() < 0.1 * first


def make_net() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(64, 5)
    y = (x[:, :1] * x[:, 1:2]).tanh()
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1)), x, y


def find_net_loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.as_tensor((net(x) - y).square().mean())


@every_spec
def test_trains_a_small_net(name: str) -> None:
    net, x, y = make_net()
    rule = SPECS[name].build(net.parameters())
    first = find_net_loss(net, x, y).item()
    for _ in range(NUM_STEPS):
        rule.zero_grad()
        find_net_loss(net, x, y).backward()
        rule.step()
    assert find_net_loss(net, x, y).item() < 0.6 * first


@every_spec
def test_resumes_bit_for_bit_as_a_torch_optimizer(name: str) -> None:
    net, x, y = make_net()
    rule = SPECS[name].build(net.parameters())
    twin, again = None, None
    for step in range(70):
        if step == 37:
            twin = copy.deepcopy(net)
            again = SPECS[name].build(twin.parameters())
            again.load_state_dict(copy.deepcopy(rule.state_dict()))
        for model, optimizer in ((net, rule), (twin, again)):
            if model is not None and optimizer is not None:
                optimizer.zero_grad()
                find_net_loss(model, x, y).backward()
                optimizer.step()
    assert twin is not None
    assert all(map(torch.equal, net.parameters(), twin.parameters()))


@every_spec
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_keeps_dtype_and_gradients(name: str, dtype: torch.dtype) -> None:
    shapes = ((3, 4), (2,), (2, 2, 3))
    # Small, since half of eight bits would round a small step away beside a 1.
    start = torch.tensor(2.0**-6, dtype=dtype)
    params = [nn.Parameter(start.repeat(shape)) for shape in shapes]
    rule = SPECS[name].build(params)
    for step in range(3):
        for param in params:
            param.grad = torch.full_like(param, 0.5 + step)
        rule.step()
        assert all(bool((p.grad == 0.5 + step).all()) for p in params if p.grad is not None)
    assert {param.dtype for param in params} == {dtype}
    assert all(bool(param.isfinite().all()) for param in params)
    assert all(bool((param != start).any()) for param in params if param.dim() > 1)
