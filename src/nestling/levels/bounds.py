"""Bounds on how far a level may move, and the projection that holds them.

A bound is a trust region: a ball around where the weights were, onto which they are projected.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from nestling.core.checked import checked
from nestling.core.params import wide_dtype, widen_half

Bound = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


@checked
@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ChangeBounds:
    """Bounds on the relative change ||after - before|| / ||before|| of a level's weights.

    Args:
        per_update: of one update; None for no bound.
        per_day: since the first update of the day; None for no bound. A day lasts 86,400 seconds
            and begins with the first update after the last one has ended.
        since_validation: since a person last validated the level, or, before that, since it was
            bound; None for no bound.

    >>> ChangeBounds(per_update=-1.0)
    Traceback (most recent call last):
    nestling.core.errors.SettingError: ChangeBounds per_update: a number greater than 0 works, got
    -1.0
    """

    per_update: Bound | None = None
    per_day: Bound | None = None
    since_validation: Bound | None = None


@torch.no_grad()
def measure_norm(values: Sequence[Tensor]) -> float:
    """||values|| over all tensors together, added up in float64.

    >>> measure_norm([torch.tensor([3.0]), torch.tensor([4.0])])
    5.0
    """
    if not values:
        return 0.0
    wide = wide_dtype(values[0].device)
    norms = torch._foreach_norm(list(values), 2, dtype=wide)
    return float(torch.linalg.vector_norm(torch.stack(norms)))


@torch.no_grad()
def measure_distance(values: Sequence[Tensor], anchor: Sequence[Tensor]) -> float:
    """||values - anchor|| over all tensors together; half precision is widened first.

    >>> measure_distance([torch.ones(4)], [torch.zeros(4)])
    2.0
    """
    wide, base = [widen_half(v) for v in values], [widen_half(a) for a in anchor]
    return measure_norm(torch._foreach_sub(wide, base)) if wide else 0.0


@torch.no_grad()
def pull_within(
    values: Sequence[Tensor], anchor: Sequence[Tensor], radius: float
) -> tuple[float, bool]:
    """Project weights onto a ball, in place; what lies in it stays bit for bit.

    w <- a + min(1, r / ||w - a||) (w - a)

    Args:
        values: w, any shapes.
        anchor: a, same shapes.
        radius: r >= 0.

    Returns: ||w - a|| afterwards, at most `radius` as `measure_distance` measures it, and whether
        anything was pulled. Where the dtype has no weights of that kind, w becomes a.

    >>> weights = [torch.tensor([3.0, 4.0])]
    >>> pull_within(weights, [torch.zeros(2)], 1.0)[1], weights[0].norm().item() <= 1.0
    (True, True)
    """
    found = start = measure_distance(values, anchor)
    if found <= radius:
        return found, False
    base = [widen_half(a) for a in anchor]
    change = torch._foreach_sub([widen_half(v) for v in values], base)
    slack = 0.0
    for power in range(-7, 0):  # what rounding adds is given back
        keep = radius / start * (1.0 - slack)
        torch._foreach_copy_(
            list(values), torch._foreach_add(base, torch._foreach_mul(change, keep))
        )
        found = measure_distance(values, anchor)
        if found <= radius:
            return found, True
        slack = 10.0**power
    torch._foreach_copy_(list(values), list(anchor))
    return 0.0, True
