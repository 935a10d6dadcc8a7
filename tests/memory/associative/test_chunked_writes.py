"""The chunk-parallel form equals the reference loop, streams, and leaks nothing."""

import itertools
from dataclasses import replace

import pytest
import torch
from associative.drawn_pairs import RULES, Drawn, draw_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import NonFiniteInput, SettingError, ShapeMismatch
from nestling.memory.associative import (
    FastState,
    InnerObjective,
    WriteRule,
    find_weights,
    loop_pairs,
    write_delta,
    write_pairs,
)

KINDS = [(False, False), (True, False), (False, True), (True, True)]


def write(
    rule: WriteRule,
    pairs: Drawn,
    *,
    decay: bool = True,
    momentum: bool = False,
    valid: Tensor | None = None,
    chunk: int = 8,
    loop: bool = False,
) -> tuple[Tensor, FastState]:
    arguments = (pairs.keys, pairs.values, pairs.rates, pairs.decays if decay else None)
    momenta = pairs.momenta if momentum else None
    if loop:
        return loop_pairs(
            rule,
            *arguments,
            pairs.state,
            queries_BHTD=pairs.queries,
            momenta_BHT=momenta,
            valid_BT=valid,
        )
    return write_pairs(
        rule,
        *arguments,
        pairs.state,
        queries_BHTD=pairs.queries,
        momenta_BHT=momenta,
        valid_BT=valid,
        chunk=chunk,
    )


def assert_same_state(one: FastState, other: FastState, atol: float) -> None:
    assert one.num_in_block == other.num_in_block
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, Tensor):
            found = second[name]
            assert isinstance(found, Tensor)
            torch.testing.assert_close(value.double(), found.double(), rtol=0, atol=atol)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("decay", "momentum"), KINDS)
def test_equals_the_loop_in_float64(name: str, decay: bool, momentum: bool) -> None:
    for length, chunk in [(1, 8), (5, 8), (16, 8), (19, 8), (7, 1), (13, 5)]:
        pairs = draw_pairs(length)
        kinds = {"decay": decay, "momentum": momentum}
        expected, last = write(RULES[name], pairs, loop=True, **kinds)
        found, state = write(RULES[name], pairs, chunk=chunk, **kinds)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
        assert_same_state(state, last, 1e-11)


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, max_examples=12)
@given(length=st.integers(1, 150), seed=st.integers(0, 999), momentum=st.booleans())
def test_equals_the_loop_in_float32(name: str, length: int, seed: int, momentum: bool) -> None:
    pairs = draw_pairs(length, dtype=torch.float32, seed=seed, most_rate=0.25)
    expected, last = write(RULES[name], pairs, loop=True, momentum=momentum)
    found, state = write(RULES[name], pairs, chunk=64, momentum=momentum)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert_same_state(state, last, 1e-5)


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, max_examples=12)
@given(cuts=st.lists(st.integers(0, 21), max_size=4), momentum=st.booleans())
def test_streaming_equals_one_pass(name: str, cuts: list[int], momentum: bool) -> None:
    pairs = draw_pairs(21)
    expected, last = write(RULES[name], pairs, momentum=momentum)
    outputs, state, edges = [], pairs.state, [0, *sorted(cuts), 21]
    for start, end in itertools.pairwise(edges):
        part = replace(pairs.part(start, end), state=state)
        found, state = write(RULES[name], part, momentum=momentum)
        state = FastState.from_state_dict(state.state_dict())
        outputs.append(found)
    torch.testing.assert_close(torch.cat(outputs, 2), expected, rtol=0, atol=1e-11)
    assert_same_state(state, last, 1e-11)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("loop", [False, True])
def test_gradients_are_right(name: str, loop: bool) -> None:
    pairs = draw_pairs(5, num_samples=1, num_heads=1, key_width=2, value_width=2)
    inputs = [one.clone().requires_grad_() for one in (*pairs.streams(), pairs.state.weights)]

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        outputs, state = write(
            RULES[name],
            Drawn(*given[:6], FastState(given[6])),
            momentum=True,
            chunk=4,
            loop=loop,
        )
        assert state.momentum is not None
        return outputs, state.weights, state.momentum

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("name", RULES)
def test_gradients_equal_the_loop_in_float32(name: str) -> None:
    gradients = []
    for loop in (False, True):
        pairs = draw_pairs(70, dtype=torch.float32)
        streams = [one.clone().requires_grad_() for one in pairs.streams()]
        outputs, _ = write(RULES[name], Drawn(*streams, pairs.state), chunk=64, loop=loop)
        used = [streams[i] for i in (0, 1, 2, 3, 5)]
        gradients.append(torch.autograd.grad(outputs.sin().sum() / 70, used))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_decay_of_zero_forgets_and_has_a_gradient() -> None:
    pairs = draw_pairs(6, num_samples=1, num_heads=1)
    pairs.decays[0, 0, 3] = 0
    expected, _ = write(WriteRule(), pairs, loop=True)
    torch.testing.assert_close(write(WriteRule(), pairs)[0], expected, rtol=0, atol=1e-11)
    decays = pairs.decays.requires_grad_()
    (gradient,) = torch.autograd.grad(write(WriteRule(), pairs)[0].sum(), decays)
    (expected,) = torch.autograd.grad(write(WriteRule(), pairs, loop=True)[0].sum(), decays)
    torch.testing.assert_close(gradient, expected)
    assert gradient[0, 0, 3] != 0


