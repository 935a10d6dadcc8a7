"""The outer step is torch's Nesterov on the pseudo-gradient, and Lookahead without momentum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nestling.consolidate import OuterNesterov, lookahead_step, outer_step
from nestling.core.errors import MismatchedParameters, NonFiniteInput, SettingError


def draw(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(3, 2, generator=generator), "n": torch.tensor(seed)}


@given(st.integers(0, 99), st.floats(0.01, 1.5))
def test_without_momentum_it_is_lookahead_to_the_bit(seed: int, step_size: float) -> None:
    slow, fast, velocity = draw(seed), draw(seed + 1), draw(seed + 2)
    result, _ = outer_step(slow, fast, velocity, step_size=step_size, momentum=0.0)
    expected = lookahead_step(slow, fast, step_size)
    assert all(torch.equal(result[name], expected[name]) for name in slow)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_it_follows_torch_nesterov_over_many_outer_steps(momentum: float) -> None:
    generator = torch.Generator().manual_seed(0)
    live = nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
    twin = nn.Parameter(live.detach().clone())
    outer = OuterNesterov({"w": live}, period=3, step_size=0.6, momentum=momentum)
    theirs = torch.optim.SGD([twin], 0.6, momentum=momentum, nesterov=momentum > 0)
    for _ in range(7):
        start = live.detach().clone()
        for inner in range(3):
            with torch.no_grad():
                live.add_(torch.randn(4, generator=generator, dtype=torch.float64))
            moved = live.detach().clone()
            assert outer.step() == (inner == 2)
        twin.grad = start - moved
        theirs.step()
        torch.testing.assert_close(live, twin)
        assert torch.equal(outer.slow["w"], live)


def test_it_speeds_up_a_plain_loop_on_a_narrow_valley() -> None:
    curvature = torch.tensor([1.0, 0.01])

    def run(momentum: float) -> float:
        weight = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([weight], 0.5)
        outer = OuterNesterov({"w": weight}, period=5, step_size=0.7, momentum=momentum)
        for _ in range(200):
            optimizer.zero_grad()
            loss = (curvature * weight.square()).sum()
            loss.backward()
            optimizer.step()
            outer.step()
        return float((curvature * outer.slow["w"].square()).sum())

    assert run(0.8) < 0.1 * run(0.0)


def test_saved_in_the_middle_of_a_period_goes_on_the_same() -> None:
    def make() -> tuple[nn.Parameter, OuterNesterov]:
        weight = nn.Parameter(torch.zeros(2))
        return weight, OuterNesterov({"w": weight}, period=3)

    (first, mine), (second, theirs) = make(), make()
    for _ in range(4):
        first.data.add_(1.0)
        mine.step()
    second.data.copy_(first.data)
    theirs.load_state_dict(mine.state_dict())
    for _ in range(2):
        for weight, outer in ((first, mine), (second, theirs)):
            weight.data.add_(1.0)
            outer.step()
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.full((2,), first[0].item() + 1))
    with pytest.raises(MismatchedParameters, match="period of 1"):
        OuterNesterov({"w": first}, period=1).load_state_dict({**mine.state_dict(), "num_steps": 2})
    with pytest.raises(MismatchedParameters, match="'v'"):
        OuterNesterov({"v": first}, period=3).load_state_dict(mine.state_dict())


def test_a_broken_weight_changes_nothing() -> None:
    weight = nn.Parameter(torch.zeros(1))
    outer = OuterNesterov({"w": weight}, period=1)
    weight.data.fill_(torch.inf)
    with pytest.raises(NonFiniteInput, match="'w'"):
        outer.step()
    assert outer.slow["w"].item() == 0.0
    weight.data.zero_()
    assert outer.step()
    assert outer.count_bytes() == 8


@pytest.mark.parametrize(
    "wrong", [{"period": 0}, {"step_size": 0.0}, {"momentum": 1.0}, {"momentum": -0.1}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    settings = {"period": 2, "step_size": 0.7, "momentum": 0.9, **wrong}
    with pytest.raises(SettingError, match="period of 1 or more"):
        OuterNesterov({"w": torch.zeros(1)}, **settings)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="floating"):
        OuterNesterov({"n": torch.tensor(1)}, period=1)


def test_slow_weights_of_half_precision_move_by_less_than_it_resolves() -> None:
    """Steps of 2^-6 at a rate of 1/64 are 2^-12, far below the 2^-8 of bfloat16 at 1."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(torch.ones(1, dtype=dtype))
        outer = OuterNesterov({"w": weight}, period=1, step_size=1 / 64, momentum=0.5)
        for _ in range(100):
            with torch.no_grad():
                weight.add_(2.0**-6)
            outer.step()
        found[dtype] = outer.slow["w"]
        assert weight.dtype == dtype
    torch.testing.assert_close(found[torch.bfloat16], found[torch.float32], rtol=1e-3, atol=0.0)
