"""Cost of an optimizer step alone, on the 72 tensors of six GPT layers of width 384."""

import functools
from collections.abc import Callable

import torch
from torch import nn

from nestling.bench.timing import (
    ROUND,
    Figures,
    Rows,
    Side,
    list_sides,
    median_ratio,
    time_calls,
    time_rounds,
)
from nestling.core.seeds import make_generator
from nestling.levels import Level, NestedOptimizer, Plan
from nestling.models import gpt_blocks
from nestling.optim import adamw

PERIODS = (1, 4, 16)
LR = 1e-4


def make_thirds(periods: tuple[int, ...] = PERIODS) -> Plan:
    """Three levels of two GPT layers each, by the names of `gpt_blocks(6, ...)`."""
    return Plan(
        *(
            Level(
                name,
                match=(f"{2 * index}.*", f"{2 * index + 1}.*"),
                period=period,
                optimizer=adamw(lr=LR),
            )
            for index, (name, period) in enumerate(zip(("c", "b", "a"), periods, strict=True))
        )
    )


class _OptimizerSide:
    """One copy of the parameters with its optimizer; only step and zero_grad are timed."""

    def __init__(self, make: Callable[[nn.Module], Callable[[], None]]) -> None:
        self.model = _make_gpt()
        self.advance = make(self.model)
        self.generator = make_generator(0, "gradients")
        self.gradients = [
            torch.randn(p.shape, generator=self.generator, dtype=torch.float32, device="cpu")
            for p in self.model.parameters()
        ]

    def __call__(self) -> float:
        seconds = 0.0
        for _ in range(ROUND):
            self._write_gradients()
            seconds += time_calls(self.advance, 1)
        return seconds

    def _write_gradients(self) -> None:
        """As backward does: a new tensor where there is none, else added to what is there."""
        for param, gradient in zip(self.model.parameters(), self.gradients, strict=True):
            if param.grad is None:
                param.grad = gradient.clone()
            else:
                param.grad.add_(gradient)


def _make_gpt() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return gpt_blocks(6, 384, 6)


def advance_bare(model: nn.Module) -> Callable[[], None]:
    """torch's fused AdamW over all of the model, as a function that steps and clears."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)

    def advance() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return advance


def _advance_nested(plan: Plan, in_place: bool, model: nn.Module) -> Callable[[], None]:
    optimizer = NestedOptimizer(model, plan, accumulate="in_place" if in_place else "separate")

    def advance() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return advance


def _advance_three_bare(model: nn.Module) -> Callable[[], None]:
    """The least that three speeds can cost: three fused optimizers, each on its own clock."""
    layers = list(model.children())
    optimizers = [
        torch.optim.AdamW(nn.ModuleList(layers[2 * i : 2 * i + 2]).parameters(), LR, fused=True)
        for i in range(3)
    ]
    num_steps = 0

    def advance() -> None:
        nonlocal num_steps
        num_steps += 1
        for optimizer, period in zip(optimizers, PERIODS, strict=True):
            if num_steps % period == 0:
                optimizer.step()
                optimizer.zero_grad()

    return advance


def measure_optimizers(num_rounds: int) -> tuple[Figures, Rows]:
    """One level and three levels against `AdamW(fused=True)`, and the same bits or not."""
    one = Plan(Level("all", match=["*"], optimizer=adamw(lr=LR)))
    sides: dict[str, Side] = {
        "AdamW, fused": _OptimizerSide(advance_bare),
        "one level": _OptimizerSide(functools.partial(_advance_nested, one, False)),
        "three levels in place": _OptimizerSide(
            functools.partial(_advance_nested, make_thirds(), True)
        ),
        "three levels, separate": _OptimizerSide(
            functools.partial(_advance_nested, make_thirds(), False)
        ),
        "three bare optimizers": _OptimizerSide(_advance_three_bare),
    }
    seconds = time_rounds(sides, num_rounds)
    figures = {
        "one_level_over_adamw": median_ratio(seconds, "one level", "AdamW, fused"),
        "one_level_bitwise_equal": float(compare_bits(num_steps=4)),
        "three_levels_over_adamw": median_ratio(seconds, "three levels in place", "AdamW, fused"),
        "three_levels_separate_over_adamw": median_ratio(
            seconds, "three levels, separate", "AdamW, fused"
        ),
        "three_bare_over_adamw": median_ratio(seconds, "three bare optimizers", "AdamW, fused"),
    }
    return figures, list_sides("optimizer step", seconds, ROUND)


def compare_bits(num_steps: int) -> bool:
    """Whether one level of period 1 gives bit by bit the weights of torch's AdamW.

    Args:
        num_steps: steps on the same random gradients, new ones at each step.
    """
    models = [_make_gpt(), _make_gpt()]
    plan = Plan(Level("all", match=["*"], optimizer=adamw(lr=LR)))
    advances = [advance_bare(models[0]), _advance_nested(plan, False, models[1])]
    generator = make_generator(0, "bits")
    for _ in range(num_steps):
        for left, right in zip(models[0].parameters(), models[1].parameters(), strict=True):
            left.grad = torch.randn(
                left.shape, generator=generator, dtype=torch.float32, device="cpu"
            )
            right.grad = left.grad.clone()
        for advance in advances:
            advance()
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)
