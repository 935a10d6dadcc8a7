"""Speed of a delta-rule memory against attention: forward and backward of four blocks, in turns."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.bench.result import SuiteResult
from nestling.bench.timing import (
    Rows,
    Side,
    list_sides,
    median_ratio,
    run_backward,
    time_calls,
    time_rounds,
)
from nestling.core.machine import use_threads
from nestling.core.seeds import make_generator
from nestling.memory.associative import DELTA, WriteRule
from nestling.models.delta_memory import DeltaMemory
from nestling.models.transformer import gpt_blocks

# Axes: B samples, T tokens, C width.

WIDTH, NUM_LAYERS, NUM_HEADS, LENGTH, BATCH_SIZE, CHUNK = 128, 4, 4, 512, 4, 64
GPT, DELTA_RULE = "GPT", "delta-rule memory"


class DeltaBlock(nn.Module):
    """Transformer block whose attention is a delta-rule memory; the rest is as in GPT.

    Args:
        width: C.
        num_heads: of the memory.
        chunk: of the memory.
        head_width: of the memory; None for C / heads.
        most_rate: of the memory.
        rule: of the memory.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        chunk: int = CHUNK,
        *,
        head_width: int | None = None,
        most_rate: float = 2.0,
        rule: WriteRule = DELTA,
    ) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.memory = DeltaMemory(
            width, num_heads, chunk=chunk, head_width=head_width, most_rate=most_rate, rule=rule
        )
        self.ln2 = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x_BTC = x_BTC + self.memory(self.ln1(x_BTC), write=True)[0]
        change_BTC: Tensor = self.out(functional.gelu(self.fc(self.ln2(x_BTC))))
        return x_BTC + change_BTC


def measure_delta_speed(
    *, num_rounds: int = 9, length: int = LENGTH, chunk: int = CHUNK
) -> SuiteResult:
    """Time a delta-rule memory of 4 heads against a GPT with SDPA; half a minute, one thread.

    Width 128, 4 layers, 512 tokens, batch 4, forward and backward by turns.

    Args:
        num_rounds: rounds that count.
        length: tokens; also measured at four times as many.
        chunk: tokens that the memory computes at once.

    Returns: figures `delta_over_gpt` and `delta_length_scaling` (2,048 tokens over 512); rows with
        the median milliseconds of each side.
    """
    generator = make_generator(0, "delta speed")
    with torch.random.fork_rng(devices=[]), use_threads(1):
        torch.manual_seed(0)
        gpt = gpt_blocks(NUM_LAYERS, WIDTH, NUM_HEADS)
        delta = nn.Sequential(*(DeltaBlock(WIDTH, NUM_HEADS, chunk) for _ in range(NUM_LAYERS)))
        shape = (BATCH_SIZE, 4 * length, WIDTH)
        long_BTC = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        short_BTC = long_BTC[:, :length]
        sides: dict[str, Side] = {
            GPT: lambda: time_calls(lambda: _run(gpt, short_BTC), 2),
            DELTA_RULE: lambda: time_calls(lambda: _run(delta, short_BTC), 2),
            f"{DELTA_RULE}, 4 x length": lambda: time_calls(lambda: _run(delta, long_BTC), 2),
        }
        seconds = time_rounds(sides, num_rounds)
    figures = {
        "delta_over_gpt": median_ratio(seconds, DELTA_RULE, GPT),
        "delta_length_scaling": median_ratio(seconds, f"{DELTA_RULE}, 4 x length", DELTA_RULE),
    }
    rows: Rows = list_sides("forward and backward", seconds, 2)
    return SuiteResult("delta-speed", figures, rows)


def _run(model: nn.Module, x_BTC: Tensor) -> None:
    model.zero_grad()
    run_backward(model(x_BTC).square().mean())
