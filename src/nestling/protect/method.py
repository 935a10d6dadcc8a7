"""What every protecting method is, and the training step that calls it.

A method is called at fixed places of a step that a user could have written; `take_step` is
that step. Methods combine: give several, and their losses add.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Pair = tuple[Tensor, Tensor]


class Retention:
    """What protects old knowledge while a model learns; every place is optional.

    Attributes:
        needs_boundary: whether it protects nothing until `end_experience` was called.
    """

    needs_boundary: bool = False

    def restrict(self, output: Tensor, y: Tensor) -> Tensor:
        """The new batch's logits (N, K) as its own loss is to see them."""
        return output

    def compute_loss(self, model: nn.Module, x: Tensor, y: Tensor, output: Tensor) -> Tensor | None:
        """What is added to the new batch's loss: scalar (), or None for nothing.

        Args:
            model: in training mode.
            x: (N, ...) the new batch.
            y: (N,) its targets.
            output: (N, K) what the model gave for it, with its graph.
        """
        return None

    def adjust_gradients(self, model: nn.Module) -> None:
        """Change `.grad` in place, after backward and before the optimizer's step."""

    def observe(self, model: nn.Module, x: Tensor, y: Tensor, output: Tensor) -> None:
        """Take in a step that was taken; `.grad` is still that of the step.

        Args:
            output: (N, K) the model's output before the step, detached.
        """

    def end_experience(self, model: nn.Module, loader: Iterable[Pair] | None = None) -> None:
        """Take in that an experience is over; `loader` yields its examples once more.

        Raises:
            DataError: the method needs the examples and there is no loader.
        """

    def find_reader(self) -> nn.Module | None:
        """The module that answers instead of the live model, in eval mode; None for the live."""
        return None

    def build_reader(self, model: nn.Module) -> None:
        """After `load_state_dict`: give loaded weights of a reader a module like the model's."""

    def list_generators(self) -> list[torch.Generator]:
        """What it draws from in a step, so that a refused step can be undone."""
        return []

    def count_bytes(self) -> int:
        """Bytes that it keeps between steps: examples, copies and importances."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """All that its next step depends on: tensors, numbers, text, lists and dicts of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    methods: Sequence[Retention] = (),
) -> float:
    """One step on the mean cross entropy (squared error for values) and what protects.

    Args:
        model: in training mode.
        optimizer: over its parameters.
        x: (N, ...) inputs.
        y: (N,) classes, or floating values of the output's shape.
        methods: called in this order.

    Returns: the loss before the update, of the new batch alone.

    >>> model = nn.Linear(2, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
    >>> take_step(model, optimizer, torch.zeros(1, 2), torch.tensor([0])) > 0
    True
    """
    optimizer.zero_grad()
    output = model(x)
    seen = output
    for method in methods:
        seen = method.restrict(seen, y)
    if y.is_floating_point():
        loss = functional.mse_loss(seen, y)
    else:
        loss = functional.cross_entropy(seen, y)
    total = loss
    for method in methods:
        extra = method.compute_loss(model, x, y, output)
        total = total if extra is None else total + extra
    total.backward()
    for method in methods:
        method.adjust_gradients(model)
    optimizer.step()
    for method in methods:
        method.observe(model, x, y, output.detach())
    return loss.item()
