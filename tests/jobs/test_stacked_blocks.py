"""Which blocks pay as stacked levels: found where they do, denied where they do not."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.jobs.suggest import find_mlp_outputs, suggest_stacking
from nestling.models import TransformerClassifier, gpt_blocks, mlp, stack_levels

NUM_TOKENS = 12


def draw_tokens(spread: float, num: int = 16, length: int = 96, seed: int = 0) -> Tensor:
    """Sequences, each from a distribution of its own; with spread 0 all are even noise."""
    generator = torch.Generator().manual_seed(seed)
    shares = (spread * torch.randn(num, NUM_TOKENS, generator=generator)).softmax(-1)
    return torch.multinomial(shares, length, replacement=True, generator=generator)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Knows that tokens are even; never saw a sequence that is not."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Embedding(NUM_TOKENS, 16), gpt_blocks(2, 16, 2), nn.Linear(16, NUM_TOKENS)
    )
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for step in range(60):
        tokens = draw_tokens(0.0, length=32, seed=step)
        logits = net(tokens)[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def test_blocks_that_pay_are_found_and_the_gain_is_there_on_new_sequences(
    model: nn.Module,
) -> None:
    before = {name: one.clone() for name, one in model.state_dict().items()}
    advice = suggest_stacking(model, draw_tokens(2.0))
    assert advice.is_token_model
    assert advice.blocks
    for block in advice.blocks:
        assert block.alignment > 2 * block.alignment_error
        assert block.gain > 2 * block.gain_error
        said = next(one.reason for one in advice.reasons if one.choice == block.pattern)
        assert f"{block.alignment:+.3f}" in said
        assert f"{block.gain:+.4f}" in said
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    # The printed call is one that works, and it gains.
    levels = {block.pattern: block.chunk for block in advice.blocks}
    stacked = stack_levels(model.eval(), levels, rate=[block.rate for block in advice.blocks])
    assert advice.call.startswith(f'nl.models.stack_levels(model, {{"{advice.blocks[0].pattern}"')
    tokens = draw_tokens(2.0, seed=7)
    losses = [
        functional.cross_entropy(
            stacked.read(tokens, write=write)[0][:, :-1].mT, tokens[:, 1:]
        ).item()
        for write in (False, True)
    ]
    assert losses[1] < losses[0] - 0.05


def test_noise_has_nothing_to_learn_and_it_says_so(model: nn.Module) -> None:
    advice = suggest_stacking(model, draw_tokens(0.0, seed=3))
    assert advice.blocks == ()
    assert advice.call == ""
    assert [one.pattern for one in advice.tried] == ["1.0.out.*", "1.1.out.*"]
    assert advice.reasons[-1].value == "none"
    assert "do not stack" in advice.reasons[-1].reason


@pytest.mark.parametrize(
    ("net", "tokens", "message"),
    [
        (mlp([4, 8, 2]), torch.zeros(20, 4), "no tokens"),
        (nn.Embedding(5, 3), torch.zeros(2, 40, dtype=torch.long), "too few"),
        (nn.Embedding(5, 3), torch.zeros(9, 9, dtype=torch.long), "too few"),
        (mlp([40, 8, 2]), torch.zeros(9, 40, dtype=torch.long), "cannot read whole numbers"),
        (TransformerClassifier(5, 3), draw_tokens(0.0) % 5, "cannot read whole numbers"),
        (TransformerClassifier(5, 3, length=96), draw_tokens(0.0) % 5, "no logits"),
        (nn.Embedding(12, 3), draw_tokens(0.0), "3 logits for tokens up to 11"),
        (
            nn.Sequential(nn.Embedding(12, 12), gpt_blocks(1, 12, 2, causal=False)),
            draw_tokens(0.0),
            "not causal",
        ),
        (nn.Embedding(12, 12), draw_tokens(0.0), "no MLP block"),
    ],
)
def test_where_it_does_not_apply_it_says_why(net: nn.Module, tokens: Tensor, message: str) -> None:
    advice = suggest_stacking(net, tokens)
    assert advice.blocks == ()
    assert message in advice.reasons[0].reason


def test_mlp_blocks_of_a_plain_stack_are_found_and_the_head_is_none() -> None:
    assert (
        find_mlp_outputs(mlp([4, 8, 8, 2]))
        == [name for name, one in mlp([4, 8, 8, 2]).named_modules() if isinstance(one, nn.Linear)][
            1:-1
        ]
    )
    assert find_mlp_outputs(nn.Linear(3, 3)) == []
