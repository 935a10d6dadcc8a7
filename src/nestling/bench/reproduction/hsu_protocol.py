"""What Hsu's protocol does beside the methods: heads, unseen classes, and naive rehearsal."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nestling.bench.rivals.competitors import Pair, PlainLoop
from nestling.core.batches import Batch
from nestling.protect import Retention, mask_absent


class MaskUnseen(Retention):
    """Only classes met so far take part in the cross entropy [Hsu 2018, `valid_out_dim`]."""

    def __init__(self) -> None:
        self._met: set[int] = set()

    def restrict(self, output: Tensor, batch: Batch) -> Tensor:
        """(N, K) logits with those of classes that never came masked."""
        self._met.update(batch.labels)
        return mask_absent(output, torch.tensor(sorted(self._met), dtype=torch.int64, device="cpu"))

    def state_dict(self) -> dict[str, Any]:
        """The classes met."""
        return {"met": sorted(self._met)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._met = set(state["met"])


class HsuRehearsal(PlainLoop):
    """Naive rehearsal: as many old examples as new ones, shuffled together [Hsu 2018, Sec. 4].

    What is kept is shared out evenly among the experiences, anew after each of them, and
    repeated until there is about as much of it as of the new. The protocol hands batches over one
    by one; they are gathered and learned when the experience ends, in the paper's way.

    Args:
        model: learns in place.
        optimizer: goes on over all experiences.
        capacity: examples that are kept.
        epochs: passes over new and old together.
        batch_size: of them together.
        masks: none, or what restricts the logits of all.
        heads: whether each example is compared only with the other class of its pair.
        generator: of the order, and of what is kept.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        capacity: int,
        epochs: int,
        batch_size: int,
        masks: bool,
        heads: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__(model, 0.0, (), optimizer)
        self.capacity = capacity
        self.epochs = epochs
        self.batch_size = batch_size
        self.mask = MaskUnseen() if masks else None
        self.heads = heads
        self.generator = generator
        self.kept: list[Pair] = []

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:
        """Nothing yet: see above."""

    def end_experience(self, loader: Iterable[Pair]) -> None:
        """Learn the experience with what was kept, then keep a part of it."""
        pairs = list(loader)
        new = (torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]))
        num_repeats = max(len(new[0]) // self.capacity, 1)
        x = torch.cat([*(x for x, _ in self.kept)] * num_repeats + [new[0]])
        y = torch.cat([*(y for _, y in self.kept)] * num_repeats + [new[1]])
        self.model.train()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(x), generator=self.generator, device="cpu").split(
                self.batch_size
            ):
                self._take_step(x[rows], y[rows])
        share = self.capacity // (len(self.kept) + 1)
        self.kept = [(x[:share], y[:share]) for x, y in self.kept]
        rows = torch.randperm(len(new[0]), generator=self.generator, device="cpu")[:share]
        self.kept.append((new[0][rows], new[1][rows]))

    def _take_step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        output = self.model(x)
        if self.mask is not None:
            output = self.mask.restrict(output, Batch((x,), target=y))
        if self.heads:
            pair = torch.arange(output.shape[1], device="cpu")[None] // 2 == y[:, None] // 2
            output = output.masked_fill(~pair, -torch.inf)
        nn.functional.cross_entropy(output, y).backward()
        self.optimizer.step()

    def count_bytes(self) -> int:
        """Of what is kept."""
        return sum(x.nbytes + y.nbytes for x, y in self.kept)
