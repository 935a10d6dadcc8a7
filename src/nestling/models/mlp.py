"""A plain multilayer perceptron."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from nestling.core.errors import ModelError


def mlp(sizes: Sequence[int], *, flatten: bool = True) -> nn.Sequential:
    """Multi-layer perceptron (MLP): linear layers with ReLU between them.

    The last layer is called `head`, all others stand in `trunk`, so that plans can name them.

    Args:
        sizes: units per layer, inputs first, outputs last; at least two numbers.
        flatten: turn (N, ...) into (N, features) first, so that images fit.

    Returns: (N, sizes[0]) -> (N, sizes[-1]).

    Raises:
        ModelError: fewer than two sizes, or one below 1.

    >>> [name for name, _ in mlp([64, 32, 10]).named_parameters()]
    ['trunk.0.weight', 'trunk.0.bias', 'head.weight', 'head.bias']
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ModelError(
            f"sizes = {list(sizes)}: an mlp needs at least two sizes of 1 or more, "
            "e.g. sizes = [64, 128, 10]"
        )
    trunk = nn.Sequential()
    for num_inputs, num_outputs in pairwise(sizes[:-1]):
        trunk.extend([nn.Linear(num_inputs, num_outputs), nn.ReLU()])
    model = nn.Sequential()
    if flatten:
        model.add_module("flatten", nn.Flatten())
    model.add_module("trunk", trunk)
    model.add_module("head", nn.Linear(sizes[-2], sizes[-1]))
    return model
