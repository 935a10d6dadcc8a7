"""Cost of a whole training step when the lower levels skip: its time, and its memory."""

import functools
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.bench.optimizer_cost import LR, advance_bare
from nestling.bench.timing import (
    ROUND,
    Figures,
    Rows,
    Side,
    list_sides,
    median_ratio,
    run_backward,
    time_calls,
    time_rounds,
)
from nestling.core.seeds import make_generator
from nestling.levels import Level, NestedOptimizer, Plan
from nestling.models import TransformerClassifier
from nestling.optim import adamw


def make_skipping_plan(num_blocks: int = 12, num_fast: int = 2, period: int = 16) -> Plan:
    """The upper blocks and the head at every step, all below them once in a period."""
    fast = tuple(f"blocks.{index}.*" for index in range(num_blocks - num_fast, num_blocks))
    return Plan(
        Level("upper", match=(*fast, "norm.*", "head.*"), optimizer=adamw(lr=LR)),
        Level("lower", match=("*",), period=period, between="skip", optimizer=adamw(lr=LR)),
    )


def _make_steps() -> dict[str, tuple[nn.Module, Callable[[], None]]]:
    """Whole training steps of a 12-block transformer: full, nested with skip, and bare."""
    generator = make_generator(0, "tokens")
    tokens_BT = torch.randint(0, 256, (8, 64), generator=generator, device="cpu")
    labels_B = torch.randint(0, 10, (8,), generator=generator, device="cpu")

    def make_model() -> TransformerClassifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return TransformerClassifier(256, 10, length=64, width=128, num_layers=12)

    def compute_gradients(model: nn.Module) -> None:
        run_backward(functional.cross_entropy(model(tokens_BT), labels_B))

    full = make_model()
    full_advance = advance_bare(full)

    def step_full() -> None:
        compute_gradients(full)
        full_advance()

    nested = make_model()
    optimizer = NestedOptimizer(nested, make_skipping_plan(), accumulate="in_place")

    def step_nested() -> None:
        optimizer.prepare_step()
        compute_gradients(nested)
        optimizer.step()
        optimizer.zero_grad()

    bare = make_model()
    upper = nn.ModuleList([*list(bare.blocks)[10:], bare.norm, bare.head])
    fast = list(upper.parameters())
    slow = [p for p in bare.parameters() if all(p is not other for other in fast)]
    fast_optimizer = torch.optim.AdamW(fast, LR, fused=True)
    slow_optimizer = torch.optim.AdamW(slow, LR, fused=True)
    num_steps = 0

    def step_bare() -> None:
        nonlocal num_steps
        num_steps += 1
        for param in slow:
            param.requires_grad_(num_steps % 16 == 0)
        compute_gradients(bare)
        for chosen in (fast_optimizer, slow_optimizer)[: 1 + (num_steps % 16 == 0)]:
            chosen.step()
            chosen.zero_grad()

    return {
        "full": (full, step_full),
        "lower 10 skip": (nested, step_nested),
        "bare loop that skips": (bare, step_bare),
    }


def measure_skip(num_rounds: int) -> tuple[Figures, Rows]:
    """Time of a training step whose lower 10 of 12 blocks skip, over the full step's."""
    sides: dict[str, Side] = {
        name: functools.partial(time_calls, step, ROUND)
        for name, (_, step) in _make_steps().items()
    }
    seconds = time_rounds(sides, num_rounds)
    figures = {
        "skip_step_over_full": median_ratio(seconds, "lower 10 skip", "full"),
        "skip_bare_over_full": median_ratio(seconds, "bare loop that skips", "full"),
    }
    return figures, list_sides("training step", seconds, ROUND)


@contextmanager
def count_saved_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Count the bytes that autograd keeps for backward; the model's own weights are not counted.

    >>> model = nn.Linear(4, 4)
    >>> with count_saved_bytes(model) as saved:
    ...     _ = model(torch.ones(2, 4))
    >>> sum(saved)
    32
    """
    own = {param.untyped_storage().data_ptr() for param in model.parameters()}
    saved: list[int] = []
    seen: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        where = tensor.untyped_storage().data_ptr()
        if where not in own and where not in seen:
            seen.add(where)
            saved.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def measure_saved_bytes(num_rounds: int) -> tuple[Figures, Rows]:
    """Bytes that autograd keeps for backward, median over a period, over the full step's."""
    del num_rounds  # bytes do not vary from round to round
    medians: dict[str, float] = {}
    for name, (model, step) in _make_steps().items():
        per_step = []
        for _ in range(ROUND):
            with count_saved_bytes(model) as saved:
                step()
            per_step.append(sum(saved))
        medians[name] = statistics.median(per_step)
    rows: Rows = [
        {"part": "saved for backward", "side": name, "megabytes": num_bytes / 1e6}
        for name, num_bytes in medians.items()
    ]
    return {"skip_saved_bytes_over_full": medians["lower 10 skip"] / medians["full"]}, rows
