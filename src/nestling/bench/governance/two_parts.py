"""The model of the benches of governed change: a slow part and a fast part, whose logits add up."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.seeds import make_generator
from nestling.data.groups import GroupedRows
from nestling.levels import Level, Plan
from nestling.optim import OptimizerFactory, OptimizerSpec, adamw

BLOCK = 32
START = 0.01  # standard deviation of the weights of the fast part


class TwoPartNet(nn.Module):
    """Sum of two linear classifiers: the spine, which starts at zero, and a fast part near zero.

    logits(x) = W_spine x + b_spine + W_fast x + b_fast

    So the spine alone is what the model says while the fast part stands where it started. That is
    not zero, since a change relative to zero has no bound.

    Args:
        num_inputs: D.
        seed: draws where the fast part starts.

    >>> net = TwoPartNet(3, seed=0)
    >>> net(torch.ones(2, 3)).shape, bool(net.fast.weight.abs().max() < 0.1)
    (torch.Size([2, 2]), True)
    """

    def __init__(self, num_inputs: int, seed: int) -> None:
        super().__init__()
        self.spine, self.fast = nn.Linear(num_inputs, 2), nn.Linear(num_inputs, 2)
        generator = make_generator(seed, "fast part")
        for parameter in self.spine.parameters():
            nn.init.zeros_(parameter)
        for parameter in self.fast.parameters():
            nn.init.normal_(parameter, std=START, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) inputs to (N, 2) logits."""
        logits: Tensor = self.spine(x) + self.fast(x)
        return logits


def make_plan(
    spine: OptimizerSpec | None = None, fast: OptimizerSpec | OptimizerFactory | None = None
) -> Plan:
    """Plan of the two parts; by default both learn by AdamW at every step.

    Args:
        spine, fast: update rules of the parts.
    """
    return Plan(
        # It starts near zero, so that its first changes are large beside it.
        Level("fast", match=["fast.*"], optimizer=fast or adamw(lr=1e-2), band=(0.0, 1e6)),
        Level("spine", match=["spine.*"], optimizer=spine or adamw(lr=1e-2)),
    )


def learn_part(
    model: TwoPartNet, rows: GroupedRows, part: str, *, num_epochs: int, seed: int
) -> None:
    """Let one part of a model learn rows in blocks by AdamW, in another order in every epoch.

    Args:
        model: that stands under no plan yet.
        rows: to learn from.
        part: "spine" or "fast"; the other stands still.
        num_epochs: passes over the rows.
        seed: of the orders.
    """
    params = list(getattr(model, part).parameters())
    optimizer = torch.optim.AdamW(params, lr=1e-2)
    for epoch in range(num_epochs):
        order = rows.shuffle(seed, "learning", part, epoch)
        for x, y in zip(order.x.split(BLOCK), order.y.split(BLOCK), strict=True):
            optimizer.zero_grad()
            torch.autograd.backward([functional.cross_entropy(model(x), y)], inputs=params)
            optimizer.step()
