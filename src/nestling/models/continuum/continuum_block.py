"""Transformer block with a continuum memory system in place of its MLP (Hope-Attention)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from nestling.core.errors import ModelError
from nestling.models.continuum.cms import CMS
from nestling.models.continuum.cms_settings import Gradient


class ContinuumBlock(nn.Module):
    """Transformer block: causal attention, then a `CMS`, pre-norm, with skip connections.

    x + proj(attention(qkv(ln1(x)))), then x + CMS(ln2(x))  [NL, section 8.3, Hope-Attention]

    Attention is the level without parameters of its own whose context the system reads.

    Args:
        width: C; a multiple of `num_heads`.
        num_heads: H.
        chunks: as of `CMS`.
        hidden: as of `CMS`; `width` by default.
        rate: as of `CMS`.
        gradient: as of `CMS`.

    Raises:
        ModelError: the heads do not divide the width.
        SettingError: what the `CMS` cannot carry out.

    >>> import torch
    >>> ContinuumBlock(8, 2, chunks=(2, 4))(torch.zeros(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        chunks: Sequence[int] = (8, 32, 128, 512),
        *,
        hidden: int | None = None,
        rate: float | Sequence[float] = 1.0,
        gradient: Gradient = "full",
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ModelError(
                f"width = {width} with num_heads = {num_heads}: the width must be a multiple of it"
            )
        self.num_heads = num_heads
        self.ln1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.ln2 = nn.LayerNorm(width)
        self.memory = CMS(width, chunks, hidden=hidden, rate=rate, gradient=gradient)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        qkv_BTHD = self.qkv(self.ln1(x_BTC)).unflatten(-1, (3 * self.num_heads, -1))
        q_BHTD, k_BHTD, v_BHTD = qkv_BTHD.transpose(1, 2).chunk(3, dim=1)
        seen_BHTD = functional.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        x_BTC = x_BTC + self.proj(seen_BHTD.transpose(1, 2).flatten(2))
        change_BTC: Tensor = self.memory(self.ln2(x_BTC))
        return x_BTC + change_BTC
