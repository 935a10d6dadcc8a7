"""A person's adapter: the given model at first, then what gradient descent makes of it."""

import torch
from torch.nn import functional

from learners import draw
from nestling.learn.personal.own_adapter import BETA_1, BETA_2, RATE, WEIGHT_DECAY, OwnAdapter


def test_begins_as_the_given_model() -> None:
    adapter, given = OwnAdapter(6, 3), draw(4, 3)
    assert torch.equal(adapter.answer(draw(4, 6), given), given.double().softmax(dim=1))


def test_steps_are_those_of_torch() -> None:
    adapter, h, given = OwnAdapter(6, 3), draw(40, 6), draw(40, 3, seed=1)
    y = torch.arange(40) % 3
    A, B = (one.clone().requires_grad_() for one in (adapter.A, adapter.B))
    optimizer = torch.optim.AdamW(
        [A, B], lr=RATE, betas=(BETA_1, BETA_2), weight_decay=WEIGHT_DECAY
    )
    for start in range(0, 40, 5):
        rows = slice(start, start + 5)
        adapter.learn(h[rows], given[rows], y[rows])
        z = h[rows] / h[rows].square().mean(dim=1, keepdim=True).sqrt()
        optimizer.zero_grad()
        functional.cross_entropy(given[rows] + z @ A.T @ B.T, y[rows]).backward()
        optimizer.step()
    assert torch.allclose(adapter.A, A, atol=1e-5)
    assert torch.allclose(adapter.B, B, atol=1e-5)


def test_new_classes_get_rows() -> None:
    adapter, h, given = OwnAdapter(6, 3), draw(5, 6), draw(5, 3)
    for _ in range(200):
        adapter.learn(h, given, torch.tensor([0, 1, 4, 4, 2]))
    found = adapter.answer(h, given)
    assert found.shape == (5, 5)
    assert found.argmax(dim=1).tolist() == [0, 1, 4, 4, 2]


def test_a_given_model_that_has_grown() -> None:
    adapter = OwnAdapter(6, 3)
    adapter.learn(draw(5, 6), draw(5, 3), torch.tensor([0, 1, 2, 0, 1]))
    adapter.learn(draw(5, 6), draw(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    assert adapter.answer(draw(5, 6), draw(5, 4)).shape == (5, 4)
