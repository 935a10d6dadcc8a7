"""Momentum as a memory: each form against its equation, and where the printed one fails."""

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import MismatchedParameters, SettingError
from nestling.optim.deep import MemoryMomentum, delta_momentum, momentum_update, muon_update
from nestling.optim.deep.memory_momentum import (
    Erase,
    Objective,
    erase_momentum,
    fit_momentum,
    map_gradient,
    precondition,
    read_momentum,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("objective", ["dot", "l2", "huber", "lp"])
def test_is_gradient_descent_on_its_objective(objective: Objective) -> None:
    m, v, a = draw(3, 4).requires_grad_(), draw(3, 4, seed=1), 0.7
    gap = m - v
    loss = {
        "dot": (1 - a) / 2 * m.square().sum() - (m * v).sum(),
        "l2": (1 - a) / 2 * gap.square().sum(),
        "huber": (1 - a) * nn.functional.huber_loss(m, v, reduction="sum", delta=0.5),
        "lp": (1 - a) / 4 * gap.abs().pow(4).sum(),
    }[objective]
    (grad,) = torch.autograd.grad(loss, m)
    found = fit_momentum(m.detach(), v, decay=a, objective=objective, delta=0.5, power=4.0)
    torch.testing.assert_close(found, (m - grad).detach())


def test_default_is_torchs_heavy_ball() -> None:
    ours, theirs = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    rules = (
        MemoryMomentum(lr=0.1, momentum=0.9).build([ours]),
        torch.optim.SGD([theirs], lr=0.1, momentum=0.9),
    )
    for step in range(5):
        for param, rule in zip((ours, theirs), rules, strict=True):
            param.grad = draw(3, 2, seed=step).float()
            rule.step()
    torch.testing.assert_close(ours, theirs)


def test_the_last_7_and_44_gradients_hold_half_and_nearly_all_of_a_momentum() -> None:
    """With a decay of 0.9; the paper says 6 and 43."""
    shares = {}
    for num in (6, 7, 43, 44):
        m = torch.zeros(1, dtype=torch.float64)
        for _ in range(num):
            m = fit_momentum(m, torch.ones_like(m), decay=0.9, objective="l2")
        shares[num] = float(m)
    assert shares[6] < 0.5 < shares[7]
    assert shares[43] < 0.99 < shares[44]


@pytest.mark.parametrize("shape", [(3, 4), (4,), (2, 3, 2)])
def test_matrix_form_is_its_product(shape: tuple[int, ...]) -> None:
    m, u = draw(*shape), draw(*shape, seed=1)
    rows = (1, -1) if len(shape) == 1 else (shape[0], -1)
    mm, uu = m.reshape(rows), u.reshape(rows)
    eye = torch.eye(mm.shape[1], dtype=torch.float64)
    rate = 0.9 * 0.5 / (1 + 0.5 * u.square().sum())
    expected = mm @ (0.9 * eye - rate * uu.mT @ uu)
    found = erase_momentum(m, u, decay=0.9, form="matrix", rate=0.5)
    torch.testing.assert_close(found, expected.reshape(shape))
    literal = erase_momentum(m, u, decay=0.9, form="paper")
    torch.testing.assert_close(literal, (mm @ (0.9 * eye - uu.mT @ uu)).reshape(shape))


def test_printed_form_blows_up_on_large_gradients_and_ours_does_not() -> None:
    sizes: dict[str, float] = {}
    forms: tuple[Erase, ...] = ("element", "matrix", "paper")
    for form in forms:
        m = draw(3, 4)
        for step in range(10):
            m = erase_momentum(m, 5 * draw(3, 4, seed=step), decay=0.9, form=form)
        sizes[form] = float(m.norm())
    assert sizes["paper"] > 1e6
    assert max(sizes["element"], sizes["matrix"]) <= float(draw(3, 4).norm())


def test_delta_momentum_forgets_what_the_new_gradient_speaks_of() -> None:
    m, u = torch.tensor([[1.0, 1.0]]), torch.tensor([[30.0, 0.0]])
    forms: tuple[Erase, ...] = ("element", "matrix")
    for form in forms:
        left = erase_momentum(m, u, decay=0.9, form=form)
        torch.testing.assert_close(left, torch.tensor([[0.0, 0.9]]), rtol=0, atol=2e-3)


def test_linear_memory_read_by_newton_schulz_is_muon() -> None:
    spec = MemoryMomentum(objective="l2", momentum=0.95, readout="orthogonal")
    state: dict[str, object] = {}
    momenta = [torch.zeros(3, 5)]
    for step in range(4):
        gradient = draw(3, 5, seed=step).float()
        found, state = momentum_update(gradient, state, spec)
        (muon,), momenta = muon_update([gradient], momenta, nesterov=False)
        torch.testing.assert_close(found, -muon)


def test_diagonal_preconditioner_without_momentum_is_rmsprop_and_adam() -> None:
    spec = MemoryMomentum(momentum=0.0, preconditioner="diagonal", lr=0.1)
    ours, theirs = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    rules = spec.build([ours]), torch.optim.Adam([theirs], lr=0.1, betas=(0.0, 0.999))
    for step in range(4):
        for param, rule in zip((ours, theirs), rules, strict=True):
            param.grad = draw(4, seed=step).float()
            rule.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (3, 1, 4)])
def test_matrix_preconditioner_whitens(shape: tuple[int, ...]) -> None:
    scaled, state = precondition(draw(*shape), {}, kind="matrix", decay=0.9)
    values = torch.linalg.svdvals(scaled.reshape(shape[0], -1))
    torch.testing.assert_close(values, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5)
    assert state["gram"].shape == (3, 3)
    zero, _ = precondition(torch.zeros(2, 3), {}, kind="matrix")
    assert torch.equal(zero, torch.zeros(2, 3))


def test_feature_maps_and_readouts() -> None:
    u = torch.tensor([[3.0, -4.0]])
    assert torch.equal(map_gradient(u, "sign"), u.sign())
    assert torch.equal(map_gradient(u, "tanh"), u.tanh())
    assert torch.equal(map_gradient(0 * u, "unit"), 0 * u)
    assert torch.equal(read_momentum(u, "tanh"), u.tanh())
    assert 0.6 < float(read_momentum(u[0], "orthogonal").norm()) < 1.25


def test_pure() -> None:
    spec = MemoryMomentum(preconditioner="matrix", erase="matrix")
    gradient = draw(2, 3)
    _, state = momentum_update(gradient, {}, spec)
    kept = {key: torch.as_tensor(value).clone() for key, value in state.items()}
    momentum_update(gradient, state, spec)
    assert torch.equal(gradient, draw(2, 3))
    assert all(torch.equal(torch.as_tensor(state[key]), value) for key, value in kept.items())


def test_wrong_input() -> None:
    _, state = momentum_update(draw(2, 3), {}, MemoryMomentum())
    with pytest.raises(MismatchedParameters, match="begin with the state"):
        momentum_update(draw(3, 2), state, MemoryMomentum())
    with pytest.raises(SettingError, match=r"power: a number of 1 or more works, got 0\.5"):
        MemoryMomentum(power=0.5)
    with pytest.raises(SettingError, match="erase: 'none', 'element', 'matrix' or 'paper' works"):
        delta_momentum(erase="all")  # type: ignore[arg-type]
    assert delta_momentum() == nl.optim.MemoryMomentum(erase="element")
