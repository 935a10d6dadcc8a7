"""A slow backbone under a head at the full rate."""

import copy

import pytest
import torch
from torch import nn

from nestling.consolidate import split_rates
from nestling.core.errors import IdlePattern, PlanError


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_one_step_moves_the_backbone_so_much_less() -> None:
    net = make_net()
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD(split_rates(net, head=["2.*"], lr=0.5, slow_factor=0.1), lr=0.5)
    nn.functional.cross_entropy(net(torch.ones(2, 3)), torch.tensor([0, 1])).backward()
    optimizer.step()
    for name, param in net.named_parameters():
        assert param.grad is not None
        rate = 0.5 if name.startswith("2.") else 0.05
        assert torch.equal(param, before[name] - rate * param.grad)


def test_frozen_parameters_belong_to_no_group() -> None:
    net = make_net()
    net[0].requires_grad_(False)
    groups = split_rates(net, head=["2.*"], lr=0.1)
    assert [group["name"] for group in groups] == ["head"]


@pytest.mark.parametrize(
    ("head", "lr", "factor", "error"),
    [
        (["3.*"], 0.1, 0.1, IdlePattern),
        ([], 0.1, 0.1, PlanError),
        (["2.*"], 0.0, 0.1, PlanError),
        (["2.*"], 0.1, 1.5, PlanError),
    ],
)
def test_wrong_arguments_are_said(
    head: list[str], lr: float, factor: float, error: type[Exception]
) -> None:
    with pytest.raises(error):
        split_rates(make_net(), head=head, lr=lr, slow_factor=factor)
