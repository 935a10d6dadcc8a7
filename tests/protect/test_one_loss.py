"""Replayed and protected examples cost what the same examples cost when they are new."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nestling as nl
from learners import draw
from nestling.consolidate import consolidate_offline
from nestling.core.batches import Loss, default_loss
from nestling.protect import (
    AGEM,
    CLSER,
    ER,
    GEM,
    DERpp,
    GDumb,
    MeanER,
    Retention,
    take_step,
)
from nestling.protect.replay.buffer import drop_ignored

X = draw(40, 4)


def positions(width: int) -> Tensor:
    """Classes of 5 positions, of which the last are padding in some rows, and all in one."""
    y = torch.randint(0, width, (40, 5), generator=torch.Generator().manual_seed(1))
    y[::3, 3:] = -100
    y[7] = -100
    return y


class Positions(nn.Module):
    """(N, 4) -> (N, 5, K) logits, or (N, K, 5)."""

    def __init__(self, width: int, *, second: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.width, self.second = width, second
        self.last = nn.Linear(4, 5 * width)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(x).reshape(-1, 5, self.width)
        return found.movedim(-1, 1) if self.second else found


def flat() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def weighted(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target, torch.tensor([1.0, 5.0, 9.0]))


def hinge(output: Tensor, target: Tensor) -> Tensor:
    """Of labels -1 and 1."""
    return (1.0 - output[:, 0] * target).clamp_min(0.0).mean()


MANY = (X[:, :3] > 0).float()
Made = tuple[Callable[[], nn.Module], Tensor, Loss]
PRICES: dict[str, Made] = {
    "(N,) beside (N, 1)": (flat, X[:, 0], default_loss),
    "positions as classes": (lambda: Positions(5), positions(5), default_loss),
    "classes second": (lambda: Positions(3, second=True), positions(3), default_loss),
    "several labels": (wide, MANY, functional.binary_cross_entropy_with_logits),
    "integers for a user's loss": (
        wide,
        MANY.long(),
        lambda o, t: functional.binary_cross_entropy_with_logits(o, t.float()),
    ),
    "weighted classes": (wide, X[:, :3].argmax(1), weighted),
    "labels -1 and 1": (flat, (X[:, 0] > 0).long() * 2 - 1, hinge),
}


class Record:
    """A loss that writes down what it was asked about."""

    def __init__(self, loss: Loss) -> None:
        self.loss, self.asked = loss, list[tuple[Tensor, Tensor]]()

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.asked.append((output.detach(), target))
        return self.loss(output, target)


METHODS: dict[str, Callable[[], Retention]] = {
    "er": lambda: ER(40, 40),
    "der++": lambda: DERpp(40, 0.0, 1.0, 40),
    "mean-er": lambda: MeanER(40, 40),
}
# It looks at the probability of the class, so that it needs one.
OF_CLASSES = ("positions as classes", "classes second", "weighted classes")
CASES = [(METHODS[name], price) for name in METHODS for price in PRICES]
CASES += [(lambda: CLSER(40, 40, joint=False), price) for price in OF_CLASSES]


@pytest.mark.parametrize(("make_method", "price"), CASES)
def test_what_is_replayed_costs_what_it_cost(
    make_method: Callable[[], Retention], price: str
) -> None:
    make, y, loss = PRICES[price]
    model, method = make(), make_method()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    new = take_step(model, optimizer, (X, y), [method], loss=loss).loss
    record = Record(loss)
    assert not take_step(model, optimizer, (X, y), [method], loss=record).refused
    costs = [float(loss(output, target)) for output, target in record.asked]
    assert len(costs) == 2
    assert costs == pytest.approx([new, new], rel=1e-5)


@pytest.mark.parametrize("price", PRICES)
@pytest.mark.parametrize("make_method", [lambda: AGEM(40, 40), lambda: GEM(40), lambda: ER(2, 1)])
def test_no_step_is_refused(price: str, make_method: Callable[[], Any]) -> None:
    make, y, loss = PRICES[price]
    model, method = make(), make_method()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        for rows in torch.arange(40).split(10):
            taken = take_step(model, optimizer, (X[rows], y[rows]), [method], loss=loss)
            assert taken.refused == ""
        method.end_experience(model)


def test_only_what_the_loss_passes_over_is_left_out() -> None:
    y = torch.tensor([[-100, -100], [-100, 1], [-1, -1]])
    assert drop_ignored({"y": y})["y"].tolist() == [[-100, 1], [-1, -1]]
    assert drop_ignored({"y": torch.tensor([-1, 1, -100])})["y"].tolist() == [-1, 1]
    assert len(drop_ignored({"y": torch.zeros(0, dtype=torch.long)})["y"]) == 0


def test_a_reader_is_trained_by_the_step_s_loss() -> None:
    record, method, model = Record(weighted), GDumb(40, num_epochs=1), wide()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    take_step(model, optimizer, (X, X[:, :3].argmax(1)), [method], loss=record)
    before = len(record.asked)
    method.end_experience(model)
    assert len(record.asked) > before


def test_values_beside_columns_are_learned_with_replay() -> None:
    target = X @ torch.tensor([3.0, -2.0, 1.0, 0.5])
    plan = nl.Plan(nl.Level("all", match=["*"], optimizer=nl.sgd(lr=0.05)))
    for retain in ([], [ER(40)]):
        learner = nl.Learner(flat(), plan, retain=retain)
        learner.fit([(X, target)], epochs=100)
        assert learner.evaluate(X, target) > 0.99


@pytest.mark.parametrize("price", [p for p in PRICES if p != "labels -1 and 1"])
def test_offline_consolidation_pays_the_same(price: str) -> None:
    make, y, loss = PRICES[price]
    model = make()
    plain = price.startswith(("(N,)", "positions", "classes"))
    weights = consolidate_offline(model, lambda: (X, y), num_steps=20, loss=None if plain else loss)
    before = float(loss(model(X), y).detach())
    model.load_state_dict(weights)
    assert float(loss(model(X), y).detach()) < before


def test_offline_consolidation_takes_every_form_of_output() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.utils.parametrizations.weight_norm(wide())

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.last(x)}

    model = Named()
    model(X)
    y = X[:, :3].argmax(1)
    assert consolidate_offline(model, lambda: (X, y), num_steps=2, teacher=Named())
