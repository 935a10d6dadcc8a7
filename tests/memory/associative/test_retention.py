"""Retention of associative memories: what they are pulled back to."""

from dataclasses import replace

import pytest
import torch
from associative.drawn_pairs import draw_pairs
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.memory.associative import (
    FastState,
    WeightRetention,
    WriteRule,
    find_weights,
    loop_pairs,
    write_pairs,
)

HALF = 0.5


def forget(retention: WeightRetention, num: int) -> tuple[Tensor, Tensor]:
    """Weights of a memory that has written something, and those after `num` tokens of silence."""
    pairs = draw_pairs(6)
    rule = WriteRule(retention=retention)
    arguments = (pairs.keys, pairs.values, pairs.rates, None)
    _, state = write_pairs(rule, *arguments, pairs.state)
    silence = [torch.zeros_like(one[:, :, :1]).expand(-1, -1, num, -1) for one in arguments[:2]]
    rates = torch.zeros(2, 2, num, dtype=torch.float64)
    _, last = write_pairs(rule, silence[0], silence[1], rates, rates + HALF, state)
    return find_weights(retention, state.weights), find_weights(retention, last.weights)


def test_decay_forgets_everything_and_initial_goes_back_to_the_start() -> None:
    before, after = forget(WeightRetention(), 3)
    torch.testing.assert_close(after, HALF**3 * before)
    start = draw_pairs(6).state.weights
    before, after = forget(WeightRetention("initial"), 3)
    torch.testing.assert_close(after - start, HALF**3 * (before - start))
    assert not torch.allclose(before, start)


def test_kl_keeps_rows_on_their_simplex_and_goes_back_to_even_ones() -> None:
    before, after = forget(WeightRetention("kl", total=2.0), 60)
    assert bool((before > 0).all())
    torch.testing.assert_close(before.sum(-1), torch.full((2, 2, 4), 2.0, dtype=torch.float64))
    torch.testing.assert_close(after, torch.full_like(after, 2.0 / 5))


def test_kl_is_the_softmax_of_decayed_logarithms() -> None:
    """Memora as printed: W <- c softmax(alpha log W - eta grad), from W alone."""
    pairs = draw_pairs(12, num_samples=1, num_heads=1)
    rule = WriteRule(retention=WeightRetention("kl", total=3.0))
    _, last = write_pairs(rule, *pairs.streams()[:4], pairs.state)
    weights = 3.0 * pairs.state.weights[0, 0].softmax(-1)
    for t in range(12):
        key, value = pairs.keys[0, 0, t], pairs.values[0, 0, t]
        slope = torch.outer(weights @ key - value, key)
        kept = pairs.decays[0, 0, t] * weights.log()
        weights = 3.0 * (kept - pairs.rates[0, 0, t] * slope).softmax(-1)
    torch.testing.assert_close(find_weights(rule.retention, last.weights)[0, 0], weights)


def test_lq_is_the_gradient_of_half_a_squared_norm_and_the_printed_form_is_not() -> None:
    """Twice as much held is twice as much weight; as printed it is half as much for q = 4."""
    held = draw_pairs(1).state.weights.requires_grad_()
    for power in (3.0, 4.0):
        norm = (held.abs() ** power).sum((-2, -1)) ** (1 / power)
        (slope,) = torch.autograd.grad(norm.square().sum() / 2, held)
        found = find_weights(WeightRetention("lq", power=power), held)
        torch.testing.assert_close(found, slope)
    torch.testing.assert_close(find_weights(WeightRetention("lq"), 2 * held), 2 * found)
    printed = WeightRetention("lq", printed=True)
    sizes = (held**4).sum((-2, -1), keepdim=True) ** 0.25
    torch.testing.assert_close(find_weights(printed, held), held / sizes**2)
    torch.testing.assert_close(find_weights(printed, 2 * held), find_weights(printed, held) / 2)
    assert find_weights(WeightRetention("lq", power=2.0), held) is held


@pytest.mark.parametrize("kind", ["kl", "lq"])
def test_gradients_are_finite_where_nothing_is_held(kind: str) -> None:
    held = torch.zeros(2, 3, requires_grad=True)
    retention = WeightRetention(kind)  # type: ignore[arg-type]
    (slope,) = torch.autograd.grad(find_weights(retention, held).square().sum(), held)
    assert torch.isfinite(slope).all()
    assert torch.isfinite(find_weights(retention, held)).all()


@pytest.mark.parametrize("kind", ["decay", "initial", "kl", "lq"])
def test_a_pair_that_is_written_often_is_recalled(kind: str) -> None:
    """Under KL only values that lie within reach of positive weights."""
    retention = WeightRetention(kind, total=4.0, power=3.0)  # type: ignore[arg-type]
    key = torch.tensor([0.6, 0.8]).expand(1, 1, 300, 2)
    value = torch.tensor([2.6, 2.7]).expand(1, 1, 300, 2)
    start = FastState(torch.full((1, 1, 2, 2), 0.1))
    rule = WriteRule(retention=retention)
    answers, _ = write_pairs(rule, key, value, torch.full((1, 1, 300), 0.8), None, start)
    torch.testing.assert_close(answers[0, 0, -1], value[0, 0, -1], rtol=1e-3, atol=1e-3)


def test_a_learned_start_gets_gradient_as_what_memories_go_back_to() -> None:
    pairs = draw_pairs(9)
    start = pairs.state.weights[0].clone().requires_grad_()
    state = FastState.from_initial(start, 2)
    rule = WriteRule(retention=WeightRetention("initial"))
    found = []
    for write in (write_pairs, loop_pairs):
        answers, _ = write(rule, *pairs.streams()[:4], state)
        found.append(torch.autograd.grad(answers.square().sum(), start)[0])
    torch.testing.assert_close(found[0], found[1])


def test_a_state_with_a_start_is_not_read_by_a_rule_that_would_lose_it() -> None:
    pairs = draw_pairs(4)
    arguments = (*pairs.streams()[:4],)
    _, state = write_pairs(WriteRule(retention=WeightRetention("initial")), *arguments, pairs.state)
    assert state.anchor is not None
    for write in (write_pairs, loop_pairs):
        with pytest.raises(SettingError, match=r"WeightRetention\('initial'\) works"):
            write(WriteRule(), *arguments, state)
    with pytest.raises(SettingError, match="double_erase=True with retention 'kl'"):
        WriteRule(retention=WeightRetention("kl"), double_erase=True)
    restored = FastState.from_state_dict(state.state_dict())
    assert torch.equal(restored.anchor, state.anchor)  # type: ignore[arg-type]
    assert replace(restored, anchor=None).anchor is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "l1"}, "kind='l1'; 'decay', 'initial'"),
        ({"kind": "kl", "total": 0.0}, "total=0.0"),
        ({"kind": "lq", "power": 1.5}, "power=1.5; a number of 2"),
        ({"printed": True}, "it needs kind='lq'"),
    ],
)
def test_retentions_that_are_none(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        WeightRetention(**given)  # type: ignore[arg-type]
