"""Gradient episodic memory: a step must not raise the loss on stored examples, to first order.

Letters: T past experiences, N examples of a batch, M kept ones.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, Loss, default_loss
from nestling.core.errors import ShapeMismatch
from nestling.core.seeds import make_generator
from nestling.memory.checks import check_saved
from nestling.memory.replay_store import ReservoirReplay
from nestling.memory.tensor_slots import Columns
from nestling.protect.columns import pack_batch, require_target
from nestling.protect.method import Retention
from nestling.protect.penalties.quadratic import check_strength
from nestling.protect.replay.buffer import ReplayMethod, check_count, drop_ignored
from nestling.protect.replay.gradient_products import (
    differentiate,
    list_stepped,
    multiply_gradients,
    solve_dual,
)


class AGEM(ReplayMethod):
    """A-GEM: project the gradient so that the average loss on replayed examples does not rise.

    g <- g - (g^T r / r^T r) r  if g^T r < 0   [Chaudhry 2019, "A-GEM", Eq. 11]

    with r the gradient of the loss of M kept examples of past experiences. The new experience's
    examples are taken in as they come, and are the past's after `end_experience`.

    Args:
        buffer_size: most examples that are kept, 1 or more.
        batch_size: M >= 1, of which r is the gradient at each step.
        balanced, seed: as in `ER`.

    Raises:
        SettingError: a setting outside its range.

    Differs: a uniform sample of all that came by, instead of an equal number of each experience.
    Parameters without a gradient, which the step leaves alone, have no part in r.
    """

    needs_boundary = True

    def __init__(
        self, buffer_size: int, batch_size: int = 64, *, balanced: bool = False, seed: int = 0
    ) -> None:
        super().__init__(buffer_size, batch_size, balanced=balanced, seed=seed)
        self._experience = 0

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """None; a batch that could not be kept is refused before the step.

        Raises:
            DataError: a balanced buffer, and targets that are not classes.
            ShapeMismatch: examples of another shape or dtype than those that are kept.
        """
        self.check(batch, output)
        return None

    def adjust_gradients(self, model: nn.Module, loss: Loss = default_loss) -> None:
        """Project the gradient so that it does not oppose the stored examples' gradient."""
        params = list_stepped(model)
        past = self._draw_past() if params and self._experience else None
        if past is None:
            return
        reference = differentiate(model, params, past, loss)
        grads = [param.grad for param in params if param.grad is not None]
        product, size = multiply_gradients([grads, reference], [reference])[:, 0].tolist()
        if product < 0.0 < size:
            for grad, past_grad in zip(grads, reference, strict=True):
                grad.sub_(past_grad, alpha=product / size)

    def end_experience(self, model: nn.Module, loader: Iterable[object] | None = None) -> None:
        """Count all examples so far as the past from now on."""
        self._experience += 1

    def state_dict(self) -> dict[str, Any]:
        """The settings, the buffer, the generators and the experience's number."""
        return {**super().state_dict(), "experience": self._experience}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        super().load_state_dict(state)
        self._experience = state["experience"]

    def _read_columns(self, batch: Batch, output: Tensor | None) -> Columns:
        device = require_target(batch).device
        experience = torch.full((batch.size,), self._experience, dtype=torch.int64, device=device)
        return {**pack_batch(batch), "experience": experience}

    def _draw_past(self) -> Columns | None:
        """At most M examples of past experiences; None if none is left."""
        num_wanted = 2 * self.batch_size
        while len(self.store):
            rows = self.store.store.sample(num_wanted, self._generator)
            # Without regard to which they are, the first M of the past are a uniform sample.
            places = (rows["experience"] < self._experience).nonzero()[: self.batch_size, 0]
            if len(places) == self.batch_size or num_wanted >= len(self.store):
                past = {name: column[places] for name, column in rows.items()}
                return past if len(places) else None
            num_wanted *= 2
        return None


