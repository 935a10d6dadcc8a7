"""Examples that wait to be heard of by the gate, with what experts answered before they moved.

Axis letters: R rows (answers), K classes, M outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nestling.levels.memory import Checked


@dataclass(frozen=True)
class UnheardRows:
    """Rows that were learned together, or one batch after the other.

    Args:
        target: (R,) classes or (R, M) values.
        read: per memory level what it takes in.
        moving: per expert that moves (R, K) or (R, M), as it answered before it learned them.
        given: (R, K) or (R, M) of the model as it was given; None if nobody asks.
    """

    target: Tensor
    read: dict[str, Checked]
    moving: dict[str, Tensor]
    given: Tensor | None

    def __len__(self) -> int:
        return len(self.target)

    def own(self) -> "UnheardRows":
        """The same in tensors that nobody overwrites."""
        return replace(
            self,
            target=self.target.clone(),
            read={
                name: replace(one, features=one.features.clone(), target=one.target.clone())
                for name, one in self.read.items()
            },
            moving={name: value.clone() for name, value in self.moving.items()},
            given=None if self.given is None else self.given.clone(),
        )

    def state_dict(self) -> dict[str, Any]:
        """All tensors, by name."""
        return {
            "target": self.target.clone(),
            "read": {
                name: {
                    "features": one.features.clone(),
                    "target": one.target.clone(),
                    "weight": one.weight.clone(),
                    "widths": list(one.widths),
                }
                for name, one in self.read.items()
            },
            "moving": {name: value.clone() for name, value in self.moving.items()},
            "given": None if self.given is None else self.given.clone(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "UnheardRows":
        """Undo `state_dict`."""
        read = {
            name: Checked(one["features"], one["target"], one["weight"], tuple(one["widths"]), None)
            for name, one in state["read"].items()
        }
        return cls(state["target"], read, dict(state["moving"]), state["given"]).own()


def join_unheard(parts: list[UnheardRows]) -> UnheardRows:
    """All rows, in order.

    Args:
        parts: one or more, of the same memories and experts.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    read = {
        name: replace(
            one,
            features=torch.cat([part.read[name].features for part in parts]),
            target=torch.cat([part.read[name].target for part in parts]),
            weight=torch.cat([part.read[name].weight for part in parts]),
        )
        for name, one in first.read.items()
    }
    moving = {name: _stack([part.moving[name] for part in parts]) for name in first.moving}
    givens = [part.given for part in parts if part.given is not None]
    given = _stack(givens) if givens else None
    return UnheardRows(torch.cat([part.target for part in parts]), read, moving, given)


def _stack(parts: list[Tensor]) -> Tensor:
    """Rows of parts that may know different numbers of classes: the head may have grown."""
    if len({part.shape[1] for part in parts}) == 1:
        return torch.cat(parts)
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(one, (0, width - one.shape[1])) for one in parts])
