"""Every gate's factor from its definition, and an update that is scaled by exactly that."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import MismatchedParameters, SettingError
from nestling.levels import (
    AgreementGate,
    Gate,
    ImportanceGate,
    Level,
    NestedOptimizer,
    ParentGate,
    Plan,
    ScheduleGate,
    SurpriseGate,
)
from nestling.levels.gates import (
    GateState,
    agreement_factor,
    importance_factor,
    schedule_factor,
    surprise_factor,
)

numbers = st.floats(-1e3, 1e3)


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def take_step(model: nn.Module, nested: NestedOptimizer, step: int) -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
    nested.zero_grad()
    loss = (model(x) - x[:, :2].square()).square().mean()
    loss.backward()
    nested.observe(loss)
    nested.step()


@given(
    step=st.integers(0, 99),
    ramp=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
)
def test_schedule_is_a_ramp(step: int, ramp: tuple[int, int], low: float, high: float) -> None:
    start, stop = sorted(ramp)
    factor = schedule_factor(step, start, stop, low, high)
    assert min(low, high) - 1e-9 <= factor <= max(low, high) + 1e-9
    if step >= stop:
        assert factor == high
    elif step <= start:
        assert factor == low
    else:
        share = (step - start) / (stop - start)
        assert factor == pytest.approx((1 - share) * low + share * high, abs=1e-9)


@given(loss=numbers, mean=numbers, spread=st.floats(0, 1e3), threshold=st.floats(-9, 9))
def test_surprise_is_a_sigmoid(loss: float, mean: float, spread: float, threshold: float) -> None:
    factor = surprise_factor(loss, mean, spread, threshold)
    assert 0.0 <= factor <= 1.0
    assert surprise_factor(loss + 1.0, mean, spread, threshold) >= factor
    if spread > 1e-3:
        level = torch.tensor((loss - mean) / spread - threshold, dtype=torch.float64)
        assert factor == pytest.approx(float(torch.sigmoid(level)), abs=1e-9)


def test_importance_and_agreement() -> None:
    fisher = torch.tensor([0.0, 1.0, 3.0, 4.0])
    factors = importance_factor(fisher, fisher.mean(), strength=2.0)
    torch.testing.assert_close(factors, torch.tensor([1.0, 0.5, 0.25, 0.2]))
    assert torch.equal(importance_factor(fisher, fisher.mean(), 0.0), torch.ones(4))
    zeros = torch.zeros(3)
    assert torch.equal(importance_factor(zeros, zeros.mean(), 5.0), torch.ones(3))
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])
    cosine = (3.0 * 1.0 + 4.0 * 1.0) / (5.0 * math.sqrt(2.0))
    ones = [torch.tensor([1.0, 0.0]), torch.tensor([[1.0]])]
    assert agreement_factor([a, b], ones) == pytest.approx(cosine, rel=1e-6)
    assert agreement_factor([a, b], [-a, -b]) == 0.0
    assert agreement_factor([a], [zeros[:2]]) == 1.0


def test_surprise_gate_follows_the_running_mean_and_spread() -> None:
    """A twin with explicit weights: recent losses count 2^(-age / half_life), normalised."""
    gate = SurpriseGate(threshold=1.0, half_life=1e9, floor=0.25)
    state = GateState([gate])
    losses = [float(x) for x in torch.rand(30, generator=torch.Generator().manual_seed(0))]
    for index, loss in enumerate([*losses, math.nan, math.inf, 3.0]):
        state.observe_loss(loss)
        if index < 10:
            assert state.surprise == 1.0
        else:
            assert state.surprise < 1.0
    past = torch.tensor(losses, dtype=torch.float64)
    expected = surprise_factor(3.0, float(past.mean()), float(past.std(correction=0)), 1.0)
    assert state.surprise == pytest.approx(0.25 + 0.75 * expected, abs=1e-6)
    assert state.num_losses == 31


def test_surprise_gate_forgets() -> None:
    state = GateState([SurpriseGate(half_life=1.0)])
    for loss in [100.0] * 20 + [1.0] * 40:
        state.observe_loss(loss)
    assert state.mean == pytest.approx(1.0, abs=1e-6)
    assert state.variance == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_update_is_scaled_by_the_gate(factor: float) -> None:
    """The optimizer's own step, moments included, then the factor: not a scaled gradient."""
    plain, gated = make_model(), make_model()
    gate = ScheduleGate(start=0, stop=0, high=factor)
    rule = nl.adamw(lr=0.1, weight_decay=0.1)
    bare = NestedOptimizer(plain, Plan(Level("all", match=["*"], optimizer=rule)))
    nested = NestedOptimizer(gated, Plan(Level("all", match=["*"], optimizer=rule, gate=[gate])))
    before = [param.detach().clone() for param in plain.parameters()]
    take_step(plain, bare, 0)
    take_step(gated, nested, 0)
    for old, full, new in zip(before, plain.parameters(), gated.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old + factor * (full.detach() - old))
        if factor in (0.0, 1.0):
            assert torch.equal(new, old if factor == 0.0 else full)
    mine, theirs = nested.levels["all"].inner, bare.levels["all"].inner
    moments = [
        [v for entry in inner.state.values() for v in entry.values()] for inner in (mine, theirs)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
    assert nested.read_levels()[0].factor == factor


def test_gates_multiply_and_children_follow_parents() -> None:
    """The parent stands below its child in the plan: order does not matter."""
    half, third = (ScheduleGate(start=0, stop=0, high=h) for h in (0.5, 0.3))
    plan = Plan(
        Level("head", match=["2.*"], gate=[ParentGate(of="spine"), half]),
        Level("spine", match=["*"], period=2, gate=[third, half]),
    )
    model = make_model()
    nested = NestedOptimizer(model, plan)
    factors = []
    for step in range(4):
        take_step(model, nested, step)
        factors.append([reading.factor for reading in nested.read_levels()])
    torch.testing.assert_close(factors[1:], [[0.075, 0.15]] * 3)
    assert factors[0][1] == 1.0


def test_agreement_gate_closes_on_opposite_gradients() -> None:
    model = nn.Linear(2, 1, bias=False)
    gate = AgreementGate(half_life=1e9, floor=0.1)
    rule = nl.sgd(lr=0.01)
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"], optimizer=rule, gate=[gate])))
    factors = []
    for sign in (1.0, 1.0, -1.0):
        nested.zero_grad()
        (sign * model(torch.ones(1, 2))).sum().backward()
        nested.step()
        factors.append(nested.read_levels()[0].factor)
    assert factors == pytest.approx([1.0, 1.0, 0.1])


def test_own_importance_is_a_running_mean_of_squared_gradients() -> None:
    state = GateState([ImportanceGate(strength=1.0, half_life=2.0)])
    expected = torch.zeros(3)
    for step in range(5):
        gradient = torch.randn(3, generator=torch.Generator().manual_seed(step))
        _, weights = state.compute_factor(step, [gradient], {})
        assert weights is not None
        torch.testing.assert_close(weights[0], importance_factor(expected, expected.mean(), 1.0))
        keep = 2.0**-0.5
        expected = keep * expected + (1 - keep) * gradient.square()
    torch.testing.assert_close(state.importance[0], expected)


def test_given_importance_holds_the_weights_that_matter() -> None:
    plain, held = make_model(), make_model()
    plan = Plan(
        Level("head", match=["2.*"], optimizer=nl.sgd(lr=0.1)),
        Level("spine", match=["*"], optimizer=nl.sgd(lr=0.1), gate=[ImportanceGate(strength=3.0)]),
    )
    bare = NestedOptimizer(plain, Plan(Level("all", match=["*"], optimizer=nl.sgd(lr=0.1))))
    nested = NestedOptimizer(held, plan)
    fisher = {"0.weight": torch.zeros(4, 3), "0.bias": torch.zeros(4)}
    fisher["0.weight"][0] = 1e12
    nested.set_importance(fisher)
    fisher["0.weight"].zero_()  # a copy was taken
    before = held[0].weight.detach().clone()
    take_step(plain, bare, 0)
    take_step(held, nested, 0)
    change, full = held[0].weight.detach() - before, plain[0].weight.detach() - before
    torch.testing.assert_close(change[1:], full[1:])
    torch.testing.assert_close(change[0], full[0] / (1.0 + 3.0 * 16 / 3), rtol=1e-3, atol=1e-7)
    assert nested.levels["spine"].gates.importance[0][0, 0] == 1e12


@pytest.mark.parametrize(
    "importance",
    [
        {"0.wieght": torch.zeros(4, 3)},
        {"0.weight": torch.zeros(4, 3)},
        {"0.weight": torch.zeros(3, 4), "0.bias": torch.zeros(4)},
    ],
)
def test_importance_that_does_not_fit_is_refused(importance: dict[str, Tensor]) -> None:
    nested = NestedOptimizer(make_model(), Plan(Level("all", match=["*"], gate=[ImportanceGate()])))
    with pytest.raises(MismatchedParameters, match=r"0\.|2\."):
        nested.set_importance(importance)
    assert nested.levels["all"].gates.importance == []


def test_surprise_gate_needs_the_loss() -> None:
    model = make_model()
    gates: list[Gate] = [SurpriseGate()]
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"], gate=gates)))
    with pytest.raises(SettingError, match=r"surprise gate of level 'all' needs the loss; call"):
        nested.step()
    assert nested.num_steps == 0

    def closure() -> float:
        nested.zero_grad()
        loss = model(torch.ones(1, 3)).square().sum()
        loss.backward()
        return loss  # type: ignore[no-any-return]

    with torch.no_grad():
        loss = nested.step(closure)
    state = nested.levels["all"].gates
    assert state.mean == pytest.approx(float(torch.as_tensor(loss).detach()))
    with pytest.raises(SettingError, match="needs the loss"):
        nested.step()  # the loss of one step does not stand for the next
    assert (nested.num_steps, state.num_losses) == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_gradient_agrees_with_itself_in_any_precision_and_size(dtype: torch.dtype) -> None:
    for num, value in ((70_000, 1.0), (10, 1e-4), (10, 1e4)):
        gradient = [torch.full((num,), value, dtype=dtype)]
        assert agreement_factor(gradient, gradient) == pytest.approx(1.0)
        assert agreement_factor(gradient, [-gradient[0]]) == 0.0
    for value in (1e-30, 1e30):  # squares that float32 does not hold
        wide = [torch.full((10,), value)]
        assert agreement_factor(wide, wide) == pytest.approx(1.0)
        assert agreement_factor(wide, [-wide[0]]) == 0.0


def test_gates_remember_half_precision_gradients_in_full() -> None:
    """A slow gradient moves, and squares of small gradients are no zeros."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        state = GateState([AgreementGate(half_life=1000.0), ImportanceGate(half_life=10.0)])
        gradients = [torch.tensor([1e-4, 2e-4], dtype=dtype)]
        state.compute_factor(1, [torch.zeros_like(gradients[0])], {})
        for step in range(100):
            state.compute_factor(step, gradients, {})
        found[dtype] = torch.cat(state.slow + state.importance)
        assert found[dtype].dtype == torch.float32
    for dtype in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(found[dtype], found[torch.float32], rtol=0.01, atol=0.0)
