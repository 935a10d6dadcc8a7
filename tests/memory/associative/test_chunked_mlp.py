"""MLP memories: the chunk-parallel form equals the loop, streams, and leaks nothing."""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from associative.drawn_pairs import Drawn, draw_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import ForeignSnapshot, NonFiniteInput, SettingError, ShapeMismatch
from nestling.memory.associative import (
    DeepFastState,
    FastState,
    InnerObjective,
    WeightRetention,
    WriteRule,
    loop_mlp,
    write_mlp,
)
from nestling.memory.associative.chunked_mlp import find_gelu_slope

RULES = {
    "l2": WriteRule(),
    "l2, blocks of 4": WriteRule(block=4),
    "l2, blocks of 3, read before": WriteRule(block=3, read="before"),
    "dot, blocks of 4": WriteRule(InnerObjective("dot"), block=4),
    "huber, blocks of 10": WriteRule(InnerObjective("huber", threshold=0.5), block=10),
    "lp 3, blocks of 4": WriteRule(InnerObjective("lp", power=3.0), block=4),
    "proximal": WriteRule(proximal=True),
    "double erase": WriteRule(double_erase=True),
    "double erase, blocks of 4": WriteRule(double_erase=True, block=4),
    "double erase, proximal, blocks of 10, read before": WriteRule(
        double_erase=True, proximal=True, block=10, read="before"
    ),
    "dot, erased, blocks of 4": WriteRule(InnerObjective("dot"), double_erase=True, block=4),
    "to the start, blocks of 4": WriteRule(block=4, retention=WeightRetention("initial")),
    "to the start, double erase, blocks of 4": WriteRule(
        block=4, double_erase=True, proximal=True, retention=WeightRetention("initial")
    ),
    "kl": WriteRule(retention=WeightRetention("kl", total=3.0)),
    "lq 3, blocks of 4, read before": WriteRule(
        block=4, read="before", retention=WeightRetention("lq", power=3.0)
    ),
}


@dataclass(frozen=True)
class Case:
    pairs: Drawn
    state: DeepFastState


def draw_case(
    length: int, *, hidden: int = 6, dtype: torch.dtype = torch.float64, **given: int
) -> Case:
    pairs = draw_pairs(length, key_width=4, value_width=4, dtype=dtype, **given)  # type: ignore[arg-type]
    heads, samples = pairs.keys.shape[1], pairs.keys.shape[0]
    generator = torch.Generator().manual_seed(5)
    outer = 0.3 * torch.randn(heads, 4, hidden, generator=generator, dtype=torch.float64)
    inner = torch.randn(heads, hidden, 4, generator=generator, dtype=torch.float64)
    return Case(pairs, DeepFastState.from_initial(outer.to(dtype), inner.to(dtype), samples))


def write(
    rule: WriteRule,
    case: Case,
    *,
    momentum: bool = True,
    valid: Tensor | None = None,
    chunk: int = 8,
    loop: bool = False,
) -> tuple[Tensor, DeepFastState]:
    pairs = case.pairs
    arguments = (pairs.keys, pairs.values, pairs.rates, pairs.decays, case.state)
    momenta = pairs.momenta if momentum else None
    if loop:
        return loop_mlp(
            rule, *arguments, queries_BHTD=pairs.queries, momenta_BHT=momenta, valid_BT=valid
        )
    return write_mlp(
        rule,
        *arguments,
        queries_BHTD=pairs.queries,
        momenta_BHT=momenta,
        valid_BT=valid,
        chunk=chunk,
    )


def assert_same(one: DeepFastState, other: DeepFastState, atol: float) -> None:
    for first, second in ((one.outer, other.outer), (one.inner, other.inner)):
        assert first.num_in_block == second.num_in_block
        names = first.state_dict().keys()
        assert names == second.state_dict().keys()
        for name in names - {"num_in_block"}:
            found, expected = getattr(first, name).double(), getattr(second, name).double()
            torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("length", [0, 1, 3, 8, 21])
