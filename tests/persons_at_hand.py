"""A trained model, persons who are not like the others, and comparisons of states."""

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import nestling as nl
from learners import differences
from nestling.data import load_digits

Pair = tuple[Tensor, Tensor]


@functools.cache
def load() -> Pair:
    x, y = load_digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


@functools.cache
def _train() -> nn.Module:
    x, y = load()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(15):
        for rows in torch.randperm(1000, generator=torch.Generator().manual_seed(0)).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


def make_learner(**settings: Any) -> nl.Learner:
    """A learner of a model that knows plain digits."""
    return nl.Learner(copy.deepcopy(_train()), pretrained=True, **settings)


def invert(pair: Pair) -> Pair:
    return 1.0 - pair[0], pair[1]


def take(start: int, stop: int) -> Pair:
    """Digits that the model was not trained on, from 1,000 on."""
    x, y = load()
    return x[1000 + start : 1000 + stop], y[1000 + start : 1000 + stop]


def teach(who: Any, pair: Pair, size: int = 5) -> None:
    for start in range(0, len(pair[1]), size):
        who.learn(pair[0][start : start + size], pair[1][start : start + size])


def is_same(left: Any, right: Any) -> bool:
    """Whether two nested states are equal bit for bit, wall times aside."""
    return differences(left, right) == []
