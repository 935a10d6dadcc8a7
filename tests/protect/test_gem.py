import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import Tensor, nn

from learners import draw
from nestling.core.batches import Batch
from nestling.core.errors import SettingError, ShapeMismatch
from nestling.protect import Retention
from nestling.protect.replay import AGEM, GEM, solve_dual
from rehearsing import check_resume, distance, make_net, make_stream, run


def differentiate(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the mean cross entropy as one vector (P,), with a twin of the model."""
    twin = copy.deepcopy(model)
    loss = -twin(x).log_softmax(1)[torch.arange(len(y)), y].mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(twin.parameters()))])


def adjust(method: Retention, model: nn.Module, grad: Tensor) -> Tensor:
    """What a method makes of a gradient (P,)."""
    params = list(model.parameters())
    parts = grad.split([param.numel() for param in params])
    for param, part in zip(params, parts, strict=True):
        param.grad = part.clone().view_as(param)
    method.adjust_gradients(model)
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


@settings(max_examples=60, deadline=None)
@given(
    num=st.integers(1, 12),
    width=st.integers(1, 15),
    margin=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 10_000),
    small=st.floats(1e-4, 1.0),
)
def test_the_dual_is_scipys(num: int, width: int, margin: float, seed: int, small: float) -> None:
    past, new = draw(num, width, seed=seed).double(), draw(width, seed=seed + 1).double()
    past[0] *= small  # one experience that is well learned
    found = solve_dual(past @ past.T, past @ new, margin)
    assert float(found.min()) >= margin
    # z = new + past^T v with v = u + margin and u >= 0 is the least-squares problem of nnls.
    base = new + margin * past.sum(0)
    _, length = nnls(past.T.numpy(), -base.numpy())
    moved = new + found @ past
    assert float(moved.norm()) == pytest.approx(length, rel=1e-5, abs=1e-6)
    products = past @ moved / past.norm(dim=1) / base.norm()
    assert float(products.min()) > -1e-5  # what remains opposes no past gradient
    if margin == 0.0:  # and a past gradient is only added where its bound is tight
        assert float((found * past.norm(dim=1) * products).abs().max()) < 1e-4


def test_equal_and_zero_gradients_are_solved() -> None:
    past = torch.ones(4, 3)
    past[3] = 0.0
    found = solve_dual(past @ past.T, past @ torch.tensor([-1.0, 0.0, 0.0]))
    assert bool(found.isfinite().all())
    assert float(found[:3].sum()) == pytest.approx(1 / 3, rel=1e-6)
    assert float(found[3]) == 0.0


@pytest.mark.parametrize("method", [AGEM(100, 100), GEM(100, 0.0)])
def test_a_gradient_that_opposes_the_past_is_projected(method: Retention) -> None:
    model = make_net()
    batches = make_stream((0, 1))
    run(method, model, batches)
    grad = draw(sum(p.numel() for p in model.parameters()), seed=1)
    assert torch.equal(adjust(method, model, grad), grad)  # nothing is past yet
    method.end_experience(model)
    run(method, model, make_stream((2, 3), 2, seed=4))  # of this experience, so no reference
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    past = differentiate(model, x, y)
    for sign in (1.0, -1.0):
        new = grad + sign * 3.0 * past / past.norm()
        expected = new if new @ past >= 0 else new - (new @ past) / (past @ past) * past
        torch.testing.assert_close(adjust(method, model, new), expected, rtol=1e-4, atol=1e-5)
    assert bool((expected != new).any())


def test_gem_opposes_no_experience_and_is_the_nearest_such_gradient() -> None:
    model, method = make_net(), GEM(100, 0.0)
    streams = [make_stream(labels, seed=k) for k, labels in enumerate([(0, 1), (2, 3), (0, 3)])]
    for batches in streams:
        run(method, model, batches)
        method.end_experience(model)
    joined = [[torch.cat(parts) for parts in zip(*batches, strict=True)] for batches in streams]
    past = torch.stack([differentiate(model, x, y) for x, y in joined]).double()
    new = -past.sum(0) + 0.1 * draw(past.shape[1], seed=5)
    found = adjust(method, model, new.float()).double()
    _, length = nnls(past.T.numpy(), -new.numpy())
    assert float(found.norm()) == pytest.approx(length, rel=1e-4)
    assert float((past @ found).min()) > -1e-4 * float(new.norm())
    gained = adjust(GEM(100, 0.0), model, new.float())
    assert torch.equal(gained, new.float())
    eager = copy.deepcopy(method)
    eager.margin = 0.5
    new = 0.2 * new  # a fifth of each past gradient would do; the margin asks for half
    moved = adjust(eager, model, new.float()).double()
    weights = solve_dual(past @ past.T, past @ new, 0.5)
    assert float(weights.min()) == 0.5 < float(weights.max()) < 0.6
    torch.testing.assert_close(moved, new + past.T @ weights, rtol=1e-4, atol=1e-5)
    assert float((past @ moved).min()) > -1e-4 * float(new.norm())
    assert float((past @ moved).max()) > 0.01  # where the margin holds: more than rounding


@pytest.mark.parametrize("make", [lambda: AGEM(60, 60), lambda: GEM(30)])
def test_the_second_experience_is_learned_and_the_first_one_less_forgotten(
    make: type[Retention],
) -> None:
    losses = []
    for method in (make(), Retention()):
        model = make_net()
        first, second = make_stream((0, 1), 60), make_stream((2, 3), 60, seed=9)
        run(method, model, first)
        method.end_experience(model)
        before = copy.deepcopy(model)
        learned = run(method, model, second)
        assert learned[-1] < 0.7 * learned[0]
        assert distance(before, model) > 0.01
        x, y = (torch.cat(parts) for parts in zip(*first, strict=True))
        losses.append(nn.functional.cross_entropy(model(x), y).item())
    assert losses[0] < 0.8 * losses[1]


@pytest.mark.parametrize("method", [AGEM(20, 10), GEM(10)])
def test_parameters_without_a_gradient_are_left_alone(method: Retention) -> None:
    model = make_net()
    model[0].weight.requires_grad_(False)
    run(method, model, make_stream())
    method.end_experience(model)
    frozen = model[0].weight.clone()
    run(method, model, make_stream((2, 3), seed=3))
    assert model[0].weight.grad is None
    assert torch.equal(frozen, model[0].weight)


def test_agem_draws_from_the_past_alone() -> None:
    model, method = make_net(), AGEM(40, 8, seed=1)
    run(method, model, make_stream((0,), 2))
    method.end_experience(model)
    run(method, model, make_stream((1,), 40))
    seen: set[float] = set()
    for _ in range(40):
        past = method._draw_past()
        assert past is not None
        assert past["y"].unique().tolist() == [0]
        seen.update(past["input 0"][:, 0].tolist())
    kept = method.store.read_all()
    assert seen == set(kept["input 0"][kept["y"] == 0][:, 0].tolist())


def test_gem_keeps_a_uniform_part_of_each_experience() -> None:
    model, method = make_net(), GEM(7)
    method.end_experience(model)  # an experience without examples is none
    for labels in ((0,), (1, 2)):
        run(method, model, make_stream(labels))
        method.end_experience(model)
        method.end_experience(model)
    assert [len(memory) for memory in method._memories] == [7, 7]
    assert set(method._memories[0].read_all()["y"].tolist()) == {0}
    assert method.count_bytes() == 14 * (4 * 4 + 8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AGEM(12, 4),
        lambda: AGEM(500, 4, balanced=True),
        lambda: GEM(7, seed=2),
        lambda: GEM(500, 0.0),
    ],
)
def test_resume_loses_no_bit(make: type[Retention]) -> None:
    check_resume(make)


def test_settings_and_batches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingError, match="num_per_experience=0"):
        GEM(0)
    with pytest.raises(SettingError, match=r"margin=-0\.5"):
        GEM(5, -0.5)
    with pytest.raises(SettingError, match="buffer_size=0"):
        AGEM(0)
    model = make_net()
    for method in (AGEM(5), GEM(5)):
        run(method, model, make_stream())
        with pytest.raises(ShapeMismatch):
            method.compute_loss(
                model, Batch((draw(2, 3),), target=torch.tensor([0, 1])), draw(2, 4)
            )
