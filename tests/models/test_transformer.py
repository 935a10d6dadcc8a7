"""The block against its equations, written out slowly."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.models import Block, TransformerClassifier, gpt_blocks


def slow_block(block: Block, x_TC: Tensor) -> Tensor:
    """One sequence, one head and one position at a time."""
    normed_TC = block.ln1(x_TC)
    q_TC, k_TC, v_TC = block.qkv(normed_TC).chunk(3, dim=-1)
    size = x_TC.shape[1] // block.num_heads
    seen_TC = torch.zeros_like(x_TC)
    for head in range(block.num_heads):
        part = slice(head * size, (head + 1) * size)
        for t in range(len(x_TC)):
            last = t + 1 if block.causal else len(x_TC)
            scores = torch.stack([q_TC[t, part] @ k_TC[s, part] for s in range(last)])
            weights = functional.softmax(scores / math.sqrt(size), dim=0)
            seen_TC[t, part] = sum(w * v_TC[s, part] for s, w in enumerate(weights))
    x_TC = x_TC + block.proj(seen_TC)
    hidden: Tensor = block.out(functional.gelu(block.fc(block.ln2(x_TC))))
    return x_TC + hidden


def test_block_equals_the_slow_twin() -> None:
    for causal in (True, False):
        block = Block(12, 3, causal=causal).double()
        x_BTC = torch.randn(2, 5, 12, dtype=torch.float64)
        slow = torch.stack([slow_block(block, x_TC) for x_TC in x_BTC])
        torch.testing.assert_close(block(x_BTC), slow)


def test_a_causal_block_sees_nothing_of_what_comes() -> None:
    block = Block(8, 2)
    x_BTC = torch.randn(1, 6, 8)
    changed = x_BTC.clone()
    changed[:, 4:] += 1.0
    torch.testing.assert_close(block(x_BTC)[:, :4], block(changed)[:, :4])


def test_six_gpt_layers_of_width_384_have_72_tensors() -> None:
    params = list(gpt_blocks(6, 384, 6).parameters())
    assert (len(params), sum(p.numel() for p in params)) == (72, 10_646_784)


def test_the_classifier_learns_which_token_comes_most() -> None:
    tokens_BT = torch.randint(0, 3, (128, 9))
    label_B = functional.one_hot(tokens_BT, 3).sum(dim=1).argmax(dim=1)
    model = TransformerClassifier(3, 3, length=9, width=16, num_layers=1, num_heads=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens_BT), label_B).backward()
        optimizer.step()
    assert (model(tokens_BT).argmax(dim=1) == label_B).float().mean() > 0.9