def test_equals_the_loop_in_float64(name: str, momentum: bool, length: int) -> None:
    case = draw_case(length)
    expected, last = write(RULES[name], case, momentum=momentum, loop=True)
    found, state = write(RULES[name], case, momentum=momentum)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert_same(state, last, 1e-11)


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, max_examples=6)
@given(length=st.integers(1, 90), seed=st.integers(0, 99))
def test_equals_the_loop_in_float32(name: str, length: int, seed: int) -> None:
    pairs = draw_pairs(
        length, key_width=4, value_width=4, dtype=torch.float32, seed=seed, most_rate=0.1
    )
    case = Case(pairs, draw_case(1, dtype=torch.float32).state)
    expected, last = write(RULES[name], case, loop=True, momentum=False)
    found, state = write(RULES[name], case, chunk=64, momentum=False)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert_same(state, last, 1e-5)


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, max_examples=8)
@given(cuts=st.lists(st.integers(0, 21), max_size=4))
def test_streaming_equals_one_pass(name: str, cuts: list[int]) -> None:
    case = draw_case(21)
    expected, last = write(RULES[name], case)
    outputs, state = [], case.state
    for start, end in itertools.pairwise([0, *sorted(cuts), 21]):
        found, state = write(RULES[name], Case(case.pairs.part(start, end), state))
        state = DeepFastState.from_state_dict(state.state_dict())
        outputs.append(found)
    torch.testing.assert_close(torch.cat(outputs, 2), expected, rtol=0, atol=1e-11)
    assert_same(state, last, 1e-11)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("loop", [False, True])
def test_gradients_are_right(name: str, loop: bool) -> None:
    case = draw_case(5, num_samples=1, num_heads=1, hidden=2)
    weights = (case.state.outer.weights, case.state.inner.weights)
    inputs = [one.clone().requires_grad_() for one in (*case.pairs.streams(), *weights)]

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        state = DeepFastState(FastState(given[6]), FastState(given[7]))
        pairs = Drawn(*given[:6], case.pairs.state)
        outputs, state = write(RULES[name], Case(pairs, state), loop=loop, chunk=3)
        return outputs, state.outer.weights, state.inner.weights

    assert torch.autograd.gradcheck(run, inputs)


def test_the_slope_of_gelu() -> None:
    x = torch.linspace(-4, 4, 33, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.nn.functional.gelu(x).sum(), x)
    torch.testing.assert_close(find_gelu_slope(x), slope)


@pytest.mark.parametrize("loop", [False, True])
def test_without_gradients_there_is_no_graph(loop: bool) -> None:
    case = draw_case(5)
    with torch.no_grad():
        outputs, state = write(WriteRule(), case, loop=loop)
    assert not outputs.requires_grad
    assert not state.inner.weights.requires_grad


@pytest.mark.parametrize("name", RULES)
def test_neither_future_nor_other_samples_are_known(name: str) -> None:
    case = draw_case(20)
    before, _ = write(RULES[name], case)
    for one in case.pairs.streams():
        one[:, :, 11:] *= 0.5
        one[1] *= 0.5
    after, _ = write(RULES[name], case)
    torch.testing.assert_close(after[0, :, :11], before[0, :, :11], rtol=0, atol=1e-13)
    assert not torch.allclose(after[0, :, 11:], before[0, :, 11:])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("loop", [False, True])
def test_padding_on_the_right_changes_nothing(name: str, loop: bool) -> None:
    case = draw_case(20)
    valid = torch.arange(20) < torch.tensor([[20], [13]])
    for one in case.pairs.streams():
        one[1, :, 13:] = torch.nan
    found, state = write(RULES[name], case, valid=valid, loop=loop)
    second, short = torch.tensor([1]), case.pairs.part(0, 13)
    pairs = Drawn(*(one[second] for one in short.streams()), short.state)
    expected, last = write(RULES[name], Case(pairs, case.state.select(second)), loop=loop)
    torch.testing.assert_close(found[second, :, :13], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.outer.weights[second], last.outer.weights)
    torch.testing.assert_close(state.inner.weights[second], last.inner.weights)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("loop", [False, True])
def test_samples_of_other_lengths_stream_as_each_would_alone(name: str, loop: bool) -> None:
    case = draw_case(21, num_samples=3)
    valid = torch.rand(3, 21, generator=torch.Generator().manual_seed(2)) > 0.3
    valid[0], valid[1, :9] = True, False
    outputs, state = [], case.state
    for start, end in itertools.pairwise([0, 8, 9, 21]):
        piece = Case(case.pairs.part(start, end), state)
        found, state = write(RULES[name], piece, valid=valid[:, start:end], loop=loop)
        state = DeepFastState.from_state_dict(state.state_dict())
        outputs.append(found)
    outputs_BHTD = torch.cat(outputs, 2)
    for row in range(3):
        kept, here = valid[row].nonzero()[:, 0], torch.tensor([row])
        streams = (one[row : row + 1, :, kept] for one in case.pairs.streams())
        alone = Case(Drawn(*streams, case.pairs.state), case.state.select(here))
        expected, last = write(RULES[name], alone)
        torch.testing.assert_close(outputs_BHTD[here][:, :, kept], expected, rtol=0, atol=1e-11)
        assert_same(state.select(here), last, 1e-11)


