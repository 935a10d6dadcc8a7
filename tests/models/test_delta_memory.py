"""The delta-rule memory as a layer."""

import pytest
import torch
from torch import nn

from nestling.core.errors import NonFiniteInput, SettingError, ShapeMismatch
from nestling.memory.associative import OJA, FastState, WeightRetention, WriteRule
from nestling.models import DeltaMemory
from nestling.models.delta_memory import reach_ends


def make_layer(**settings: object) -> DeltaMemory:
    torch.manual_seed(0)
    return DeltaMemory(12, 3, chunk=8, **settings)  # type: ignore[arg-type]


def test_gates_reach_their_ends_exactly() -> None:
    assert reach_ends(torch.tensor([-4.0, 4.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("decay", [False, True])
def test_gradients_reach_every_weight(decay: bool) -> None:
    layer = make_layer(decay=decay)
    y, _ = layer(torch.randn(2, 20, 12))
    y.square().sum().backward()
    for name, weight in layer.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("rule", [WriteRule(), WriteRule(block=4), WriteRule(window=3)])
def test_streaming_equals_one_pass(rule: WriteRule) -> None:
    layer = make_layer(decay=True, rule=rule).eval()
    x = torch.randn(2, 21, 12)
    expected, last = layer(x, write=True)
    pieces, state = [], None
    for piece in x.split([1, 7, 0, 10, 3], dim=1):
        y, state = layer(piece, state, write=True)
        pieces.append(y)
    assert state is not None
    torch.testing.assert_close(torch.cat(pieces, 1), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(state.weights, last.weights, rtol=0, atol=1e-5)


def test_eval_writes_only_when_asked() -> None:
    layer = make_layer(decay=True)
    x = torch.randn(2, 20, 12)
    _, state = layer(x)
    layer.eval()
    silent, same = layer(x, state)
    assert same is state
    assert torch.equal(silent, layer(x, state, write=False)[0])
    asked, moved = layer(x, state, write=True)
    assert not torch.equal(moved.weights, state.weights)
    assert not torch.equal(asked, silent)
    with pytest.raises(SettingError, match="write=True works, or a state"):
        layer(x)
    assert layer(x, write=False)[1].weights.abs().max() == 0
    trained, last = layer.train()(x, state)
    assert torch.equal(trained, asked)
    assert torch.equal(last.weights, moved.weights)


@pytest.mark.parametrize("write", [None, False, True])
def test_no_call_changes_the_layer_or_a_state(write: bool | None) -> None:
    layer = make_layer().eval()
    x = torch.randn(2, 20, 12)
    before = {name: one.clone() for name, one in layer.state_dict().items()}
    first, state = layer(x, write=True)
    kept = state.weights.clone()
    second, _ = layer(x, write=True)
    layer(x, state, write=write)
    assert torch.equal(first, second)
    assert torch.equal(state.weights, kept)
    after = layer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(one, after[name]) for name, one in before.items())


@pytest.mark.parametrize("rule", [WriteRule(), WriteRule(block=3), WriteRule(window=3)])
def test_reading_only_returns_the_state_as_it_came(rule: WriteRule) -> None:
    layer = make_layer(decay=True, rule=rule)
    x = torch.randn(2, 20, 12)
    _, state = layer(x)
    y, same = layer(x, state, write=False)
    assert same is state
    turned, _ = layer(x.flip(1), state, write=False)
    torch.testing.assert_close(turned.flip(1), y)  # no token changes what another one reads


def test_padding_and_other_samples_change_nothing() -> None:
    layer = make_layer(decay=True)
    x = torch.randn(2, 20, 12)
    valid = torch.arange(20) < torch.tensor([[20], [11]])
    y, state = layer(x, valid_BT=valid)
    alone, last = layer(x[1:, :11])
    torch.testing.assert_close(y[1:, :11], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(state.weights[1:], last.weights, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "rule",
    [
        WriteRule(),
        WriteRule(block=4),
        WriteRule(window=3),
        WriteRule(block=3, read="before", retention=WeightRetention("kl")),
        WriteRule(retention=WeightRetention("initial")),
    ],
)
def test_padded_samples_stream_as_each_would_alone(rule: WriteRule) -> None:
    """Padding on the right, on the left and in between, of NaN, in calls of any size."""
    layer, x = make_layer(decay=True, rule=rule), torch.randn(4, 21, 12)
    valid = torch.rand(4, 21, generator=torch.Generator().manual_seed(1)) > 0.3
    valid[0], valid[0, 15:], valid[1, :9], valid[3] = True, False, False, False
    padded = x.masked_fill(~valid[..., None], torch.nan)
    pieces, state = [], None
    for piece, part in zip(padded.split([8, 1, 12], 1), valid.split([8, 1, 12], 1), strict=True):
        y, state = layer(piece, state, valid_BT=part)
        pieces.append(y)
    assert state is not None
    y = torch.cat(pieces, 1)
    assert torch.isfinite(y).all()
    for row in range(4):
        alone, last = layer(x[row : row + 1, valid[row]])
        torch.testing.assert_close(y[row, valid[row]], alone[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(state.weights[row], last.weights[0], rtol=0, atol=1e-5)


def test_the_past_does_not_know_the_future() -> None:
    layer = make_layer(decay=True)
    x = torch.randn(2, 20, 12, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x)[0][:, 9].sum(), x)
    assert slope[:, 10:].abs().max() == 0
    assert slope[:, 3].abs().max() > 0


def test_bfloat16_weights_keep_their_dtype_and_a_float32_state() -> None:
    layer = make_layer().bfloat16()
    y, state = layer(torch.randn(2, 20, 12, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert state.weights.dtype == torch.float32


def test_it_learns_to_recall() -> None:
    """The value that follows a key is asked for again: out of reach without a memory."""
    torch.manual_seed(0)
    layer = DeltaMemory(16, 2, chunk=16)
    embed, head = nn.Embedding(24, 16), nn.Linear(16, 8)
    weights = [*layer.parameters(), *embed.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, 1e-2)
    for _ in range(150):
        keys = torch.stack([torch.randperm(8)[:4] for _ in range(32)])
        values = torch.randint(8, (32, 4))
        # A token is a pair (key and value in one embedding), the last one a question.
        asked = torch.randint(4, (32, 1))
        question = keys.gather(1, asked)
        x = torch.cat([embed(keys) + embed(8 + values), embed(question) + embed.weight[16]], 1)
        logits = head(layer(x)[0][:, -1])
        loss = nn.functional.cross_entropy(logits, values.gather(1, asked)[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1.0  # ln 8 = 2.08 is chance


def test_bad_input_is_refused() -> None:
    layer = make_layer()
    with pytest.raises(ShapeMismatch, match=r"\(samples, tokens, 12\) works"):
        layer(torch.zeros(2, 20, 11))
    for dtype in (torch.float64, torch.int64):
        with pytest.raises(ShapeMismatch, match=r"x\.to\(torch\.float32\) works"):
            layer(torch.zeros(2, 20, 12, dtype=dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(layer(torch.ones(2, 20, 12, dtype=torch.bfloat16))[0]).all()
    with pytest.raises(ShapeMismatch, match="samples 3 for 2"):
        layer(torch.zeros(2, 20, 12), FastState.zeros(3, 3, 4, 4))
    with pytest.raises(ShapeMismatch, match="heads 2 for 3"):
        layer(torch.zeros(2, 20, 12), FastState.zeros(2, 2, 4, 4))
    with pytest.raises(SettingError, match="state=dict of a linear memory"):
        layer.eval()(torch.zeros(2, 20, 12), {})
    with pytest.raises(ShapeMismatch, match="valid of shape"):
        layer(torch.zeros(2, 20, 12), valid_BT=torch.ones(2, 19, dtype=torch.bool), write=True)
    _, windowed = make_layer(rule=WriteRule(window=3))(torch.ones(2, 4, 12))
    with pytest.raises(SettingError, match="window of 3 tokens and window=1"):
        layer.train()(torch.zeros(2, 20, 12), windowed)
    with pytest.raises(NonFiniteInput):
        layer(torch.full((2, 20, 12), torch.nan))
    with pytest.raises(SettingError, match="width=12 with num_heads=5"):
        DeltaMemory(12, 5)
    with pytest.raises(SettingError, match="most_rate=3"):
        DeltaMemory(12, 3, most_rate=3)
    with pytest.raises(SettingError, match="chunk=0"):
        DeltaMemory(12, 3, chunk=0)


@pytest.mark.parametrize("length", [0, 1, 5, 13])
def test_a_chunk_beyond_the_sequence_gives_the_same(length: int) -> None:
    layer, x = make_layer(decay=True), torch.randn(2, length, 12)
    small, state = layer(x)
    layer.chunk = 4096
    large, last = layer(x)
    torch.testing.assert_close(large, small, rtol=0, atol=1e-5)
    torch.testing.assert_close(last.weights, state.weights, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [0, 1])
def test_short_sequences(length: int) -> None:
    y, state = make_layer()(torch.randn(2, length, 12))
    assert y.shape == (2, length, 12)
    assert state.weights.shape == (2, 3, 4, 4)


def test_ojas_rule_stays_finite_whatever_the_size_of_the_values() -> None:
    layer = make_layer(rule=OJA)
    y, state = layer(100 * torch.randn(2, 300, 12))
    assert y.isfinite().all()
    assert state.weights.abs().max() < 100


@pytest.mark.parametrize("kind", ["decay", "initial", "kl", "lq"])
def test_reading_without_writing_is_a_write_of_rate_0(kind: str) -> None:
    layer = make_layer(rule=WriteRule(retention=WeightRetention(kind)))  # type: ignore[arg-type]
    x = torch.randn(2, 6, 12)
    _, state = layer(x[:, :5], write=True)
    found, kept = layer(x[:, 5:], state, write=False)
    assert kept is state
    with torch.no_grad():
        layer.rate.weight.zero_()
        layer.rate.bias.fill_(-9.0)
    expected, _ = layer(x[:, 5:], state, write=True)
    torch.testing.assert_close(found, expected)
