"""Memories of concepts: the same inputs under labels that change their meaning and change back.

Letters: N examples, d features, K classes, S slots.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.modes import in_own_modes
from nestling.memory.exact.clocked import ClockedStatistics
from nestling.memory.exact.reach import compute_novelty, measure_reach
from nestling.memory.exact.statistics import Statistics
from nestling.memory.mixing.mixture import stand_in
from nestling.memory.prequential import RENEWAL, HeldSolution, answer
from nestling.memory.scout import MOST_NEW, solve_quickly

# Probability with which an answer may be anything: a slot's mistake must not rule it out.
ANYTHING = 0.05
# How much of an example's evidence counts, how far it is forgotten, what every slot gets back, and
# the blank, which stands for a concept that was not met yet.
EVIDENCE, STAYS, RETURNED, RETURNED_BLANK = 0.5, 0.989, 0.01, 0.001
# How sure one must be of a new concept, and examples between two of them.
LEAST_SURE, MOST_OFTEN = 0.95, 20
# A slot is silent about inputs that are more novel to it than this: what the labels mean to other
# kinds of input is another question.
MOST_NOVEL = 3.0
# A class of fewer examples says nothing: that nobody knows it yet is no change of the labels.
LEAST_OF_CLASS = 16


class Slot:
    """What is known of one concept: a ridge regression on a few hundred features.

    Args:
        sums: its statistics; they go on from here.
        coded: features are whole numbers.
    """

    def __init__(self, sums: ClockedStatistics, *, coded: bool) -> None:
        self.sums = sums
        self.coded = coded
        self._held: HeldSolution | None = None
        self._fresh: HeldSolution | None = None

    @classmethod
    def make(cls, num_features: int, num_classes: int, *, coded: bool) -> "Slot":
        """One that knows nothing."""
        return cls(ClockedStatistics(num_features, num_classes), coded=coded)

    def learn(self, phi_Nd: Tensor, label_N: Tensor, num_classes: int) -> None:
        """Take in examples of labels below K."""
        self.sums.grow(num_classes)
        y_NK = nn.functional.one_hot(label_N, num_classes).double()
        weight_N = torch.ones(len(label_N), dtype=torch.float64, device="cpu")
        self.sums.add(phi_Nd.double(), y_NK, weight_N)
        self._fresh = None

    def foresee(self, phi_Nd: Tensor, num_classes: int) -> Tensor:
        """(N, K) by a solution that is held until a twentieth is new, or 16 examples; NaN where it
        is silent."""
        held, sums = self._held, self.sums
        if sums.weight > 0.0:
            num_new = sums.clock - (0 if held is None else held.solved_at)
            if held is None or num_new >= max(1.0, min(RENEWAL * sums.weight, MOST_NEW)):
                self._held = self._solve(held)
        return answer_slot(self._held, phi_Nd, num_classes)

    def answer(self, phi_Nd: Tensor, num_classes: int) -> Tensor:
        """(N, K) as of the last example; NaN where it is silent."""
        return answer_slot(self.find_fresh(), phi_Nd, num_classes)

    def find_fresh(self) -> HeldSolution | None:
        """Its solution as of the last example; None while it knows nothing."""
        if self._fresh is None and self.sums.weight > 0.0:
            self._fresh = self._solve(self._held)
        return self._fresh

    def fold(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """Weights (d, K) and offset (K,) of logits, as of the last example."""
        fresh = self.find_fresh()
        if fresh is None:
            width = self.sums.values.num_features
            zeros = torch.zeros(width, num_classes, dtype=torch.float64, device="cpu")
            return zeros, zeros[0]
        extra = num_classes - len(fresh.offset)
        offset_K = nn.functional.pad(fresh.offset, (0, extra), value=-math.inf)
        return nn.functional.pad(fresh.weights, (0, extra)), offset_K

    def _solve(self, before: HeldSolution | None) -> HeldSolution:
        stats, clock = self.sums.values, self.sums.clock
        made = solve_quickly(stats, clock, before, classifies=True, coded=self.coded)
        return replace(made, reach=measure_reach(stats))

    def state_dict(self) -> dict[str, object]:
        """Sums, and the solution that is held."""
        held = None if self._held is None else self._held.state_dict()
        return {"sums": self.sums.state_dict(), "held": held}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, coded: bool) -> "Slot":
        """Undo `state_dict`."""
        sums = ClockedStatistics(0, 0)
        sums.load_state_dict(state["sums"])
        slot = cls(sums, coded=coded)
        if state["held"] is not None:
            slot._held = HeldSolution.from_state(state["held"])
        return slot


def answer_slot(held: HeldSolution | None, phi_Nd: Tensor, num_classes: int) -> Tensor:
    """What a slot answers by a solution of it, (N, K) float64; even where it knows nothing, and NaN
    where an input is unlike all that it has seen."""
    phi_Nd = phi_Nd.double()
    if held is None:
        even_NK = torch.ones(len(phi_Nd), num_classes, dtype=torch.float64, device="cpu")
        return even_NK / num_classes
    assert held.reach is not None
    return silence_novel(answer(held, phi_Nd, num_classes), compute_novelty(held.reach, phi_Nd))


def silence_novel(answers_NK: Tensor, novelty_N: Tensor) -> Tensor:
    """Answers (N, K) with NaN in rows that are novel to who gave them."""
    return torch.where(novelty_N[:, None] <= MOST_NOVEL, answers_NK, torch.nan)


def mix_slots(answers: Sequence[Tensor], shares_S: Tensor, in_force: int) -> Tensor:
    """Answers (N, K) of all slots by how probable each is, (S,): (N, K).

    The slot in force stands in for others that are silent; where it is silent itself, so are all.
    """
    stacked_SNK = torch.stack(list(answers))
    return torch.einsum("s,snk->nk", shares_S, stand_in(stacked_SNK, in_force))


class ConceptSlots:
    """Remembers several meanings of the labels, and filters which of them is in force.

    Up to S slots, each a ridge regression that never forgets, and a blank that answers 1/K. With
    p_c the probability that slot c gave the label, a twentieth of which is even,

        r_c ~ pi_c p_c(y)^(1/2),   pi_c <- 0.989 r_c + 0.01 / S,   blank <- 0.989 r + 0.001

    [the filter of a hidden Markov chain, Rabiner 1989, Sec. III A, on tempered likelihoods]. Only
    the most probable slot learns. If the blank wins with r > 0.99, at least 20 examples after the
    last time, a new slot takes its mass; if all are taken, that which was in force longest ago
    goes. So a meaning that comes back is recalled, not learned again.

    It costs next to nothing until a meaning changes: until then a large memory, which learns
    everything, is the only slot. When the blank wins for the first time that memory's statistics of
    d features, as they stand, become the first slot.

    Args:
        num_features: d.
        num_slots: S.
        coded: features are whole numbers.

    >>> slots = ConceptSlots(2, 6, coded=False)
    >>> slots.num_used
    0
    """

    def __init__(self, num_features: int, num_slots: int, *, coded: bool) -> None:
        self.num_features = num_features
        self.num_slots = num_slots
        self.coded = coded
        self.slots: list[Slot] = []
        # Of the slots (the large memory while there is none), then of the blank.
        self.probabilities: list[float] = [0.99, 0.01]
        self._last_used: list[int] = [0]
        self._opened_at = -MOST_OFTEN
        self.num_found = 0
        self.counts = torch.zeros(0, dtype=torch.int64, device="cpu")
        self.clock = 0

    @property
    def num_used(self) -> int:
        """Slots that are in use; 0 while no meaning has changed."""
        return len(self.slots)

    @property
    def in_force(self) -> int:
        """Which slot is the most probable one."""
        shares = self.probabilities[:-1]
        return max(range(len(shares)), key=shares.__getitem__)

    def answer(self, phi_Nd: Tensor, num_classes: int) -> Tensor:
        """What the slots say together, as of the last example: (N, K) float64.

        Args:
            phi_Nd: (N, d).
            num_classes: K.
        """
        return self.mix([slot.answer(phi_Nd, num_classes) for slot in self.slots])

    def mix(self, answers: Sequence[Tensor]) -> Tensor:
        """Answers (N, K) of all slots by how probable they are in force; the blank is left out."""
        return mix_slots(answers, self.shares, self.in_force)

    @property
    def shares(self) -> Tensor:
        """How probable each slot is, if it is one of them: (S,), sums to 1."""
        shares_S = torch.tensor(self.probabilities[:-1], dtype=torch.float64, device="cpu")
        return shares_S / shares_S.sum()

    @in_own_modes
    def foresee(self, phi_Nd: Tensor, num_classes: int) -> list[Tensor]:
        """What each slot would answer to examples that are to be learned next; empty if there is
        none."""
        return [slot.foresee(phi_Nd, num_classes) for slot in self.slots]

    @in_own_modes
    def learn(
        self,
        map_rows: Callable[[], Tensor],
        label_N: Tensor,
        foreseen: Sequence[Tensor],
        read_memory: Callable[[], Statistics],
    ) -> bool:
        """Find out which meaning is in force, and teach it.

        Args:
            map_rows: gives the features (N, d); asked only where a slot is in use afterwards.
            label_N: (N,) classes.
            foreseen: what `foresee` gave, or while no slot is in use what the large memory
                answered, (N, K) each.
            read_memory: statistics of the large memory, for the first slot.

        Returns: whether a new concept was found.
        """
        num_classes = max(len(self.counts), int(label_N.max()) + 1)
        self.counts = nn.functional.pad(self.counts, (0, num_classes - len(self.counts)))
        num_known = max(1, int((self.counts >= LEAST_OF_CLASS).sum()))
        labels, own = label_N.tolist(), []
        for answers_NK in foreseen:
            inside_N = label_N < answers_NK.shape[1]
            found_N = answers_NK[torch.arange(len(labels), device="cpu"), label_N * inside_N]
            # To who is silent any class is as good as another.
            found_N = found_N.nan_to_num(nan=1.0 / num_known)
            own.append((found_N * inside_N).tolist())
        is_heard = (self.counts[label_N] >= LEAST_OF_CLASS).tolist()
        is_new = False
        for index in range(len(labels)):
            self.clock += 1
            if not is_heard[index]:
                continue
            even = 1.0 / num_known
            likelihoods = [(1.0 - ANYTHING) * one[index] + ANYTHING * even for one in own]
            likelihoods += [even] * (len(self.probabilities) - len(likelihoods))
            if self._filter(likelihoods):
                is_new = True
                own = self._open(own, read_memory, num_classes)
        self.counts += torch.bincount(label_N, minlength=num_classes)
        if self.slots:
            self._last_used[self.in_force] = self.clock
            self.slots[self.in_force].learn(map_rows(), label_N, num_classes)
        return is_new

    def _filter(self, likelihoods: Sequence[float]) -> bool:
        """Move the probabilities by an example; whether the blank has won."""
        joint = [
            share * likelihood**EVIDENCE
            for share, likelihood in zip(self.probabilities, likelihoods, strict=True)
        ]
        total = math.fsum(joint)
        *slots, blank = (one / total for one in joint)
        has_won = blank > LEAST_SURE and self.clock - self._opened_at > MOST_OFTEN
        returned = RETURNED / len(slots)
        self.probabilities = [STAYS * one + returned for one in slots]
        self.probabilities.append(STAYS * blank + RETURNED_BLANK)
        return has_won

    def _open(
        self, own: list[list[float]], read_memory: Callable[[], Statistics], num_classes: int
    ) -> list[list[float]]:
        """Give the blank's mass to a new slot; what slots gave to the labels, without who left."""
        self._opened_at, self.num_found = self.clock, self.num_found + 1
        if not self.slots:
            sums = ClockedStatistics.of(read_memory().copy(), self.clock)
            self.slots = [Slot(sums, coded=self.coded)]
        *shares, blank = self.probabilities
        if len(self.slots) >= self.num_slots:
            oldest = min(range(len(self.slots)), key=self._last_used.__getitem__)
            del self.slots[oldest], self._last_used[oldest], shares[oldest]
            own = [one for index, one in enumerate(own) if index != oldest]
        self.slots.append(Slot.make(self.num_features, num_classes, coded=self.coded))
        self._last_used.append(self.clock)
        self.probabilities = [*shares, blank, RETURNED_BLANK]
        return own

    def state_dict(self) -> dict[str, object]:
        """Slots, filter and counts; tensors are copies."""
        return {
            "num_features": self.num_features,
            "coded": self.coded,
            "slots": [slot.state_dict() for slot in self.slots],
            "probabilities": list(self.probabilities),
            "last_used": list(self._last_used),
            "opened_at": self._opened_at,
            "num_found": self.num_found,
            "counts": self.counts.clone(),
            "clock": self.clock,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], num_slots: int) -> "ConceptSlots":
        """Undo `state_dict`."""
        made = cls(state["num_features"], num_slots, coded=state["coded"])
        made.slots = [Slot.from_state(one, coded=made.coded) for one in state["slots"]]
        made.probabilities = list(state["probabilities"])
        made._last_used = list(state["last_used"])
        made._opened_at, made.num_found = state["opened_at"], state["num_found"]
        made.counts, made.clock = state["counts"].clone(), state["clock"]
        return made
