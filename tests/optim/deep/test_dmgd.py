"""Deep momentum: its memory is trained, by the right gradient, and answers with descent."""

import pytest
import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.optim import dmgd
from nestling.optim.deep import DMGD, dmgd_update
from nestling.optim.deep.dmgd import Loss, start_memory


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("loss", ["l2", "dot"])
def test_memory_is_trained_by_the_gradient_of_its_loss(loss: Loss) -> None:
    """The training by hand against autograd."""
    u = draw(6, 5)
    state = start_memory(5, 4, u)
    state["outer"] = draw(5, 4, seed=1)
    inner, outer = (state[key].clone().requires_grad_() for key in ("inner", "outer"))
    z = u / u.square().mean().sqrt()
    hidden = torch.tanh(5**-0.5 * z @ inner.mT)
    answer = hidden @ outer.mT
    per_row = {"l2": (answer + z).square().sum(1) / 2, "dot": (answer * z).sum(1)}[loss]
    grads = torch.autograd.grad(per_row.mean(), (inner, outer))
    _, after = dmgd_update(u, state, decay=0.9, inner_lr=0.3, num_hidden=4, loss=loss)
    rates = (
        0.3 / (1 + 0.3 * outer.square().sum()),
        0.3 / (1 + 0.3 * hidden.square().sum(1).mean()),
    )
    torch.testing.assert_close(after["inner"], (inner - rates[0] * grads[0]).detach())
    torch.testing.assert_close(after["outer"], (0.9 * outer - rates[1] * grads[1]).detach())


def test_memory_learns_the_gradients_it_sees() -> None:
    """Training matters: the answer approaches -u, and an untrained memory answers 0."""
    u = draw(8, 5)
    state: dict[str, object] = {}
    gaps = []
    for _ in range(200):
        step, state = dmgd_update(u, state)
        gaps.append(float((step + u).norm() / u.norm()))
    assert gaps[-1] < 0.2 < 0.6 < gaps[0]
    still, state = dmgd_update(u, {}, inner_lr=0.0)
    assert torch.equal(still, torch.zeros_like(u))


def test_the_papers_target_of_ones_does_not_descend() -> None:
    ours = literal = torch.tensor([[-3.0, 2.0]])
    states: list[dict[str, object]] = [{}, {}]
    for _ in range(200):
        step, states[0] = dmgd_update(ours, states[0])  # the gradient of |w|^2 / 2 is w
        ours = ours + 0.05 * step
        step, states[1] = dmgd_update(literal, states[1], target="ones")
        literal = literal + 0.05 * step
    assert float(ours.norm()) < 0.5
    assert float(literal.norm()) > 3.0


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e12])
def test_step_has_the_size_of_the_gradient(size: float) -> None:
    u = (size * draw(4, 3)).float()
    step, state = dmgd_update(u, {})
    assert bool(step.isfinite().all())
    assert float(step.norm()) <= float(u.norm())
    assert all(bool(value.isfinite().all()) for value in state.values())


def test_pure_and_settings() -> None:
    u = draw(4, 3)
    _, state = dmgd_update(u, {})
    kept = {key: value.clone() for key, value in state.items()}
    dmgd_update(u, state)
    assert torch.equal(u, draw(4, 3))
    assert all(torch.equal(state[key], value) for key, value in kept.items())
    with pytest.raises(SettingError, match="num_hidden: a number of 1 or more works, got 0"):
        DMGD(num_hidden=0)


def test_the_factory_is_the_spec() -> None:
    assert dmgd() == DMGD()
    given = dmgd(0.1, decay=0.5, inner_lr=0.2, num_hidden=3, loss="dot", target="ones")
    assert given == DMGD(0.1, 0.0, 0.5, 0.2, 3, "dot", "ones")
    with pytest.raises(SettingError, match="num_hidden"):
        dmgd(num_hidden=0)
