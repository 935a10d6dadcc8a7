"""Plain rivals of the demo, written out by hand: no levels, no learner.

Their learning rates were picked by `bench.demo.tune` on seeds 100 to 102, which no result uses:
AdamW at each of `RATES`, the highest ACC wins. `benchmarks/LOG.md` holds the table.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.bench.timing import run_backward
from nestling.core.modes import eval_mode
from nestling.levels import LevelReading
from nestling.memory import ReservoirReplay

Batch = tuple[Tensor, Tensor]  # (N, ...) inputs, (N,) labels

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


class Rival(Protocol):
    """Whoever learns experiences one after the other and can be asked at any time."""

    def fit(self, batches: Iterable[Batch], epochs: int) -> None:
        """Learn one experience: every batch of the loader, `epochs` times."""

    def scores(self, x: Tensor) -> Tensor:
        """(N, ...) inputs -> (N, K) scores, higher is likelier."""

    def read_levels(self) -> Sequence[LevelReading]:
        """How its levels stand; none if it has none."""


class Finetune:
    """AdamW on what comes, and nothing else."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        self.model = model
        self.lr = lr
        self.optimizer = torch.optim.AdamW(model.parameters(), lr)

    def fit(self, batches: Iterable[Batch], epochs: int) -> None:
        """One step per batch."""
        for _ in range(epochs):
            for x, y in batches:
                self.step(x, y)

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step of AdamW on the mean cross entropy."""
        self.optimizer.zero_grad()
        run_backward(functional.cross_entropy(self.model(x), y))
        self.optimizer.step()

    def scores(self, x: Tensor) -> Tensor:
        """The model's logits."""
        with torch.no_grad(), eval_mode(self.model):
            found: Tensor = self.model(x)
            return found

    def read_levels(self) -> Sequence[LevelReading]:
        """There are none."""
        return ()


class Replay(Finetune):
    """Fine-tuning with a reservoir: each batch comes with as many old examples.

    Experience replay (ER) [Chaudhry et al. 2019, Algorithm 1; reservoir sampling]

    Args:
        model: learns.
        lr: of AdamW.
        capacity: examples that are kept.
        seed: of what is kept and drawn.
    """

    def __init__(self, model: nn.Module, lr: float, capacity: int, seed: int) -> None:
        super().__init__(model, lr)
        self.kept = ReservoirReplay(capacity, seed=seed)

    def fit(self, batches: Iterable[Batch], epochs: int) -> None:
        """One step on each batch and as many kept examples; a batch is kept in the first pass."""
        for epoch in range(epochs):
            for x, y in batches:
                if len(self.kept):
                    old = self.kept.sample(len(x))
                    self.step(torch.cat([x, old["x"]]), torch.cat([y, old["y"]]))
                else:
                    self.step(x, y)
                if epoch == 0:
                    self.kept.add({"x": x, "y": y})


class FrozenSpine(Finetune):
    """After the first experience only the last layer learns.

    Args:
        model: has its last layer under the name `head`.
        lr: of AdamW.
    """

    def fit(self, batches: Iterable[Batch], epochs: int) -> None:
        """As fine-tuning; then freeze everything but the head."""
        super().fit(batches, epochs)
        self.model.requires_grad_(False)
        head = self.model.get_submodule("head").requires_grad_(True)
        self.optimizer = torch.optim.AdamW(head.parameters(), self.lr)


def tune_rate(
    measure_acc: Callable[[float, int], float],
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = (100, 101, 102),
) -> tuple[float, dict[float, float]]:
    """Pick the learning rate with the highest mean ACC on validation seeds.

    Args:
        measure_acc: (rate, seed) -> ACC of a whole run.
        rates: to choose from.
        seeds: none of them may be used for results.

    Returns: the best rate, and every rate's mean ACC.

    >>> tune_rate(lambda rate, seed: -abs(rate - 1e-3), (1e-4, 1e-3), (100,))[0]
    0.001
    """
    found = {rate: sum(measure_acc(rate, seed) for seed in seeds) / len(seeds) for rate in rates}
    return max(found, key=lambda rate: found[rate]), found
