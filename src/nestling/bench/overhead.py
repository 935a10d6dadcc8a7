"""What levels cost: against torch's own optimizer, a full training step, and a plain loop.

All rivals run in one process and take turns; a figure is the median over rounds of the ratio
within a round, so that a machine that others use too moves both sides of it.
"""

import functools
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from nestling.bench.optimizer_cost import LR, measure_optimizers
from nestling.bench.result import SuiteResult
from nestling.bench.skip_cost import measure_saved_bytes, measure_skip
from nestling.bench.timing import (
    Figures,
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
from nestling.learn import Learner
from nestling.levels import Level, Plan
from nestling.models import mlp
from nestling.optim import adamw

Progress = Callable[[str], None]


def run(
    *, num_threads: int = 2, num_rounds: int = 9, progress: Progress | None = None
) -> SuiteResult:
    """Measure every figure of the suite.

    Args:
        num_threads: torch's threads.
        num_rounds: rounds per figure; at least 7 for figures to be compared.
        progress: told what is measured next.

    Returns: figures `..._over_...` as ratios, `one_level_bitwise_equal` as 1 or 0; rows with
        the median milliseconds per step of every side.
    """
    parts = (
        ("optimizer step", measure_optimizers),
        ("training step that skips", measure_skip),
        ("bytes saved for backward", measure_saved_bytes),
        ("learner, batch 128", functools.partial(_measure_learner, "learner_over_loop", 128)),
        ("learner, batch 10", functools.partial(_measure_learner, "learner_over_loop_b10", 10)),
        ("import", _measure_import),
    )
    figures: dict[str, float] = {}
    rows: Rows = []
    with use_threads(num_threads):
        for title, measure in parts:
            if progress is not None:
                progress(title)
            found, sides = measure(num_rounds)
            figures |= found
            rows += sides
    return SuiteResult("overhead", figures, rows)


def _measure_learner(name: str, batch_size: int, num_rounds: int) -> tuple[Figures, Rows]:
    generator = make_generator(0, "images")
    x = torch.rand(batch_size, 784, generator=generator, dtype=torch.float32, device="cpu")
    y = torch.randint(0, 10, (batch_size,), generator=generator, device="cpu")

    def make_model() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return mlp([784, 256, 256, 10])

    by_hand = make_model()
    optimizer = torch.optim.AdamW(by_hand.parameters(), LR, fused=True)

    def step_by_hand() -> None:
        optimizer.zero_grad()
        run_backward(functional.cross_entropy(by_hand(x), y))
        optimizer.step()

    learner = Learner(make_model(), Plan(Level("all", match=["*"], optimizer=adamw(lr=LR))))

    def step_learner() -> None:
        learner.learn(x, y)

    # Short turns and many of them: the machine changes its speed from one second to the next.
    num_steps, num_rounds = 32, 10 * num_rounds
    sides: dict[str, Side] = {
        "hand-written loop": functools.partial(time_calls, step_by_hand, num_steps),
        "Learner.learn": functools.partial(time_calls, step_learner, num_steps),
    }
    seconds = time_rounds(sides, num_rounds)
    ratio = median_ratio(seconds, "Learner.learn", "hand-written loop")
    return {name: ratio}, list_sides(f"learn, batch {batch_size}", seconds, num_steps)


_IMPORTS = {
    "torch": "import torch",
    "nestling": "import nestling",
    # Names are looked up when first used, so this is what the first page really waits for.
    "nestling and its learner": "import nestling; nestling.Learner; nestling.Plan",
}


def _measure_import(num_rounds: int) -> tuple[Figures, Rows]:
    def time_import(statement: str) -> float:
        code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    sides: dict[str, Side] = {
        name: functools.partial(time_import, statement) for name, statement in _IMPORTS.items()
    }
    seconds = time_rounds(sides, max(num_rounds, 7))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    figures = {
        "import_over_torch": medians["nestling"] / medians["torch"],
        "learner_import_over_torch": medians["nestling and its learner"] / medians["torch"],
    }
    return figures, list_sides("import", seconds, 1)
