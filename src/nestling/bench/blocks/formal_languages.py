"""Formal languages: parity, (aa)* and (abab)*, learned to length 40 and asked to length 256."""

import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.bench.blocks.delta_speed import DeltaBlock
from nestling.bench.result import SuiteResult
from nestling.core.machine import use_threads
from nestling.core.seeds import make_generator
from nestling.memory.associative import HEBBIAN

# Axes: B strings, T letters, C width, H heads, D width of a head.

WIDTH, TRAIN_LENGTH, TEST_LENGTH = 32, 40, 256
NUM_STEPS, NUM_WARM_UP, BATCH_SIZE, LR = 400, 40, 8, 1e-2
NUM_LETTERS, NUM_TEST_STRINGS = 2, 64

Progress = Callable[[str], None]
Draw = Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]


def draw_parity(num_strings: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random bits, and at each position whether an odd number of ones came: (B, T) each."""
    shape = (num_strings, length)
    bits_BT = torch.randint(0, 2, shape, generator=generator, device=generator.device)
    return bits_BT, bits_BT.cumsum(1) % 2


def draw_even(num_strings: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Strings of one letter, and at each position whether it lies in (aa)*: (B, T) each."""
    place_T = torch.arange(1, length + 1, device=generator.device)
    labels_BT = (place_T % 2 == 0).long().expand(num_strings, length)
    return torch.zeros_like(labels_BT), labels_BT


def draw_abab(num_strings: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Strings abab..., and at each position whether it lies in (abab)*: (B, T) each."""
    place_T = torch.arange(1, length + 1, device=generator.device)
    letters_BT = ((place_T + 1) % 2).expand(num_strings, length)
    return letters_BT, (place_T % 4 == 0).long().expand(num_strings, length)


TASKS: Mapping[str, Draw] = {"parity": draw_parity, "(aa)*": draw_even, "(abab)*": draw_abab}


class RotaryBlock(nn.Module):
    """Causal transformer block with rotary positions (RoPE), the rival of memories.

    Args:
        width: C.
        num_heads: H; of an even width each.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        qkv_BHTD = self.qkv(self.ln1(x_BTC)).unflatten(-1, (3 * self.num_heads, -1))
        q_BHTD, k_BHTD, v_BHTD = qkv_BHTD.transpose(1, 2).chunk(3, dim=1)
        seen_BHTD = functional.scaled_dot_product_attention(
            rotate(q_BHTD), rotate(k_BHTD), v_BHTD, is_causal=True
        )
        x_BTC = x_BTC + self.proj(seen_BHTD.transpose(1, 2).flatten(2))
        change_BTC: Tensor = self.out(functional.gelu(self.fc(self.ln2(x_BTC))))
        return x_BTC + change_BTC


def rotate(x_BHTD: Tensor) -> Tensor:
    """Turn pairs of coordinates by angles that grow with the position [Su et al. 2021].

    >>> rotate(torch.ones(1, 1, 1, 4)).flatten()
    tensor([1., 1., 1., 1.])
    """
    half = x_BHTD.shape[-1] // 2
    device, dtype = x_BHTD.device, x_BHTD.dtype
    speeds_D = 10_000 ** (-torch.arange(half, device=device, dtype=dtype) / half)
    place_T = torch.arange(x_BHTD.shape[2], device=device, dtype=dtype)
    angles_TD = place_T[:, None] * speeds_D
    cos_TD, sin_TD = angles_TD.cos(), angles_TD.sin()
    first, second = x_BHTD[..., :half], x_BHTD[..., half:]
    return torch.cat([first * cos_TD - second * sin_TD, first * sin_TD + second * cos_TD], -1)


class LetterReader(nn.Module):
    """Embedding, one block, and at each letter whether the string so far is in the language."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUM_LETTERS, WIDTH)
        self.block = block
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, letters_BT: Tensor) -> Tensor:
        """(B, T) letters -> (B, T, 2) logits."""
        logits_BTK: Tensor = self.head(self.norm(self.block(self.embed(letters_BT))))
        return logits_BTK


# Heads of width 1, so that a reflection is a change of sign: in wider ones two reflections make a
# rotation, which drifts.
MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "delta rule, eta to 2": lambda: DeltaBlock(WIDTH, WIDTH, head_width=1),
    "delta rule, beta to 1": lambda: DeltaBlock(WIDTH, WIDTH, head_width=1, most_rate=1.0),
    "linear attention": lambda: DeltaBlock(WIDTH, 4, most_rate=1.0, rule=HEBBIAN),
    "transformer": lambda: RotaryBlock(WIDTH, 4),
}


def run_formal_languages(
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    num_steps: int = NUM_STEPS,
    lr: float = LR,
    progress: Progress | None = None,
) -> SuiteResult:
    """Train each model on each language and ask it beyond its training length; three minutes.

    Width 32, one layer, AdamW 1e-2 with a cosine and warm-up, gradients clipped at 1, batches of 8
    strings of length 40 with a label at each letter; asked on strings of length 256.

    Args:
        seeds: one training run each.
        num_steps: optimizer steps of a run.
        lr: AdamW's learning rate at its highest.
        progress: told what each run came to.

    Returns: figures `<language>: <model>, whole strings`, the least share over the seeds of strings
        of length 256 that are right at every letter, and `..., beyond`, the mean accuracy at
        letters after the training length; rows with those of each run.
    """
    rows: list[dict[str, object]] = []
    figures: dict[str, float] = {}
    for task, draw in TASKS.items():
        for name, make_block in MODELS.items():
            runs = [train_and_ask(draw, make_block, seed, num_steps, lr) for seed in seeds]
            for seed, run in zip(seeds, runs, strict=True):
                rows.append({"language": task, "model": name, "seed": seed, **run})
                if progress is not None:
                    progress(f"{task}, {name}, seed {seed}: {run['beyond']:.1%} beyond length 40")
            figures[f"{task}: {name}, whole strings"] = min(run["whole_strings"] for run in runs)
            figures[f"{task}: {name}, beyond"] = statistics.mean(run["beyond"] for run in runs)
    return SuiteResult("formal-languages", figures, rows, num_threads=1)


def train_and_ask(
    draw: Draw, make_block: Callable[[], nn.Module], seed: int, num_steps: int, lr: float = LR
) -> dict[str, float]:
    """One run: train to length 40, ask on strings of length 256.

    Args:
        draw: gives strings and labels.
        make_block: makes the block under test.
        seed: of weights and strings.
        num_steps: optimizer steps.
        lr: AdamW's learning rate at its highest.

    Returns: `within` and `beyond`: accuracy at letters up to the training length, and after it;
        `whole_strings`: share of strings that are right at each of their letters; `seconds`.
    """
    start = time.perf_counter()
    generator = make_generator(seed, "formal languages")
    with torch.random.fork_rng(devices=[]), use_threads(1):
        torch.manual_seed(seed)
        model = LetterReader(make_block())
        optimizer = torch.optim.AdamW(model.parameters(), lr)
        for step in range(num_steps):
            warm_up = min(1.0, (step + 1) / NUM_WARM_UP)
            for group in optimizer.param_groups:
                group["lr"] = lr * warm_up * (1 + math.cos(math.pi * step / num_steps)) / 2
            letters_BT, labels_BT = draw(BATCH_SIZE, TRAIN_LENGTH, generator)
            loss = functional.cross_entropy(model(letters_BT).flatten(0, 1), labels_BT.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        letters_BT, labels_BT = draw(NUM_TEST_STRINGS, TEST_LENGTH, generator)
        with torch.no_grad():
            right_BT = model.eval()(letters_BT).argmax(-1) == labels_BT
    return {
        "within": float(right_BT[:, :TRAIN_LENGTH].float().mean()),
        "beyond": float(right_BT[:, TRAIN_LENGTH:].float().mean()),
        "whole_strings": float(right_BT.all(1).float().mean()),
        "seconds": time.perf_counter() - start,
    }
