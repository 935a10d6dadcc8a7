"""What is said of a step before it is taken holds after it, whatever the gradients were."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nestling as nl
from nestling.levels import ChangeBounds
from nestling.levels.step_bounds import FiniteLook, adam_bound, bound_step

RULES: list[Any] = [
    lambda p: torch.optim.SGD(p, 0.1),
    lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.3),
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5),
    lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.3),
    lambda p: torch.optim.Adam(p, 0.01, betas=(0.5, 0.9)),
    lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3),
    lambda p: torch.optim.AdamW(p, 0.01, betas=(0.9, 0.95), eps=0.0),
]


@given(
    rule=st.sampled_from(RULES),
    growths=st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=30),
    divisor=st.integers(1, 3),
)
def test_no_step_is_larger_than_was_said(rule: Any, growths: list[float], divisor: int) -> None:
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(s, generator=generator)) for s in ((3, 4), (5,))]
    inner = rule(params)
    size = 1.0
    for growth in growths:  # gradients that grow and shrink by orders of magnitude
        size = min(max(size * 10.0**growth, 1e-6), 1e6)
        for param in params:
            param.grad = size * torch.randn(param.shape, generator=generator)
        before = [param.detach().double().clone() for param in params]
        sums = [param.grad * divisor for param in params]  # type: ignore[operator]
        fixed, share = bound_step(inner, params, sums, divisor, FiniteLook())
        inner.step()
        weights = torch.cat([value.flatten() for value in before]).norm()
        now = torch.cat([param.detach().double().flatten() for param in params])
        moved = (now - torch.cat([value.flatten() for value in before])).norm()
        assert float(moved) <= (fixed + share * float(weights)) * 1.001 + 1e-6


def test_of_others_nothing_is_said() -> None:
    param = nn.Parameter(torch.ones(2))

    class Own(torch.optim.SGD):
        """It may do what it likes."""

    others = [
        torch.optim.Adagrad([param]),
        Own([param], 0.1),
        torch.optim.Adam([param], amsgrad=True),
        torch.optim.SGD([param], 0.1, momentum=0.9, nesterov=True),
    ]
    for inner in others:
        assert bound_step(inner, [param], [torch.ones(2)], 1, FiniteLook())[0] == float("inf")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_not_vouched_for(bad: float) -> None:
    param = nn.Parameter(torch.ones(2))
    for inner in (torch.optim.SGD([param], 0.1), torch.optim.AdamW([param], 0.1)):
        fixed, _ = bound_step(inner, [param], [torch.tensor([1.0, bad])], 1, FiniteLook())
        assert not fixed < float("inf")


def test_betas_without_a_bound_have_none() -> None:
    assert adam_bound(0.99, 0.5) == float("inf")
    assert adam_bound(0.0, 0.5) == pytest.approx(2.0**0.5)


def run_bounded(monkeypatch: pytest.MonkeyPatch, most_free: int, bounds: ChangeBounds) -> Any:
    """Weights after 200 steps, how many updates needed no look, and what was noted."""
    monkeypatch.setattr("nestling.levels.change_budget.MOST_FREE", most_free)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = nl.NestedOptimizer(
        model, nl.Plan(nl.Level("all", match=["*"], optimizer=nl.adamw(lr=2e-4)))
    )
    time = iter(range(0, 10**9, 3000))
    optimizer.levels.bind("all", bounds, lambda: float(next(time)))
    generator = torch.Generator().manual_seed(1)
    start = [param.detach().clone() for param in model.parameters()]
    num_free, budget = 0, optimizer.levels.gradient["all"].budget
    assert budget is not None
    events: list[object] = []
    for _ in range(200):
        x = torch.randn(16, 8, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
        left = budget.num_free
        optimizer.step()
        num_free += budget.num_free < left
        events += optimizer.take_events()
    pairs = zip(model.parameters(), start, strict=True)
    moved = sum(float((now.detach() - then).square().sum()) for now, then in pairs)
    size = sum(float(s.square().sum()) for s in start)
    return optimizer.levels.digests(), num_free, events, (moved / size) ** 0.5


@pytest.mark.parametrize(
    "bounds",
    [
        ChangeBounds(per_update=0.2, per_day=5.0, since_validation=10.0),
        ChangeBounds(per_update=0.2, per_day=0.02, since_validation=0.1),
        ChangeBounds(since_validation=0.05),
    ],
)
@pytest.mark.filterwarnings("ignore::nestling.levels.events.LevelAlarm")
def test_updates_without_a_look_are_bit_for_bit_those_with_one(
    monkeypatch: pytest.MonkeyPatch, bounds: ChangeBounds
) -> None:
    looked = run_bounded(monkeypatch, 0, bounds)
    free = run_bounded(monkeypatch, 64, bounds)
    assert looked[1] == 0
    assert free[1] > 20
    assert free[0] == looked[0]
    assert free[2] == looked[2]
    assert free[3] <= (bounds.since_validation or 1.0) * (1 + 1e-5)


def test_a_gradient_that_is_not_finite_is_seen_among_updates_without_a_look() -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 8)
    optimizer = nl.NestedOptimizer(
        model, nl.Plan(nl.Level("all", match=["*"], optimizer=nl.adamw(lr=1e-4)))
    )
    optimizer.levels.bind("all", ChangeBounds(per_update=0.5))
    budget = optimizer.levels.gradient["all"].budget
    assert budget is not None
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.ones(1, 64)).square().sum().backward()
        optimizer.step()
    assert budget.num_free > 0
    for param in model.parameters():
        param.grad = torch.full_like(param, float("nan"))
    optimizer.step()
    assert all(bool(param.isfinite().all()) for param in model.parameters())
    assert [type(event).__name__ for event in optimizer.take_events()] == ["Braked"]
