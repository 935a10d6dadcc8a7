import copy
import math

import pytest
import torch
from torch import Tensor, nn

from learners import draw, make_batch, make_mlp
from nestling.core.batches import Batch
from nestling.core.errors import (
    DataError,
    MismatchedParameters,
    SettingError,
    ShapeMismatch,
    UnknownLabel,
)
from nestling.protect import take_step
from nestling.protect.penalties import LwF, MaskAbsent, distillation_loss, mask_absent


def reference(new: Tensor, old: Tensor, temperature: float, classes: list[int]) -> float:
    """T^2 sum_k p_k log(p_k / q_k), averaged over examples, with plain numbers."""
    total = 0.0
    for fresh, past in zip(new.tolist(), old.tolist(), strict=True):
        p = [math.exp(past[k] / temperature) for k in classes]
        q = [math.exp(fresh[k] / temperature) for k in classes]
        for a, b in zip(p, q, strict=True):
            total += a / sum(p) * math.log((a / sum(p)) / (b / sum(q)))
    return temperature**2 * total / len(new)


def ask(method: LwF, model: nn.Module, x: Tensor) -> float | None:
    y = torch.zeros(len(x), dtype=torch.int64)
    loss = method.compute_loss(model, Batch((x,), target=y), model(x))
    return None if loss is None else loss.item()


def make_net(num_outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, num_outputs)
    )


@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 2], [1]])
def test_distillation_equals_plain_numbers(classes: list[int]) -> None:
    new, old = draw(5, 4, seed=1).requires_grad_(), draw(5, 3, seed=2).requires_grad_()
    loss = distillation_loss(new, old, 2.5, classes)
    expected = reference(new.detach(), old.detach(), 2.5, classes)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    loss.backward()
    assert old.grad is None
    assert new.grad is not None
    others = [k for k in range(4) if k not in classes]
    assert float(new.grad[:, others].abs().sum()) == 0.0


