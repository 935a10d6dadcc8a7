"""A head that grows when labels appear that it has no output for."""

import math

import torch
from torch import nn

from nestling.core.errors import UnknownLabel
from nestling.learn.features import find_last_linear
from nestling.levels import NestedOptimizer

MOST_NEW_CLASSES = 10_000


def grow_head(
    model: nn.Module,
    optimizer: NestedOptimizer | None,
    num_classes: int,
    *,
    generator: torch.Generator,
) -> None:
    """Give the last linear layer more outputs; what it answered for the others stays.

    New rows are drawn as torch draws a fresh linear layer (uniform in +-1/sqrt(in)).
    Moments, gathered gradients and copies of the head get rows as well.

    Args:
        model: changed in place; its last linear layer must be its head.
        optimizer: told of the new parameters; None if nothing learns by gradient.
        num_classes: outputs afterwards.
        generator: draws the new rows.

    Raises:
        UnknownLabel: more new classes than can be meant.
    """
    name = find_last_linear(model)
    head = model.get_submodule(name)
    assert isinstance(head, nn.Linear)
    num_new = num_classes - head.out_features
    if num_new > MOST_NEW_CLASSES:
        raise UnknownLabel(
            f"label {num_classes - 1} would add {num_new} outputs to head {name!r} at once; "
            f"number classes 0, 1, 2, ... or declare num_classes={num_classes}"
        )
    bound = 1.0 / math.sqrt(head.in_features)
    for part in ("weight", "bias"):
        old = getattr(head, part)
        if old is None:
            continue
        rows = torch.empty((num_new, *old.shape[1:])).uniform_(-bound, bound, generator=generator)
        grown = torch.cat([old.detach(), rows.to(old.device, old.dtype)])
        param = nn.Parameter(grown, requires_grad=old.requires_grad)
        setattr(head, part, param)
        full = f"{name}.{part}" if name else part
        if optimizer is not None and old.requires_grad:
            optimizer.swap_parameter(full, param)
    head.out_features = num_classes