@pytest.mark.parametrize("name", RULES)
def test_the_past_does_not_know_the_future(name: str) -> None:
    pairs = draw_pairs(20)
    before, _ = write(RULES[name], pairs, momentum=True)
    for one in pairs.streams():
        one[:, :, 11:] *= 0.5
    after, _ = write(RULES[name], pairs, momentum=True)
    torch.testing.assert_close(after[:, :, :11], before[:, :, :11], rtol=0, atol=1e-13)
    assert not torch.allclose(after[:, :, 11:], before[:, :, 11:])


@pytest.mark.parametrize("name", RULES)
def test_samples_do_not_know_each_other(name: str) -> None:
    pairs = draw_pairs(20, num_samples=3)
    whole, state = write(RULES[name], pairs, momentum=True)
    one = torch.tensor([1])
    alone = Drawn(*(stream[one] for stream in pairs.streams()), pairs.state.select(one))
    single, last = write(RULES[name], alone, momentum=True)
    torch.testing.assert_close(whole[one], single, rtol=0, atol=1e-12)
    assert_same_state(state.select(one), last, 1e-12)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("loop", [False, True])
def test_padding_on_the_right_changes_nothing(name: str, loop: bool) -> None:
    pairs = draw_pairs(20)
    valid = torch.arange(20) < torch.tensor([[20], [13]])
    for one in pairs.streams():
        one[1, :, 13:] = torch.nan  # what stands in padding is not looked at
    found, state = write(RULES[name], pairs, valid=valid, momentum=True, loop=loop)
    second = torch.tensor([1])
    short = pairs.part(0, 13)
    alone = Drawn(*(one[second] for one in short.streams()), pairs.state.select(second))
    expected, last = write(RULES[name], alone, momentum=True, loop=loop)
    torch.testing.assert_close(found[second, :, :13], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.weights[second], last.weights)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("momentum", [False, True])
def test_samples_of_other_lengths_stream_as_each_would_alone(name: str, momentum: bool) -> None:
    """Padding anywhere, of NaN, in calls of any size, counts in no block and no window."""
    pairs = draw_pairs(23, num_samples=4)
    valid = torch.rand(4, 23, generator=torch.Generator().manual_seed(2)) > 0.3
    valid[0], valid[1, :9], valid[1, 9:], valid[3] = True, False, True, False
    padded = Drawn(
        *(
            one.masked_fill(~valid[:, None].view(4, 1, 23, *[1] * (one.dim() - 3)), torch.nan)
            for one in pairs.streams()
        ),
        pairs.state,
    )
    outputs, state = [], pairs.state
    for start, end in itertools.pairwise([0, 9, 9, 10, 23]):
        piece = replace(padded.part(start, end), state=state)
        found, state = write(RULES[name], piece, momentum=momentum, valid=valid[:, start:end])
        state = FastState.from_state_dict(state.state_dict())
        outputs.append(found)
    outputs_BHTV = torch.cat(outputs, 2)
    for row in range(4):
        kept = valid[row].nonzero()[:, 0]
        one = Drawn(
            *(stream[row : row + 1, :, kept] for stream in pairs.streams()),
            pairs.state.select(torch.tensor([row])),
        )
        expected, last = write(RULES[name], one, momentum=momentum, loop=True)
        torch.testing.assert_close(
            outputs_BHTV[row : row + 1, :, kept], expected, rtol=0, atol=1e-11
        )
        assert_same_state(state.select(torch.tensor([row])), last, 1e-11)


def test_padding_of_the_loop_counts_in_no_block() -> None:
    pairs = draw_pairs(20)
    valid = torch.arange(20) >= torch.tensor([[0], [7]])
    rule = WriteRule(block=4)
    found, state = write(rule, pairs, valid=valid, loop=True)
    expected, last = write(rule, pairs, valid=valid)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert state.num_in_block == last.num_in_block == (0, 1)
    assert FastState.from_state_dict(state.state_dict()).num_in_block == (0, 1)


def test_a_second_erase_of_a_linear_memory_has_its_own_name() -> None:
    for loop in (False, True):
        with pytest.raises(SettingError, match=r"InnerObjective\('l2', erase=2.0\)"):
            write(WriteRule(double_erase=True), draw_pairs(3), loop=loop)


def test_a_printed_erase_settles_at_half_of_the_value() -> None:
    pairs = draw_pairs(1, num_samples=1, num_heads=1)
    key, value = torch.nn.functional.normalize(pairs.keys, dim=-1), pairs.values
    many = (key.expand(1, 1, 200, -1), value.expand(1, 1, 200, -1))
    rates = torch.full((1, 1, 200), 0.3, dtype=torch.float64)
    for erase, share in ((1.0, 1.0), (2.0, 0.5)):
        rule = WriteRule(InnerObjective("l2", erase=erase))
        answers, _ = write_pairs(rule, *many, rates, None, FastState.zeros(1, 1, 4, 5))
        torch.testing.assert_close(answers[:, :, -1], share * value[:, :, 0])


