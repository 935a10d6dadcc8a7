"""Mixing a memory with the pre-trained model as given, by how familiar an input is.

A memory is exact about what it has seen and knows nothing of the rest; the model as it was given
may know the rest, or be meaningless (a fresh head, other classes, another order of them). Which of
them is right is found out, apart for inputs that are familiar to the memory and others that are
not: what comes now says much about its own kind and little about any other.

Axis letters: N answers (rows), K classes, M outputs, Z zones of familiarity, E who knows: the
memory, the model as it was given, and both together.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nestling.memory import FixedShare, restrict_to_present
from nestling.memory.exact.reach import SLOPE, THRESHOLD, trust_experience
from nestling.memory.exact.statistics import decay_factor
from nestling.memory.mixture import mix_rows

# Novelty above which an input is far from all that was learned, not merely on its edge.
FAR = 4.0
# Before anything is heard the given model is presumed to know, inside the memory's experience a
# little less than elsewhere.
PRIORS = ((0.1, 1.0, 0.1), (0.05, 1.0, 0.05), (0.05, 1.0, 0.05))
# How much an example counts. What is unfamiliar now is mostly the tail of one kind of input and
# says little of other kinds: next to nothing, and nothing at all while the given model knows
# something.
TEMPERS = (1.0, 0.05, 0.02)
# Share of what chance gets wrong that the given model must get right to know something for sure.
LEAST_SKILL = 0.2
# Examples by which it is presumed to be right at first, and half-life of what it got right.
PRESUMED, SKILL_HALF_LIFE = 5.0, 300.0
# Voice of the given model in what the memory says of usual inputs, once that knows enough; and the
# novelty at which it is half way to an even voice, among the less usual of what was learned.
LEAST_VOICE, SECONDED, SECONDING_SLOPE = 0.4, 1.25, 0.33
# An example that hardly belongs to a zone is not heard there, nor does it make its gate forget.
LEAST_SHARE = 0.01
# Share of chance in what an expert is scored by: a memory of few examples is too sure of itself,
# and a single mistake of it must not outweigh many right answers.
DOUBT = 0.1
# Probability below which one of two is not believed to rule a class out.
LEAST_PROBABILITY = 1e-4
# An answer that holds less than this share of the information of a certain one is no opinion: the
# head is fresh. Those of trained ones hold more than half.
LEAST_OPINION = 0.1
SMALLEST_VARIANCE = 1e-12
# By which one value may be worse than another: bounds the cost of one mistake, as `DOUBT` does.
MOST_NATS = 3.0


def split_zones(novelty_N: Tensor) -> Tensor:
    """How far inputs lie inside a memory's experience, on its edge, and far from it.

    Args:
        novelty_N: (N,), see `nestling.memory.exact.reach.compute_novelty`.

    Returns: (Z, N), columns sum to 1.

    >>> split_zones(torch.tensor([0.0, 3.0, 9.0])).round(decimals=1).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    inside_N = torch.sigmoid((THRESHOLD - novelty_N) / SLOPE)
    near_N = (1.0 - inside_N) * torch.sigmoid((FAR - novelty_N) / SLOPE)
    return torch.stack((inside_N, near_N, 1.0 - inside_N - near_N))


def pool_classes(
    memory_NK: Tensor, given_NK: Tensor, known_K: Tensor, voice_N1: Tensor | float
) -> Tensor:
    """What both think together, of classes that the memory knows: p(c) ~ memory(c) given(c)^v.

    [logarithmic opinion pool, Genest & Zidek 1986, Eq. 3.3]

    Args:
        memory_NK, given_NK: (N, K) probabilities.
        known_K: (K,) 0 or 1: classes that the memory has seen; the rest gets nothing.
        voice_N1: v, (N, 1), of the given model, from 0 to 1 as of the memory.
    """
    log_NK = memory_NK.clamp_min(LEAST_PROBABILITY).log()
    log_NK = log_NK + voice_N1 * given_NK.clamp_min(LEAST_PROBABILITY).log()
    joint_NK = (log_NK - log_NK.amax(dim=1, keepdim=True)).exp() * known_K
    total_N1 = joint_NK.sum(dim=1, keepdim=True)
    return torch.where(total_N1 > 0.0, joint_NK / total_N1.clamp_min(1e-300), memory_NK)


