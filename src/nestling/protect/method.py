"""Protocol of protecting methods: what `take_step` calls and when.

Methods combine: give several, and their losses add.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, Loss, default_loss


class Retention:
    """Base class of methods that protect old knowledge while a model learns; override any method.

    Attributes:
        needs_boundary: whether it protects nothing until `end_experience` was called.
        takes_repeats: whether it takes in a batch again that was learned in an earlier epoch.
    """

    needs_boundary: bool = False
    takes_repeats: bool = True

    def restrict(self, output: Tensor, batch: Batch) -> Tensor:
        """Change the new batch's logits (N, K) before its own loss, e.g. mask them."""
        return output

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """What is added to the new batch's loss: scalar (), or None for nothing.

        Args:
            model: in training mode.
            batch: the new one, with a target.
            output: (N, K) what the model gave for it, with its graph.
            loss: of the step; what is replayed has the same price.
        """
        return None

    def adjust_gradients(self, model: nn.Module, loss: Loss = default_loss) -> None:
        """Change `.grad` in place, after backward and before the optimizer's step."""

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Called after a step was taken; `.grad` is still that of the step.

        Args:
            output: (N, K) the model's output before the step, detached.
        """

    def end_experience(self, model: nn.Module, loader: Iterable[object] | None = None) -> None:
        """Called when an experience is over.

        Args:
            loader: yields its examples once more, in any form of `read_batch`.

        Raises:
            DataError: the method needs the examples and there is no loader.
        """

    def find_reader(self) -> nn.Module | None:
        """The module that answers instead of the live model, in eval mode; None for the live."""
        return None

    def build_reader(self, model: nn.Module, loss: Loss = default_loss) -> None:
        """After `load_state_dict`: give loaded weights of a reader a module like the model's.

        Args:
            loss: of the steps, for a reader that is trained.
        """

    def list_generators(self) -> list[torch.Generator]:
        """Random generators that it draws from, so that a refused step can be undone."""
        return []

    def count_bytes(self) -> int:
        """Bytes that it keeps between steps: examples, copies and importances."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """All that its next step depends on: tensors, numbers, text, lists and dicts of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