@pytest.mark.parametrize("proximal", [False, True])
def test_the_printed_erase_settles_half_way_and_the_default_at_the_value(proximal: bool) -> None:
    """Equation 88 on each layer: what the memory adds to its key ends at half of what it should."""
    state = DeepFastState.draw(1, 1, 4, 32, torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = draw_pairs(1, num_samples=1, num_heads=1, key_width=4, value_width=4)
    key = torch.nn.functional.normalize(pairs.keys, dim=-1)
    value = key + 0.5 * pairs.values
    many = (key.expand(1, 1, 400, 4), value.expand(1, 1, 400, 4))
    rates = torch.full((1, 1, 400), 0.3, dtype=torch.float64)
    for double, share in ((False, 1.0), (True, 0.5)):
        rule = WriteRule(double_erase=double, proximal=proximal)
        answers, _ = write_mlp(rule, *many, rates, None, state)
        added = answers[:, :, -1] - key[:, :, 0]
        torch.testing.assert_close(added, share * (value - key)[:, :, 0], rtol=0.02, atol=0)


@pytest.mark.parametrize("double", [False, True])
def test_proximal_rates_are_stable_for_any_input(double: bool) -> None:
    case = draw_case(60, most_rate=3.0)
    pairs = replace(case.pairs, keys=30 * case.pairs.keys)
    for proximal in (False, True):
        rule = WriteRule(proximal=proximal, double_erase=double)
        _, state = write(rule, Case(pairs, case.state), momentum=False)
        assert bool((state.outer.weights.abs() < 1e3).all()) == proximal


@pytest.mark.parametrize("name", RULES)
def test_a_rate_of_zero_is_the_identity_and_nothing_given_changes(name: str) -> None:
    case = draw_case(11)
    pairs = replace(
        case.pairs,
        rates=torch.zeros_like(case.pairs.rates),
        decays=torch.ones_like(case.pairs.decays),
    )
    copies = [one.clone() for one in pairs.streams()]
    _, state = write(RULES[name], Case(pairs, case.state))
    assert torch.equal(state.outer.weights, case.state.outer.weights)
    assert torch.equal(state.inner.weights, case.state.inner.weights)
    for one, copy in zip(pairs.streams(), copies, strict=True):
        assert torch.equal(one, copy)


def test_writing_lowers_the_error_from_the_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    state = DeepFastState.draw(1, 1, 4, 32, generator)
    pairs = draw_pairs(3, num_samples=1, num_heads=1, key_width=4, value_width=4)
    key, value, rates = pairs.keys.float(), pairs.values.float(), torch.full((1, 1, 3), 0.2)
    errors = []
    for _ in range(40):
        answers, state = write_mlp(WriteRule(read="before"), key, value, rates, None, state)
        errors.append(float((answers - value).square().mean()))
    assert errors[-1] < 0.02 * errors[0]


def test_gradients_reach_both_learned_starts() -> None:
    case = draw_case(9)
    outer = torch.zeros(2, 4, 6, dtype=torch.float64, requires_grad=True)
    inner = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    outputs, last = write(
        WriteRule(block=4), replace(case, state=DeepFastState.from_initial(outer, inner, 2))
    )
    slopes = torch.autograd.grad(outputs.square().sum(), [outer, inner])
    assert all((slope.abs().sum((1, 2)) > 0).all() for slope in slopes)
    assert last.outer.weights.requires_grad
    assert not last.detach().outer.weights.requires_grad


@pytest.mark.parametrize("loop", [False, True])
def test_bad_input_is_refused(loop: bool) -> None:
    case = draw_case(5)
    part = Drawn(*(one[:1] for one in case.pairs.streams()), case.pairs.state)
    narrow = replace(case.pairs, values=case.pairs.values[..., :3])
    with pytest.raises(ShapeMismatch, match="samples 2 for 1"):
        write(WriteRule(), Case(part, case.state), loop=loop)
    with pytest.raises(ShapeMismatch, match="values of width 3 with keys of width 4"):
        write(WriteRule(), Case(narrow, case.state), loop=loop)
    with pytest.raises(SettingError, match="window=2"):
        write(WriteRule(window=2), case, loop=loop)
    with pytest.raises(SettingError, match="swapped=True"):
        write(WriteRule(swapped=True), case, loop=loop)
    case.pairs.values[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteInput, match="values"):
        write(WriteRule(), case, loop=loop)


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(ForeignSnapshot):
        DeepFastState.from_state_dict({"outer": {}, "inner": {}})


def test_a_batch_of_no_samples() -> None:
    state = DeepFastState.draw(0, 1, 4, 8, torch.Generator().manual_seed(0))
    empty = torch.zeros(0, 1, 5, 4)
    for write in (write_mlp, loop_mlp):
        found, _ = write(WriteRule(block=2), empty, empty, empty[..., 0], None, state)
        assert found.shape == (0, 1, 5, 4)
