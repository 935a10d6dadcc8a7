"""The model of the benches of governed change: a slow part and a fast part, whose logits add up."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.data.groups import GroupedRows
from nestling.levels import Level, NestedOptimizer, Plan
from nestling.optim import adamw

BLOCK = 32


class TwoPartNet(nn.Module):
    """Sum of two linear classifiers: the spine, and a fast part that starts at zero.

    logits(x) = W_spine x + b_spine + W_fast x + b_fast

    So the spine alone is what the model says while the fast part stands where it started.

    Args:
        num_inputs: D.
        num_classes: K.

    >>> net = TwoPartNet(3)
    >>> net(torch.ones(2, 3)).shape, float(net.fast.weight.abs().sum())
    (torch.Size([2, 2]), 0.0)
    """

    def __init__(self, num_inputs: int, num_classes: int = 2) -> None:
        super().__init__()
        self.spine = nn.Linear(num_inputs, num_classes)
        self.fast = nn.Linear(num_inputs, num_classes)
        # Both at zero: nothing is drawn, so that a run depends on the order of its rows alone.
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.spine(x) + self.fast(x)
        return logits


def make_plan(*, spine_lr: float = 1e-2, fast_lr: float = 1e-2, period: int = 8) -> Plan:
    """Plan of the two parts: the fast one at every step, the spine at every `period`-th."""
    return Plan(
        Level("fast", match=["fast.*"], optimizer=adamw(lr=fast_lr)),
        Level("spine", match=["spine.*"], period=period, optimizer=adamw(lr=spine_lr)),
    )


def learn_part(
    optimizer: NestedOptimizer,
    rows: GroupedRows,
    part: str,
    *,
    num_epochs: int,
    seed: int,
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
) -> None:
    """Let one part of the model learn rows in blocks, in another order in every epoch.

    Args:
        optimizer: of a `TwoPartNet` under `make_plan`.
        rows: to learn from.
        part: "spine" or "fast"; the other gets no gradient.
        num_epochs: passes over the rows.
        seed: of the orders.
        loss: (logits, labels) -> scalar.
    """
    model = optimizer.model
    for epoch in range(num_epochs):
        order = rows.shuffle(seed, "learning", part, epoch)
        for x, y in zip(order.x.split(BLOCK), order.y.split(BLOCK), strict=True):
            optimizer.zero_grad()
            torch.autograd.backward(
                [loss(model(x), y)], inputs=list(getattr(model, part).parameters())
            )
            optimizer.step()
