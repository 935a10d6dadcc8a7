"""The read-out: one expert, or a mixture of several by fixed weights or by a gate.

Axis letters: E experts, N answers (rows), K classes, M outputs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.answer.held_answers import HeldAnswers
from nestling.answer.outside import (
    DOUBT,
    Knowers,
    Outside,
    find_heard,
    score_by_errors,
)
from nestling.levels import Mix, Plan
from nestling.memory import (
    ClassPrior,
    FixedShare,
    RecentContext,
    mix_experts,
    restrict_to_present,
)
from nestling.memory.mixture import heed, pad_classes
from nestling.memory.prequential import Foresight
from nestling.memory.ridge import Task

# Short on purpose: a class that is wrongly held to be absent is merely left to the slow expert.
_PRESENT_HALF_LIFE = 20.0
_PRESENT_COUNT = 0.1
_COUNTED_AT_ONCE = 64
# Weight of every other expert at first, against 1 for the slow one: what is fast must prove itself.
_OTHERS_PRIOR = 0.05


class Readout:
    """Mixes the experts' answers, and learns whom to trust from their losses.

    By a gate, classes that are absent at present are left to the slow expert: a fast one
    looks good on new classes merely because it has forgotten the rest. It is compared, and
    listened to, on the classes present only (`nestling.memory.mix_on_present`), and listened to
    only for inputs that look like recent ones (`nestling.memory.RecentContext`), where the slow
    expert is a memory, whose features say what an input looks like.

    If the plan says who knows `outside` a memory's experience, the slow expert is the two of them,
    see `nestling.answer.outside`; others are not listened to where that knows better. The
    evidence is every example: the memory's answer is what it foresaw of it.

    Args:
        plan: names the experts and how they are mixed.
        task: what is predicted.
    """

    def __init__(self, plan: Plan, task: Task) -> None:
        self.names = tuple(name for name in plan.answering if name != plan.outside)
        self.task = task
        self.fixed: Tensor | None = None
        self.gate: FixedShare | None = None
        self.prior = ClassPrior(half_life=_PRESENT_HALF_LIFE)
        # Labels that the prior has not counted yet: counting many at once is cheaper.
        self._uncounted: list[Tensor] = []
        # The prior as if it had; None until somebody asks.
        self._counted: ClassPrior | None = None
        self.context: RecentContext | None = None
        self.squares = torch.full((len(self.names),), math.nan, dtype=torch.float64, device="cpu")
        memories = {memory.name for memory in plan.memories}
        copies = {copy.name for copy in plan.copies}
        # What forgets least comes first: an exact memory, else an averaged copy.
        self.slow = next(
            (
                i
                for group in (memories, copies)
                for i, name in enumerate(self.names)
                if name in group
            ),
            0,
        )
        slow = self.names[self.slow]
        self.compares = slow if slow in memories else None
        if isinstance(plan.readout, Mix):
            if plan.readout.weights is not None:
                weights = torch.tensor(plan.readout.weights, dtype=torch.float64, device="cpu")
                self.fixed = weights / weights.sum()
            else:
                prior = torch.full(
                    (len(self.names),), _OTHERS_PRIOR, dtype=torch.float64, device="cpu"
                )
                prior[self.slow] = 1.0
                self.gate = FixedShare(
                    len(self.names), switch_rate=plan.readout.switch_rate, prior=prior
                )
        self.outside: Outside | None = None
        self.held = HeldAnswers()
        if isinstance(plan.readout, Mix) and plan.outside is not None:
            self.outside = Outside(plan.readout.switch_rate)

    @property
    def weights(self) -> dict[str, float]:
        """How much each expert counts at present; sums to 1."""
        if self.gate is not None:
            return dict(zip(self.names, self.gate.weights.tolist(), strict=True))
        shares = [1.0] if self.fixed is None else self.fixed.tolist()
        return dict(zip(self.names, shares, strict=True))

    def mix(
        self,
        answers: Sequence[Tensor],
        features: Tensor | None = None,
        knowers: Knowers | None = None,
    ) -> Tensor:
        """One answer from those of all experts.

        Args:
            answers: per expert (N, K) probabilities, or (N, M) values, float64.
            features: (N, D) what the slow memory reads of the inputs; None if it is no memory.
            knowers: what the slow memory and who knows outside answer; the slow one of `answers`
                is replaced by both.

        Returns: (N, K) or (N, M) float64.
        """
        answers, listened_N = list(answers), None
        if knowers is not None and self.outside is not None:
            answers[self.slow], listened_N = self.outside.mix(knowers)
        stacked = pad_classes(answers) if self.task == "classification" else torch.stack(answers)
        if self.gate is None:
            fixed = (
                torch.ones(1, dtype=torch.float32, device="cpu")
                if self.fixed is None
                else self.fixed
            )
            return mix_experts(stacked, fixed, self.slow)
        weights, present = self._weigh(features, listened_N), None
        if self.task == "classification":
            present = self.find_present(stacked.shape[-1])
        return mix_experts(stacked, weights, self.slow, present)

    def _weigh(self, features: Tensor | None, listened_N: Tensor | None) -> Tensor:
        """The gate's weights (E,); or (N, E), where the slow expert takes what is unlike now, and
        where others are not listened to."""
        assert self.gate is not None
        if self.context is not None and features is not None:
            recent_N = self.context.compare(features)
            listened_N = recent_N if listened_N is None else recent_N * listened_N
        weights_E = self.gate.weights
        return weights_E if listened_N is None else heed(weights_E, listened_N, self.slow)

    def hold(self, clock: int, target: Tensor, given: Tensor, others: Sequence[Tensor]) -> None:
        """Keep what was answered to a batch until the memory has said what it foresaw of it.

        Args:
            clock: of the memory before the batch.
            target: (N,) classes or (N, M) values.
            given: of the model as it was given, (N, K) or (N, M).
            others: of all experts but the slow one, in order; none if they were not asked.
        """
        self.held.add(clock, target, given, others)

    def hear(self, foresight: Foresight) -> None:
        """Score everyone on examples that the memory has foreseen and now learns."""
        assert self.outside is not None
        for target, given, others, rows in self.held.take(foresight.clock, foresight.num_examples):
            if foresight.answers is None:
                continue  # it knew nothing: nobody can be compared
            knowers = Knowers(
                foresight.answers[rows],
                foresight.known,
                given,
                foresight.novelty[rows],
                foresight.num_effective,
            )
            if len(others):
                self._compare(others, knowers, target)
            self.outside.observe(knowers, target)

    def _compare(self, others: Tensor, knowers: Knowers, target: Tensor) -> None:
        """Score moving experts beside those who know, on classes that the memory knew: a new class
        must not speak for whoever has learned it since."""
        assert self.outside is not None
        heard_N = knowers.find_heard(target)
        if not bool(heard_N.any()):
            return
        answers = [one[heard_N] for one in others]
        answers.insert(self.slow, self.outside.mix(knowers)[0][heard_N])
        self.observe(answers, target[heard_N])

    def observe(self, answers: Sequence[Tensor], target: Tensor) -> None:
        """Score the experts on examples that none of them has learned from yet.

        Args:
            answers: as for `mix`.
            target: (N,) classes or (N, M) values.
        """
        if self.gate is None:
            return
        if self.task == "regression":
            stacked = torch.stack(list(answers))
            losses, self.squares = score_by_errors(stacked, target, self.squares)
            self.gate.update(losses)
            return
        stacked = pad_classes(answers)
        known = (stacked[self.slow] > 0.0).any(dim=0)  # a memory gives unseen classes exactly 0
        scored = find_heard(known, target)
        if not bool(scored.any()):
            return
        stacked, target = stacked[:, scored], target[scored]
        present = self.find_present(stacked.shape[-1])
        present[target] = True
        restricted = restrict_to_present(stacked, present)
        own = restricted[:, torch.arange(len(target), device="cpu"), target]
        chance = 1.0 / float(present.sum())
        self.gate.update(-torch.log((1.0 - DOUBT) * own + DOUBT * chance).T)

    def count(self, target: Tensor, features: Tensor | None) -> None:
        """Take in what is present now: (N,) classes or (N, M) values, and features (N, D)."""
        self._counted = None
        if self.task == "classification":
            self._uncounted.append(target.clone())
            if sum(map(len, self._uncounted)) >= _COUNTED_AT_ONCE:
                self.prior.add_checked(torch.cat(self._uncounted))
                self._uncounted = []
        if features is not None:
            if self.context is None:
                self.context = RecentContext(features.shape[1])
            self.context.add_checked(features)

    def find_present(self, num_classes: int) -> Tensor:
        """Which classes came recently: (K,) bool."""
        if self._uncounted and self._counted is None:
            # On a copy: asking must not change how labels are put together.
            self._counted = self.prior.copy()
            self._counted.add_checked(torch.cat(self._uncounted))
        prior = self.prior if self._counted is None else self._counted
        return prior.present(_PRESENT_COUNT, num_classes)

    def state_dict(self) -> dict[str, object]:
        """The gate, what is present, and running errors."""
        return {
            "gate": None if self.gate is None else self.gate.state_dict(),
            "prior": self.prior.state_dict(),
            "uncounted": [labels.clone() for labels in self._uncounted],
            "squares": self.squares.clone(),
            "context": None if self.context is None else self.context.state_dict(),
            "outside": None if self.outside is None else self.outside.state_dict(),
            "held": self.held.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        if self.gate is not None:
            self.gate.load_state_dict(state["gate"])
        self.prior.load_state_dict(state["prior"])
        self._uncounted = [labels.clone() for labels in state["uncounted"]]
        self._counted = None
        self.squares = state["squares"].clone()
        if self.outside is not None:
            self.outside.load_state_dict(state["outside"])
        self.held.load_state_dict(state["held"])
        self.context = None
        if state["context"] is not None:
            self.context = RecentContext(state["context"]["config"]["num_inputs"])
            self.context.load_state_dict(state["context"])
