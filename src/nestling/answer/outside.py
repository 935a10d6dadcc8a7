"""Mixing a memory with the pre-trained model as given, by how familiar an input is.

A memory is exact about what it has seen and knows nothing of the rest; the model as it was given
may know the rest, or be meaningless (a fresh head, other classes, another order of them). Which of
them is right is found out, apart for inputs that are familiar to the memory and others that are
not: what comes now says much about its own kind and little about any other.

Axis letters: N answers (rows), K classes, M outputs, Z zones of familiarity, E who knows: the
memory, and the model as it was given.
"""

import copy
import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nestling.memory import Mixture, MixtureWeights, mix_experts
from nestling.memory.exact.reach import SLOPE, THRESHOLD, trust_experience
from nestling.memory.ridge import Task

_LOGGER = logging.getLogger("nestling")

# Novelty above which an input is far from all that was learned, not merely on its edge.
FAR = 4.0
# First weights of the memory and of the given model: inside the memory's experience, on its edge,
# far from it, and anywhere while the memory has hardly any. Before anything is heard the given
# model is presumed to know. Where it has no opinion (its head is fresh), a little of the memory is
# enough.
STARTS = ((0.1, 0.9), (0.02, 1.0), (0.02, 1.0), (0.02, 1.0))
# How much an example counts. What is unfamiliar now is mostly the tail of one kind of input and
# says little of other kinds; and so does anything while the memory has hardly any experience.
TEMPERS = (1.0, 0.1, 0.1, 0.0)
# Examples of a memory after which what it says of an input counts half as evidence: of few examples
# others of their kind are unlike them by chance.
HALF_EVIDENCE = 30.0
# Of values: far from all that it has learned a memory's go beyond all bounds, and a fiftieth of
# them is too much, whatever it said of what came near.
STARTS_OF_VALUES = ((0.1, 0.9), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0))
TEMPERS_OF_VALUES = (1.0, 0.1, 0.0, 0.0)
# An answer that holds less than this share of the information of a certain one is no opinion: the
# head is fresh. Those of trained ones hold more than half.
LEAST_OPINION = 0.1
# Examples by which it is found out whether the given model's outputs are other classes than the
# labels, and after which it is asked no more; how many of them its answers must tell the label of,
# and how many they may at most name.
NUM_ENOUGH, MOST_COMPARED, LEAST_TOLD, MOST_NAMED = 60, 240, 0.7, 0.2


def split_zones(novelty_N: Tensor, num_effective: float) -> Tensor:
    """How far inputs lie inside a memory's experience, on its edge, far from it; and how far the
    memory has none.

    Args:
        novelty_N: (N,), see `nestling.memory.exact.reach.compute_novelty`.
        num_effective: examples that the memory knows.

    Returns: (N, Z), rows sum to 1.

    >>> split_zones(torch.tensor([0.0, 3.0, 9.0]).double(), 270.0).round(decimals=1).tolist()
    [[0.9, 0.0, 0.0, 0.1], [0.0, 0.9, 0.0, 0.1], [0.0, 0.0, 0.9, 0.1]]
    """
    inside_N = torch.sigmoid((THRESHOLD - novelty_N) / SLOPE)
    near_N = (1.0 - inside_N) * torch.sigmoid((FAR - novelty_N) / SLOPE)
    zones_N3 = torch.stack((inside_N, near_N, 1.0 - inside_N - near_N), dim=1)
    trust = trust_experience(num_effective)
    return nn.functional.pad(trust * zones_N3, (0, 1), value=1.0 - trust)


def fill_classes(memory_NK: Tensor, given_NK: Tensor, known_K: Tensor) -> Tensor:
    """A memory's answer, in which classes that it has never seen are as the given model has them.

    p(c) = given(known) memory(c) for c known, given(c) for others.

    Args:
        memory_NK, given_NK: (N, K) probabilities.
        known_K: (K,) 0 or 1: classes that the memory has seen.
    """
    share_N1 = (given_NK * known_K).sum(dim=1, keepdim=True)
    return share_N1 * memory_NK * known_K + given_NK * (1.0 - known_K)


def find_inside(zones_NZ: Tensor) -> Tensor:
    """How far inputs lie inside a memory's experience: (N,) in [0, 1]."""
    return zones_NZ[:, 0]


def measure_opinion(given_NJ: Tensor) -> Tensor:
    """How far probabilities are an opinion: (N,) in [0, 1], 0 for even ones, as of a fresh head.

    min(1, (1 - H(p) / ln J) / 0.1), H the entropy.

    >>> measure_opinion(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1]])).tolist()
    [0.0, 1.0]
    """
    num_classes = given_NJ.shape[1]
    if num_classes < 2:
        return torch.zeros_like(given_NJ[:, 0])
    log_NJ = given_NJ.clamp_min(1e-30).log()
    information_N = 1.0 + (given_NJ * log_NJ).sum(dim=1) / math.log(num_classes)
    return (information_N / LEAST_OPINION).clamp(0.0, 1.0)


