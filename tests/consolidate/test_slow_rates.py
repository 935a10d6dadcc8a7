"""A slow backbone under a head at the full rate."""

import copy

import pytest
import torch
from torch import nn

from nestling.consolidate import split_rates
from nestling.core.errors import IdlePattern, SettingError


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_every_parameter_is_in_one_group_at_its_rate() -> None:
    net = make_net()
    backbone, head = split_rates(net, head=["2.w*", "2.bias"], lr=0.5)
    assert (backbone["name"], backbone["lr"]) == ("backbone", 0.005)
    assert (head["name"], head["lr"]) == ("head", 0.5)
    assert [id(param) for param in backbone["params"]] == [id(p) for p in net[0].parameters()]
    assert [id(param) for param in head["params"]] == [id(p) for p in net[2].parameters()]
    assert [group["name"] for group in split_rates(net, head=["*"], lr=0.5)] == ["head"]


def test_one_step_is_that_of_groups_made_by_hand() -> None:
    ours, by_hand = make_net(), make_net()
    groups = [
        {"params": by_hand[0].parameters(), "lr": 0.05},
        {"params": by_hand[2].parameters(), "lr": 0.5},
    ]
    optimizers = (
        torch.optim.SGD(split_rates(ours, head=["2.*"], lr=0.5, slow_factor=0.1), momentum=0.9),
        torch.optim.SGD(groups, momentum=0.9),
    )
    before = copy.deepcopy(ours.state_dict())
    for net, optimizer in zip((ours, by_hand), optimizers, strict=True):
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(torch.ones(2, 3)), torch.tensor([0, 1])).backward()
            optimizer.step()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, by_hand.state_dict()[name])
        assert not torch.equal(value, before[name])


def test_a_factor_of_0_keeps_the_backbone() -> None:
    net = make_net()
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD(split_rates(net, head=["2.*"], lr=0.5, slow_factor=0.0))
    nn.functional.cross_entropy(net(torch.ones(2, 3)), torch.tensor([0, 0])).backward()
    optimizer.step()
    for name, param in net.named_parameters():
        assert torch.equal(param, before[name]) == name.startswith("0."), name


def test_frozen_parameters_belong_to_no_group() -> None:
    net = make_net()
    net[0].requires_grad_(False)
    groups = split_rates(net, head=["2.*"], lr=0.1)
    assert [group["name"] for group in groups] == ["head"]


@pytest.mark.parametrize(
    ("head", "lr", "factor", "error"),
    [
        (["3.*"], 0.1, 0.1, IdlePattern),
        (["2.*", "2.wieght"], 0.1, 0.1, IdlePattern),
        ([], 0.1, 0.1, SettingError),
        (["2.*"], 0.0, 0.1, SettingError),
        (["2.*"], 0.1, 1.5, SettingError),
        (["2.*"], float("nan"), 0.1, SettingError),
    ],
)
def test_wrong_arguments_are_said(
    head: list[str], lr: float, factor: float, error: type[Exception]
) -> None:
    with pytest.raises(error):
        split_rates(make_net(), head=head, lr=lr, slow_factor=factor)
