"""Models of the same size that read a sequence: memories, continuum memory, attention."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from nestling.bench.blocks.formal_languages import RotaryBlock
from nestling.memory.associative import (
    DELTA,
    HEBBIAN,
    OJA,
    DeepFastState,
    WriteRule,
    write_mlp,
)
from nestling.models.continuum import CMS, ContinuumBlock
from nestling.models.delta_memory import DeltaMemory, reach_ends, scale_to_length_1

# Axes: B sequences, T positions, C width, F inputs of a position, K answers, H heads, D width of a
# head, M hidden width.

WINDOW = 4  # tokens that the Omega rule writes again
BLOCK = 8  # tokens that share the weights of an MLP memory
CHUNKS = (1, 8, 32)  # of a CMS: the fastest writes after every token, as the memories do
CMS_RATE = 2.0


class MlpMemory(nn.Module):
    """Layer whose memory is a two-layer residual MLP with a learned start, written in blocks of 8.

    Otherwise as `DeltaMemory`: keys and queries of length 1, a rate per token and head, RMSNorm
    over all heads.

    Args:
        width: C.
        num_heads: H.
        hidden: M; of each head.
    """

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        size = width // num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.rate = nn.Linear(width, num_heads)
        like = self.rate.weight.detach()
        # Small enough for keys of length 1 that all rates are stable.
        self.inner = nn.Parameter(like.new_empty(num_heads, hidden, size).normal_(std=0.25))
        self.outer = nn.Parameter(like.new_zeros(num_heads, size, hidden))
        self.norm = nn.RMSNorm(width)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x_BTC: Tensor) -> tuple[Tensor, DeepFastState]:
        """(B, T, C) -> (B, T, C), and the memory after it."""
        qkv_BHTD = self.qkv(x_BTC).unflatten(-1, (3 * self.num_heads, -1)).transpose(1, 2)
        q_BHTD, k_BHTD, v_BHTD = qkv_BHTD.chunk(3, dim=1)
        rates_BHT = 2 / BLOCK * reach_ends(self.rate(x_BTC)).transpose(1, 2)
        start = DeepFastState.from_initial(self.outer, self.inner, len(x_BTC))
        seen_BHTD, state = write_mlp(
            WriteRule(block=BLOCK),
            scale_to_length_1(k_BHTD),
            scale_to_length_1(v_BHTD),
            rates_BHT,
            None,
            start,
            queries_BHTD=scale_to_length_1(q_BHTD),
        )
        y_BTC: Tensor = self.proj(self.norm(seen_BHTD.transpose(1, 2).flatten(2)))
        return y_BTC, state


class MemoryBlock(nn.Module):
    """A memory in place of attention, then an MLP or a CMS, pre-norm, with skip connections.

    Args:
        width: C.
        memory: (B, T, C) -> (B, T, C) and a state, which begins anew with each call.
        after: (B, T, C) -> (B, T, C).
    """

    def __init__(self, width: int, memory: DeltaMemory | MlpMemory, after: nn.Module) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.memory, self.after = memory, after

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x_BTC = x_BTC + self.memory(self.ln1(x_BTC))[0]
        change_BTC: Tensor = self.after(self.ln2(x_BTC))
        return x_BTC + change_BTC


class AloneBlock(nn.Module):
    """A CMS and a skip connection, nothing else that could read the context."""

    def __init__(self, width: int, memory: CMS) -> None:
        super().__init__()
        self.norm, self.memory = nn.LayerNorm(width), memory

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        change_BTC: Tensor = self.memory(self.norm(x_BTC))
        return x_BTC + change_BTC


class ContextReader(nn.Module):
    """Linear embedding of each position, one block, and an answer at each position."""

    def __init__(self, num_inputs: int, num_answers: int, width: int, block: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Linear(num_inputs, width, bias=False)
        nn.init.normal_(self.embed.weight)  # as nn.Embedding, of one-hot inputs
        self.block = block
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_answers)

    def forward(self, inputs_BTF: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, K) logits."""
        logits_BTK: Tensor = self.head(self.norm(self.block(self.embed(inputs_BTF))))
        return logits_BTK


