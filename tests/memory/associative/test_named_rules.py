"""What each rule of an associative memory is known for."""

import pytest
import torch
from associative.drawn_pairs import draw_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from nestling.core.errors import SettingError
from nestling.memory.associative import (
    DELTA,
    HEBBIAN,
    OJA,
    FastState,
    InnerObjective,
    WriteRule,
    find_loss,
    find_push,
    loop_pairs,
    write_delta,
    write_hebbian,
    write_oja,
    write_omega,
    write_pairs,
)


def as_pairs(one: Tensor) -> Tensor:
    """(T, D) -> (1, 1, T, D)."""
    return one[None, None]


def draw_orthogonal(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


@settings(deadline=None, max_examples=20)
@given(size=st.integers(1, 12), num_pairs=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_delta_rule_stores_up_to_d_orthonormal_pairs(
    size: int, num_pairs: int, seed: int
) -> None:
    keys = draw_orthogonal(size, seed)[: min(num_pairs, size)]
    values = torch.randn(len(keys), 3, dtype=torch.float64)
    rates, empty = torch.ones(1, 1, len(keys)), FastState.zeros(1, 1, 3, size)
    _, state = write_delta(as_pairs(keys), as_pairs(values), rates, None, empty, chunk=4)
    torch.testing.assert_close(keys @ state.weights[0, 0].mT, values, rtol=0, atol=1e-12)


def test_a_second_value_replaces_the_first_where_the_hebbian_rule_adds_it() -> None:
    key = torch.tensor([0.6, 0.8]).expand(1, 1, 2, 2)
    values = torch.tensor([[1.0, 2.0], [5.0, -1.0]])
    rates, empty = torch.ones(1, 1, 2), FastState.zeros(1, 1, 2, 2)
    replaced, _ = write_delta(key, as_pairs(values), rates, None, empty)
    added, _ = write_hebbian(key, as_pairs(values), rates, None, empty)
    torch.testing.assert_close(replaced[0, 0, 1], values[1])
    torch.testing.assert_close(added[0, 0, 1], values.sum(0))


@settings(deadline=None, max_examples=20)
@given(bits=st.lists(st.booleans(), min_size=1, max_size=300))
def test_a_rate_of_2_is_a_reflection_and_counts_parity(bits: list[bool]) -> None:
    state = FastState(torch.ones(1, 1, 1, 1))
    rates = 2.0 * torch.tensor(bits).float()[None, None]
    keys, values = torch.ones(1, 1, len(bits), 1), torch.zeros(1, 1, len(bits), 1)
    outputs, _ = write_delta(keys, values, rates, None, state)
    parity = torch.tensor(bits).long().cumsum(0) % 2
    assert torch.equal(outputs.flatten(), 1.0 - 2.0 * parity)


def test_the_printed_double_erase_settles_at_half_the_value() -> None:
    key, value = torch.ones(1, 1, 60, 1), torch.full((1, 1, 60, 1), 3.0)
    rates, empty = torch.full((1, 1, 60), 0.3), FastState.zeros(1, 1, 1, 1)
    twice = InnerObjective("l2", erase=2.0)
    once, _ = write_delta(key, value, rates, None, empty)
    half, _ = write_delta(key, value, rates, None, empty, objective=twice)
    torch.testing.assert_close(once[0, 0, -1], torch.tensor([3.0]))
    torch.testing.assert_close(half[0, 0, -1], torch.tensor([1.5]))


def test_a_second_erase_beside_the_whole_squares_gradient_settles_at_two_thirds() -> None:
    """Equation 88 with the gradient of |M k - v|^2, and not that of its half."""
    key, value = torch.ones(1, 1, 60, 1), torch.full((1, 1, 60, 1), 3.0)
    rates, empty = torch.full((1, 1, 60), 0.1), FastState.zeros(1, 1, 1, 1)
    literal = torch.zeros(())
    for _ in range(60):
        literal = literal - 0.1 * literal - 0.1 * 2.0 * (literal - 3.0)
    printed = InnerObjective("l2", erase=1.5)
    found, _ = write_delta(key, value, 2.0 * rates, None, empty, objective=printed)
    torch.testing.assert_close(found[0, 0, -1, 0], literal)
    torch.testing.assert_close(literal, torch.tensor(2.0))


def test_the_printed_sign_of_the_dot_product_answers_with_the_negated_value() -> None:
    """Equation 92 subtracts v k^T, which climbs the loss whose gradient is -v k^T."""
    pairs = draw_pairs(1, num_samples=1, num_heads=1)
    key = functional.normalize(pairs.keys, dim=-1)
    empty = FastState.zeros(1, 1, 4, 5, dtype=torch.float64)
    ones = torch.ones_like(pairs.rates)
    ours, _ = write_hebbian(key, pairs.values, ones, None, empty)
    printed, _ = write_hebbian(key, -pairs.values, ones, None, empty)
    torch.testing.assert_close(ours, pairs.values)
    torch.testing.assert_close(printed, -pairs.values)
    losses = [find_loss(HEBBIAN.objective, one, pairs.values) for one in (ours, printed)]
    assert bool((losses[0] < 0).all() and (losses[1] > 0).all())


def test_a_block_measures_errors_at_the_end_of_the_block_before() -> None:
    """Equation 90 prints C ceil(t/C), the end of the token's own block, which is not known yet."""
    pairs, block = draw_pairs(12, num_samples=1, num_heads=1), 4
    empty = FastState.zeros(1, 1, 4, 5, dtype=torch.float64)
    arguments = (pairs.keys, pairs.values, pairs.rates, None)
    after = [empty.weights[0, 0]]  # after t tokens
    for t in range(1, 13):
        cut = [None if one is None else one[:, :, :t] for one in arguments]
        _, state = write_delta(*cut, empty, block=block)  # type: ignore[arg-type]
        after.append(state.weights[0, 0])
    ours = printed = torch.zeros(4, 5, dtype=torch.float64)
    for t in range(1, 13):
        key, value = pairs.keys[0, 0, t - 1], pairs.values[0, 0, t - 1]
        rate = pairs.rates[0, 0, t - 1]
        before, own_end = after[block * ((t - 1) // block)], after[block * -(-t // block)]
        ours = ours + rate * torch.outer(value - before @ key, key)
        printed = printed + rate * torch.outer(value - own_end @ key, key)
        torch.testing.assert_close(ours, after[t])
    assert (printed - ours).abs().max() > 0.01


def test_oja_on_its_own_answers_finds_the_principal_component() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.3, 2.0, 0.5])
    state = FastState(torch.tensor([[[[0.6, 0.1, -0.5]]]]))
    for _ in range(600):
        key = scales * torch.randn(1, 1, 1, 3, generator=generator)
        value = key @ state.weights.mT
        _, state = write_oja(key, value, torch.full((1, 1, 1), 0.02), None, state)
    row = state.weights.flatten()
    assert abs(row.norm() - 1) < 0.1
    assert row[1].abs() / row.norm() > 0.98


def test_a_window_of_1_is_the_delta_rule_and_a_wider_one_fits_better() -> None:
    pairs = draw_pairs(30, most_rate=0.2)
    arguments = (pairs.keys, pairs.values, pairs.rates, None, pairs.state)
    plain, state = write_delta(*arguments)
    single, _ = write_omega(*arguments, window=1)
    assert torch.equal(plain, single)
    _, wide = write_omega(*arguments, window=4)
    last = slice(-4, None)
    errors = [
        (pairs.keys[:, :, last] @ one.weights.mT - pairs.values[:, :, last]).square().mean()
        for one in (state, wide)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("kind", ["dot", "l2", "huber", "lp"])
def test_the_push_is_the_negative_gradient_of_the_loss(kind: str) -> None:
    objective = InnerObjective(kind, threshold=0.7, power=3.0)  # type: ignore[arg-type]
    answers = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    values = torch.randn(6, 5, dtype=torch.float64)
    (slope,) = torch.autograd.grad(find_loss(objective, answers, values).sum(), answers)
    torch.testing.assert_close(find_push(objective, answers, values), -slope)


def test_wide_huber_and_square_lp_are_the_delta_rule() -> None:
    pairs = draw_pairs(20)
    arguments = (pairs.keys, pairs.values, pairs.rates, pairs.decays, pairs.state)
    expected, _ = write_delta(*arguments)
    for objective in (InnerObjective("huber", threshold=1e6), InnerObjective("lp", power=2.0)):
        found, _ = write_delta(*arguments, objective=objective)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_huber_is_moved_less_by_an_outlier() -> None:
    pairs = draw_pairs(1)
    empty = FastState.zeros(2, 2, 4, 5, dtype=torch.float64)
    arguments = (pairs.keys, 100 * pairs.values, pairs.rates, None, empty)
    _, plain = write_delta(*arguments)
    _, robust = write_delta(*arguments, objective=InnerObjective("huber", threshold=1.0))
    assert robust.weights.abs().max() <= pairs.rates.max()
    assert plain.weights.abs().max() > 10 * robust.weights.abs().max()


def test_lp_has_a_finite_gradient_at_no_error() -> None:
    values = torch.zeros(1, 3, requires_grad=True)
    for power in (1.0, 1.5, 2.0, 3.0):
        push = find_push(InnerObjective("lp", power=power), torch.zeros(1, 3), values)
        (slope,) = torch.autograd.grad(push.sum(), values)
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("momentum", [False, True])
def test_the_named_functions_are_the_rules(momentum: bool) -> None:
    pairs = draw_pairs(20)
    arguments = (pairs.keys, pairs.values, pairs.rates, pairs.decays, pairs.state)
    momenta = pairs.momenta if momentum else None
    for rule, found in [
        (HEBBIAN, write_hebbian(*arguments, momenta_BHT=momenta)),
        (DELTA, write_delta(*arguments, momenta_BHT=momenta)),
        (OJA, write_oja(*arguments, momenta_BHT=momenta)),
        (WriteRule(window=3), write_omega(*arguments, momenta_BHT=momenta, window=3)),
        (WriteRule(block=3), write_delta(*arguments, momenta_BHT=momenta, block=3)),
    ]:
        assert torch.equal(write_pairs(rule, *arguments, momenta_BHT=momenta)[0], found[0])
        expected = loop_pairs(rule, *arguments, momenta_BHT=momenta)[0]
        torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-11)


def test_linear_attention_is_the_hebbian_rule() -> None:
    pairs = draw_pairs(17)
    empty = FastState.zeros(2, 2, 4, 5, dtype=torch.float64)
    ones = torch.ones_like(pairs.rates)
    found, _ = write_hebbian(
        pairs.keys, pairs.values, ones, None, empty, queries_BHTD=pairs.queries, chunk=4
    )
    scores = (pairs.queries @ pairs.keys.mT).tril()
    torch.testing.assert_close(found, scores @ pairs.values)


def test_gradients_reach_a_learned_start_and_stop_at_detach() -> None:
    pairs = draw_pairs(9)
    initial = torch.zeros(2, 4, 5, dtype=torch.float64, requires_grad=True)
    state = FastState.from_initial(initial, 2)
    arguments = (pairs.keys, pairs.values, pairs.rates, None)
    outputs, last = write_delta(*arguments, state)
    (slope,) = torch.autograd.grad(outputs.sum(), initial, retain_graph=True)
    assert (slope.abs().sum((1, 2)) > 0).all()
    assert last.weights.requires_grad
    assert not write_delta(*arguments, last.detach())[0].requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window=0"),
        ({"block": 0}, "block=0"),
        ({"window": 2, "block": 2}, "window=2 with block=2"),
        ({"window": 2, "swapped": True}, "window=2"),
        ({"read": "now"}, "read='now'"),
    ],
)
def test_rules_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        WriteRule(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "l1"}, "kind='l1'"),
        ({"kind": "huber", "threshold": 0.0}, "threshold=0.0"),
        ({"kind": "lp", "power": 0.5}, "power=0.5"),
        ({"erase": -1.0}, "erase=-1.0"),
        ({"kind": "lp", "erase": 2.0}, "it needs kind='l2'"),
    ],
)
def test_objectives_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        InnerObjective(**settings)  # type: ignore[arg-type]


def test_keys_of_length_1_and_rates_up_to_2_never_blow_up() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = functional.normalize(torch.randn(1, 1, 2000, 8, generator=generator), dim=-1)
    values = torch.randn(1, 1, 2000, 8, generator=generator)
    rates = 2 * torch.rand(1, 1, 2000, generator=generator)
    outputs, state = write_delta(keys, values, rates, None, FastState.zeros(1, 1, 8, 8))
    assert torch.isfinite(outputs).all()
    assert state.weights.norm() < 100