def test_the_gradient_is_that_of_the_papers_cross_entropy() -> None:
    new, old = draw(5, 3, seed=1).requires_grad_(), draw(5, 3, seed=2)
    (found,) = torch.autograd.grad(distillation_loss(new, old, 2.0), new)
    paper = -((old / 2).softmax(1) * (new / 2).log_softmax(1)).sum(1).mean()
    (expected,) = torch.autograd.grad(4 * paper, new)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_lwf_holds_the_old_answers_over_the_classes_seen_before() -> None:
    model, method = make_net(), LwF(0.7, temperature=3.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = draw(12, 4, seed=3)
    for label in (0, 2):
        take_step(model, optimizer, (x, torch.full((12,), label)), [method])
        assert ask(method, model, x) is None
    method.end_experience(model)
    frozen = copy.deepcopy(model).eval()
    for step in range(3):  # other classes, which are not old before the next end
        take_step(model, optimizer, make_batch(step, 12), [method])
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    output = draw(12, 4, seed=4)
    loss = method.compute_loss(model, Batch((x,), target=torch.ones(12, dtype=torch.int64)), output)
    assert loss is not None
    with torch.no_grad():
        expected = 0.7 * reference(output, frozen(x), 3.0, [0, 2])
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    method.end_experience(model)
    with torch.no_grad():
        expected = 0.7 * reference(output, copy.deepcopy(model).eval()(x), 3.0, [0, 1, 2])
    loss = method.compute_loss(model, Batch((x,), target=torch.ones(12, dtype=torch.int64)), output)
    assert loss is not None
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_lwf_with_a_head_that_grew_uses_the_old_columns() -> None:
    model, method = make_mlp(4, 2), LwF(1.0)
    x, y = make_batch(0)
    method.observe(model, Batch((x,), target=y), model(x).detach())
    method.end_experience(model)
    old = model(x).detach()
    grown = nn.Linear(16, 5)
    model[2] = grown
    assert ask(method, model, x) == pytest.approx(
        reference(model(x).detach(), old, 2.0, [0, 1]), rel=1e-5
    )


def test_lwf_after_one_class_once_holds_nothing_yet_and_breaks_nothing() -> None:
    model, method = make_mlp(4, 3), LwF(1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    take_step(model, optimizer, (draw(1, 4), torch.tensor([2])), [method])
    method.end_experience(model)
    take_step(model, optimizer, (draw(3, 4), torch.tensor([1, 1, -100])), [method])
    assert ask(method, model, draw(3, 4)) == 0.0
    method.end_experience(model)
    assert method.state_dict()["old_classes"] == [1, 2]


def test_lwf_says_what_it_cannot_do() -> None:
    model, method = make_mlp(), LwF(1.0)
    x, y = make_batch(0)
    with pytest.raises(DataError, match=r"torch\.float32 values"):
        method.compute_loss(model, Batch((x,), target=draw(16, 2)), model(x))
    method.observe(model, Batch((x,), target=y), model(x).detach())
    method.end_experience(model)
    other = nn.Sequential(*model, nn.Linear(2, 2))
    with pytest.raises(MismatchedParameters, match=r"'3\.bias'"):
        method.compute_loss(other, Batch((x,), target=y), other(x))
    with pytest.raises(SettingError, match="temperature=0"):
        LwF(1.0, temperature=0.0)
    with pytest.raises(ShapeMismatch, match="J <= K"):
        distillation_loss(draw(2, 2), draw(2, 3), 1.0)
    with pytest.raises(ShapeMismatch, match="class 3"):
        distillation_loss(draw(2, 4), draw(2, 3), 1.0, [0, 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masked_logits_are_a_softmax_over_the_present(dtype: torch.dtype) -> None:
    output = (10 * draw(6, 5)).to(dtype).requires_grad_()
    masked = mask_absent(output, torch.tensor([1, 3, 1, -100]))
    shares = masked.float().softmax(1)
    expected = output.detach().float()[:, [1, 3]].softmax(1)
    torch.testing.assert_close(shares[:, [1, 3]], expected, rtol=1e-3, atol=1e-6)
    loss = nn.functional.cross_entropy(masked.float(), torch.tensor([1, 3, 1, 3, 1, 3]))
    loss.backward()
    assert math.isfinite(loss.item())
    assert output.grad is not None
    assert float(output.grad[:, [0, 2, 4]].abs().sum()) == 0.0


def test_absent_classes_keep_their_rows() -> None:
    model = make_mlp(4, 4)
    before = model[2].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    x = draw(16, 4)
    take_step(model, optimizer, (x, torch.arange(16) % 2), [MaskAbsent()])
    assert torch.equal(model[2].weight[2:], before[2:])
    assert not torch.equal(model[2].weight[:2], before[:2])
    moved = model[2].weight.detach().clone()
    take_step(model, optimizer, (x, torch.full((16,), 3)), [MaskAbsent()])
    assert torch.equal(model[2].weight, moved)  # one class alone teaches nothing


def test_present_in_the_experience_gathers_classes_until_it_ends() -> None:
    model, method, logits = make_mlp(4, 4), MaskAbsent("experience"), torch.zeros(1, 4)

    def list_open(label: int) -> list[int]:
        seen = method.restrict(logits, Batch((logits,), target=torch.tensor([label])))[0]
        return [k for k, value in enumerate(seen.tolist()) if value == 0]

    assert method.needs_boundary
    assert not MaskAbsent().needs_boundary
    assert list_open(0) == [0]
    assert list_open(1) == [1]  # a step that was not taken is not remembered
    method.observe(model, Batch((logits,), target=torch.tensor([0, -100])), logits)
    assert list_open(1) == [0, 1]
    method.end_experience(model)
    assert list_open(3) == [3]


def test_masks_say_what_they_cannot_do() -> None:
    with pytest.raises(UnknownLabel, match="label 3 and 3 logits"):
        MaskAbsent().restrict(
            torch.zeros(1, 3), Batch((torch.zeros(1, 3),), target=torch.tensor([3]))
        )
    with pytest.raises(DataError, match="values"):
        MaskAbsent().restrict(
            torch.zeros(1, 3), Batch((torch.zeros(1, 3),), target=torch.zeros(1, 3))
        )
    with pytest.raises(SettingError, match="did you mean 'batch'"):
        MaskAbsent("batches")  # type: ignore[arg-type]
