"""Plans for common cases, made by looking at a model's parameters."""

from collections.abc import Sequence

import torch
from torch import nn

from nestling.core.errors import SettingError
from nestling.core.heads import find_head
from nestling.levels.assign import collect_aliases, unwrap
from nestling.levels.low_rank import attach_low_rank
from nestling.levels.plan import Plan
from nestling.levels.spec import Level
from nestling.optim import adamw


def spine_and_head(
    model: nn.Module,
    *,
    head: str | None = None,
    period: int = 16,
    head_lr: float = 1e-3,
    spine_lr: float = 1e-4,
) -> Plan:
    """Plan of two levels: a head trained at every step and a backbone (spine) trained slowly.

    Args:
        model: any module.
        head: name of the submodule that is the head; None for the last linear layer.
        period: steps between two updates of the spine; backward skips it in between.
        head_lr: AdamW's rate of the head.
        spine_lr: AdamW's rate of the spine.

    Raises:
        SettingError: no such head, or nothing is left for the spine.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [(level.name, level.match) for level in spine_and_head(model).gradient_levels]
    [('head', ('2.*',)), ('spine', ('*',))]
    """
    if head is None:
        head = find_head(unwrap(model))
    names = _list_trainable(unwrap(model))
    inside = [name for name in names if name.startswith(f"{head}.")]
    if not head or not inside or len(inside) == len(names):
        raise SettingError(
            f"head {head!r} holds {len(inside)} of {len(names)} trainable parameters; "
            "name a submodule that holds some but not all"
        )
    return Plan(
        Level("head", match=(f"{head}.*",), optimizer=adamw(lr=head_lr)),
        Level("spine", match=("*",), period=period, between="skip", optimizer=adamw(lr=spine_lr)),
    )


def by_depth(model: nn.Module, num_levels: int, *, ratio: int = 4, lr: float = 1e-3) -> Plan:
    """Plan of levels by depth: the layers nearest the output learn fastest.

    What is registered last (nearest the output) learns fastest; a continuum memory system's
    geometric periods [NL sec. 7.1] on the layers of a model as it is.

    Args:
        model: parameters registered in the order from input to output.
        num_levels: at least 1, at most the number of modules that hold parameters.
        ratio: of the periods of neighbouring levels, at least 1.
        lr: AdamW's rate of every level.

    Raises:
        SettingError: more levels than modules with parameters.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    >>> [(level.match, level.period) for level in by_depth(model, 3).gradient_levels]
    [(('2.*',), 1), (('1.*',), 4), (('0.*',), 16)]
    """
    sizes: dict[str, int] = {}
    for name, (param, _) in collect_aliases(model).items():
        if param.requires_grad:
            owner = name.rpartition(".")[0]
            sizes[owner] = sizes.get(owner, 0) + param.numel()
    if not 1 <= num_levels <= len(sizes) or ratio < 1:
        raise SettingError(
            f"num_levels={num_levels}, ratio={ratio}; from 1 to {len(sizes)} levels (modules that "
            "hold trainable parameters) and a ratio of 1 or more work"
        )
    groups = _cut_evenly(list(reversed(sizes.items())), num_levels)
    names = _list_trainable(unwrap(model))
    levels = []
    for depth, group in enumerate(groups):
        levels.append(
            Level(
                f"depth-{depth}",
                match=tuple(pattern for owner in group for pattern in _match_owner(owner, names)),
                period=ratio**depth,
                optimizer=adamw(lr=lr),
            )
        )
    return Plan(*levels)


def adapters(
    model: nn.Module,
    match: Sequence[str],
    rank: int,
    *,
    generator: torch.Generator,
    period: int = 256,
    fast_lr: float = 1e-3,
    slow_lr: float = 1e-5,
) -> Plan:
    """Plan of low-rank adapters (LoRA) that learn fast over slowly trained weights.

    Args:
        model: overlays are attached to it, see `attach_low_rank`.
        match: globs over the weights of linear layers.
        rank: of every overlay.
        generator: CPU generator, draws the overlays' start.
        period: steps between two updates of the spine.
        fast_lr: AdamW's rate of the overlays.
        slow_lr: AdamW's rate of everything else.

    Raises:
        SettingError: an overlay cannot be attached; the model is then unchanged.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> plan = adapters(model, ["*.weight"], rank=2, generator=torch.Generator())
    >>> [level.name for level in plan.levels]
    ['adapters', 'spine']
    """
    attach_low_rank(model, match, rank, generator=generator)
    return Plan(
        Level(
            "adapters",
            match=("*parametrizations.weight.0.[AB]",),
            optimizer=adamw(lr=fast_lr, weight_decay=0.0),
        ),
        Level("spine", match=("*",), period=period, between="skip", optimizer=adamw(lr=slow_lr)),
    )


def _list_trainable(model: nn.Module) -> list[str]:
    return [name for name, (param, _) in collect_aliases(model).items() if param.requires_grad]


def _match_owner(owner: str, names: Sequence[str]) -> list[str]:
    """`owner.*` if that holds nothing of a submodule, else the parameters by name."""
    direct = [name for name in names if name.rpartition(".")[0] == owner]
    if owner and direct == [name for name in names if name.startswith(f"{owner}.")]:
        return [f"{owner}.*"]
    return direct


def _cut_evenly(sizes: Sequence[tuple[str, int]], num_groups: int) -> list[list[str]]:
    """Neighbours together, groups about equal in size, none empty."""
    total = sum(size for _, size in sizes)
    groups: list[list[str]] = [[] for _ in range(num_groups)]
    seen, at = 0, 0
    for index, (name, size) in enumerate(sizes):
        is_full = seen >= total * (at + 1) / num_groups
        must_move = len(sizes) - index <= num_groups - 1 - at
        if groups[at] and at < num_groups - 1 and (is_full or must_move):
            at += 1
        groups[at].append(name)
        seen += size
    return groups
