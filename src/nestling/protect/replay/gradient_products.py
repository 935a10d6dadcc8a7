"""Products of gradients, and the quadratic program over past ones.

Letters: T past experiences, M kept examples, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nestling.core.batches import Loss
from nestling.memory.tensor_slots import Columns
from nestling.protect.replay.buffer import answer_kept

Gradients = Sequence[Tensor]


def solve_dual(products: Tensor, slopes: Tensor, margin: float = 0.0) -> Tensor:
    """Solve the quadratic program of GEM: how much of each past gradient is to be added.

    argmin_v 1/2 v^T A v + b^T v subject to v >= margin   [Lopez-Paz & Ranzato 2017, section 3]

    Solved exactly with an active set [Lawson & Hanson 1974, chapter 23] in float64: a bound is
    dropped where the objective falls behind it, and put back where a free value would cross it.

    Args:
        products: A = G G^T, (T, T), of the past gradients.
        slopes: b = G g, (T,), their products with the new gradient.
        margin: of every value, >= 0; above 0, past experiences gain.

    Returns: v, (T,) float64.

    Differs: the paper adds the margin to the solution for v >= 0, its code has it as a bound, as
    here. The diagonal is 1e-12 of itself larger (its code: 0.001), so that equal gradients can be
    solved for.

    >>> solve_dual(torch.eye(2), torch.tensor([-3.0, 1.0]))
    tensor([3.0000, 0.0000], dtype=torch.float64)
    """
    products, slopes = products.to(torch.float64), slopes.to(torch.float64)
    num = len(slopes)
    # In units of each gradient's length: what is well learned has tiny ones, and still counts.
    lengths = products.diagonal().sqrt()
    lengths = lengths.where(lengths > 0.0, 1.0)
    scaled = products / lengths / lengths[:, None] + 1e-12 * torch.eye(
        num, dtype=torch.float64, device="cpu"
    )
    # With u = v - margin: the gain, minus the gradient, is -(b + A margin) - A u.
    target = -(slopes + margin * products.sum(1)) / lengths
    extra = torch.zeros(num, dtype=torch.float64, device="cpu")
    free = torch.zeros(num, dtype=torch.bool, device="cpu")
    tolerance = 1e-12 * float(target.abs().amax())
    # Each round lowers the objective, so no set of bounds returns; the limit is for rounding.
    for _ in range(10 * num):
        gain = (target - scaled @ extra).masked_fill(free, -torch.inf)
        best = int(gain.argmax())
        if gain[best] <= tolerance:
            break
        free[best] = True
        extra, free = _settle(scaled, target, extra, free)
    return extra / lengths + margin


def _settle(products: Tensor, target: Tensor, extra: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """The best values of the free ones, and which are still free: none is left below 0."""
    while True:
        wanted = torch.zeros_like(extra)
        wanted[free] = torch.linalg.solve(products[free][:, free], target[free])
        crossing = free & (wanted <= 0.0)
        if not bool(crossing.any()):
            return wanted, free
        # As far as the first bound on the way; what reaches it is bound again.
        parts = torch.full_like(extra, torch.inf)
        parts[crossing] = (extra / (extra - wanted))[crossing].nan_to_num(0.0)
        free = free & (parts > parts.amin())
        extra = (extra + parts.amin() * (wanted - extra)).where(free, 0.0)


def list_stepped(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that have a gradient; a step leaves the others alone."""
    return [param for param in model.parameters() if param.grad is not None]


def differentiate(
    model: nn.Module, params: Sequence[nn.Parameter], kept: Columns, loss: Loss
) -> list[Tensor]:
    """The gradients of the mean loss of kept examples; `.grad` is left as it is.

    Args:
        model: answers what was kept.
        params: by which to differentiate; zeros for those that the loss does not depend on.
        kept: of M examples, see `pack_batch`.
        loss: (output, target) -> scalar ().
    """
    here = {name: column.to(params[0].device) for name, column in kept.items()}
    price = loss(answer_kept(model, here), here["y"])
    grads = torch.autograd.grad(price, params, allow_unused=True, materialize_grads=True)
    return list(grads)


def multiply_gradients(left: Sequence[Gradients], right: Sequence[Gradients]) -> Tensor:
    """The product of each of both, (len(left), len(right)) float64 on the CPU."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device="cpu")
    for rows, columns in zip(zip(*left, strict=True), zip(*right, strict=True), strict=True):
        first = torch.stack([row.flatten() for row in rows]).to("cpu", torch.float64)
        second = torch.stack([column.flatten() for column in columns]).to("cpu", torch.float64)
        total += first @ second.T
    return total
