"""Beakers keep what was poured in, never overshoot, and pull a weight back to its past."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nestling.consolidate import Beakers, Chain, make_chain, measure_charge, step_beakers
from nestling.core.errors import (
    ForeignSnapshot,
    MismatchedParameters,
    NonFiniteInput,
    SettingError,
)

chains = st.builds(
    make_chain,
    st.integers(2, 6),
    st.floats(2, 10),
    st.floats(10, 1e4),
)


def draw_levels(chain: Chain, seed: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"w": torch.randn(3, 2, generator=generator, dtype=torch.float64)} for _ in chain.capacities
    ]


@given(chains, st.integers(0, 99), st.floats(0.01, 1))
def test_charge_stays_and_no_level_leaves_the_range(chain: Chain, seed: int, share: float) -> None:
    levels = draw_levels(chain, seed)
    charge = measure_charge(levels, chain)["w"]
    for _ in range(20):
        before = torch.stack([level["w"] for level in levels])
        levels = step_beakers(levels, chain, share * chain.largest_step)
        after = torch.stack([level["w"] for level in levels])
        assert bool((after <= before.amax(0) + 1e-12).all())
        assert bool((after >= before.amin(0) - 1e-12).all())
    torch.testing.assert_close(measure_charge(levels, chain)["w"], charge, atol=1e-9, rtol=1e-12)


def test_euler_follows_the_exact_solution() -> None:
    chain = make_chain(4, shortest=5, longest=500)
    levels = draw_levels(chain, 0)
    rates = torch.zeros(4, 4, dtype=torch.float64)
    for k, conductance in enumerate(chain.conductances):
        for here, there in ((k, k + 1), (k + 1, k)):
            rates[here, there] += conductance / chain.capacities[here]
            rates[here, here] -= conductance / chain.capacities[here]
    start = torch.stack([level["w"].flatten() for level in levels])
    exact = torch.linalg.matrix_exp(30 * rates) @ start
    for _ in range(30_00):
        levels = step_beakers(levels, chain, 0.01)
    reached = torch.stack([level["w"].flatten() for level in levels])
    torch.testing.assert_close(reached, exact, atol=2e-3, rtol=0)


def test_the_times_of_a_chain_are_what_was_asked_for() -> None:
    chain = make_chain(5, shortest=3, longest=300, with_leak=True)
    tubes = [*chain.conductances, chain.leak]
    times = [c / g for c, g in zip(chain.capacities, tubes, strict=True)]
    ratios = [b / a for a, b in pairwise(times)]
    assert times[0] == pytest.approx(3)
    assert times[-1] == pytest.approx(300)
    assert ratios == pytest.approx([100 ** (1 / 4)] * 4)


def test_a_step_beyond_the_limit_is_refused_and_one_at_it_is_not() -> None:
    chain = Chain((1.0, 1.0), (1.0,))
    assert chain.largest_step == 1.0
    with pytest.raises(SettingError, match="stable up to 1"):
        step_beakers(draw_levels(chain, 0), chain, 1.01)
    levels = draw_levels(chain, 0)
    swapped = step_beakers(levels, chain, 1.0)  # at the limit they just change places
    torch.testing.assert_close(swapped[0]["w"], levels[1]["w"])


def test_a_leak_empties_and_without_it_all_levels_become_equal() -> None:
    for leak, expected in ((0.0, 0.5), (0.5, 0.0)):
        chain = Chain((1.0, 1.0), (0.5,), leak)
        levels = [{"w": torch.ones(1)}, {"w": torch.zeros(1)}]
        for _ in range(200):
            levels = step_beakers(levels, chain)
        for level in levels:
            torch.testing.assert_close(level["w"], torch.tensor([expected]), atol=1e-6, rtol=0)


def test_only_the_optimizer_changes_the_charge_also_by_less_than_rounding() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    params = dict(model.named_parameters())
    # So slow that no single flow reaches the last digit of a float32.
    chain = make_chain(4, shortest=1e7, longest=1e10)
    beakers = Beakers(params, chain)
    expected = {name: charge.clone() for name, charge in beakers.measure_charge().items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        before = {name: value.detach().double() for name, value in params.items()}
        optimizer.zero_grad()
        model(torch.randn(4, 3, generator=generator)).square().mean().backward()
        optimizer.step()
        for name, value in params.items():
            expected[name] += value.detach().double() - before[name]
        beakers.step()
    for name, charge in beakers.measure_charge().items():
        torch.testing.assert_close(charge, expected[name], atol=1e-12, rtol=1e-12)
    moved = beakers._levels[1]["weight"] - beakers._levels[2]["weight"]
    assert float(moved.abs().max()) > 0.0


def test_a_weight_that_is_pushed_away_comes_back_part_of_the_way() -> None:
    weight = nn.Parameter(torch.zeros(1))
    beakers = Beakers({"w": weight}, make_chain(6, shortest=2, longest=4096))
    trace = []
    for step in range(2000):
        if step < 300:
            with torch.no_grad():
                weight.add_(0.01)
        beakers.step()
        trace.append(weight.item())
    peak = max(trace)
    assert trace.index(peak) == 299
    assert 0 < trace[-1] < 0.5 * peak
    # Heavy tail: the second thousand of steps takes away less than the first few hundred.
    assert trace[299] - trace[700] > trace[1000] - trace[1999]


def test_saved_and_loaded_goes_on_the_same() -> None:
    def make() -> tuple[nn.Parameter, Beakers]:
        weight = nn.Parameter(torch.ones(2))
        return weight, Beakers({"w": weight}, make_chain(3, shortest=2, longest=50))

    (first, mine), (second, theirs) = make(), make()
    with torch.no_grad():
        first.add_(1.0)
    mine.step()
    theirs.load_state_dict(mine.state_dict())
    for weight, beakers in ((first, mine), (second, theirs)):
        with torch.no_grad():
            weight.mul_(0.5)
        beakers.step()
    assert torch.equal(first, second)
    assert torch.equal(mine.read_level(-1)["w"], theirs.read_level(-1)["w"])
    assert mine.count_bytes() == 3 * 2 * 8
    with pytest.raises(ForeignSnapshot, match="same chain"):
        Beakers({"w": first}, make_chain(4, shortest=2, longest=50)).load_state_dict(
            mine.state_dict()
        )


def test_a_broken_weight_pours_nothing_in() -> None:
    good, bad = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    beakers = Beakers({"good": good, "bad": bad}, make_chain(2, shortest=2, longest=8))
    before = beakers.state_dict()
    with torch.no_grad():
        good.add_(1.0)
        bad.fill_(torch.nan)
    with pytest.raises(NonFiniteInput, match="'bad'"):
        beakers.step()
    after = beakers.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert good.item() == 2.0


def test_impossible_chains_are_refused() -> None:
    for arguments in ((1, 2, 8), (3, 8, 2), (3, 0, 2)):
        with pytest.raises(SettingError, match="beakers of"):
            make_chain(*arguments)
    for capacities, conductances in (((1.0,), ()), ((1.0, 0.0), (1.0,)), ((1.0, 1.0), (-1.0,))):
        with pytest.raises(SettingError, match="capacities"):
            Chain(capacities, conductances)
    chain = make_chain(2, shortest=2, longest=8)
    with pytest.raises(SettingError, match="3 levels"):
        step_beakers([{"w": torch.zeros(1)}] * 3, chain)
    with pytest.raises(MismatchedParameters):
        step_beakers([{"w": torch.zeros(1)}, {"w": torch.zeros(2)}], chain)
    with pytest.raises(SettingError, match="floating"):
        Beakers({"n": torch.zeros(1, dtype=torch.int64)}, chain)


def test_a_chain_of_half_precision_flows() -> None:
    levels = [{"w": torch.full((1,), value, dtype=torch.bfloat16)} for value in (1.0, 0.0)]
    chain = Chain((1.0, 4.0), (0.001,))
    for _ in range(1000):
        levels = step_beakers(levels, chain)
    wide = [{"w": torch.ones(1)}, {"w": torch.zeros(1)}]
    for _ in range(1000):
        wide = step_beakers(wide, chain)
    assert levels[1]["w"].item() == wide[1]["w"].item() > 0.1
    assert measure_charge(levels, chain)["w"].item() == pytest.approx(1.0, rel=1e-4)
