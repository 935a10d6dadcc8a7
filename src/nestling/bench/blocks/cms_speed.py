"""Speed of continuum memory systems against a GPT: forward and backward of 4 blocks, in turns."""

import torch
from torch import Tensor, nn

from nestling.bench.result import SuiteResult
from nestling.bench.timing import (
    Side,
    list_sides,
    median_ratio,
    run_backward,
    time_calls,
    time_rounds,
)
from nestling.core.machine import use_threads
from nestling.core.seeds import make_generator
from nestling.models.continuum import CMS, ContinuumBlock
from nestling.models.continuum.cms_settings import Gradient
from nestling.models.transformer import gpt_blocks

# Axes: B samples, T tokens, C width.

WIDTH, NUM_LAYERS, NUM_HEADS, LENGTH, BATCH_SIZE = 128, 4, 4, 512, 4
CHUNKS = (8, 32, 128, 512)
WRITING = (8, 32, 128)  # of which chunks end, and are read again, within 512 tokens
GPT, STILL, FULL, FIRST = "GPT", "CMS, no writes", "CMS, full gradient", "CMS, first order"
SHORT, LONG = "512 tokens", "2,048 tokens"
ALONE, ALL = "CMS 8/32/128 alone", "CMS 8/32/128/512 alone"


def measure_cms_speed(*, num_rounds: int = 7) -> SuiteResult:
    """Time CMS blocks against GPT blocks of the same width, one thread; about a minute.

    Width 128, 4 layers, 512 tokens, batch 4, in training mode with exact writes at every chunk of
    8, 32, 128 and 512, attention (SDPA) included. A write that comes into force after the last
    token is not made where `forward` returns no state.

    Args:
        num_rounds: rounds that count; at least 5 for figures to be compared.

    Returns: figures `cms_over_gpt` and `cms_first_over_gpt` (hidden = width), the same `_4x`
        (hidden = 4 x width), `cms_still_over_gpt` (no writes), `length_scaling` (2,048 tokens over
        512, chunks of 8, 32 and 128, without attention, full gradient) and `length_scaling_all`
        (with chunks of 512 too, which write nothing that is read within 512 tokens, so more than
        4 is work that was not there before); rows with the median milliseconds of each side.
    """
    generator = make_generator(0, "cms speed")
    with torch.random.fork_rng(devices=[]), use_threads(1):
        torch.manual_seed(0)
        shape = (BATCH_SIZE, 4 * LENGTH, WIDTH)
        long_BTC = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        short_BTC = long_BTC[:, :LENGTH].contiguous()
        models = {
            GPT: gpt_blocks(NUM_LAYERS, WIDTH, NUM_HEADS),
            STILL: _make_blocks(WIDTH, "full", rate=0.0),
            FULL: _make_blocks(WIDTH, "full"),
            FIRST: _make_blocks(WIDTH, "first"),
            f"{FULL}, hidden 4 x": _make_blocks(4 * WIDTH, "full"),
            f"{FIRST}, hidden 4 x": _make_blocks(4 * WIDTH, "first"),
        }
        sides = {name: _make_side(model, short_BTC) for name, model in models.items()}
        for name, chunks in ((ALONE, WRITING), (ALL, CHUNKS)):
            alone = nn.Sequential(
                *(nn.Sequential(nn.LayerNorm(WIDTH), CMS(WIDTH, chunks)) for _ in range(NUM_LAYERS))
            )
            sides[f"{name}, {SHORT}"] = _make_side(alone, short_BTC)
            sides[f"{name}, {LONG}"] = _make_side(alone, long_BTC)
        seconds = time_rounds(sides, num_rounds)
    return SuiteResult(
        "blocks",
        figures={
            "cms_over_gpt": median_ratio(seconds, FULL, GPT),
            "cms_first_over_gpt": median_ratio(seconds, FIRST, GPT),
            "cms_over_gpt_4x": median_ratio(seconds, f"{FULL}, hidden 4 x", GPT),
            "cms_first_over_gpt_4x": median_ratio(seconds, f"{FIRST}, hidden 4 x", GPT),
            "cms_still_over_gpt": median_ratio(seconds, STILL, GPT),
            "length_scaling": median_ratio(seconds, f"{ALONE}, {LONG}", f"{ALONE}, {SHORT}"),
            "length_scaling_all": median_ratio(seconds, f"{ALL}, {LONG}", f"{ALL}, {SHORT}"),
        },
        rows=list_sides("continuum memory", seconds, 1),
        num_threads=1,
    )


def _make_blocks(hidden: int, gradient: Gradient, rate: float = 1.0) -> nn.Sequential:
    """Blocks of attention and a CMS."""
    return nn.Sequential(
        *(
            ContinuumBlock(WIDTH, NUM_HEADS, CHUNKS, hidden=hidden, rate=rate, gradient=gradient)
            for _ in range(NUM_LAYERS)
        )
    )


def _make_side(model: nn.Module, x_BTC: Tensor) -> Side:
    """A round of one step."""

    def step() -> None:
        inputs_BTC = x_BTC.clone().requires_grad_()
        run_backward(model(inputs_BTC).square().mean())

    return lambda: time_calls(step, 1)
