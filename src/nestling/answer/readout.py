"""The read-out: one expert, or a mixture of several by fixed weights or by a gate.

Axis letters: E experts, N answers (rows), K classes, M outputs.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.answer.outside import Knowers, Outside, find_heard
from nestling.levels import Mix, Plan
from nestling.memory import ClassPrior, Mixture, RecentContext
from nestling.memory.mixing.mixture import mix_rows, pad_classes, stand_in
from nestling.memory.ridge import Task

# Short on purpose: a class that is wrongly held to be absent is merely left to the slow expert.
_PRESENT_HALF_LIFE = 20.0
_PRESENT_COUNT = 0.1
_COUNTED_AT_ONCE = 64
# First weight of every other expert, against 1 of the slow one: what is fast must prove itself.
_OTHERS_START = 0.05
# By so many nats an input may be unlike recent ones and yet tell of no other context.
HARDLY = 4.0


class Readout:
    """Mixes the experts' answers, and learns whom to trust from every example.

    By a gate (`nestling.memory.Mixture`), classes that are absent at present are left to the slow
    expert: a fast one looks good on new classes merely because it has forgotten the rest. It is
    compared, and listened to, on the classes present only (`nestling.memory.keep_absent`), and
    listened to only for inputs that look like recent ones (`nestling.memory.RecentContext`), where
    the slow expert is a memory, whose features say what an input looks like.

    If the plan says who knows `outside` a memory's experience, the slow expert is the two of them,
    see `nestling.answer.outside`; others are listened to inside that experience.

    Args:
        plan: names the experts and how they are mixed.
        task: what is predicted.
    """

    def __init__(self, plan: Plan, task: Task) -> None:
        self.names = tuple(name for name in plan.answering if name != plan.outside)
        self.task = task
        self.fixed: Tensor | None = None
        self.gate: Mixture | None = None
        self.prior = ClassPrior(half_life=_PRESENT_HALF_LIFE)
        # Labels that the prior has not counted yet: counting many at once is cheaper.
        self._uncounted: list[Tensor] = []
        # The prior as if it had; None until somebody asks.
        self._counted: ClassPrior | None = None
        self.context: RecentContext | None = None
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
        self._concepts = [
            i for i, name in enumerate(self.names) if name in {one.name for one in plan.concepts}
        ]
        slow = self.names[self.slow]
        self.compares = slow if slow in memories else None
        self.outside: Outside | None = None
        if isinstance(plan.readout, Mix):
            if plan.readout.weights is not None:
                weights = torch.tensor(plan.readout.weights, dtype=torch.float64, device="cpu")
                self.fixed = weights / weights.sum()
            else:
                self.gate = self._make_gate(plan.readout.switch_rate)
            if plan.outside is not None:
                self.outside = Outside(plan.readout.switch_rate, task)

    def _make_gate(self, switch_rate: float) -> Mixture:
        """Over all experts, for inputs like recent ones; for those that hardly are without who
        moves, but with meanings of the labels, which recent inputs tell of all; and for others,
        which the slow one answers alone."""
        starts_ZE = torch.zeros(3, len(self.names), dtype=torch.float64, device="cpu")
        starts_ZE[0] = _OTHERS_START
        starts_ZE[1, self._concepts] = _OTHERS_START
        starts_ZE[:, self.slow] = 1.0
        return Mixture(
            starts_ZE,
            tempers=(1.0, 1.0, 0.0),
            slow=self.slow,
            switch_rate=switch_rate,
            classifies=self.task == "classification",
        )

    @property
    def weights(self) -> dict[str, float]:
        """How much each expert counts at present for inputs like recent ones; sums to 1."""
        if self.gate is not None:
            return dict(zip(self.names, self.gate.shares[0].tolist(), strict=True))
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
        stacked_ENK, listened_N = self._stack(answers, knowers)
        if len(stacked_ENK) == 1:
            return stacked_ENK[0]
        if self.gate is None:
            assert self.fixed is not None
            return mix_rows(stand_in(stacked_ENK, self.slow), self.fixed)
        ratio_N = None
        if self.context is not None and features is not None:
            ratio_N = self.context.compare(features)
        zones_NZ = make_zones(stacked_ENK, listened_N, ratio_N)
        return self.gate.mix(stacked_ENK, zones_NZ, self._find_mixed(stacked_ENK))

    def _stack(
        self, answers: Sequence[Tensor], knowers: Knowers | None
    ) -> tuple[Tensor, Tensor | None]:
        """Answers of all experts, (E, N, K), and how far others than the slow one are listened
        to, (N,); None for wholly."""
        answers, listened_N = list(answers), None
        if knowers is not None and self.outside is not None:
            answers[self.slow], listened_N = self.outside.mix(knowers)
        if self.task == "classification":
            return pad_classes(answers), listened_N
        return torch.stack(answers), listened_N

    def _find_mixed(self, stacked_ENK: Tensor) -> Tensor | None:
        if self.task == "regression":
            return None
        return self.find_present(stacked_ENK.shape[-1])

    def observe(
        self, answers: Sequence[Tensor] | None, target: Tensor, knowers: Knowers | None = None
    ) -> None:
        """Hear of examples that no expert has learned from yet.

        Args:
            answers: as for `mix`, of all experts; None if one could not say anything yet: the
                examples are counted.
            target: (N,) classes or (N, M) values.
            knowers: as for `mix`.
        """
        if self.gate is None:
            return
        if answers is None:
            self.gate.num_heard += len(target)
            return
        stacked_ENK, listened_N = self._stack(answers, knowers)
        compared, heard_N = target, None
        if self.task == "classification":
            # A memory gives unseen classes exactly 0: whoever has an output for them only guesses.
            known_K = (stacked_ENK[self.slow] > 0.0).any(dim=0)
            if knowers is not None and knowers.known is not None:
                missing = len(known_K) - len(knowers.known)
                known_K = known_K & torch.nn.functional.pad(knowers.known, (0, missing))
            heard_N = find_heard(known_K, target)
            compared = torch.where(heard_N, target, 0)
            heard_N = heard_N.double()
        present_K = self._find_mixed(stacked_ENK)
        # What comes now is like recent inputs, by what these are.
        zones_NZ = make_zones(stacked_ENK, listened_N)
        self.gate.observe(stacked_ENK, compared, zones_NZ, present_K=present_K, heard_N=heard_N)
        if any(bool(stacked_ENK[i].isfinite().any()) for i in self._concepts):
            zones_NZ = zones_NZ.roll(1, 1)
            self.gate.observe(
                stacked_ENK, compared, zones_NZ, present_K=present_K, heard_N=heard_N, again=True
            )
        if self.outside is not None and knowers is not None:
            self.outside.observe(knowers, target)

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
        return self._read_prior().present(_PRESENT_COUNT, num_classes)

    def hold_still(self) -> "Readout":
        """A twin that mixes as this one does now, whatever this one hears later."""
        prior = self._read_prior()
        twin = copy.copy(self)
        twin.prior = prior.copy() if prior is self.prior else prior
        twin._uncounted, twin._counted = [], None
        twin.gate = None if self.gate is None else self.gate.hold_still()
        twin.context = None if self.context is None else self.context.hold_still()
        twin.outside = None if self.outside is None else self.outside.hold_still()
        return twin

    def _read_prior(self) -> ClassPrior:
        """What was counted, with what is still to be; to be read only."""
        if self._uncounted and self._counted is None:
            # On a copy: asking must not change how labels are put together.
            self._counted = self.prior.copy()
            self._counted.add_checked(torch.cat(self._uncounted))
        return self.prior if self._counted is None else self._counted

    def state_dict(self) -> dict[str, object]:
        """The gate, what is present, and who knows outside."""
        return {
            "gate": None if self.gate is None else self.gate.state_dict(),
            "prior": self.prior.state_dict(),
            "uncounted": [labels.clone() for labels in self._uncounted],
            "context": None if self.context is None else self.context.state_dict(),
            "outside": None if self.outside is None else self.outside.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        if self.gate is not None:
            self.gate.load_state_dict(state["gate"])
        self.prior.load_state_dict(state["prior"])
        self._uncounted = [labels.clone() for labels in state["uncounted"]]
        self._counted = None
        if self.outside is not None:
            self.outside.load_state_dict(state["outside"])
        self.context = None
        if state["context"] is not None:
            self.context = RecentContext(state["context"]["config"]["num_inputs"])
            self.context.load_state_dict(state["context"])


def make_zones(
    stacked_ENK: Tensor, listened_N: Tensor | None, ratio_N: Tensor | None = None
) -> Tensor:
    """How far each row is like recent ones, hardly like them, and unlike them: (N, 3).

    Args:
        stacked_ENK: answers, of which the rows are counted.
        listened_N: (N,) how far who moves is listened to; None for wholly.
        ratio_N: (N,) logarithm of how much likelier inputs are among recent ones than among all,
            at most 0; None: they are.
    """
    if listened_N is None:
        listened_N = torch.ones(stacked_ENK.shape[1], dtype=torch.float64, device="cpu")
    if ratio_N is None:
        ratio_N = torch.zeros_like(listened_N)
    like_N = listened_N * ratio_N.exp()
    # Meanings of the labels are silent by themselves where an input is unlike their own.
    hardly_N = (ratio_N + HARDLY).clamp_max(0.0).exp()
    return torch.stack((like_N, hardly_N - like_N, 1.0 - hardly_N), dim=1)