@pytest.mark.parametrize("name", RULES)
def test_padding_on_the_left_changes_nothing(name: str) -> None:
    pairs = draw_pairs(20, num_samples=1)
    valid = (torch.arange(20) >= 7)[None]
    found, state = write(RULES[name], pairs, valid=valid, momentum=True)
    expected, last = write(RULES[name], pairs.part(7, 20), momentum=True)
    torch.testing.assert_close(found[:, :, 7:], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.weights, last.weights)


@pytest.mark.parametrize("name", RULES)
def test_nothing_that_was_given_changes(name: str) -> None:
    pairs = draw_pairs(9)
    copies = [one.clone() for one in (*pairs.streams(), pairs.state.weights)]
    write(RULES[name], pairs, momentum=True)
    for one, copy in zip((*pairs.streams(), pairs.state.weights), copies, strict=True):
        assert torch.equal(one, copy)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("loop", [False, True])
def test_a_sequence_of_no_tokens_is_the_identity(name: str, loop: bool) -> None:
    pairs = draw_pairs(0)
    outputs, state = write(RULES[name], pairs, loop=loop)
    assert outputs.shape == (2, 2, 0, 4)
    assert torch.equal(state.weights, pairs.state.weights)


@pytest.mark.parametrize("name", RULES)
def test_a_rate_of_zero_is_the_identity(name: str) -> None:
    pairs = draw_pairs(11)
    pairs = replace(pairs, rates=torch.zeros_like(pairs.rates))
    outputs, state = write(RULES[name], pairs, decay=False)
    assert torch.equal(state.weights, pairs.state.weights)
    weights = find_weights(RULES[name].retention, pairs.state.weights)
    torch.testing.assert_close(outputs, pairs.queries @ weights.mT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_dtype_is_kept_and_sums_are_float32_or_more(dtype: torch.dtype) -> None:
    pairs = draw_pairs(9, dtype=dtype)
    outputs, state = write(WriteRule(), pairs, momentum=True)
    assert outputs.dtype == dtype
    assert state.weights.dtype == torch.promote_types(torch.float32, dtype)


def test_nan_in_keys_that_are_also_the_queries_is_named_keys() -> None:
    keys, rates = torch.eye(4).expand(1, 1, 4, 4).clone(), torch.ones(1, 1, 4)
    keys[0, 0, 3, 0] = torch.nan
    with pytest.raises(NonFiniteInput, match=r"in the keys of .* padding in valid_BT"):
        write_delta(keys, torch.ones(1, 1, 4, 4), rates, None, FastState.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("which", range(6))
def test_nan_is_refused(which: int, loop: bool) -> None:
    pairs = draw_pairs(5)
    pairs.streams()[which].flatten()[3] = torch.nan
    with pytest.raises(NonFiniteInput, match="NaN or infinity in the"):
        write(WriteRule(), pairs, momentum=True, loop=loop)


@pytest.mark.parametrize("loop", [False, True])
def test_a_state_of_another_batch_is_refused(loop: bool) -> None:
    pairs = replace(draw_pairs(5), state=FastState.zeros(3, 2, 4, 5))
    with pytest.raises(ShapeMismatch, match="samples 3 for 2"):
        write(WriteRule(), pairs, loop=loop)


def test_shapes_that_do_not_fit_are_refused() -> None:
    pairs = draw_pairs(5)
    with pytest.raises(ShapeMismatch, match="rates of shape"):
        write(WriteRule(), replace(pairs, rates=pairs.rates[:, :, 1:]))
    with pytest.raises(ShapeMismatch, match="values of shape"):
        write(WriteRule(), replace(pairs, values=pairs.values[:1]))
    with pytest.raises(ShapeMismatch, match="keys of shape"):
        write(WriteRule(), replace(pairs, keys=pairs.keys[0]))
    with pytest.raises(ShapeMismatch, match="valid of shape"):
        write(WriteRule(), pairs, valid=torch.ones(2, 4, dtype=torch.bool))


def test_settings_that_cannot_be_are_refused() -> None:
    pairs = draw_pairs(5)
    with pytest.raises(SettingError, match="chunk=0"):
        write(WriteRule(), pairs, chunk=0)
    _, state = write(WriteRule(block=4), pairs)
    with pytest.raises(SettingError, match="1 tokens into a block and block=1"):
        write(WriteRule(), replace(pairs, state=state))
    _, state = write(WriteRule(), pairs, momentum=True)
    with pytest.raises(SettingError, match="has a momentum"):
        write(WriteRule(), replace(pairs, state=state))
    _, state = write(WriteRule(window=3), pairs)
    with pytest.raises(SettingError, match="window of 3 tokens and window=2"):
        write(WriteRule(window=2), replace(pairs, state=state))
