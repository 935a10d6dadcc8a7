import copy
import math

import pytest
import torch
from torch import Tensor, nn

from learners import draw
from nestling.core.batches import Batch
from nestling.core.errors import SettingError, ShapeMismatch
from nestling.protect import Retention
from nestling.protect.replay import DER, DERpp, answer_distance
from rehearsing import check_resume, distance, make_net, make_stream, run


def grow(model: nn.Sequential, num_outputs: int) -> None:
    old = model[-1]
    assert isinstance(old, nn.Linear)
    head = nn.Linear(old.in_features, num_outputs)
    with torch.no_grad():
        head.weight[: old.out_features] = old.weight
        head.bias[: old.out_features] = old.bias
    model[-1] = head


def collect(method: Retention, model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Run a stream; all inputs and classes, and what was answered to them before their step."""
    batches = make_stream((0, 2))
    answers = []
    for x, y in batches:
        answers.append(model(x).detach())
        run(method, model, [(x, y)])
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return x, y, torch.cat(answers)


def test_der_holds_the_answers_of_before_the_step() -> None:
    model, method = make_net(), DER(1000, 0.3, batch_size=1000)
    x, y, answers = collect(method, model)
    gaps = [
        (a - b) ** 2
        for row, old in zip(model(x).tolist(), answers.tolist(), strict=True)
        for a, b in zip(row, old, strict=True)
    ]
    loss = method.compute_loss(model, Batch((x[:3],), target=y[:3]), model(x[:3]))
    assert loss is not None
    assert loss.item() == pytest.approx(0.3 * sum(gaps) / len(gaps), rel=1e-4)
    assert loss.item() > 1e-4


def test_derpp_adds_the_labels() -> None:
    model, method = make_net(), DERpp(1000, 0.3, 0.7, batch_size=1000)
    x, y, answers = collect(method, model)
    labels = -model(x).log_softmax(1)[torch.arange(len(y)), y].mean()
    expected = 0.3 * (model(x) - answers).square().mean() + 0.7 * labels
    loss = method.compute_loss(model, Batch((x[:3],), target=y[:3]), model(x[:3]))
    assert loss is not None
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_derpp_draws_twice() -> None:
    model, method = make_net(), DERpp(1000, 1.0, 1.0, batch_size=2)
    x, y, _ = collect(method, model)
    drawn = []

    class Spy(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            drawn.append(inputs)
            output: Tensor = model(inputs)
            return output

    different = 0
    for _ in range(10):
        drawn.clear()
        method.compute_loss(Spy(), Batch((x[:3],), target=y[:3]), model(x[:3]))
        different += not torch.equal(*drawn)
    assert different >= 8


def test_the_weights_move_towards_the_answers() -> None:
    model, method = make_net(), DER(100, 1.0, batch_size=100)
    x, _y, answers = collect(method, model)
    other = copy.deepcopy(model)
    method.alpha = 50.0
    batch = make_stream((3,), 1, seed=7)
    run(method, model, batch, 0.005)
    run(DER(100, 1.0), other, batch, 0.005)
    assert distance(model, other) > 1e-4
    assert (model(x) - answers).square().mean() < (other(x) - answers).square().mean()


def test_new_outputs_of_a_head_that_grew_are_free() -> None:
    model, method = make_net(3), DERpp(1000, 1.0, 0.0, batch_size=1000)
    x, y, answers = collect(method, model)
    grow(model, 5)
    output = model(x)
    loss = method.compute_loss(model, Batch((x,), target=y), output)
    assert loss is not None
    expected = (output[:, :3] - answers).square().mean().item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    head = model[-1].weight.grad
    assert isinstance(head, Tensor)
    assert bool(head.isfinite().all())
    assert float(head[3:].abs().max()) == 0.0
    run(method, model, make_stream((4,), 2, seed=3))  # answers of both widths
    state = copy.deepcopy(method.state_dict())
    twin = DERpp(1000, 1.0, 0.0, batch_size=1000)
    twin.load_state_dict(state)
    losses = [one.compute_loss(model, Batch((x,), target=y), model(x)) for one in (method, twin)]
    assert losses[0] is not None
    assert losses[1] is not None
    assert losses[0].item() == losses[1].item()
    assert math.isfinite(losses[0].item())


def test_what_does_not_fit_is_refused() -> None:
    model, method = make_net(4), DER(10, 1.0)
    x, y, _ = collect(method, model)
    small = make_net(3)
    with pytest.raises(ShapeMismatch, match="may grow and not shrink"):
        method.compute_loss(small, Batch((x,), target=y), small(x))
    with pytest.raises(ShapeMismatch, match="may grow"):
        answer_distance(draw(2, 2), draw(2, 3))
    with pytest.raises(ShapeMismatch, match="work"):
        answer_distance(draw(2, 2), draw(3, 2))
    with pytest.raises(SettingError, match="alpha=-1"):
        DER(10, -1.0)
    with pytest.raises(SettingError, match="beta=nan"):
        DERpp(10, 1.0, math.nan)
    with pytest.raises(SettingError, match="buffer_size=0"):
        DERpp(0, 1.0, 1.0)


@pytest.mark.parametrize(
    "make",
    [lambda: DER(12, 0.3, 4), lambda: DERpp(12, 0.3, 0.5, 4), lambda: DERpp(500, 1.0, 1.0)],
)
def test_resume_loses_no_bit(make: type[Retention]) -> None:
    check_resume(make)