def agree_on_classes(memory_NK: Tensor, given_NK: Tensor, known_K: Tensor) -> Tensor:
    """As `pool_classes`, with even voices and as sharp as one; other classes as the given model
    has them: p(c) = given(known) sqrt(memory(c) given(c)) / sum over known."""
    roots = (one.clamp_min(LEAST_PROBABILITY).sqrt() for one in (memory_NK, given_NK))
    joint_NK = next(roots) * next(roots) * known_K
    joint_NK = joint_NK / joint_NK.sum(dim=1, keepdim=True).clamp_min(LEAST_PROBABILITY)
    return (given_NK * known_K).sum(dim=1, keepdim=True) * joint_NK + given_NK * (1.0 - known_K)


def confer(
    memory: Tensor,
    given: Tensor,
    known_K: Tensor | None,
    novelty_N: Tensor,
    trust: float,
    skill: float,
) -> tuple[Tensor, Tensor]:
    """What the memory, the given model, and both together say.

    The given model, if it knows something, has a voice in what the memory says, the more of it the
    less usual an input is, and the less the memory knows: what is rare with one person may be usual
    with others, whom it knows.

    Args:
        memory: (N, K') probabilities or (N, M) values.
        given: (N, K'') or (N, M); may hold NaN.
        known_K: (K''',) bool: classes that the memory has seen; None for values.
        novelty_N: (N,).
        trust: in [0, 1), how far a memory of so few examples is believed at all.
        skill: in [0, 1], how far the given model is known to know something.

    Returns: answers (E, N, K), K the most of K', K'', K''', or (E, N, M); and how far the given
        model has an opinion, (N,).
    """
    is_finite_N = given.isfinite().all(dim=1)
    given = torch.where(is_finite_N[:, None], given, torch.zeros_like(given))
    if known_K is None:
        return torch.stack((memory, given, 0.5 * (memory + given))), is_finite_N.to(memory.dtype)
    opinion_N = measure_opinion(given) * is_finite_N
    width = max(known_K.shape[0], memory.shape[1], given.shape[1])
    memory, given, known_K = (
        nn.functional.pad(one, (0, width - one.shape[-1]))
        for one in (memory, given, known_K.to(memory.dtype))
    )
    usual_N = torch.sigmoid((SECONDED - novelty_N) / SECONDING_SLOPE)
    voice_N = 1.0 - (1.0 - LEAST_VOICE) * trust * usual_N
    seconded = pool_classes(memory, given, known_K, (voice_N * opinion_N * skill)[:, None])
    both = agree_on_classes(memory, given, known_K)
    return torch.stack((seconded, given, both)), opinion_N


def measure_opinion(given_NK: Tensor) -> Tensor:
    """How far probabilities are an opinion: (N,) in [0, 1], 0 for even ones.

    min(1, (1 - H(p) / ln K) / 0.1), H the entropy.

    >>> measure_opinion(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1]])).tolist()
    [0.0, 1.0]
    """
    num_classes = given_NK.shape[1]
    if num_classes < 2:
        return torch.zeros_like(given_NK[:, 0])
    log_NK = given_NK.clamp_min(1e-30).log()
    information_N = 1.0 + (given_NK * log_NK).sum(dim=1) / math.log(num_classes)
    return (information_N / LEAST_OPINION).clamp(0.0, 1.0)


def weigh_knowers(
    novelty_N: Tensor,
    opinion_N: Tensor,
    weights_ZE: Tensor,
    trust: float,
    *,
    is_mixture: bool = True,
) -> Tensor:
    """Whom to believe about each input: (N, E), rows sum to 1.

    Args:
        novelty_N: (N,).
        opinion_N: (N,) how far the given model has one.
        weights_ZE: (Z, E) of the gates.
        trust: in [0, 1), how far a memory of so few examples is believed at all.
        is_mixture: False: in each zone whoever is believed most. Of probabilities a little of a
            wrong answer does no harm; a value may be wrong without bound.
    """
    trusted_ZE = weights_ZE * weights_ZE.new_tensor([trust, 1.0, trust])
    if not is_mixture:
        trusted_ZE = nn.functional.one_hot(trusted_ZE.argmax(dim=1), 3).to(weights_ZE)
    weights_NE = split_zones(novelty_N).T @ trusted_ZE
    memory_N, both_N = weights_NE[:, 0], weights_NE[:, 2]
    given_N = 1.0 - memory_N - both_N
    believed_NE = torch.stack((memory_N, given_N * opinion_N, both_N * opinion_N), dim=1)
    silent_N = 1.0 - believed_NE.sum(dim=1)  # nobody else has an opinion: the memory speaks
    return believed_NE + silent_N[:, None] * torch.eye(3, dtype=believed_NE.dtype, device="cpu")[0]