def add_classes(given_NJ: Tensor, memory_NK: Tensor, inside_N: Tensor) -> Tensor:
    """The given model's answer; classes that it has no output for are as a memory has them, inside
    the memory's experience and where the given model has no opinion.

    p(c) = s memory(c) for c new, (1 - s memory(new)) given(c) for its own, s = max(inside, 1 - o).

    Args:
        given_NJ: (N, J) probabilities, J <= K.
        memory_NK: (N, K) probabilities; 0 for classes that the memory has not seen.
        inside_N: (N,) in [0, 1], see `find_inside`.

    Returns: (N, K); rows sum to 1 if those of the given model do.

    >>> memory = torch.tensor([[0.1, 0.1, 0.8]])
    >>> add_classes(torch.tensor([[0.9, 0.1]]), memory, torch.tensor([0.5]))
    tensor([[0.5400, 0.0600, 0.4000]])
    """
    share_N1 = torch.maximum(inside_N, 1.0 - measure_opinion(given_NJ))[:, None]
    new_NL = share_N1 * memory_NK[:, given_NJ.shape[1] :]
    return torch.cat(((1.0 - new_NL.sum(dim=1, keepdim=True)) * given_NJ, new_NL), dim=1)


@dataclass(frozen=True)
class Knowers:
    """What those who may know answer to the same inputs.

    Args:
        memory: (N, K) probabilities or (N, M) values.
        known: (K,) bool, classes that the memory has seen; None for values.
        given: (N, K') or (N, M), of the model as it was given; may hold NaN.
        novelty: (N,) of the inputs to the memory.
        num_effective: examples that the memory knows.
    """

    memory: Tensor
    known: Tensor | None
    given: Tensor
    novelty: Tensor
    num_effective: float

    @property
    def zones(self) -> Tensor:
        """(N, Z), see `split_zones`."""
        return split_zones(self.novelty, self.num_effective)

    def find_heard(self, target_N: Tensor) -> Tensor:
        """Which examples may be compared on: those of classes that the memory has seen, (N,)."""
        if self.known is None:
            return self.given.isfinite().all(dim=1)
        return find_heard(self.known, target_N)

    def stack(self, *, is_foreign: bool = False) -> Tensor:
        """The answers of both, of as many classes: (E, N, K), or (E, N, M).

        Args:
            is_foreign: the given model speaks of other classes: the memory stands in for it.
        """
        is_heard_N1 = self.given.isfinite().all(dim=1, keepdim=True)
        if is_foreign:
            is_heard_N1 = torch.zeros_like(is_heard_N1)
        if self.known is None:
            return torch.stack((self.memory, torch.where(is_heard_N1, self.given, self.memory)))
        width = max(self.known.shape[0], self.memory.shape[1], self.given.shape[1])
        memory, known_K = (
            nn.functional.pad(one, (0, width - one.shape[-1]))
            for one in (self.memory, self.known.to(self.memory.dtype))
        )
        given = add_classes(self.given, memory * known_K, find_inside(self.zones))
        given = torch.where(is_heard_N1, given, memory)
        return torch.stack((fill_classes(memory, given, known_K), given))


def mix_knowers(
    knowers: Knowers, weights: MixtureWeights, *, is_foreign: bool
) -> tuple[Tensor, Tensor]:
    """One answer of a memory and of who knows outside it, and how far others are listened to.

    Args:
        knowers: what both answer.
        weights: of the gate.
        is_foreign: the given model is left out.

    Returns: (N, K) or (N, M), finite where the memory's answer is; and (N,) in [0, 1]: a network
        that learns what comes now is good at that, and spoils what the given model knew of the
        rest, so it is listened to inside the memory's experience.
    """
    answers_ENK, zones_NZ = knowers.stack(is_foreign=is_foreign), knowers.zones
    classifies = knowers.known is not None
    mixed_NK = mix_experts(answers_ENK, zones_NZ, weights, 0, classifies=classifies)
    return mixed_NK, find_inside(zones_NZ)


