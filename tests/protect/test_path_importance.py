import pytest
import torch
from torch import Tensor, nn

from learners import draw, make_batch, make_mlp
from nestling.core.batches import Batch
from nestling.core.errors import SettingError
from nestling.protect import take_step
from nestling.protect.penalties import MAS, SI, estimate_sensitivity
from nestling.protect.penalties.quadratic import weighted_distance


def measure(method: SI | MAS, model: nn.Module) -> float | None:
    x, y = make_batch(9)
    loss = method.compute_loss(model, Batch((x,), target=y), model(x))
    return None if loss is None else loss.item()


def weigh(
    model: nn.Module, importance: dict[str, Tensor], anchor: dict[str, Tensor], strength: float
) -> float:
    """strength sum_i Omega_i (theta_i - anchor_i)^2; there is no 1/2 in either paper."""
    total = 0.0
    for name, param in model.named_parameters():
        change = param.detach()[: len(anchor[name])] - anchor[name]
        total += strength * float((importance[name] * change**2).sum())
    return total


def read(model: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_si_is_the_papers_sum_along_the_path(optimizer: str) -> None:
    model, method = make_mlp(), SI(0.7, damping=0.05)
    steps = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    if optimizer == "adam":
        steps = torch.optim.Adam(model.parameters(), 0.01)  # type: ignore[assignment]
    omega = {name: torch.zeros_like(value) for name, value in read(model).items()}
    for task in range(3):
        start = read(model)
        path = {name: torch.zeros_like(value) for name, value in start.items()}
        for step in range(6):
            before = read(model)
            take_step(model, steps, make_batch(10 * task + step), [method])
            for name, param in model.named_parameters():
                assert param.grad is not None
                path[name] -= param.grad * (param.detach() - before[name])
        method.end_experience(model)
        anchor = read(model)
        for name, value in anchor.items():
            whole = omega[name] + path[name] / ((value - start[name]) ** 2 + 0.05)
            omega[name] = whole.clamp(min=0)
        assert measure(method, model) == 0.0
        with torch.no_grad():
            for name, param in model.named_parameters():
                param += 0.1 * draw(*param.shape, seed=len(name))
        assert measure(method, model) == pytest.approx(weigh(model, omega, anchor, 0.7), rel=1e-5)
        with torch.no_grad():
            for name, param in model.named_parameters():
                param.copy_(anchor[name])


def test_si_counts_only_what_lowered_the_loss() -> None:
    """On a quadratic bowl with one flat direction only the steep one is held."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    method, x = SI(1.0), torch.tensor([[2.0, 0.0]])
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(20):
        take_step(model, optimizer, (x, torch.ones(1, 1)), [method])
    method.end_experience(model)
    importance = method.state_dict()["pull"]["importance"]["weight"][0]
    # The path's integral is the loss that was lost, 1 of 1, up to the size of the steps.
    assert 1.0 / (0.25 + 0.1) < float(importance[0]) < 2.0 / (0.25 + 0.1)
    assert float(importance[1]) == 0.0


def test_si_follows_a_head_that_grows_within_an_experience() -> None:
    model, method = make_mlp(), SI(1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    start = model[2].weight.detach().clone()
    path = torch.zeros(3, 16)
    for step in range(6):
        if step == 3:
            grown = nn.Linear(16, 3)
            with torch.no_grad():
                grown.weight[:2], grown.bias[:2] = model[2].weight, model[2].bias
            start = torch.cat([start, grown.weight.detach()[2:]])
            model[2] = grown
            optimizer = torch.optim.SGD(model.parameters(), 0.2)
        before = model[2].weight.detach().clone()
        take_step(model, optimizer, make_batch(step, num_classes=2 if step < 3 else 3), [method])
        path[: len(before)] -= model[2].weight.grad * (model[2].weight.detach() - before)
    method.end_experience(model)
    expected = path / ((model[2].weight.detach() - start) ** 2 + 0.1)
    found = method.state_dict()["pull"]["importance"]["2.weight"]
    torch.testing.assert_close(found, expected.clamp(min=0), rtol=1e-5, atol=1e-7)


def test_si_wants_to_see_the_weights_before_a_step() -> None:
    model, method = make_mlp(), SI(1.0)
    x, y = make_batch(0)
    model(x).sum().backward()
    with pytest.raises(SettingError, match="call adjust_gradients"):
        method.observe(model, Batch((x,), target=y), model(x).detach())
    with pytest.raises(SettingError, match="damping=0"):
        SI(1.0, damping=0.0)


def mas_importance(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Aljundi 2018, Eq. 2 and 3, an example at a time."""
    total = {name: torch.zeros_like(value) for name, value in read(model).items()}
    for one in x:
        model.zero_grad()
        (model(one[None])[0].norm() ** 2).backward()
        for name, param in model.named_parameters():
            assert param.grad is not None
            total[name] += param.grad.abs() / len(x)
    model.zero_grad()
    return total


def test_mas_adds_up_the_sensitivity_of_the_output() -> None:
    model, method = make_mlp(), MAS(0.3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    omega = {name: torch.zeros_like(value) for name, value in read(model).items()}
    for task in range(3):
        x, y = make_batch(task, 20)
        for _ in range(3):
            take_step(model, optimizer, (x, y), [method])
        omega = {name: omega[name] + new for name, new in mas_importance(model, x).items()}
        anchor = read(model)
        batches = list(zip(x.split(3), torch.full((20,), -1).split(3), strict=True))
        method.end_experience(model, batches)
        take_step(model, optimizer, make_batch(task + 10))
        assert measure(method, model) == pytest.approx(weigh(model, omega, anchor, 0.3), rel=1e-5)


def test_sensitivity_does_not_depend_on_batches_or_targets() -> None:
    model, x = make_mlp(), draw(30, 4)
    whole = estimate_sensitivity(model, [(x, torch.zeros(30))])
    parts = estimate_sensitivity(
        model, zip(x.split(7), torch.arange(30).split(7), strict=True), num_examples=30
    )
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_path_of_many_small_steps_is_summed_in_full(dtype: torch.dtype) -> None:
    """1,000 equal steps: in bfloat16 the sum would stop growing after 256."""
    model = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.zeros_(model.weight)
    method = SI(1.0)
    for step in range(1000):
        model.weight.grad = torch.ones_like(model.weight)
        method.adjust_gradients(model)
        with torch.no_grad():
            model.weight.add_(-0.125 if step % 2 else 0.125)
        if step % 2:
            method.observe(model, Batch((torch.ones(1, 1),)), model.weight)
    path = method.state_dict()["path"]["weight"]
    assert path.dtype == torch.float32
    assert float(path) == pytest.approx(500 * 0.125)


def test_half_precision_feels_a_small_importance() -> None:
    """1e-9 is zero in float16, and so is the square of a step of 1e-4."""
    weight = torch.full((3,), 1e-4, dtype=torch.float16, requires_grad=True)
    found = weighted_distance(
        {"w": weight}, {"w": torch.zeros(3).half()}, {"w": torch.full((3,), 1e-9)}
    )
    assert found.item() == pytest.approx(3e-17, rel=0.01)
    (1e9 * found).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == pytest.approx([2e-4] * 3, rel=0.01)
