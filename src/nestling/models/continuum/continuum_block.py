"""Transformer block with a continuum memory system in place of its MLP (Hope-Attention)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.errors import ModelError
from nestling.models.continuum.cms import CMS
from nestling.models.continuum.cms_settings import Gradient, check_dtype, check_inputs


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

    def forward(
        self, x_BTC: Tensor, *, mask_BT: Tensor | None = None, write: bool | None = None
    ) -> Tensor:
        """Read whole sequences: (B, T, C) -> (B, T, C).

        Args:
            x_BTC: (B, T, C).
            mask_BT: (B, T) true where a token is one, false where it is padding, anywhere, which is
                neither attended to nor written nor counted; what stands at its place is no answer.
            write: whether the system writes; None for "in training mode".

        Raises:
            ShapeMismatch: shapes or dtypes that do not fit.
            NonFiniteInput: NaN or infinity in a token that is not padding.
        """
        check_inputs(x_BTC, mask_BT, self.memory.width)
        check_dtype(x_BTC, self.qkv.weight)
        seen_BITT = None
        if mask_BT is not None:
            x_BTC = x_BTC.masked_fill(~mask_BT[..., None], 0)  # NaN would pass through weights of 0
            eye_TT = torch.eye(x_BTC.shape[1], dtype=torch.bool, device=x_BTC.device)
            # Every token sees itself, padding too: a softmax over nothing is NaN.
            seen_BITT = ((mask_BT[:, None] | eye_TT) & torch.ones_like(eye_TT).tril())[:, None]
        qkv_BTHD = self.qkv(self.ln1(x_BTC)).unflatten(-1, (3 * self.num_heads, -1))
        q_BHTD, k_BHTD, v_BHTD = qkv_BTHD.transpose(1, 2).chunk(3, dim=1)
        seen_BHTD = functional.scaled_dot_product_attention(
            q_BHTD, k_BHTD, v_BHTD, attn_mask=seen_BITT, is_causal=seen_BITT is None
        )
        x_BTC = x_BTC + self.proj(seen_BHTD.transpose(1, 2).flatten(2))
        change_BTC: Tensor = self.memory(self.ln2(x_BTC), mask_BT=mask_BT, write=write)
        return x_BTC + change_BTC
