"""Replay with stored outputs, across a head that grows."""

import pytest
import torch
from nestling.learn.rehearsal import Rehearsal, pack, unpack
from torch import nn

from learners import draw, make_batch, make_mlp
from nestling.core.batches import Batch, default_loss
from nestling.core.errors import ShapeMismatch


def make_rehearsal() -> tuple[Rehearsal, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sixteen stored examples of two classes with their outputs."""
    rehearsal = Rehearsal(16, default_loss, seed=0, num_drawn=16, alpha=0.5, beta=2.0)
    x, y = make_batch()
    outputs = draw(16, 2, seed=5)
    rehearsal.add(Batch((x,), target=y), outputs)
    return rehearsal, x, y, outputs


def test_the_loss_is_the_equation() -> None:
    rehearsal, x, y, outputs = make_rehearsal()
    model = make_mlp()
    loss = rehearsal.compute_loss(model, torch.device("cpu"))
    labels = nn.functional.cross_entropy(model(x), y)
    expected = 2.0 * labels + 0.5 * (model(x) - outputs).square().mean()
    torch.testing.assert_close(loss, expected)


def test_outputs_that_were_not_there_count_for_nothing() -> None:
    rehearsal, x, y, outputs = make_rehearsal()
    model = make_mlp(4, 3)
    loss = rehearsal.compute_loss(model, torch.device("cpu"))
    labels = nn.functional.cross_entropy(model(x), y)
    expected = 2.0 * labels + 0.5 * (model(x)[:, :2] - outputs).square().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_wider_outputs_are_stored_beside_narrow_ones() -> None:
    _, x, y, outputs = make_rehearsal()
    wide = Rehearsal(20, default_loss, seed=0)
    wide.add(Batch((x,), target=y), outputs)
    wide.add(Batch((x[:4],), target=y[:4] + 1), draw(4, 3))
    held = wide.store.read_all()["output"]
    assert torch.equal(held[:16, :2], outputs)
    assert held[:16, 2].isnan().all()
    assert torch.equal(held[16:], draw(4, 3))


def test_what_cannot_be_stored_is_refused_before_it_is() -> None:
    rehearsal, x, y, _ = make_rehearsal()
    for wrong in (Batch((x[:, :3],), target=y), Batch((x, x), target=y), Batch((x,), target=x)):
        with pytest.raises(ShapeMismatch):
            rehearsal.check(wrong)
    rehearsal.check(Batch((x[:3],), target=y[:3]))
    assert rehearsal.store.num_seen == 16


def test_batches_come_back_as_they_were() -> None:
    x, y = make_batch()
    batch = unpack(pack(Batch((x, x + 1), {"mask": x > 0}, y)))
    assert torch.equal(batch.inputs[1], x + 1)
    assert torch.equal(batch.keywords["mask"], x > 0)
    assert batch.target is not None
    assert torch.equal(batch.target, y)
