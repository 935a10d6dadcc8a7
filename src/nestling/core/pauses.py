"""Parameters whose gradient does not count for a step, told apart from frozen ones.

The mark stands on the parameter, so that a step that was begun and never taken (an error, Ctrl-C, a
notebook cell run again) leaves no parameter frozen for whoever comes next.
"""

from torch import Tensor, nn

_MARK = "_nestling_paused"


def pause(param: Tensor) -> None:
    """Stop backward before a trainable parameter, until `resume`.

    >>> import torch
    >>> weight = nn.Parameter(torch.zeros(1))
    >>> pause(weight)
    >>> weight.requires_grad, is_trainable(weight)
    (False, True)
    >>> resume(weight)
    >>> weight.requires_grad
    True
    """
    if param.requires_grad:
        setattr(param, _MARK, True)
        param.requires_grad_(False)


def resume(param: Tensor) -> None:
    """Let gradients reach a parameter that was paused."""
    if getattr(param, _MARK, False):
        delattr(param, _MARK)
        param.requires_grad_(True)


def is_trainable(param: Tensor) -> bool:
    """Whether a parameter learns, though it may be paused at the moment."""
    return param.requires_grad or getattr(param, _MARK, False)


def resume_all(model: nn.Module) -> None:
    """Let gradients reach all parameters that a step which was not taken left paused."""
    for param in model.parameters():
        resume(param)
