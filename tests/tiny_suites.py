"""Suites of a second or less, named to the benchmark as "tiny_suites:make_digits"."""
# ruff: noqa: ARG002

import functools
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nestling.bench.rivals.competitors import Competitor, PlainLoop
from nestling.bench.rivals.tunable import Method, Range, Settings, Setup
from nestling.core.batches import Batch, Loss, default_loss, read_output
from nestling.core.errors import DataError
from nestling.data import class_incremental, load_digits, relabelled
from nestling.data.suites import Suite
from nestling.memory import ReservoirReplay
from nestling.protect import Retention, pack_batch, unpack_batch


@functools.cache
def cut_digits(split: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = load_digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    tested = order[:300] if split == "test" else order[300:600]
    return x[order[600:]], y[order[600:]], x[tested], y[tested]


def make_digits(seed: int, split: str) -> Suite:
    made = class_incremental(*cut_digits(split), num_experiences=5, seed=seed)
    return Suite(
        name="digits",
        kind="class-incremental",
        experiences=made,
        num_classes=10,
        batch_size=10,
        epochs=1,
        known_task_at_training=False,
        known_task_at_test=False,
        features="pixels",
        note="scikit-learn digits in 5 pairs.",
    )


def make_few(seed: int, split: str) -> Suite:
    """Four classes in two pairs: no longer than a command at the command line must take."""
    x, y, x_test, y_test = cut_digits(split)
    few, tested = y < 4, y_test < 4
    made = class_incremental(
        x[few][:240], y[few][:240], x_test[tested], y_test[tested], num_experiences=2, seed=seed
    )
    return replace(make_digits(seed, split), name="digits-few", experiences=made, num_classes=4)


def make_conflict(seed: int, split: str) -> Suite:
    made = relabelled(
        *cut_digits(split), batch_size=10, num_batches=(8, 9), order=(0, 1, 0), seed=seed
    )
    return Suite(
        name="digits-conflict",
        kind="conflict",
        experiences=made,
        num_classes=10,
        batch_size=10,
        epochs=1,
        known_task_at_training=False,
        known_task_at_test=False,
        features="pixels",
        note="digits whose labels change meaning.",
        is_ordered=True,
    )


def _build_slow(setup: Setup, settings: Settings) -> Competitor:
    return PlainLoop(setup.make_model(), settings["lr"])


def _build_broken(setup: Setup, settings: Settings) -> Competitor:
    raise DataError("this method cannot learn\nanything")


def make_slow() -> Method:
    return Method("slow", "no_replay", _build_slow, {"lr": Range(1e-6, 1e-5, 1e-6)})


def _build_sleepy(setup: Setup, settings: Settings) -> Competitor:
    Path(f"begun-{setup.seed}").touch()
    time.sleep(1.0)
    return PlainLoop(setup.make_model(), settings["lr"])


def make_sleepy() -> Method:
    """Whose cells say in the working directory that they began, and take a second."""
    return Method("sleepy", "no_replay", _build_sleepy, {"lr": Range(0.01, 0.1, 0.05)})


def make_broken() -> Method:
    return Method("broken", "no_replay", _build_broken, {"lr": Range(0.01, 0.1, 0.05)})


class Reservoir(Retention):
    """Experience replay in 15 lines, as a user would bring it."""

    def __init__(self, capacity: int, seed: int) -> None:
        self.store = ReservoirReplay(capacity, seed=seed)

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        if not len(self.store):
            return None
        old = self.store.sample(batch.size)
        return loss(read_output(unpack_batch(old).call(model)), old["y"])

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        self.store.add(pack_batch(batch))

    def count_bytes(self) -> int:
        return self.store.num_bytes


def _build_own(setup: Setup, settings: Settings) -> Competitor:
    return PlainLoop(setup.make_model(), settings["lr"], [Reservoir(200, setup.seed)])


def make_own() -> Method:
    return Method("own", "replay200", _build_own, {"lr": Range(0.01, 0.3, 0.1)})
