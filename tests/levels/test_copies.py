"""Copy levels: the average in closed form, its start, its clock and its chance."""

import pytest
import torch
from torch import nn

import nestling as nl
from nestling.levels import Copy, Level, NestedOptimizer, Plan


def run(copy: Copy, num_steps: int, seed: int = 0) -> tuple[list[float], list[float]]:
    """Weight and copy of a scalar that moves by -1 per step from 0."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    plan = Plan(Level("all", match=["*"], optimizer=nl.sgd(lr=1.0), band=(0.0, 1e9)), copy)
    nested = NestedOptimizer(model, plan, seed=seed)
    slow = []
    for _ in range(num_steps):
        nested.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        nested.step()
        slow.append(float(nested.copy_values(copy.name)["weight"]))
    return [-float(step + 1) for step in range(num_steps)], slow


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_average_in_closed_form(decay: float) -> None:
    live, slow = run(Copy("slow", of=["all"], decay=decay, warmup=False), 12)
    for last in range(12):
        expected = sum(
            (1 - decay) * decay ** (last - step) * value
            for step, value in enumerate(live[: last + 1])
        )
        assert slow[last] == pytest.approx(expected, rel=1e-5)


def test_warmup_is_the_plain_mean_at_first() -> None:
    """With the decay capped at 1 - 1/(n + 1), the copy is the mean of start and all since."""
    live, slow = run(Copy("slow", of=["all"], decay=0.9), 15)
    for last in range(9):
        assert slow[last] == pytest.approx(sum(live[: last + 1]) / (last + 2), rel=1e-5)
    for last in range(10, 15):
        assert slow[last] == pytest.approx(0.9 * slow[last - 1] + 0.1 * live[last], rel=1e-5)


def test_period_is_the_copys_own() -> None:
    _, slow = run(Copy("slow", of=["all"], decay=0.0, period=4, warmup=False), 9)
    assert slow == [0.0, 0.0, 0.0, -4.0, -4.0, -4.0, -4.0, -8.0, -8.0]


def test_chance_is_reproducible_and_fair() -> None:
    copy = Copy("slow", of=["all"], decay=0.0, probability=0.3, warmup=False)
    live, slow = run(copy, 300)
    assert slow == run(copy, 300)[1]
    assert slow != run(copy, 300, seed=1)[1]
    assert 60 < sum(a == b for a, b in zip(live, slow, strict=True)) < 120


def test_chance_does_not_touch_global_randomness() -> None:
    model = nn.Linear(1, 1, bias=False)
    before = torch.get_rng_state()
    plan = Plan(Level("all", match=["*"]), Copy("slow", of=["all"], probability=0.5))
    NestedOptimizer(model, plan).step()
    assert torch.equal(torch.get_rng_state(), before)


def test_copies_hold_only_what_they_are_of() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    nested = NestedOptimizer(
        model,
        Plan(
            Level("head", match=["1.*"]),
            Level("spine", match=["*"]),
            Copy("a", ["head"]),
            Copy("b", ["spine"]),
        ),
    )
    assert list(nested.copy_values("a")) == ["1.weight", "1.bias"]
    values = nested.copy_values("b")
    values["0.weight"].zero_()
    assert torch.equal(nested.copy_values("b")["0.weight"], model[0].weight)
    readings = {reading.level: reading for reading in nested.read_levels()}
    assert (readings["a"].kind, readings["a"].num_parameters) == ("copy", 4)
    assert readings["a"].share == pytest.approx(4 / 13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_slow_copy_moves_in_half_precision(dtype: torch.dtype) -> None:
    model = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.ones_(model.weight)
    slow = Copy("slow", of=["all"], decay=0.999, warmup=False)
    fixed = Copy("fixed", of=["all"], decay=1.0)
    plan = Plan(Level("all", match=["*"], optimizer=nl.sgd(lr=0.0)), slow, fixed)
    nested = NestedOptimizer(model, plan)
    nn.init.constant_(model.weight, 2.0)
    for step in range(2000):
        if step == 1000:  # the resumed one loses no bit
            state = nested.state_dict()
            nested = NestedOptimizer(model, plan)
            nested.load_state_dict(state)
            assert state["state"]["copies"]["slow"]["values"]["weight"].dtype == torch.float32
        nested.zero_grad()
        model(torch.ones(1, 1, dtype=dtype)).sum().backward()
        nested.step()
    found = nested.copy_values("slow")["weight"]
    assert found.dtype == dtype
    assert float(found) == pytest.approx(2.0 - 0.999**2000, abs=0.01)
    kept = nested.levels.copies["fixed"].values["weight"]
    assert kept.dtype == dtype
    assert float(kept) == 1.0