@dataclass(frozen=True)
class Shape:
    """Width and heads of the models of a task.

    Args:
        width: C.
        num_heads: of attention, of linear attention and of MLP memories.
        num_writing: heads of memories that erase what they replace; with as many as C a reflection
            is a change of sign.
    """

    width: int
    num_heads: int
    num_writing: int


def make_mlp(width: int, hidden: int) -> nn.Sequential:
    """Feed-forward network of a Transformer block."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def count_parameters(model: nn.Module) -> int:
    """Numbers that training can change."""
    return sum(parameter.numel() for parameter in model.parameters())


def _linear(shape: Shape) -> nn.Module:
    memory = DeltaMemory(shape.width, shape.num_heads, most_rate=1.0, rule=HEBBIAN)
    return MemoryBlock(shape.width, memory, make_mlp(shape.width, 4 * shape.width))


def _delta(shape: Shape, most_rate: float = 2.0, rule: WriteRule = DELTA) -> MemoryBlock:
    memory = DeltaMemory(shape.width, shape.num_writing, most_rate=most_rate, rule=rule)
    return MemoryBlock(shape.width, memory, make_mlp(shape.width, 4 * shape.width))


def _mlp_memory(shape: Shape) -> nn.Module:
    size = shape.width // shape.num_heads
    # Its start costs as much as the MLP after it is narrower.
    memory = MlpMemory(shape.width, shape.num_heads, size)
    return MemoryBlock(shape.width, memory, make_mlp(shape.width, 4 * shape.width - size))


def _cms_alone(shape: Shape) -> nn.Module:
    budget = count_parameters(_delta(shape))
    return AloneBlock(shape.width, _fit_cms(shape.width, budget))


def _hope(shape: Shape) -> nn.Module:
    memory = DeltaMemory(shape.width, shape.num_writing)
    budget = count_parameters(make_mlp(shape.width, 4 * shape.width))
    return MemoryBlock(shape.width, memory, _fit_cms(shape.width, budget))


def _attention_cms(shape: Shape) -> nn.Module:
    budget = count_parameters(make_mlp(shape.width, 4 * shape.width))
    return ContinuumBlock(
        shape.width,
        shape.num_heads,
        CHUNKS,
        hidden=_fit_cms(shape.width, budget).hidden,
        rate=CMS_RATE,
    )


def _fit_cms(width: int, budget: int) -> CMS:
    """A CMS whose hidden width makes it as large as a budget of parameters, or nearly so."""

    def make(hidden: int) -> CMS:
        return CMS(width, CHUNKS, hidden=hidden, rate=CMS_RATE)

    least = count_parameters(make(1))
    each = count_parameters(make(2)) - least
    return make(1 + max(0, round((budget - least) / each)))


TRANSFORMER, LINEAR, DELTA_NET = "transformer", "linear-attention", "deltanet"
RIVALS = (TRANSFORMER, LINEAR, DELTA_NET)

# Linear attention is the Hebbian rule; DeltaNet the delta rule with rates up to 1.
CONTEXT_MODELS: Mapping[str, Callable[[Shape], nn.Module]] = {
    TRANSFORMER: lambda shape: RotaryBlock(shape.width, shape.num_heads),
    LINEAR: _linear,
    DELTA_NET: lambda shape: _delta(shape, most_rate=1.0),
    "delta-to-2": _delta,
    "oja": lambda shape: _delta(shape, rule=OJA, most_rate=1.0),
    "omega": lambda shape: _delta(shape, rule=WriteRule(window=WINDOW)),
    "mlp-memory": _mlp_memory,
    "cms": _cms_alone,
    "memory-cms": _hope,
    "attention-cms": _attention_cms,
}
