"""Delta-rule memory as a layer: a linear recurrence that stands where attention would."""

import torch
from torch import Tensor, nn

from nestling.core.arguments import check_whole
from nestling.core.errors import SettingError, ShapeMismatch
from nestling.memory.associative.chunked_writes import write_pairs
from nestling.memory.associative.fast_state import FastState, check_state
from nestling.memory.associative.inner_objectives import find_weights
from nestling.memory.associative.write_rule import DELTA, WriteRule
from nestling.models.continuum.cms_settings import check_dtype

# Axes: B samples, T tokens, C width of the layer, H heads, D width of a head.


def reach_ends(logits: Tensor) -> Tensor:
    """Sigmoid that reaches exactly 0 and 1: clamp(1.1 sigmoid(z) - 0.05, 0, 1).

    A rate that only comes near 2, or a decay that only comes near 1, spoils a memory within some
    hundred tokens.

    Args:
        logits: any shape.

    Returns: the same shape, in [0, 1].

    >>> reach_ends(torch.tensor([-9.0, 0.0, 9.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    return (1.1 * torch.sigmoid(logits) - 0.05).clamp(0, 1)


def scale_to_length_1(x_D: Tensor) -> Tensor:
    """Vectors divided by their length, in float32 or more; zero stays zero.

    Args:
        x_D: (..., D).

    >>> scale_to_length_1(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    x_D = x_D.to(torch.promote_types(torch.float32, x_D.dtype))
    # Cheaper than functional.normalize, whose division is the dearest step of the whole layer.
    return x_D * (x_D.square().sum(-1, keepdim=True) + 1e-24).rsqrt()


class DeltaMemory(nn.Module):
    """Delta-rule memory layer (DeltaNet) with several heads, for a block in place of attention.

    k = norm(x W_k), q = norm(x W_q), v = x W_v, eta = most_rate * reach_ends(x w + b)
    M_t = alpha_t M_(t-1) - eta_t (M_(t-1) k_t - v_t) k_t^T,   y_t = RMSNorm(M_t q_t) W_o
    [Behrouz et al., Nested Learning, equations 88 and 93, each erase once; Schlag et al. 2021]

    Keys and queries of each head have length 1, so eta = 1 replaces what is stored under a key and
    eta = 2 reflects it, which is what parity needs. Values of Oja's rule have length 1 as well, for
    it erases along them. RMSNorm is over all heads at once. The layer keeps no state: each call
    starts from `state`, or from zero, and returns what it came to. In evaluation mode nothing is
    written unless `write=True` asks for it, as a block must that needs to read the tokens of its
    own call at test time.

    Args:
        width: C.
        num_heads: H.
        head_width: D; None for C / H.
        most_rate: eta of a gate that is wide open; 2 for keys that can be reflected, 1 for beta of
            the plain DeltaNet.
        decay: whether each head forgets, by alpha_t = reach_ends(x w + b), near 1 at the start.
        rule: what is written; the delta rule if not given. Over a block or a window the rates are
            divided by its length, which keeps them stable for any keys.
        chunk: tokens computed at once; any number gives the same result.

    Raises:
        SettingError: heads that do not divide the width, a number out of range.

    >>> layer = DeltaMemory(8, 2)
    >>> y, state = layer(torch.randn(3, 5, 8))
    >>> y.shape, state.weights.shape
    (torch.Size([3, 5, 8]), torch.Size([3, 2, 4, 4]))
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        head_width: int | None = None,
        most_rate: float = 2.0,
        decay: bool = False,
        rule: WriteRule = DELTA,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        check_whole("width", width, 1, "1 or more works")
        check_whole("num_heads", num_heads, 1, "1 or more works")
        check_whole("chunk", chunk, 1, "1 or more works")
        if head_width is None and width % num_heads:
            raise SettingError(
                f"width={width} with num_heads={num_heads}; a multiple of the heads works, "
                "or head_width=..."
            )
        if not 0 < most_rate <= 2:
            raise SettingError(f"most_rate={most_rate}; a number within 0 and 2 works, 2 included")
        self.num_heads = num_heads
        self.head_width = check_whole(
            "head_width", head_width or width // num_heads, 1, "1 or more works"
        )
        self.most_rate, self.rule, self.chunk = most_rate, rule, chunk
        inner = num_heads * self.head_width
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.rate = nn.Linear(width, num_heads)
        self.decay = nn.Linear(width, num_heads) if decay else None
        self.norm = nn.RMSNorm(inner)
        self.proj = nn.Linear(inner, width, bias=False)
        with torch.no_grad():
            # Heads begin unlike each other, and none where every token is reflected: such a head
            # sums its values with alternating signs, a random walk that drowns the others in the
            # norm once a sequence is longer than those of training.
            bias_H = self.rate.bias
            spread_H = torch.linspace(-1, 1, num_heads, device=bias_H.device, dtype=bias_H.dtype)
            bias_H.copy_(spread_H)
            if self.decay is not None:
                self.decay.bias.fill_(4.0)

    def start(self, num_samples: int) -> FastState:
        """Memories that know nothing yet, one per sample and head."""
        weight = self.rate.weight
        dtype = torch.promote_types(torch.float32, weight.dtype)
        size = self.head_width
        return FastState.zeros(
            num_samples, self.num_heads, size, size, device=weight.device, dtype=dtype
        )

    def forward(
        self,
        x_BTC: Tensor,
        state: FastState | None = None,
        *,
        valid_BT: Tensor | None = None,
        write: bool | None = None,
    ) -> tuple[Tensor, FastState]:
        """Write a sequence into the memory and read it out, causally.

        Args:
            x_BTC: (B, T, C).
            state: of the tokens before; None for `start(B)`. It is not changed.
            valid_BT: (B, T) truth values, False for padding, anywhere, which changes no memory and
                counts in no block or window.
            write: whether the tokens are written; None for "in training mode". Without, they read
                from `state` only, and it is returned as it came.

        Returns: (B, T, C); the state after the last token.

        Raises:
            ShapeMismatch: inputs of another width or dtype, a state of another batch.
            NonFiniteInput: NaN or infinity in a valid token.
            SettingError: nothing to read: evaluation mode, neither a state nor `write` given.
        """
        width = self.rate.in_features
        writes = self.training if write is None else bool(write)
        if write is None and state is None and not writes:
            raise SettingError(
                "DeltaMemory in evaluation mode with neither a state nor write: nothing is written "
                "unless asked, and an empty memory has no answer; write=True works, or a state"
            )
        if x_BTC.dim() != 3 or x_BTC.shape[2] != width:
            raise ShapeMismatch(
                f"inputs of shape {tuple(x_BTC.shape)}; (samples, tokens, {width}) works"
            )
        check_dtype(x_BTC, self.rate.weight)
        if state is None:
            state = self.start(x_BTC.shape[0])
        size = self.head_width
        check_state(state, (x_BTC.shape[0], self.num_heads, size, size))
        qkv_BHTD = self.qkv(x_BTC).unflatten(-1, (3 * self.num_heads, -1)).transpose(1, 2)
        qk_BHTD, v_BHTD = qkv_BHTD.split([2 * self.num_heads, self.num_heads], dim=1)
        q_BHTD, k_BHTD = scale_to_length_1(qk_BHTD).chunk(2, dim=1)
        if self.rule.swapped:  # what is erased is then along the values
            v_BHTD = scale_to_length_1(v_BHTD)
        # Pairs that are written by the same weights must not overshoot together.
        most_rate = self.most_rate / (self.rule.block * self.rule.window)
        rates_BHT = most_rate * reach_ends(self.rate(x_BTC)).transpose(1, 2)
        decays_BHT = None
        if self.decay is not None:
            decays_BHT = reach_ends(self.decay(x_BTC)).transpose(1, 2)
        rule, start = self.rule, state
        if not writes:  # neither the tokens nor what a window or a block still holds
            rates_BHT, decays_BHT = torch.zeros_like(rates_BHT), None
            rule, start = DELTA, FastState(find_weights(self.rule.retention, state.weights))
        seen_BHTD, new = write_pairs(
            rule,
            k_BHTD,
            v_BHTD,
            rates_BHT,
            decays_BHT,
            start,
            queries_BHTD=q_BHTD,
            valid_BT=valid_BT,
            chunk=self.chunk,
        )
        seen_BTC = seen_BHTD.transpose(1, 2).flatten(2).to(self.norm.weight.dtype)  # autocast's
        y_BTC: Tensor = self.proj(self.norm(seen_BTC))
        return y_BTC, new if writes else state
