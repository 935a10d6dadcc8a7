"""Lower learning rates for a trained backbone than for its new head (SLCA)."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from nestling.core.errors import IdlePattern, SettingError, suggest


def split_rates(
    model: nn.Module, *, head: Sequence[str], lr: float, slow_factor: float = 0.01
) -> list[dict[str, Any]]:
    """Parameter groups for any torch optimizer: a lower learning rate for the backbone (SLCA).

    lr_backbone = slow_factor lr,  lr_head = lr   [SLCA, Zhang 2023, Sec. 4.1]

    It is the largest single effect known on a pre-trained backbone, and needs no plan and no
    memory; on a network that was never trained it only learns slower.

    Args:
        model: parameters that need no gradient belong to no group.
        head: globs over parameter names, e.g. ["classifier.*"]; all others are the backbone.
        lr: rate of the head, > 0.
        slow_factor: in [0, 1]; the paper's 0.01 is of SGD. 0 keeps the backbone as it is, but
            for a decay of weights, which every optimizer scales by the rate.

    Returns: up to two groups of "name", "params" and "lr", in the order backbone, head; one that
        would be empty is left out.

    Raises:
        SettingError: an argument outside its range.
        IdlePattern: a glob that matches no parameter which needs a gradient.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> groups = split_rates(model, head=["1.*"], lr=0.5)
    >>> [(group["name"], group["lr"], len(group["params"])) for group in groups]
    [('backbone', 0.005, 2), ('head', 0.5, 2)]
    """
    if not 0.0 < lr < math.inf or not 0.0 <= slow_factor <= 1.0:
        raise SettingError(
            f"rate {lr} and slow factor {slow_factor}; a rate above 0 and a factor in [0, 1] work"
        )
    params = {name: param for name, param in model.named_parameters() if param.requires_grad}
    if not head:
        raise SettingError("no head named, so all would be slow; " + suggest("head", params))
    for pattern in head:
        if not any(fnmatchcase(name, pattern) for name in params):
            raise IdlePattern(f"head={pattern!r} matches nothing; " + suggest(pattern, params))
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "head": []}
    for name, param in params.items():
        is_head = any(fnmatchcase(name, pattern) for pattern in head)
        groups["head" if is_head else "backbone"].append(param)
    rates = {"backbone": slow_factor * lr, "head": lr}
    return [
        {"name": name, "params": members, "lr": rates[name]}
        for name, members in groups.items()
        if members
    ]
