"""Plain transformer blocks, and a classifier made of them."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.errors import ModelError

# Axes: B batch, T positions, C width, H heads, D = C / H width of one head, K classes.


class Block(nn.Module):
    """Transformer block: attention and feed-forward network, pre-norm, with skip connections.

    x + proj(attention(qkv(ln1(x)))), then x + out(gelu(fc(ln2(x))))
    [Radford et al. 2019, section 2.3; pre-norm]

    Its 12 parameter tensors are weight and bias of ln1, qkv, proj, ln2, fc and out.

    Args:
        width: C; a multiple of `num_heads`.
        num_heads: H.
        causal: positions see only themselves and what is before them.

    Raises:
        ModelError: the heads do not divide the width.

    >>> len(list(Block(8, 2).parameters()))
    12
    """

    def __init__(self, width: int, num_heads: int, *, causal: bool = True) -> None:
        super().__init__()
        if width % num_heads:
            raise ModelError(
                f"width = {width} with num_heads = {num_heads}: the width must be a multiple of it"
            )
        self.num_heads = num_heads
        self.causal = causal
        self.ln1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.ln2 = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        qkv_BTHD = self.qkv(self.ln1(x_BTC)).unflatten(-1, (3 * self.num_heads, -1))
        q_BHTD, k_BHTD, v_BHTD = qkv_BTHD.transpose(1, 2).chunk(3, dim=1)
        seen_BHTD = functional.scaled_dot_product_attention(
            q_BHTD, k_BHTD, v_BHTD, is_causal=self.causal
        )
        x_BTC = x_BTC + self.proj(seen_BHTD.transpose(1, 2).flatten(2))
        change_BTC: Tensor = self.out(functional.gelu(self.fc(self.ln2(x_BTC))))
        return x_BTC + change_BTC


def gpt_blocks(
    num_layers: int, width: int, num_heads: int, *, causal: bool = True
) -> nn.Sequential:
    """Stack of transformer blocks (GPT) without embedding or head.

    Args:
        num_layers: how many blocks.
        width: C; a multiple of `num_heads`.
        num_heads: H.
        causal: as in `Block`.

    Returns: (B, T, C) -> (B, T, C).

    >>> sum(p.numel() for p in gpt_blocks(6, 384, 6).parameters())
    10646784
    """
    return nn.Sequential(*(Block(width, num_heads, causal=causal) for _ in range(num_layers)))


class TransformerClassifier(nn.Module):
    """Transformer classifier of token sequences: embedding, blocks, mean pooling, linear head.

    Args:
        num_tokens: size of the vocabulary.
        num_classes: K.
        length: longest sequence, in tokens.
        width: C.
        num_layers: how many blocks.
        num_heads: H.

    >>> TransformerClassifier(50, 3, length=8)(torch.zeros(2, 8, dtype=torch.long)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        num_tokens: int,
        num_classes: int,
        length: int = 64,
        width: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_tokens, width)
        self.position = nn.Parameter(torch.empty(length, width).normal_(std=0.02))
        self.blocks = gpt_blocks(num_layers, width, num_heads, causal=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) integers -> (B, K) logits."""
        x_BTC = self.embed(tokens_BT.long()) + self.position[: tokens_BT.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x_BTC)).mean(dim=1))
        return logits
