"""One training step in which layers' inputs are recorded if an optimizer needs them (DGD)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from nestling.levels.optimizer import NestedOptimizer
from nestling.optim.deep import record_step
from nestling.optim.inner_state import GathersInputs


def record_inputs(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> AbstractContextManager[Callable[[], None]]:
    """Record what layers are fed during one step, if the optimizer or a level of it needs that.

    Args:
        model: whose layers are recorded.
        optimizer: a `NestedOptimizer` or any other.

    Returns: a context; what it gives forgets the inputs of the step again, should it be refused.

    >>> layer = nn.Linear(1, 1)
    >>> with record_inputs(layer, torch.optim.SGD(layer.parameters())) as forget:
    ...     forget()
    """
    if isinstance(optimizer, NestedOptimizer):
        gathers = any(level.gathering is not None for level in optimizer.levels.gradient.values())
    else:
        gathers = isinstance(optimizer, GathersInputs)
    return record_step(model) if gathers else nullcontext(_leave)


def _leave() -> None:
    """Nothing was recorded."""
