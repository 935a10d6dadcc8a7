"""Continuum memory systems: what they compute, their state, their gradients, bad input."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nestling.core.errors import (
    CorruptSnapshot,
    ForeignSnapshot,
    ModelError,
    NonFiniteInput,
    SettingError,
    ShapeMismatch,
)
from nestling.models import CMS, CMSState, ContinuumBlock, load_cms_state
from nestling.models.continuum import write_chunks_slowly

ARRANGEMENTS = ["chain", "nested", "sequential", "independent"]
WIDTH = 6


def make_cms(seed: int = 0, chunks: tuple[int, ...] = (4, 8, 20), **given: Any) -> CMS:
    """A small system whose learned parts are not at their even start."""
    torch.manual_seed(seed)
    system = CMS(WIDTH, chunks, hidden=10, **given)
    with torch.no_grad():
        system.rate.weight.normal_()
        if system.mixing is not None:
            system.mixing.uniform_(0.5, 1.5)
        for name, parameter in system.named_parameters():
            if "row_scale" in name:
                parameter.normal_(std=0.3)
    return system


def make_inputs(num_samples: int = 3, length: int = 50, seed: int = 1) -> Tensor:
    return torch.randn(num_samples, length, WIDTH, generator=torch.Generator().manual_seed(seed))


def read_slowly(system: CMS, x_TD: Tensor) -> Tensor:
    """One sequence by the loop over tokens, level by level, in the dtype of the system."""
    inputs, targets = x_TD, system.target(x_TD)
    gates = torch.sigmoid(system.rate(x_TD))
    outputs: list[Tensor] = []
    for index, level in enumerate(system.levels):
        active = functional.gelu(level.key(inputs))
        centred = active - active.mean(-1, keepdim=True)
        keys = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
        keys = keys / math.sqrt(system.hidden)
        logit = level.consolidation
        output, _ = write_chunks_slowly(
            keys,
            targets,
            gates[:, index] * system.rates[index] / system.chunks[index],
            level.initial,
            system._clock(index),
            consolidation=None if logit is None else torch.sigmoid(logit),
            gradient="first" if system.gradient == "first" else "full",
        )
        if level.row_scale is not None:
            output = output * (1 + torch.tanh(level.row_scale(outputs[-1])))
        outputs.append(output)
        if system.arrangement != "independent":
            passed = output.detach() if system.transfer == "direct" else output
            inputs = inputs + passed
            if system.transfer == "context":
                targets = targets - passed
    if system.mixing is not None:
        outputs = [weight * output for weight, output in zip(system.mixing, outputs, strict=True)]
    return torch.stack(outputs).sum(0)


CASES = [
    *({"arrangement": one} for one in ARRANGEMENTS),
    *({"transfer": one} for one in ("direct", "weights", "context")),
    {"gradient": "first"},
    {"gradient": 2},
    {"arrangement": "nested", "gradient": "first", "transfer": "weights"},
    {"rate": 2.0},
    {"rate": (1.0, 0.0, 2.0)},
]


@pytest.mark.parametrize("length", [1, 40, 53])
@pytest.mark.parametrize("given", CASES, ids=str)
def test_values_and_gradients_are_those_of_the_loop(length: int, given: dict[str, Any]) -> None:
    system = make_cms(**given)
    x = make_inputs(2, length)
    wanted_system = make_cms(**given).double()
    inputs = x.double().requires_grad_()
    wanted = torch.stack([read_slowly(wanted_system, row) for row in inputs])
    x.requires_grad_()
    found = system(x)
    assert (found.double() - wanted).abs().max() <= 1e-5
    weights = torch.randn(wanted.shape, dtype=torch.float64)
    (wanted * weights).sum().backward()
    (found * weights).sum().backward()
    pairs = [("x", x, inputs)]
    wanted_parameters = dict(wanted_system.named_parameters())
    pairs += [(name, one, wanted_parameters[name]) for name, one in system.named_parameters()]
    for name, one, other in pairs:
        if one.grad is None or other.grad is None:
            left = one.grad if other.grad is None else other.grad
            assert left is None or not left.any(), name
            continue
        scale = max(1.0, float(other.grad.abs().max()))
        assert (one.grad.double() - other.grad).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("given", CASES, ids=str)
@pytest.mark.parametrize("sizes", [(1,) * 45, (3, 0, 17, 25), (44, 1)])
def test_streaming_in_pieces_of_any_size_equals_one_pass(
    sizes: tuple[int, ...], given: dict[str, Any]
) -> None:
    system, x = make_cms(**given), make_inputs(2, 45)
    whole, end = system.read(x)
    state: CMSState | None = None
    pieces = []
    for piece in x.split(sizes, 1):
        output, state = system.read(piece, state)
        pieces.append(output)
    assert (torch.cat(pieces, 1) - whole).abs().max() <= 1e-5
    assert state is not None
    assert state.positions == end.positions == (45, 45)
    for one, other in itertools.chain(*map(zip, state.levels, end.levels)):
        assert (one is None) == (other is None)
        assert one is None or other is None or (one - other).abs().max() <= 1e-5


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_padding_anywhere_and_streams_of_unequal_lengths(arrangement: Any) -> None:
    system, x = make_cms(arrangement=arrangement), make_inputs(3, 40)
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(3, 40, generator=generator) < 0.6
    mask[2] = False  # a sample that is all padding
    x = torch.where(mask[..., None], x, torch.full_like(x, math.nan)).requires_grad_()
    output, state = system.read(x, mask_BT=mask)
    assert state.positions == tuple(mask.sum(1).tolist())
    for row in range(3):
        alone = system(x[row : row + 1, mask[row]])
        if mask[row].any():
            assert (output[row, mask[row]] - alone[0]).abs().max() <= 1e-5
        assert not output[row, ~mask[row]].any()
    more = make_inputs(3, 21, seed=2)
    onward, after = system.read(more, state)
    assert after.positions == tuple(at + 21 for at in state.positions)
    for row in range(3):
        joined = torch.cat([x[row, mask[row]], more[row]])[None]
        assert (onward[row] - system(joined)[0, -21:]).abs().max() <= 1e-5
    output.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert not x.grad[~mask].any()


@pytest.mark.parametrize("given", CASES, ids=str)
def test_nothing_leaks_from_the_future_or_between_samples(given: dict[str, Any]) -> None:
    system, x = make_cms(**given), make_inputs(3, 40).requires_grad_()
    output = system(x)
    (grad,) = torch.autograd.grad(output[1, 17].sum(), x)
    assert not grad[[0, 2]].any()
    assert not grad[1, 18:].any()
    assert grad[1, 17].any()


def test_a_token_sees_a_write_in_the_next_chunk_only() -> None:
    system, x = make_cms(chunks=(4,)), make_inputs(1, 12)
    silent = system(x, write=False)
    written = system(x)
    assert (written[:, :4] - silent[:, :4]).abs().max() <= 1e-6
    assert ((written - silent).abs().amax((0, 2))[4:] > 1e-4).all()


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_each_chunk_size_has_an_effect(arrangement: Any, position: int) -> None:
    chunks = [4, 8, 20]
    other = list(chunks)
    other[position] += 3
    x = make_inputs(1, 60)
    one = make_cms(chunks=tuple(chunks), arrangement=arrangement)(x)
    two = make_cms(chunks=tuple(other), arrangement=arrangement)(x)
    assert (one - two).abs().max() > 1e-4


def test_rate_zero_is_bit_for_bit_the_model_without_writes() -> None:
    x = make_inputs()
    for given in CASES[:7]:
        still, moving = make_cms(rate=0.0, **given), make_cms(**given)
        wanted = moving(x, write=False)
        assert torch.equal(still(x), wanted)
        pieces, state = [], None
        for piece in x.split([13, 37], 1):
            output, state = still.read(piece, state)
            pieces.append(output)
            assert all(part is None for level in state.levels for part in level)
        torch.testing.assert_close(torch.cat(pieces, 1), wanted)


def test_evaluation_never_writes_unless_asked() -> None:
    system, x = make_cms(), make_inputs()
    _, state = system.read(x[:, :30])
    state = state.detach()
    system.eval()
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    once, after = system.read(x[:, 30:], state)
    again, _ = system.read(x[:, 30:], state)
    assert after is state
    assert torch.equal(once, again)
    asked, moved = system.read(x[:, 30:], state, write=True)
    assert moved.positions == (50,) * 3
    assert not torch.equal(once, asked)
    assert all(torch.equal(tensor, before[name]) for name, tensor in system.state_dict().items())


def test_a_state_that_is_read_on_is_not_changed() -> None:
    system, x = make_cms(), make_inputs()
    _, state = system.read(x[:, :30])
    kept = {name: tensor.clone() for name, tensor in state.state_dict().items()}
    one, _ = system.read(x[:, 30:], state)
    two, _ = system.read(x[:, 30:], state)
    assert torch.equal(one, two)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.state_dict().items())


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_state_is_saved_and_restored_exactly(arrangement: Any) -> None:
    system, x = make_cms(arrangement=arrangement), make_inputs()
    _, state = system.read(x[:, :27])
    restored = load_cms_state(state.state_dict())
    assert restored.positions == state.positions
    assert torch.equal(system.read(x[:, 27:], restored)[0], system.read(x[:, 27:], state)[0])


def test_states_are_detached_selected_and_reset() -> None:
    system, x = make_cms(), make_inputs()
    _, state = system.read(x[:, :30])
    assert any(part is not None and part.requires_grad for part in state.levels[0])
    cut = state.detach()
    assert not any(
        part is not None and part.requires_grad for level in cut.levels for part in level
    )
    rest = x[:, 30:]
    both, _ = system.read(rest, state)
    swapped, _ = system.read(rest[[2, 0]], state.select([2, 0]))
    assert (swapped - both[[2, 0]]).abs().max() <= 1e-5
    anew, after = system.read(rest, state.reset([1]))
    assert after.positions == (50, 20, 50)
    assert (anew[1] - system(rest)[1]).abs().max() <= 1e-5
    assert (anew[[0, 2]] - both[[0, 2]]).abs().max() <= 1e-5


@pytest.mark.parametrize("gradient", ["full", "first", 2])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_gradients_reach_every_initial_state_and_every_write_rule(
    arrangement: Any, gradient: Any
) -> None:
    system = make_cms(arrangement=arrangement, gradient=gradient)
    system(make_inputs(2, 60)).square().sum().backward()
    without = [
        name
        for name, parameter in system.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_gradients_of_the_whole_system() -> None:
    for arrangement in ARRANGEMENTS:
        torch.manual_seed(0)
        system = CMS(2, (2, 3), hidden=3, arrangement=arrangement).double()  # type: ignore[arg-type]
        x = torch.randn(1, 7, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(system, (x,))


def test_one_level_without_writes_is_a_plain_mlp() -> None:
    system, x = make_cms(chunks=(8,), rate=0.0), make_inputs()
    level = system.levels[0]
    keys = functional.layer_norm(functional.gelu(level.key(x)), (10,)) / math.sqrt(10)
    torch.testing.assert_close(system(x), keys @ level.initial.mT)


def test_nested_levels_return_to_a_start_that_moves() -> None:
    system, x = make_cms(chunks=(4, 8), arrangement="nested"), make_inputs(1, 8)
    _, state = system.read(x)
    fast = state.levels[0]
    assert fast.in_force is not None
    assert fast.start is not None
    assert torch.equal(fast.in_force, fast.start)
    assert state.levels[1].in_force is not None
    with torch.no_grad():
        system.levels[0].consolidation.fill_(-100.0)
    _, state = system.read(x)
    assert state.levels[0].in_force is not None
    assert not state.levels[0].in_force.any()


def test_sequential_levels_forget_at_the_end_of_the_slowest_chunk() -> None:
    system, x = make_cms(arrangement="sequential"), make_inputs(2, 40)
    assert (system(x)[:, 20:] - system(x[:, 20:])).abs().max() <= 1e-5


@pytest.mark.parametrize("chunks", [(8, 32), (100, 200), (3, 7)])
@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_sequences_shorter_than_a_chunk(chunks: tuple[int, ...], length: int) -> None:
    system, x = make_cms(chunks=chunks), make_inputs(2, length)
    output, state = system.read(x)
    assert output.shape == (2, length, WIDTH)
    assert state.positions == (length, length)
    if chunks[0] > length:  # nothing is in force yet
        torch.testing.assert_close(output, system(x, write=False))
    output, _ = system.read(make_inputs(0, 7))
    assert output.shape == (0, 7, WIDTH)


def test_half_precision_writes_in_single() -> None:
    system, x = make_cms(), make_inputs()
    wanted = system(x)
    found, state = system.to(torch.bfloat16).read(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).abs().max() <= 0.1 * wanted.abs().max()
    assert state.levels[0].in_force is not None
    assert state.levels[0].in_force.dtype == torch.float32


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"chunks": (32, 8)}, "fastest first: \\(8, 32\\)"),
    ({"chunks": ()}, "tokens of each level"),
    ({"chunks": (0, 8)}, "1 token or more"),
    ({"chunks": (2.5, 8)}, "1 token or more"),
    ({"chunks": "8"}, "tokens of each level"),
    ({"width": 0}, "width=0"),
    ({"hidden": 0}, "hidden=0"),
    ({"arrangement": "nest"}, "did you mean 'nested'"),
    ({"transfer": "wieghts"}, "did you mean 'weights'"),
    ({"arrangement": "independent", "transfer": "context"}, "nothing passes"),
    ({"rate": 2.1}, "0 \\(no writes\\) to 2"),
    ({"rate": math.nan}, "0 \\(no writes\\) to 2"),
    ({"rate": (1.0,)}, "1 rates for 2 levels"),
    ({"gradient": 1}, "cut off all writes"),
    ({"gradient": "none"}, "'full', 'first'"),
]


@pytest.mark.parametrize(("given", "message"), SETTINGS, ids=str)
def test_arguments_that_cannot_be_carried_out(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        CMS(**{"width": WIDTH, "chunks": (8, 32), **given})


def put(x: Tensor, value: float) -> Tensor:
    x[1, 3, 2] = value
    return x


INPUTS: list[tuple[Callable[[], tuple[Any, Any]], type[Exception], str]] = [
    (lambda: (put(make_inputs(), math.nan), None), NonFiniteInput, "sample 1, token 3"),
    (lambda: (put(make_inputs(), math.inf), None), NonFiniteInput, "sample 1, token 3"),
    (lambda: (make_inputs()[0], None), ShapeMismatch, r"\(samples, tokens, 6\)"),
    (lambda: (make_inputs()[..., :5], None), ShapeMismatch, r"\(samples, tokens, 6\)"),
    (lambda: ([1.0], None), ShapeMismatch, "list"),
    (lambda: (make_inputs().long(), None), ShapeMismatch, "floats work"),
    (lambda: (make_inputs().double(), None), ShapeMismatch, r"x\.to\(torch\.float32\) works"),
    (lambda: (make_inputs(), torch.ones(3, 50)), ShapeMismatch, "bool of"),
    (lambda: (make_inputs(), torch.ones(3, 49, dtype=torch.bool)), ShapeMismatch, "bool of"),
    (lambda: (make_inputs(), [True]), ShapeMismatch, "list"),
]


@pytest.mark.parametrize(("make", "error", "message"), INPUTS)
def test_inputs_that_cannot_be_read(
    make: Callable[[], tuple[Any, Any]], error: type[Exception], message: str
) -> None:
    x, mask = make()
    with pytest.raises(error, match=message):
        make_cms().read(x, mask_BT=mask)


def test_states_that_do_not_fit() -> None:
    system, x = make_cms(), make_inputs()
    _, state = system.read(x)
    with pytest.raises(ShapeMismatch, match="3 samples for a batch of 2"):
        system.read(x[:2], state)
    with pytest.raises(ForeignSnapshot, match="begin with state=None"):
        make_cms(chunks=(4, 8, 24)).read(x, state)
    with pytest.raises(ForeignSnapshot, match="begin with state=None"):
        make_cms(arrangement="nested").read(x, state)
    with pytest.raises(SettingError, match="state=dict"):
        system.read(x, {})  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="0 to 2"):
        state.select([3])
    with pytest.raises(SettingError, match="0 to 2"):
        state.reset([-1])
    with pytest.raises(SettingError, match="num_samples"):
        system.initial_state(-1)
    tensors = state.state_dict()
    with pytest.raises(CorruptSnapshot, match="no state of a CMS"):
        load_cms_state({})
    with pytest.raises(CorruptSnapshot, match="belong to no level"):
        load_cms_state({**tensors, "7.in_force": tensors["0.in_force"]})
    with pytest.raises(CorruptSnapshot, match="for 3 samples"):
        load_cms_state({**tensors, "0.in_force": tensors["0.in_force"][:2]})
    for name in tensors:
        with pytest.raises(CorruptSnapshot, match=name):
            load_cms_state({other: one for other, one in tensors.items() if other != name})
    bent = load_cms_state({**tensors, "0.in_force": tensors["0.in_force"][:, :2]})
    with pytest.raises(ShapeMismatch, match="a state of shape"):
        system.read(x, bent)


def test_levels_tell_how_often_and_how_far_they_moved() -> None:
    system, x = make_cms(rate=(1.0, 0.0, 1.0)), make_inputs(2, 41)
    _, state = system.read(x)
    fast, still, slow = system.describe(state)
    assert [fast["num_updates"], still["num_updates"], slow["num_updates"]] == [10, 0, 2]
    assert fast["relative_change"] > 1e-3
    assert still["relative_change"] == 0
    assert slow["relative_change"] > 1e-3
    nested = make_cms(arrangement="nested")
    _, state = nested.read(x)
    assert [level["num_updates"] for level in nested.describe(state)] == [10, 6, 2]
    assert nested.describe(nested.initial_state(0))[0]["num_updates"] == 0
    with pytest.raises(ForeignSnapshot, match="begin with"):
        system.describe(state)


def test_a_block_is_causal_trains_and_checks_its_heads() -> None:
    torch.manual_seed(0)
    block = ContinuumBlock(8, 2, chunks=(2, 4))
    x = torch.randn(2, 9, 8, requires_grad=True)
    output = block(x)
    assert output.shape == x.shape
    (grad,) = torch.autograd.grad(output[:, 4].sum(), x, retain_graph=True)
    assert not grad[:, 5:].any()
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    with pytest.raises(ModelError, match="multiple"):
        ContinuumBlock(9, 2)


def test_a_block_writes_in_evaluation_only_when_asked() -> None:
    torch.manual_seed(0)
    block, x = ContinuumBlock(8, 2, chunks=(2, 4)), torch.randn(2, 9, 8)
    trained = block(x)
    block.eval()
    assert torch.equal(block(x), block(x, write=False))
    assert torch.equal(block(x, write=True), trained)
    assert not torch.equal(block(x), trained)


def test_padding_of_a_block_is_neither_seen_nor_written_nor_counted() -> None:
    torch.manual_seed(0)
    block, x = ContinuumBlock(8, 2, chunks=(2, 4)), torch.randn(3, 14, 8)
    mask = torch.ones(3, 14, dtype=torch.bool)
    mask[0, 9:], mask[1, :4], mask[2, [0, 3, 4, 8]] = False, False, False
    padded = x.masked_fill(~mask[..., None], torch.nan)
    output = block(padded, mask_BT=mask)
    for row in range(3):
        alone = block(x[row : row + 1, mask[row]])
        assert (output[row, mask[row]] - alone[0]).abs().max() <= 1e-5
    assert torch.isfinite(output).all()
    with pytest.raises(ShapeMismatch, match="the mask is list"):
        block(x, mask_BT=[True])
    for wrong in (x[0], x[..., :-1], x.double()):
        with pytest.raises(ShapeMismatch, match="works"):
            block(wrong)
    with pytest.raises(NonFiniteInput, match="sample 0, token 9"):
        block(padded, mask_BT=torch.ones_like(mask))
