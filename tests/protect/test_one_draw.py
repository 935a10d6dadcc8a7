"""DER++ with one draw for both terms, as a learner's replay has it, across a head that grows."""

import math

import pytest
import torch
from torch import nn

from learners import draw, make_batch, make_mlp
from nestling.core.batches import Batch
from nestling.core.errors import ShapeMismatch
from nestling.protect import DERpp, take_step


def make_replay() -> tuple[DERpp, Batch, torch.Tensor]:
    """Sixteen stored examples of two classes with their outputs."""
    method = DERpp(16, 0.5, 2.0, 16, one_draw=True, seed=0)
    x, y = make_batch()
    batch, outputs = Batch((x,), target=y), draw(16, 2, seed=5)
    method.observe(make_mlp(), batch, outputs)
    return method, batch, outputs


def find_loss(method: DERpp, model: nn.Module, batch: Batch) -> torch.Tensor:
    loss = method.compute_loss(model, batch, model(*batch.inputs))
    assert loss is not None
    return loss


def test_the_loss_is_the_equation() -> None:
    method, batch, outputs = make_replay()
    model = make_mlp()
    answers = model(*batch.inputs)
    labels = nn.functional.cross_entropy(answers, batch.target)
    expected = 2.0 * labels + 0.5 * (answers - outputs).square().mean()
    torch.testing.assert_close(find_loss(method, model, batch), expected)


def test_one_forward_pass_serves_both_terms() -> None:
    method, batch, _ = make_replay()
    model, calls = make_mlp(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    method.compute_loss(model, batch, torch.zeros(16, 2))
    assert len(calls) == 1


def test_outputs_that_were_not_there_count_for_nothing() -> None:
    method, batch, outputs = make_replay()
    model = make_mlp(4, 3)
    loss = find_loss(method, model, batch)
    answers = model(*batch.inputs)
    labels = nn.functional.cross_entropy(answers, batch.target)
    expected = 2.0 * labels + 0.5 * (answers[:, :2] - outputs).square().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_wider_outputs_are_stored_beside_narrow_ones() -> None:
    _, batch, outputs = make_replay()
    assert batch.target is not None
    wide = DERpp(20, 0.2, 1.0, one_draw=True)
    wide.observe(make_mlp(), batch, outputs)
    more = Batch((batch.inputs[0][:4],), target=batch.target[:4] + 1)
    wide.check(more, draw(4, 3))
    assert wide.store.read_all()["logits"].shape == (16, 2)  # a check changes nothing
    wide.observe(make_mlp(), more, draw(4, 3))
    held = wide.store.read_all()["logits"]
    assert torch.equal(held[:16, :2], outputs)
    assert held[:16, 2].isnan().all()
    assert torch.equal(held[16:], draw(4, 3))


def test_what_cannot_be_stored_is_refused_before_it_is() -> None:
    method, batch, _ = make_replay()
    (x,), y = batch.inputs, batch.target
    assert y is not None
    for wrong in (Batch((x[:, :3],), target=y), Batch((x, x), target=y), Batch((x,), target=x)):
        with pytest.raises(ShapeMismatch):
            method.check(wrong)
    with pytest.raises(ShapeMismatch, match="may grow and not shrink"):
        method.check(batch, draw(16, 1))
    method.check(Batch((x[:3],), target=y[:3]))
    assert method.store.num_seen == 16


def test_what_comes_again_is_not_offered_twice() -> None:
    model, (x, y) = make_mlp(), make_batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    once = DERpp(50, 0.5, 1.0, one_draw=True, takes_repeats=False)
    for is_new in (True, False, False):
        take_step(model, optimizer, (x, y), [once], is_new=is_new)
    assert once.store.num_seen == 16
    take_step(model, optimizer, (x, y), [always := DERpp(50, 0.5, 1.0)], is_new=False)
    assert always.store.num_seen == 16


def test_outputs_of_any_shape_are_held() -> None:
    """Answers per position, (N, T, K); a head that grew has more of them."""
    torch.manual_seed(0)
    narrow, wide = nn.Linear(4, 2), nn.Linear(4, 3)
    batch = Batch((draw(6, 5, 4),), target=torch.zeros(6, 5, dtype=torch.int64))
    method = DERpp(6, 0.5, 1.0, 6, one_draw=True)
    outputs = narrow(*batch.inputs).detach()
    method.observe(narrow, batch, outputs)
    loss = find_loss(method, wide, batch)
    answers = wide(*batch.inputs)
    labels = nn.functional.cross_entropy(answers.movedim(-1, 1), batch.target)
    torch.testing.assert_close(loss, labels + 0.5 * (answers[..., :2] - outputs).square().mean())
    method.observe(wide, batch, answers.detach())
    assert math.isfinite(find_loss(method, wide, batch).item())
