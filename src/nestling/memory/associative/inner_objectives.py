"""Inner objectives of associative memories: dot product, L2, Huber and Lp loss.

What a memory M minimises at one pair of key and value, and the push on its answer, the negative
gradient of that loss by the answer p = M(k).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nestling.core.errors import SettingError

# Axes: V width of a value; any axes before it.

Kind = Literal["dot", "l2", "huber", "lp"]


@dataclass(frozen=True)
class InnerObjective:
    """Loss that an associative memory minimises at each key-value pair.

    dot:   -<p, v>                                    push  v
    l2:    1/2 |p - v|^2                              push  v - p
    huber: sum over coordinates of Huber's loss       push  clip(v - p, -threshold, threshold)
    lp:    1/p sum |v - p|^power                      push  sign(v - p) |v - p|^(power - 1)
    [Behrouz et al., Nested Learning, equations 92 and 93; Miras, section 5]

    The factors are chosen so that Huber's loss with a threshold beyond every error, and Lp with
    power 2, are the L2 loss. Huber's loss is taken coordinate by coordinate.

    Args:
        kind: which.
        threshold: of Huber's loss, above 0.
        power: of the Lp loss, 1 or more.
        erase: of the L2 loss, how often the old answer is taken away: the push is v - erase p. 1 is
            the gradient; 2 is what equation 93 prints, whose repeated write settles at v / 2.

    Raises:
        SettingError: an unknown kind, or a number out of range.

    >>> InnerObjective("huber", threshold=0.5)
    InnerObjective(kind='huber', threshold=0.5, power=2.0, erase=1.0)
    """

    kind: Kind = "l2"
    threshold: float = 1.0
    power: float = 2.0
    erase: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("dot", "l2", "huber", "lp"):
            raise SettingError(f"kind={self.kind!r}; 'dot', 'l2', 'huber' or 'lp' works")
        if not 0 < self.threshold < float("inf"):
            raise SettingError(f"threshold={self.threshold}; a number greater than 0 works")
        if not 1 <= self.power < float("inf"):
            raise SettingError(f"power={self.power}; a number of 1 or more works")
        if not 0 <= self.erase < float("inf"):
            raise SettingError(f"erase={self.erase}; 1 works, or 2 for the printed form")
        if self.erase != 1 and self.kind != "l2":
            raise SettingError(f"erase={self.erase} with kind={self.kind!r}; it needs kind='l2'")


# The objective of a Hebbian memory: the value's product with what is read.
DOT = InnerObjective("dot")
# The objective of the delta rule: half the squared distance of value and what is read.
L2 = InnerObjective("l2")


def find_loss(objective: InnerObjective, answers_V: Tensor, values_V: Tensor) -> Tensor:
    """Inner loss of an associative memory at key-value pairs, by its answers there.

    Args:
        objective: which loss; its `erase` must be 1, for there is no loss with another push.
        answers_V: (..., V), what the memory says.
        values_V: (..., V), what it should say.

    Returns: (...), as `InnerObjective` writes it.

    >>> find_loss(L2, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    tensor(2.5000)
    """
    error_V = values_V - answers_V
    if objective.kind == "dot":
        return -(answers_V * values_V).sum(-1)
    if objective.kind == "l2":
        return error_V.square().sum(-1) / 2
    size_V = error_V.abs()
    if objective.kind == "huber":
        bound = objective.threshold
        return torch.where(size_V <= bound, size_V**2 / 2, bound * (size_V - bound / 2)).sum(-1)
    return (size_V**objective.power).sum(-1) / objective.power


def find_push(objective: InnerObjective, answers_V: Tensor, values_V: Tensor) -> Tensor:
    """Negative gradient of the inner loss by the memory's answer: the error signal it writes.

    Args:
        objective: which loss.
        answers_V: (..., V), what the memory says.
        values_V: (..., V), what it should say.

    Returns: (..., V).

    >>> find_push(InnerObjective("huber", threshold=1), torch.zeros(2), torch.tensor([0.5, 3.0]))
    tensor([0.5000, 1.0000])
    """
    if objective.kind == "dot":
        return values_V.expand_as(answers_V)
    error_V = values_V - objective.erase * answers_V
    if objective.kind == "l2":
        return error_V
    if objective.kind == "huber":
        return error_V.clamp(-objective.threshold, objective.threshold)
    # At 0 the power's own gradient may be infinite; sign() times it would be NaN.
    size_V = torch.where(error_V == 0, torch.ones_like(error_V), error_V.abs())
    return error_V.sign() * size_V ** (objective.power - 1)
