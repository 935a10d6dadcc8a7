"""Run a module in evaluation mode and put every submodule back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode for a block of code; each submodule's own mode returns after it.

    >>> model = nn.Sequential(nn.Dropout(), nn.Linear(1, 1)).train()
    >>> with eval_mode(model):
    ...     model[0].training
    False
    >>> model[0].training
    True
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield model
    finally:
        for module in training:
            module.training = True