def listen_to_others(novelty_N: Tensor, weights_NE: Tensor) -> Tensor:
    """How far experts that move are listened to: not where the given model knows better.

    A network that learns what comes now is good at that, and spoils what the given model knew of
    the rest. (N,) in [0, 1]: 1 inside the memory's experience, and 1 less the weight of the given
    model elsewhere.

    Args:
        novelty_N: (N,).
        weights_NE: (N, E), see `weigh_knowers`.
    """
    inside_N = split_zones(novelty_N)[0]
    return 1.0 - (1.0 - inside_N) * (weights_NE[:, 1] + weights_NE[:, 2]).clamp(0.0, 1.0)


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
    def is_given_finite(self) -> Tensor:
        """Whether the given model has an answer: (N,) bool."""
        return self.given.isfinite().all(dim=1)

    def find_heard(self, target_N: Tensor) -> Tensor:
        """Which examples may be compared on: those of classes that the memory has seen, (N,)."""
        if self.known is None:
            return self.is_given_finite
        return find_heard(self.known, target_N)

    def confer(self, skill: float) -> tuple[Tensor, Tensor]:
        """As the function of that name; `skill` of the given model."""
        trust = trust_experience(self.num_effective)
        return confer(self.memory, self.given, self.known, self.novelty, trust, skill)


def mix_knowers(knowers: Knowers, weights_ZE: Tensor, skill: float) -> tuple[Tensor, Tensor]:
    """One answer of a memory and of who knows outside it, and how far others are listened to.

    Args:
        knowers: what both answer.
        weights_ZE: (Z, E) of the gates.
        skill: in [0, 1], how far the given model is known to know something.

    Returns: (N, K) or (N, M), finite where the memory's answer is; and (N,), see
        `listen_to_others`.
    """
    answers_ENK, opinion_N = knowers.confer(skill)
    trust, is_mixture = trust_experience(knowers.num_effective), knowers.known is not None
    weights_NE = weigh_knowers(knowers.novelty, opinion_N, weights_ZE, trust, is_mixture=is_mixture)
    return mix_rows(answers_ENK, weights_NE), listen_to_others(knowers.novelty, weights_NE)