class Outside:
    """Keeps evidence of who knows what, by zones of familiarity, and mixes the answers.

    A `nestling.memory.Mixture` of the memory and the given model with a set of weights for each
    zone. Classes that the memory has not seen are left out of the comparison: a new class does not
    speak for whoever has an output for it. A given model whose outputs turn out to be other
    classes than the labels is left out altogether.

    Args:
        switch_rate: of the gate.
        task: what is predicted.
    """

    def __init__(self, switch_rate: float, task: Task) -> None:
        classifies = task == "classification"
        starts = STARTS if classifies else STARTS_OF_VALUES
        self.gate = Mixture(
            torch.tensor(starts, dtype=torch.float64, device="cpu"),
            tempers=TEMPERS if classifies else TEMPERS_OF_VALUES,
            switch_rate=switch_rate,
            classifies=classifies,
        )
        # The given model's answer and the label, of the first examples.
        self.pairs = torch.zeros(0, 2, dtype=torch.int64, device="cpu")
        self.is_foreign = False

    def mix(self, knowers: Knowers) -> tuple[Tensor, Tensor]:
        """One answer: (N, K) or (N, M), float64, finite where the memory's is; and how far others
        than these are listened to, (N,)."""
        return mix_knowers(knowers, self.gate.weights, is_foreign=self.is_foreign)

    def hold_still(self) -> "Outside":
        """A twin that mixes as this one does now, whatever this one hears later."""
        twin = copy.copy(self)
        twin.gate, twin.pairs = self.gate.hold_still(), self.pairs.clone()
        return twin

    def observe(self, knowers: Knowers, target: Tensor) -> None:
        """Hear of examples by the answers that stood before they were learned.

        Args:
            knowers: those answers.
            target: (N,) classes or (N, M) values.
        """
        heard_N = knowers.find_heard(target)
        answers_ENK = knowers.stack(is_foreign=self.is_foreign)
        present_K = None
        if knowers.known is not None:
            present_K = nn.functional.pad(
                knowers.known, (0, answers_ENK.shape[2] - len(knowers.known))
            )
            self._compare_names(knowers.given, target, heard_N)
            target = torch.where(heard_N, target, 0)
        weight = knowers.num_effective / (knowers.num_effective + HALF_EVIDENCE)
        self.gate.observe(
            answers_ENK,
            target,
            knowers.zones,
            present_K=present_K,
            heard_N=weight * heard_N.double(),
        )

    def _compare_names(self, given_NK: Tensor, target_N: Tensor, heard_N: Tensor) -> None:
        """Find out whether the given model's answers tell the label, but under other names."""
        # It cannot name a class that it has no output for.
        heard_N = heard_N & given_NK.isfinite().all(dim=1) & (target_N < given_NK.shape[1])
        if self.is_foreign or len(self.pairs) >= MOST_COMPARED or not bool(heard_N.any()):
            return
        found_N2 = torch.stack((given_NK[heard_N].argmax(dim=1), target_N[heard_N]), dim=1)
        self.pairs = torch.cat((self.pairs, found_N2))[:MOST_COMPARED]
        self.is_foreign = is_told_otherwise(self.pairs)
        if self.is_foreign:
            _LOGGER.warning(
                "the given model's outputs are not the labels' classes: of %d examples it named "
                "%d right, though its answers tell the label of %d; it is left out of the answers. "
                "Bring outputs and labels to one order, or give a model with a fresh head",
                *(len(self.pairs), *count_told(self.pairs)),
            )

    def state_dict(self) -> dict[str, object]:
        """The gate, and what the given model's answers came with."""
        return {
            "gate": self.gate.state_dict(),
            "pairs": self.pairs.clone(),
            "is_foreign": self.is_foreign,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.gate.load_state_dict(state["gate"])
        self.pairs, self.is_foreign = state["pairs"].clone(), state["is_foreign"]


def count_told(pairs_P2: Tensor) -> tuple[int, int]:
    """Of how many examples a model's answer names the label, and of how many it tells it: the label
    is the commonest one of all other examples with the same answer.

    Args:
        pairs_P2: answer and label of each example.

    >>> count_told(torch.tensor([[0, 0], [1, 2], [1, 2], [1, 2], [5, 3]]))
    (1, 3)
    """
    pairs = [(int(answer), int(label)) for answer, label in pairs_P2.tolist()]
    counts: dict[int, Counter[int]] = {}
    for answer, label in pairs:
        counts.setdefault(answer, Counter())[label] += 1
    num_told = 0
    for answer, label in pairs:
        others = counts[answer]
        rivals = max((n for one, n in others.items() if one != label), default=0)
        num_told += others[label] - 1 > rivals
    return sum(answer == label for answer, label in pairs), num_told


def is_told_otherwise(pairs_P2: Tensor) -> bool:
    """Whether answers tell the label but under other names, of enough examples.

    A model that is merely bad at what comes answers alike to several classes: of its answers the
    label can hardly be told, beyond how often the commonest label comes.

    Args:
        pairs_P2: answer and label of each example.

    >>> right = torch.arange(3).repeat(20)
    >>> is_told_otherwise(torch.stack((right, right), dim=1))
    False
    >>> is_told_otherwise(torch.stack((right, right.roll(1)), dim=1))
    True
    """
    total = len(pairs_P2)
    if total < NUM_ENOUGH:
        return False
    named, told = (number / total for number in count_told(pairs_P2))
    commonest = float(pairs_P2[:, 1].bincount().max()) / total
    return named <= MOST_NAMED and told >= LEAST_TOLD and told >= commonest + 0.2


def find_heard(known_K: Tensor, target_N: Tensor) -> Tensor:
    """Which labels are of classes that are known: (N,) bool.

    >>> find_heard(torch.tensor([True, False]), torch.tensor([0, 1, 7])).tolist()
    [True, False, False]
    """
    inside_N = target_N < len(known_K)
    heard_N: Tensor = inside_N & known_K[torch.where(inside_N, target_N, 0)]
    return heard_N
