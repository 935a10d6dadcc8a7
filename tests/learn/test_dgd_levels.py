"""A learner records what its layers are fed where a level learns by DGD."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nestling as nl
from nestling.core.errors import NestlingError
from nestling.optim import dgd, record_layers
from nestling.protect import take_step

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(12, 16, 4, generator=DRAW)
Y = (X[..., 0] > 0).long()
PLAN = nl.Plan(nl.Level("all", match=["*"], period=3, optimizer=dgd(lr=0.3)))


def make_net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def read_weights(model: nn.Module) -> Tensor:
    return torch.cat([param.detach().flatten() for param in model.parameters()])


def learn_plainly(num_steps: int) -> Tensor:
    net = make_net()
    optimizer = nl.NestedOptimizer(net, PLAN)
    with record_layers(net):
        for x, y in zip(X[:num_steps], Y, strict=False):
            optimizer.zero_grad()
            functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    return read_weights(net)


@pytest.mark.filterwarnings("ignore:level 'all'")
def test_learns_as_a_loop_within_record_layers_does() -> None:
    learner = nl.Learner(make_net(), PLAN)
    for x, y in zip(X, Y, strict=True):
        learner.learn(x, y)
    assert (read_weights(learner.model) - learn_plainly(len(X))).abs().max() < 1e-6
    assert not torch.equal(read_weights(learner.model), read_weights(make_net()))


def test_a_step_that_is_refused_leaves_the_inputs_as_they_were() -> None:
    def lose(output: Tensor, target: Tensor) -> Tensor:
        wrong = functional.cross_entropy(output, target)
        # Its value is finite and its gradient is not.
        return wrong + ((output[0, 0] * 0).sqrt() if len(output) == 15 else 0)

    net = make_net()
    optimizer = nl.NestedOptimizer(net, PLAN)
    for number, (x, y) in enumerate(zip(X, Y, strict=True)):
        if number in (1, 3):  # within a period, and at its start
            assert take_step(net, optimizer, (x[1:] + 9, y[1:]), loss=lose).refused
        take_step(net, optimizer, (x, y), loss=lose)
    assert torch.equal(read_weights(net), learn_plainly(len(X)))


@pytest.mark.filterwarnings("ignore:level 'all'")
def test_resumes_bit_for_bit_within_a_period(tmp_path: Path) -> None:
    learner, again = (nl.Learner(make_net(), PLAN) for _ in range(2))
    for x, y in zip(X[:7], Y, strict=False):
        learner.learn(x, y)
    learner.snapshot(tmp_path / "within")
    again.restore(tmp_path / "within")
    for one in (learner, again):
        for x, y in zip(X[7:], Y[7:], strict=True):
            one.learn(x, y)
    assert torch.equal(read_weights(learner.model), read_weights(again.model))


def test_a_model_without_such_layers_is_refused() -> None:
    net = nn.Embedding(4, 2)
    optimizer = nl.NestedOptimizer(net, nl.Plan(nl.Level("all", match=["*"], optimizer=dgd())))
    with pytest.raises(NestlingError, match=r"no nn\.Linear"):
        take_step(net, optimizer, (torch.tensor([1]), torch.tensor([0])))
