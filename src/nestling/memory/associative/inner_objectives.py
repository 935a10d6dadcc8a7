"""Inner objectives of associative memories (dot, L2, Huber, Lp) and their retention (L2, KL, Lq).

What a memory M minimises at one pair of key and value, and the push on its answer, the negative
gradient of that loss by the answer p = M(k); and what holds it back, to what it was.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nestling.core.errors import SettingError

# Axes: V width of a value, D width of a key; any axes before them.

Kind = Literal["dot", "l2", "huber", "lp"]
RetentionKind = Literal["decay", "initial", "kl", "lq"]


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


@dataclass(frozen=True)
class WeightRetention:
    """What an associative memory is pulled back to at each token, by 1 - alpha of the way.

    decay:    W_t = alpha W_(t-1) + S_t: to zero, in L2
    initial:  W_t = W_0 + alpha (W_(t-1) - W_0) + S_t: to its initial state, in L2
    kl:       W_t = total softmax(alpha log W_(t-1) + S_t), row by row: weights are positive, each
              row adds up to `total`, and the pull is to even weights, in KL divergence (Memora)
    lq:       A_t = alpha A_(t-1) + S_t,  W_t = sign(A_t) |A_t|^(q-1) / |A_t|_q^(q-2): mirror
              descent in the norm dual to q (Moneta)
    [Miras, sections 5.2 and 6; Nested Learning, section 4]

    Of the last two a state holds A, for which the step is linear; W is read off it (`find_weights`)
    and the softmax forgets what is added to a whole row, so that alpha log W may stand as alpha A.

    Differs: Miras prints W = A / |A|_q^(q-2), whose size for q = 4 is the inverse of A's, so that
    the smallest memory answers loudest; `printed=True` is that form. With q = 2 both are decay.

    Args:
        kind: which.
        total: of a row under "kl", above 0.
        power: q of "lq", 2 or more.
        printed: the literal form of "lq".

    Raises:
        SettingError: an unknown kind, or a number out of range.

    >>> WeightRetention("kl").total
    1.0
    """

    kind: RetentionKind = "decay"
    total: float = 1.0
    power: float = 4.0
    printed: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("decay", "initial", "kl", "lq"):
            raise SettingError(f"kind={self.kind!r}; 'decay', 'initial', 'kl' or 'lq' works")
        if not 0 < self.total < float("inf"):
            raise SettingError(f"total={self.total}; a number greater than 0 works")
        if not 2 <= self.power < float("inf"):
            raise SettingError(f"power={self.power}; a number of 2 or more works")
        if self.printed and self.kind != "lq":
            raise SettingError(f"printed=True with kind={self.kind!r}; it needs kind='lq'")

    @property
    def is_linear(self) -> bool:
        """Whether weights depend linearly on what was written, so that chunks are exact."""
        return self.kind in ("decay", "initial")


# The usual forgetting: all weights shrink alike.
DECAY = WeightRetention()


def find_weights(retention: WeightRetention, held_VD: Tensor) -> Tensor:
    """Weights of an associative memory, from what its state holds.

    Args:
        retention: which; W itself is held under "decay" and "initial".
        held_VD: (..., V, D).

    Returns: (..., V, D) W.

    >>> find_weights(WeightRetention("kl", total=2.0), torch.zeros(1, 4))
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    >>> find_weights(WeightRetention("lq", power=4.0), torch.tensor([[0.0, -3.0]]))
    tensor([[ 0., -3.]])
    """
    if retention.kind == "kl":
        return retention.total * held_VD.softmax(-1)
    if retention.kind != "lq" or retention.power == 2:
        return held_VD
    # Zeros stay zeros; their powers' own gradients may be infinite.
    size_VD = torch.where(held_VD == 0, torch.ones_like(held_VD), held_VD.abs())
    sum_11 = torch.where(held_VD == 0, torch.zeros_like(held_VD), size_VD**retention.power)
    sum_11 = sum_11.sum((-2, -1), keepdim=True)
    sum_11 = torch.where(sum_11 == 0, torch.ones_like(sum_11), sum_11)
    share_11 = sum_11 ** (2 / retention.power - 1)  # |A|_q^(2-q)
    if retention.printed:
        return held_VD * share_11
    return held_VD.sign() * size_VD ** (retention.power - 1) * share_11
