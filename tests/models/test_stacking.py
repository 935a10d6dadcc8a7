"""Level stacking: a pre-trained model whose blocks learn in context."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.errors import (
    CorruptSnapshot,
    ForeignSnapshot,
    IdlePattern,
    NonFiniteInput,
    SettingError,
    ShapeMismatch,
)
from nestling.models import gpt_blocks, load_stacked_state, stack_levels

LEVELS = {"1.0.out.*": 4, "1.1.out.weight": 6}


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(7, 8), gpt_blocks(2, 8, 2), nn.Linear(8, 7)).eval()


def make_tokens(num_samples: int = 2, length: int = 21) -> Tensor:
    return torch.randint(7, (num_samples, length), generator=torch.Generator().manual_seed(3))


def read_slowly(model: nn.Module, tokens_T: Tensor, rate: float) -> Tensor:
    """One level of chunk 4 with the whole context, by a copy whose weights are set."""
    names = ["1.0.out.weight", "1.0.out.bias"]
    copy = make_model()
    copy.load_state_dict(model.state_dict())
    weights = [dict(copy.named_parameters())[name] for name in names]
    outputs = []
    for begin in range(0, len(tokens_T), 4):
        end = min(begin + 4, len(tokens_T))
        logits = copy(tokens_T[None, :end])[0]
        outputs.append(logits[begin:].detach())
        terms = [
            functional.cross_entropy(logits[at - 1], tokens_T[at])
            for at in range(max(begin, 1), end)
        ]
        grads = torch.autograd.grad(sum(terms), weights)
        with torch.no_grad():
            for weight, grad in zip(weights, grads, strict=True):
                weight -= rate * grad
    return torch.cat(outputs)


def test_writes_equal_the_loop_and_leave_the_model_alone() -> None:
    model, tokens = make_model(), make_tokens()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits, state = stack_levels(model, {"1.0.out.*": 4}, rate=0.1).read(tokens, write=True)
    wanted = torch.stack([read_slowly(model, row, 0.1) for row in tokens])
    assert (logits - wanted).abs().max() <= 1e-5
    assert (logits - model(tokens)).abs().max() > 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert state.positions == (21, 21)


def test_rate_zero_and_no_writes_are_bit_for_bit_the_model() -> None:
    model, tokens = make_model(), make_tokens()
    wanted = model(tokens)
    assert torch.equal(stack_levels(model, LEVELS, rate=0.0).read(tokens, write=True)[0], wanted)
    stacked = stack_levels(model, LEVELS, context=3)
    logits, state = stacked.read(tokens)  # in evaluation mode
    assert torch.equal(logits, wanted)
    assert not state.changes
    _, state = stacked.read(tokens[:, :13])
    assert (stacked.read(tokens[:, 13:], state)[0] - wanted[:, 13:]).abs().max() <= 1e-6
    assert stack_levels(model.train(), LEVELS).read(tokens)[1].changes


@pytest.mark.parametrize("context", [None, 5])
@pytest.mark.parametrize("sizes", [(1,) * 21, (3, 0, 17, 1)])
def test_pieces_of_any_size_equal_one_pass(sizes: tuple[int, ...], context: int | None) -> None:
    tokens = make_tokens()
    stacked = stack_levels(make_model(), LEVELS, rate=(0.1, 0.2), context=context)
    whole, end = stacked.read(tokens, write=True)
    pieces, state = [], None
    for piece in tokens.split(sizes, 1):
        logits, state = stacked.read(piece, state, write=True)
        if piece.shape[1]:
            pieces.append(logits)
    assert state is not None
    assert (torch.cat(pieces, 1) - whole).abs().max() <= 1e-5
    for name in end.changes:
        assert (state.changes[name] - end.changes[name]).abs().max() <= 1e-5
        assert (state.gathered[name] - end.gathered[name]).abs().max() <= 1e-5
    assert all(map(torch.equal, state.recent, end.recent))
    assert state.positions == end.positions


def test_a_state_is_saved_and_restored_exactly() -> None:
    tokens, stacked = make_tokens(), stack_levels(make_model(), LEVELS, rate=0.1, context=5)
    _, state = stacked.read(tokens[:, :9], write=True)
    tensors = state.state_dict()
    restored = load_stacked_state(tensors)
    wanted, _ = stacked.read(tokens[:, 9:], state, write=True)
    assert torch.equal(stacked.read(tokens[:, 9:], restored, write=True)[0], wanted)
    with pytest.raises(CorruptSnapshot, match="no state of stacked levels"):
        load_stacked_state({})
    with pytest.raises(CorruptSnapshot, match="3 samples, not 2"):
        load_stacked_state({**tensors, "changes.x": torch.zeros(3)})
    name = next(name for name in tensors if name.startswith("gathered."))
    with pytest.raises(CorruptSnapshot, match="one tensor is missing"):
        load_stacked_state({other: one for other, one in tensors.items() if other != name})
    with pytest.raises(CorruptSnapshot, match="other"):
        load_stacked_state({**tensors, "other": torch.zeros(2)})


def test_no_leak_from_the_future_or_other_samples() -> None:
    tokens = make_tokens()
    stacked = stack_levels(make_model(), LEVELS, rate=0.1)
    logits, _ = stacked.read(tokens, write=True)
    other = tokens.clone()
    other[0, 13:] = (other[0, 13:] + 1) % 7
    changed, _ = stacked.read(other, write=True)
    assert torch.equal(changed[0, :13], logits[0, :13])
    assert torch.equal(changed[1], logits[1])
    assert not torch.equal(changed[0, 13:], logits[0, 13:])


def test_each_level_has_its_own_clock() -> None:
    tokens = make_tokens(1, 5)
    _, state = stack_levels(make_model(), LEVELS, rate=0.1).read(tokens, write=True)
    assert state.changes["1.0.out.weight"].any()
    assert not state.changes["1.1.out.weight"].any()
    assert state.gathered["1.1.out.weight"].any()


@pytest.mark.parametrize("context", [None, 5])
@pytest.mark.parametrize("write", [False, True])
def test_padded_samples_equal_each_alone_in_calls_of_any_size(
    context: int | None, write: bool
) -> None:
    """Padding on the right, on the left and in between, of numbers that are no tokens."""
    stacked = stack_levels(make_model(), LEVELS, rate=(0.1, 0.2), context=context)
    tokens = make_tokens(4, 23)
    mask = torch.rand(4, 23, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[0, 15:], mask[1, :9], mask[3] = False, False, False
    mask[0, :15] = mask[1, 9:] = True
    padded = tokens.masked_fill(~mask, -100)
    whole, end = stacked.read(padded, mask_BT=mask, write=write)
    pieces, state = [], None
    for piece, part in zip(padded.split((8, 1, 14), 1), mask.split((8, 1, 14), 1), strict=True):
        logits, state = stacked.read(piece, state, mask_BT=part, write=write)
        pieces.append(logits)
    assert state is not None
    assert (torch.cat(pieces, 1) - whole).abs().max() <= 1e-5
    assert state.positions == end.positions == (15, 14, int(mask[2].sum()), 0)
    assert not whole[~mask].any()
    for row in range(3):
        alone, last = stacked.read(tokens[row : row + 1, mask[row]], write=write)
        assert (whole[row, mask[row]] - alone[0]).abs().max() <= 1e-5
        for name in last.changes:
            assert (end.changes[name][row] - last.changes[name][0]).abs().max() <= 1e-5
            assert (end.gathered[name][row] - last.gathered[name][0]).abs().max() <= 1e-5
            assert not end.changes[name][3].any()
    assert bool(end.changes) == write
    nothing, same = stacked.read(padded[3:], end.select([3]), mask_BT=mask[3:], write=write)
    assert nothing.shape[:2] == (1, 23)
    assert same.positions == (0,)


def test_evaluation_never_writes_unless_asked_and_no_state_is_changed() -> None:
    tokens, model = make_tokens(), make_model()
    stacked = stack_levels(model, LEVELS, rate=0.1)
    _, state = stacked.read(tokens[:, :9], write=True)
    kept = {name: tensor.clone() for name, tensor in state.state_dict().items()}
    for write in (None, False, True):
        _, after = stacked.read(tokens[:, 9:], state, write=write)
        assert all(torch.equal(one, kept[name]) for name, one in state.state_dict().items())
        moved = [
            not torch.equal(after.changes[name], state.changes[name]) for name in after.changes
        ]
        assert any(moved) == (write is True)
        assert after.positions == (21, 21)
    _, trained = stack_levels(model.train(), LEVELS, rate=0.1).read(tokens[:, 9:], state)
    assert not torch.equal(trained.changes["1.0.out.weight"], state.changes["1.0.out.weight"])


@pytest.mark.parametrize("length", [0, 1])
def test_shortest_sequences(length: int) -> None:
    stacked = stack_levels(make_model(), {"1.0.out.*": 1}, rate=0.1)
    logits, state = stacked.read(make_tokens(2, length), write=True)
    assert logits.shape[:2] == (2, length)
    assert state.positions == (length, length)


def test_a_chunk_beyond_the_sequence_only_gathers() -> None:
    model, tokens = make_model(), make_tokens(2, 9)
    stacked = stack_levels(model, {"1.0.out.*": 1000}, rate=0.1)
    logits, state = stacked.read(tokens, write=True)
    assert (logits - model(tokens)).abs().max() <= 1e-6
    assert not state.changes["1.0.out.weight"].any()
    assert state.gathered["1.0.out.weight"].any()


def test_levels_may_come_in_any_order_and_the_first_pattern_claims() -> None:
    tokens, model = make_tokens(), make_model()
    one = stack_levels(model, {"1.0.out.*": 4, "1.1.out.*": 6}, rate=(0.1, 0.2))
    other = stack_levels(model, {"1.1.out.*": 6, "1.0.out.*": 4}, rate=(0.2, 0.1))
    wanted, _ = one.read(tokens, write=True)
    assert (other.read(tokens, write=True)[0] - wanted).abs().max() <= 1e-6
    assert stack_levels(model, {"1.0.out.*": 4, "1.*": 6}).chunks["1.0.out.weight"] == 4
    with pytest.raises(IdlePattern, match=r"was claimed before.*narrower pattern first"):
        stack_levels(model, {"1.*": 6, "1.0.out.*": 4})


def test_a_model_that_is_not_finite_writes_nothing() -> None:
    model, tokens = make_model(), make_tokens()
    stacked = stack_levels(model, LEVELS, rate=0.1)
    _, state = stacked.read(tokens, write=True)
    kept = {name: one.clone() for name, one in state.state_dict().items()}
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan  # type: ignore[index]
    with pytest.raises(NonFiniteInput, match="is not finite"):
        stacked.read(tokens, state, write=True)
    assert all(torch.equal(one, kept[name]) for name, one in state.state_dict().items())


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"levels": {"nothing.*": 4}}, IdlePattern, "claims no parameter; known"),
    ({"levels": {"1.0.oot.weight": 4}}, IdlePattern, "did you mean '1.0.out.weight'"),
    ({"levels": {}}, SettingError, "patterns -> tokens"),
    ({"levels": {"1.*": 0}}, SettingError, "1 token or more"),
    ({"levels": LEVELS, "rate": -1}, SettingError, "0 \\(no writes\\) or more"),
    ({"levels": LEVELS, "rate": (1.0,)}, SettingError, "1 rates for 2 levels"),
    ({"levels": LEVELS, "context": 0}, SettingError, "None for all"),
]


@pytest.mark.parametrize(("given", "error", "message"), BAD)
def test_arguments_that_cannot_be_carried_out(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        stack_levels(make_model(), **given)


def test_input_and_states_that_do_not_fit() -> None:
    tokens, stacked = make_tokens(), stack_levels(make_model(), LEVELS, rate=0.1)
    _, state = stacked.read(tokens, write=True)
    with pytest.raises(ShapeMismatch, match="integers"):
        stacked.read(tokens.float())
    with pytest.raises(ShapeMismatch, match="2 samples for a batch of 1"):
        stacked.read(tokens[:1], state)
    with pytest.raises(ShapeMismatch, match=r"the mask is torch.int64 of shape \(2, 21\); bool"):
        stacked.read(tokens, mask_BT=torch.ones(2, 21, dtype=torch.long))
    with pytest.raises(SettingError, match="0 to 1"):
        state.select([2])
    with pytest.raises(SettingError, match="state=dict"):
        stacked.read(tokens, {})  # type: ignore[arg-type]
    with pytest.raises(ForeignSnapshot, match="no level here has"):
        stack_levels(make_model(), {"2.*": 4}).read(tokens, state)
    with pytest.raises(NonFiniteInput, match="a rate below"):
        stack_levels(make_model(), LEVELS, rate=1e39).read(tokens, write=True)


class Normed(nn.Module):
    """Running statistics move whenever it is called in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(7, 8), nn.BatchNorm1d(8), nn.Linear(8, 7)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        found: Tensor = self.head(self.norm(self.embed(tokens_BT).mT).mT)
        return found


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_reading_in_training_mode_leaves_running_statistics_alone(rate: float) -> None:
    model = Normed().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stack_levels(model, {"head.*": 4}, rate=rate).read(make_tokens(), write=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
