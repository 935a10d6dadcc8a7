"""Methods in the benchmark: a plain loop with protecting methods, a closed form, or a learner.

Axis letters: N examples, K classes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from nestling.core.modes import eval_mode
from nestling.learn import Learner
from nestling.protect import Retention, take_step

Pair = tuple[Tensor, Tensor]  # (N, ...) inputs, (N,) labels


class Competitor(Protocol):
    """Learns batch by batch and can be asked at any time after the first."""

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:
        """Learn one batch.

        Args:
            x: (N, ...) inputs.
            y: (N,) labels.
            is_new: False for a batch of an experience's second or later pass.
        """

    def end_experience(self, loader: Iterable[Pair]) -> None:
        """Be told that an experience is over; `loader` yields its examples once more."""

    def compute_scores(self, x: Tensor) -> Tensor:
        """(N, ...) inputs -> (N, K), higher is likelier."""

    def count_bytes(self) -> int:
        """Bytes kept between steps beside the model's own parameters."""


class PlainLoop:
    """SGD, one step per batch, with any protecting methods: what a user would write by hand.

    Args:
        model: learns in place.
        lr: of SGD, without momentum.
        methods: called in this order, see `nestling.protect.take_step`.
        optimizer: over the model's parameters, instead of SGD.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        methods: Sequence[Retention] = (),
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.model = model.train()
        self.methods = list(methods)
        self.optimizer = optimizer or torch.optim.SGD(model.parameters(), lr)

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:  # noqa: ARG002
        """One step on the batch."""
        take_step(self.model, self.optimizer, (x, y), self.methods)

    def end_experience(self, loader: Iterable[Pair]) -> None:
        """Tell every method."""
        for method in self.methods:
            method.end_experience(self.model, loader)

    def compute_scores(self, x: Tensor) -> Tensor:
        """Logits of the last method's reader, or of the live model if none has one."""
        readers = [reader for one in self.methods if (reader := one.find_reader()) is not None]
        reader = readers[-1] if readers else self.model
        with torch.no_grad(), eval_mode(reader):
            found: Tensor = reader(x)
            return found

    def count_bytes(self) -> int:
        """What the methods keep."""
        return sum(method.count_bytes() for method in self.methods)


class Solver(Protocol):
    """A closed form over vectors."""

    def add(self, x: Tensor, y: Tensor) -> object:
        """Take in (N, D) inputs and (N,) labels."""

    def predict(self, x: Tensor) -> Tensor:
        """(N, D) inputs -> (N, K) scores."""

    def count_bytes(self) -> int:
        """Bytes that it keeps."""


class ClosedFormCompetitor:
    """A closed form on the raw input; each example is taken in once."""

    def __init__(self, solver: Solver) -> None:
        self.solver = solver

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:
        """Take in a batch that was not seen before."""
        if is_new:
            self.solver.add(x.flatten(1), y)

    def end_experience(self, loader: Iterable[Pair]) -> None:
        """Nothing: order and boundaries do not matter to it."""

    def compute_scores(self, x: Tensor) -> Tensor:
        """What it answers."""
        found: Tensor = self.solver.predict(x.flatten(1))
        return found

    def count_bytes(self) -> int:
        """What it keeps."""
        return self.solver.count_bytes()


class DefaultLearner:
    """`nl.Learner(model)` as it comes; it is told no boundary.

    Args:
        learner: has learned nothing yet.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:
        """`learner.learn`."""
        self.learner.learn(x, y, again=not is_new)

    def end_experience(self, loader: Iterable[Pair]) -> None:
        """Nothing: the default does not need to be told."""

    def compute_scores(self, x: Tensor) -> Tensor:
        """Probabilities."""
        return self.learner.predict_proba(x)

    def count_bytes(self) -> int:
        """Its memories, stored examples and copies."""
        levels, num_bytes = self.learner.levels, self.learner.protections.count_bytes()
        for memory in levels.memories.values():
            num_bytes += 0 if memory.bank is None else memory.bank.num_bytes
        for copy in levels.copies.values():
            num_bytes += sum(value.nbytes for value in copy.values.values())
        return num_bytes


class JointLoop(PlainLoop):
    """A ceiling: it keeps every example and at each boundary learns them all from scratch.

    Args:
        make_model: () -> a model with fresh weights, always the same.
        lr: of SGD.
        epochs: passes over all that was kept.
        batch_size: examples per step.
        generator: of the order.
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        lr: float,
        *,
        epochs: int,
        batch_size: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(make_model(), lr)
        self.make_model = make_model
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.generator = generator
        self.kept: list[Pair] = []

    def end_experience(self, loader: Iterable[Pair]) -> None:
        """Keep the experience's examples and learn all of them from fresh weights."""
        self.kept += [(x, y) for x, y in loader]
        x = torch.cat([one for one, _ in self.kept])
        y = torch.cat([one for _, one in self.kept])
        super().__init__(self.make_model(), self.lr)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(x), generator=self.generator, device="cpu").split(
                self.batch_size
            ):
                take_step(self.model, self.optimizer, (x[rows], y[rows]))

    def count_bytes(self) -> int:
        """All examples."""
        return sum(x.nbytes + y.nbytes for x, y in self.kept)
