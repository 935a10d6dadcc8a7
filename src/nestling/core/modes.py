"""Run a module in evaluation mode and put every submodule back as it was."""

from collections.abc import Iterable, Iterator
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


@contextmanager
def eval_modules(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Evaluation mode of some modules, each by itself, for a block of code."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


_MODAL = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RReLU,
)


def has_modes(module: nn.Module) -> bool:
    """Whether a module, its children left aside, computes otherwise in training.

    Of modules that are not torch's own it is seen by their code: whether `forward` reads
    `training`.

    >>> has_modes(nn.Dropout()), has_modes(nn.Linear(1, 1))
    (True, False)
    """
    if isinstance(module, _MODAL):
        return True
    kind = type(module)
    if kind.__module__.startswith("torch.nn"):
        return False
    code = getattr(kind.forward, "__code__", None)
    return code is None or "training" in code.co_names