class Outside:
    """Keeps evidence of who knows what, by zones of familiarity, and mixes the answers.

    One fixed-share gate per zone (inside the memory's experience, on its edge, far from it) over
    the memory, the given model, and both together. Classes that the memory has not seen are left
    out of the comparison: a new class does not speak for whoever has an output for it. Off the
    memory's experience it takes a given model that knows nothing of what comes, not merely less.

    Args:
        switch_rate: of the gates, see `nestling.memory.FixedShare`.
    """

    def __init__(self, switch_rate: float) -> None:
        self.gates = [
            FixedShare(3, switch_rate, torch.tensor(prior, dtype=torch.float32, device="cpu"))
            for prior in PRIORS
        ]
        self.squares = torch.full((3,), math.nan, dtype=torch.float64, device="cpu")
        # What the given model got wrong, and what chance would have; of values, squared errors,
        # and those of the mean, which is the third.
        self.wrong, self.chance = 0.0, 0.0
        self.mean: Tensor | None = None

    @property
    def weights(self) -> Tensor:
        """(Z, E) how much each is believed in each zone; rows sum to 1."""
        return torch.stack([gate.weights for gate in self.gates])

    @property
    def skill(self) -> float:
        """How far the given model is known to know something of what comes, in [0, 1]."""
        if self.chance <= 0.0:
            return 1.0
        return min(max((1.0 - self.wrong / self.chance) / LEAST_SKILL, 0.0), 1.0)

    def mix(self, knowers: Knowers) -> tuple[Tensor, Tensor]:
        """One answer: (N, K) or (N, M), float64, finite where the memory's is; and how far others
        than these are listened to, (N,), see `listen_to_others`."""
        return mix_knowers(knowers, self.weights, self.skill)

    def observe(self, knowers: Knowers, target: Tensor) -> None:
        """Hear of examples by the answers that stood before they were learned.

        Args:
            knowers: those answers.
            target: (N,) classes or (N, M) values.
        """
        answers_ENK, _ = knowers.confer(self.skill)
        heard_N = knowers.find_heard(target)
        if not bool(heard_N.any()):
            return
        answers_ENK, target, skill = answers_ENK[:, heard_N], target[heard_N], self.skill
        if knowers.known is None:
            losses_NE, self.squares = score_by_errors(answers_ENK, target, self.squares)
            losses_NE = losses_NE.clamp_max(losses_NE.amin(dim=1, keepdim=True) + MOST_NATS)
            self._note_values(answers_ENK[1], target)
        else:
            known_K = torch.zeros(answers_ENK.shape[2], dtype=torch.bool, device="cpu")
            known_K[: len(knowers.known)] = knowers.known
            restricted_ENK = restrict_to_present(answers_ENK, known_K)
            own_NE = restricted_ENK[:, torch.arange(len(target), device="cpu"), target].T
            chance = DOUBT / float(known_K.sum().clamp_min(1))
            losses_NE = -torch.log((1.0 - DOUBT) * own_NE + chance)
            self._note_classes(restricted_ENK[1], target, int(known_K.sum()))
        zones_ZN = split_zones(knowers.novelty[heard_N])
        # Far from little is not far: what a memory of few examples finds new says less.
        off = trust_experience(knowers.num_effective) * (1.0 - skill)
        for gate, zone_N, temper in zip(self.gates, zones_ZN, TEMPERS, strict=True):
            scale_N = zone_N * temper * (1.0 if gate is self.gates[0] else off)
            rows_N = scale_N > LEAST_SHARE * temper
            gate.update((losses_NE * scale_N[:, None])[rows_N])

    def _note_classes(self, given_NK: Tensor, target_N: Tensor, num_known: int) -> None:
        """Take in how often the given model was right among the classes that are known."""
        if num_known < 2:
            return
        by_chance = 1.0 - 1.0 / num_known
        if self.chance <= 0.0:
            self.chance = PRESUMED * by_chance
        wrong = float((given_NK.argmax(dim=1) != target_N).sum())
        self._fade(len(target_N))
        self.wrong += wrong
        self.chance += by_chance * len(target_N)

    def _note_values(self, given_NM: Tensor, target_NM: Tensor) -> None:
        """Take in the given model's squared errors beside those of the mean so far."""
        mean_M = target_NM.mean(dim=0)
        share = 1.0 - decay_factor(len(target_NM), SKILL_HALF_LIFE)
        self.mean = mean_M if self.mean is None else self.mean + share * (mean_M - self.mean)
        self._fade(len(target_NM))
        self.wrong += float((given_NM - target_NM).square().sum())
        self.chance += float((target_NM - self.mean).square().sum())

    def _fade(self, num_examples: int) -> None:
        factor = decay_factor(num_examples, SKILL_HALF_LIFE)
        self.wrong, self.chance = self.wrong * factor, self.chance * factor

    def state_dict(self) -> dict[str, object]:
        """The gates and running errors."""
        return {
            "gates": [gate.state_dict() for gate in self.gates],
            "squares": self.squares.clone(),
            "wrong": self.wrong,
            "chance": self.chance,
            "mean": None if self.mean is None else self.mean.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for gate, saved in zip(self.gates, state["gates"], strict=True):
            gate.load_state_dict(saved)
        self.squares = state["squares"].clone()
        self.wrong, self.chance = state["wrong"], state["chance"]
        self.mean = None if state["mean"] is None else state["mean"].clone()


def find_heard(known_K: Tensor, target_N: Tensor) -> Tensor:
    """Which labels are of classes that are known: (N,) bool.

    >>> find_heard(torch.tensor([True, False]), torch.tensor([0, 1, 7])).tolist()
    [True, False, False]
    """
    inside_N = target_N < len(known_K)
    heard_N: Tensor = inside_N & known_K[torch.where(inside_N, target_N, 0)]
    return heard_N


def score_by_errors(
    values_ENM: Tensor, target_NM: Tensor, squares_E: Tensor
) -> tuple[Tensor, Tensor]:
    """Gaussian log-losses with each expert's running squared error as variance.

    Args:
        values_ENM: (E, N, M).
        target_NM: (N, M).
        squares_E: (E,) running squared errors; NaN before the first.

    Returns: (N, E) nats, and the new running errors.
    """
    errors_EN = (values_ENM - target_NM).square().mean(dim=-1)
    now_E = errors_EN.mean(dim=1)
    squares_E = torch.where(squares_E.isnan(), now_E, 0.9 * squares_E + 0.1 * now_E)
    variance_E1 = squares_E.clamp_min(SMALLEST_VARIANCE)[:, None]
    losses_EN = 0.5 * (torch.log(2 * math.pi * variance_E1) + errors_EN / variance_E1)
    return losses_EN.T, squares_E
