"""Evaluation mode for a while, isolation from the caller's modes, and copies of modules."""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)


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


def in_own_modes(function: Callable[P, R]) -> Callable[P, R]:
    """Keep a caller's `torch.no_grad()` and `torch.inference_mode()` out of a function.

    Learning in a serving loop must not become a silent no-op, and what is kept must not become a
    tensor that nobody may change later.

    >>> @in_own_modes
    ... def keep() -> tuple[bool, bool]:
    ...     return torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    >>> with torch.inference_mode():
    ...     keep()
    (True, False)
    """

    @functools.wraps(function)
    def run(*arguments: P.args, **keywords: P.kwargs) -> R:
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return function(*arguments, **keywords)  # as in most loops: two contexts are spared
        with torch.inference_mode(False), torch.enable_grad():
            return function(*arguments, **keywords)

    return run


def copy_module(model: M, memo: dict[int, Any] | None = None) -> M:
    """A deep copy of a module, also of one whose hooks keep computed weights on it.

    `torch.nn.utils.weight_norm` leaves the product of its two parameters as a plain attribute,
    which torch refuses to copy; it is computed anew in every forward pass.

    Args:
        model: left untouched.
        memo: id of something inside -> what stands for it in the copy, as in `copy.deepcopy`.

    >>> model = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    >>> copy_module(model) is model
    False
    """
    computed = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    for module, name, value in computed:
        vars(module)[name] = value.detach()
    try:
        return copy.deepcopy(model, memo)
    finally:
        for module, name, value in computed:
            vars(module)[name] = value