class GEM(Retention):
    """GEM: project the gradient so that the loss of no past experience rises.

    min_z 1/2 ||z - g||^2 subject to g_k^T z >= 0 for each past experience k
    [Lopez-Paz & Ranzato 2017, section 3], through its dual: z = g + G^T v, see `solve_dual`

    with g_k the gradient of the loss of all that is kept of experience k: a step costs T more
    gradients.

    Args:
        num_per_experience: most examples that are kept of each experience, 1 or more.
        margin: >= 0, gamma; above 0, past experiences gain whenever one would lose.
        seed: of what is kept.

    Raises:
        SettingError: a setting outside its range.

    Differs: a uniform sample of each experience instead of its last examples. Parameters without
    a gradient, which the step leaves alone, have no part in g_k.
    """

    needs_boundary = True

    def __init__(self, num_per_experience: int, margin: float = 0.5, *, seed: int = 0) -> None:
        self.num_per_experience = check_count("num_per_experience", num_per_experience)
        self.margin = check_strength("margin", margin)
        self.seed = seed
        self._memories: list[ReservoirReplay] = []
        self._num_past = 0
        # All memories draw from one generator, which is there before any of them is.
        self._generator = make_generator(seed, "gem")

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """None; a batch that could not be kept is refused before the step.

        Raises:
            ShapeMismatch: examples of another shape or dtype than those that are kept.
        """
        columns = pack_batch(batch)
        if (num_targets := len(require_target(batch))) != batch.size:
            raise ShapeMismatch(f"{batch.size} inputs and {num_targets} targets")
        for memory in self._memories[-1:]:
            memory.store.check(columns)
        return None

    def adjust_gradients(self, model: nn.Module, loss: Loss = default_loss) -> None:
        """Project the gradient to the nearest one that opposes no past experience."""
        params = list_stepped(model)
        if not params or not self._num_past:
            return
        past = [
            differentiate(model, params, memory.read_all(), loss)
            for memory in self._memories[: self._num_past]
        ]
        grads = [param.grad for param in params if param.grad is not None]
        slopes = multiply_gradients(past, [grads])[:, 0]
        if not bool((slopes < 0.0).any()):
            return
        weights = solve_dual(multiply_gradients(past, past), slopes, self.margin)
        for weight, one in zip(weights.tolist(), past, strict=True):
            for grad, past_grad in zip(grads, one, strict=True):
                grad.add_(past_grad, alpha=weight)

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Offer the batch to the memory of this experience."""
        columns = drop_ignored(pack_batch(batch))
        if not len(columns["y"]):
            return
        if len(self._memories) == self._num_past:
            self._memories.append(self._make_memory())
        self._memories[-1].add(columns)

    def end_experience(self, model: nn.Module, loader: Iterable[object] | None = None) -> None:
        """Count this experience's stored examples as the past from now on."""
        self._num_past = len(self._memories)

    def list_generators(self) -> list[torch.Generator]:
        """Of what is kept of this experience."""
        return [self._generator]

    def count_bytes(self) -> int:
        """Of the examples that are kept."""
        return sum(memory.num_bytes for memory in self._memories)

    def state_dict(self) -> dict[str, Any]:
        """The settings, and what is kept of each experience with its generator."""
        return {
            "config": self._describe(),
            "memories": [memory.state_dict() for memory in self._memories],
            "num_past": self._num_past,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._describe(), "retention method")
        memories = [self._make_memory() for _ in state["memories"]]
        for memory, saved in zip(memories, state["memories"], strict=True):
            memory.load_state_dict(saved)
        self._memories, self._num_past = memories, state["num_past"]
        self._generator.set_state(state["generator"])

    def _make_memory(self) -> ReservoirReplay:
        memory = ReservoirReplay(self.num_per_experience, seed=self.seed)
        memory.generator = self._generator
        return memory

    def _describe(self) -> dict[str, object]:
        return {
            "kind": "GEM",
            "num_per_experience": self.num_per_experience,
            "margin": self.margin,
            "seed": self.seed,
        }
