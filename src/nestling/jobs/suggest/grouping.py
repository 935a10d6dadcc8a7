"""The blocks of a model that are measured apart, found by the names of its modules."""

from dataclasses import dataclass

from torch import nn

# Twelve blocks of a transformer with embeddings, norm and head still stand apart.
MAX_GROUPS = 16


@dataclass(frozen=True)
class Group:
    """Trainable parameters of one block.

    Attributes:
        name: of the module, or of the parameter if it stands in no measured block; "" for all.
        parameters: full names, in the order of registration.
        num_weights: scalars in them.
    """

    name: str
    parameters: tuple[str, ...]
    num_weights: int

    @property
    def pattern(self) -> str:
        """The glob that claims this block in a plan.

        >>> Group("trunk.0", ("trunk.0.weight",), 4).pattern
        'trunk.0.*'
        """
        if not self.name:
            return "*"
        return self.name if self.name in self.parameters else f"{self.name}.*"


def list_groups(model: nn.Module, head: str = "", max_groups: int = MAX_GROUPS) -> list[Group]:
    """Blocks that hold all trainable parameters, in the order of registration.

    The head is a block of its own. From the top, the largest block that can be opened is
    opened, as long as no more than `max_groups` result.

    Args:
        model: any module.
        head: name of the module that must stand alone; "" for none.
        max_groups: at least 1; more only where the head cannot stand alone otherwise.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> [(group.name, group.num_weights) for group in list_groups(model, "2")]
    [('0', 9), ('2', 4)]
    """
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    modules = {name for name, _ in model.named_modules()}
    groups = [_gather("", sizes)]
    while True:
        opened = {group.name: _open(group, sizes, modules) for group in groups}
        closed = [group for group in groups if opened[group.name] != [group]]
        forced = [group for group in closed if head and _holds(group.name, head)]
        fitting = [
            group
            for group in closed
            if group.name != head and len(groups) - 1 + len(opened[group.name]) <= max_groups
        ]
        chosen = max(forced or fitting, key=lambda group: group.num_weights, default=None)
        if chosen is None:
            return groups
        at = groups.index(chosen)
        groups[at : at + 1] = opened[chosen.name]


def _holds(outer: str, inner: str) -> bool:
    return outer == "" or inner.startswith(f"{outer}.")


def _open(group: Group, sizes: dict[str, int], modules: set[str]) -> list[Group]:
    """The blocks one step down; a layer that holds only parameters of its own stays whole."""
    start = len(group.name) + 1 if group.name else 0
    children = list(dict.fromkeys(_first_part(name, start) for name in group.parameters))
    if not any(child in modules for child in children):
        return [group]
    return [_gather(child, sizes) for child in children]


def _first_part(name: str, start: int) -> str:
    end = name.find(".", start)
    return name if end < 0 else name[:end]


def _gather(name: str, sizes: dict[str, int]) -> Group:
    inside = tuple(one for one in sizes if one == name or _holds(name, one))
    return Group(name, inside, sum(sizes[one] for one in inside))
