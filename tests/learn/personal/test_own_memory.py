"""A person's memory: a function of its sums, calibrated, packed while it rests."""

import torch

from learners import draw
from nestling.learn.personal.own_memory import OwnMemory, pack_upper, solve_at_once, unpack_upper
from nestling.memory import RidgeMemory


def make_rows(num: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = draw(num, 20, seed=seed).double()
    return x, x[:, :4].argmax(dim=1)


def test_its_strength_is_near_what_cross_validation_picks() -> None:
    x, y = make_rows(200)
    memory = RidgeMemory(20, num_outputs=4)
    memory.add(x, y)
    held = solve_at_once(memory.statistics, 200)
    asked, labels = make_rows(400, seed=1)
    mine = (asked @ held.weights + held.offset).softmax(dim=1)
    theirs = memory.predict(asked)
    losses = [-one[range(400), labels].log().mean() for one in (mine, theirs)]
    assert losses[0] < losses[1] + 0.05


def test_freedom_is_counted() -> None:
    x, y = make_rows(60)
    memory = RidgeMemory(20, num_outputs=4)
    memory.add(x, y)
    held = solve_at_once(memory.statistics, 60)
    other = RidgeMemory(20, num_outputs=4, ridge=(20 / 60) ** 2 / 9)
    other.add(x, y)
    assert torch.allclose(
        (x @ held.weights + held.offset).softmax(dim=1), other.predict(x), atol=0.02
    )


def test_any_order_gives_the_same() -> None:
    x, y = make_rows(50)
    one, other = OwnMemory(20, 4), OwnMemory(20, 4)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    for rows in torch.arange(50).split(7):
        one.learn(x[rows], y[rows], torch.ones(len(rows)).double())
    other.learn(x[order], y[order], torch.ones(50).double())
    found = [memory.foresee(x) for memory in (one, other)]
    assert found[0] is not None
    assert found[1] is not None
    # The search for the calibration begins elsewhere.
    assert torch.allclose(found[0].answers, found[1].answers, atol=0.02)
    assert found[0].novelty is not None
    assert found[1].novelty is not None
    assert torch.allclose(found[0].novelty, found[1].novelty)


def test_knows_what_it_has_seen() -> None:
    x, y = make_rows(200)
    memory = OwnMemory(20, 3)
    assert memory.foresee(x) is None
    memory.learn(x, y, torch.ones(200).double())
    near, far = memory.foresee(make_rows(50, 1)[0]), memory.foresee(10.0 * make_rows(50, 1)[0])
    assert near is not None
    assert far is not None
    assert near.novelty is not None
    assert far.novelty is not None
    assert memory.num_classes == 4
    assert float(near.novelty.median()) < 1.5 < 4.0 < float(far.novelty.median())


def test_packing_loses_nothing() -> None:
    square = draw(5, 5)
    assert torch.equal(unpack_upper(pack_upper(square), 5), square.triu())
