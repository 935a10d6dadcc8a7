"""Bank of ridge regressions with several half-lives, mixed by a gate.

Letters: E experts, N examples, D features, K classes, M outputs.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.errors import NotFitted
from nestling.core.modes import in_own_modes
from nestling.memory import bank_experts as experts
from nestling.memory.checks import check_clock, check_inputs, check_saved, check_weights
from nestling.memory.coded.coded_features import CodedFeatures
from nestling.memory.exact.fresh import FreshSolution
from nestling.memory.exact.reach import compute_novelty
from nestling.memory.exact.statistics import (
    Statistics,
    decay_factor,
    decay_weights,
    space_evenly,
)
from nestling.memory.features import Features
from nestling.memory.mixing.gate import Mixture
from nestling.memory.prequential import (
    Foresight,
    HeldSolution,
    PendingBlock,
    add_reach,
    renew_codes,
)
from nestling.memory.prior import ClassPrior
from nestling.memory.ridge import RidgeMemory, Task
from nestling.memory.scout import Scout

# Examples in the first block of a bank that foresees; a later one has as many as a quarter of all
# that came before it.
FIRST_BLOCK, BLOCKS_PER_PAST = 8, 4


class MemoryBank:
    """Ridge regressions with several half-lives on the same features, mixed by a gate.

    Every memory knows every example at once. The gate compares them on examples that they have
    not learned yet: the log-losses of a block of `block` examples under the solutions from before
    that block, taken example by example when the block is full; so the gate lags by up to one
    block. `block=1` is exact prequential scoring. See `Mixture` for what the gate guarantees.
    Inputs and targets of the unfinished block are kept until then (they are in `state_dict`),
    and are added to the statistics as one block: that is faster, and reading in between does not
    change a bit of what follows.

    Answers are fresh: they include every example so far, those of the unfinished block too, at the
    cost of a few products with a held factor (`FreshSolution`). Who asks between two blocks is
    expected to ask again, so that learning then keeps the answer up to date; where nobody asks,
    learning does not pay for it.

    With `mix="present"` experts are compared and mixed only on how they divide probability among
    the classes seen recently, see `keep_absent`; `mix="all"` mixes on all of them.

    What depends on order: the gate, and with two memories or more their ridge strengths, which
    are chosen anew when the clock has doubled and held in between (`RidgeMemory.tune`). A bank of
    one memory has no gate and is that memory.

    Args:
        num_inputs: width of x.
        half_lives: in examples, one memory each; the longest one is the slow one.
        task: "classification" or "regression".
        num_outputs: as in `RidgeMemory`.
        features: made of x once, for all memories; None for x itself.
        ridge: strength for all; None for cross-validation.
        switch_rate: of the gate, see `Mixture`.
        prior_half_life: of a class-prior memory as one more expert, about 20 where labels come in
            runs and the next event is what matters; None for none (docs/memories.md says why).
        block: examples between two updates of the gate.
        mix: "present" or "all", for classification.
        foresees: `foresee` is asked before each batch. Blocks are short at first then, so that it
            soon has something to say.
        compares: it is asked how familiar inputs are, too.

    Raises:
        SettingError: no half-life, or an argument outside its range.

    >>> bank = MemoryBank(2, half_lives=(10.0, float("inf")), block=1)
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 10)
    >>> bank.add(x, torch.tensor([0, 1] * 10))
    0
    >>> bank.predict(x[:2]).argmax(dim=1)
    tensor([0, 1])
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        half_lives: Sequence[float],
        task: Task = "classification",
        num_outputs: int | None = None,
        features: Features | None = None,
        ridge: float | None = None,
        switch_rate: float = 1e-3,
        prior_half_life: float | None = None,
        block: int = 64,
        mix: experts.MixKind = "present",
        foresees: bool = False,
        compares: bool = False,
    ) -> None:
        experts.check_settings(num_inputs, half_lives, features, block, mix)
        self.num_inputs = num_inputs
        self.task: Task = task
        self.features = features
        self.block = block
        self.mix: experts.MixKind = mix
        self.foresees = foresees
        self.compares = compares
        width = features.num_outputs if features is not None else num_inputs
        self._memories = [
            RidgeMemory(
                width,
                task=task,
                num_outputs=num_outputs,
                half_life=h,
                ridge=ridge,
                takes_codes=features is not None and features.is_coded,
            )
            for h in half_lives
        ]
        self.slow = max(range(len(half_lives)), key=lambda i: half_lives[i])
        self.has_prior = prior_half_life is not None and task == "classification"
        self.prior = experts.make_prior(task, prior_half_life, num_outputs)
        num_experts = len(half_lives) + self.has_prior
        self.gate = Mixture(
            torch.full((1, num_experts), 1.0 / num_experts, dtype=torch.float64, device="cpu"),
            slow=self.slow,
            switch_rate=switch_rate,
            classifies=task == "classification",
        )
        self._scout: Scout | None = None
        if foresees and len(half_lives) == 1 and not self._memories[0].follows_codes:
            self._scout = Scout(features, width, task, num_outputs, half_lives[0])
        self._held: list[HeldSolution | None] = [None] * len(half_lives)
        # What `foresee` asks where blocks that are closed in between move solutions and gate.
        self._standing: experts.HeldExperts | None = None
        self._current: list[RidgeMemory] | None = None
        # Kept from answer to answer, never saved: what `_memories` and the block give.
        self._fresh: list[FreshSolution | None] = []
        self._fresh_clock = 0
        self._is_asked, self._is_current = False, False
        # Codes of examples since what is held was renewed, of blocks that are closed; and how many
        # such examples are in the open block.
        self._looked: list[Tensor] = []
        self._num_looked = 0
        self._start_block()

    @property
    def memories(self) -> list[RidgeMemory]:
        """The memories as they stand now, in the order of the half-lives; read only."""
        if not len(self._pending):
            return self._memories
        if self._current is None:
            self._current = experts.learn_in_copies(self._memories, self._read_block())
        return self._current

    @property
    def clock(self) -> int:
        """Examples that arrived so far."""
        return self._memories[0].clock + len(self._pending)

    @property
    def num_classes(self) -> int:
        """K or M: columns of `predict`."""
        return self._memories[0].num_classes

    @property
    def num_features(self) -> int:
        """D, features of an input."""
        return self._memories[0].num_features

    @property
    def is_coded(self) -> bool:
        """Whether its features are whole numbers."""
        return self._memories[0].is_coded

    def select_statistics(self, num_features: int) -> Statistics:
        """Statistics of the slow memory of so many of its features, evenly spaced; those of the
        unfinished block are left out."""
        memory = self._memories[self.slow]
        return memory.select_statistics(space_evenly(memory.num_features, num_features))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is remembered."""
        return self._memories[self.slow].is_empty and not self._pending.has_weight

    @property
    def _counts_classes(self) -> bool:
        """Whether the class prior is needed: for a gate, by which present classes are mixed."""
        return self.task == "classification" and self.gate.num_experts > 1

    @property
    def num_bytes(self) -> int:
        """Size of all statistics and of the unfinished block."""
        scouted = 0 if self._scout is None else self._scout.num_bytes
        return (
            sum(memory.num_bytes for memory in self._memories) + scouted + self._pending.num_bytes
        )

    def check(
        self, x: Tensor, y: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Raise what `add` would raise, with nothing changed; else what `add_checked` takes."""
        x = check_inputs(x, self.num_inputs)
        if isinstance(self.features, CodedFeatures):
            self.features.check(x)
        target = self._memories[0].check_rows(y, x.shape[0])
        return x, target, check_weights(weight, x.shape[0])

    def add(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> int:
        """Learn a block of examples in all memories; arguments and errors of `RidgeMemory.add`."""
        return self.add_checked(*self.check(x, y, weight))

    def add_checked(self, x: Tensor, target: Tensor, weight_N: Tensor) -> int:
        """As `add`, for what `check` gave: (N, I), labels (N,) or values (N, M), weights (N,)."""
        clock = self.clock
        self.learn_checked(x, target, weight_N)
        return clock

    @in_own_modes
    def learn_checked(self, x: Tensor, target: Tensor, weight_N: Tensor) -> None:
        """As `add_checked`."""
        if self._scout is not None:
            self._scout.learn(x, target, weight_N)
        is_cut, start, N = self.foresees or self.gate.num_experts > 1, 0, x.shape[0]
        while start < N:
            space = max(1, self._find_block_size() - len(self._pending)) if is_cut else N
            rows = slice(start, min(N, start + space))
            self._add_rows(x[rows], target[rows], weight_N[rows])
            start = rows.stop
        if self._is_asked:
            self.prepare()
        self._is_asked = False

    @in_own_modes
    def remove(self, x: Tensor, y: Tensor, weight: Tensor | None = None, *, clock: int) -> None:
        """Take examples away from all memories; arguments and errors of `RidgeMemory.remove`.

        The gate's weights stay; held solutions and the unfinished block are dropped.
        """
        x, target, weight_N = self.check(x, y, weight)
        if not len(x):
            return
        check_clock(clock, len(x), self.clock)
        phi_ND = self._compute_features(x)
        memories = experts.remove_in_copies(self.memories, phi_ND, target, weight_N, clock)
        if self._scout is not None:
            self._scout.remove(x, target, weight_N, clock)
        if self._counts_classes:
            self.prior.remove(target, weight_N, clock=clock)
        self._memories = memories
        self._held = [None] * len(memories)
        self._standing = None
        self._fresh = []
        self._start_block()

    def predict(self, x: Tensor) -> Tensor:
        """Mixed probabilities (N, K) or means (N, M), float64; NotFitted while empty."""
        return self._mix(self.predict_experts(x))

    @in_own_modes
    def renew_held(self) -> None:
        """Bring what `foresee` answers by up to date, if enough is new; the next examples are not
        in it."""
        self._looked, self._num_looked = [], 0
        if self._scout is not None:
            self._scout.renew()
        elif self._memories[0].follows_codes and len(self._memories) == 1:
            self._held[0] = renew_codes(self._memories[0], self._held[0])
        if self.compares and self._scout is None:
            self._held[self.slow] = add_reach(self._memories[self.slow], self._held[self.slow])
        if self._scout is None and self.gate.num_experts > 1:
            self._standing = experts.HeldExperts(
                list(self._held), self.gate.hold_still(), self.prior.copy()
            )

    @in_own_modes
    def foresee(self, x: Tensor) -> Foresight | None:
        """What would have been answered to the last examples, as it stood when `renew_held` was
        called before they were learned; None at the beginning.

        By solutions that are held, which are up to a block old; of codes made of a third of the
        features, of others by a scout. Nothing is solved.

        Args:
            x: (N, I), the examples since.
        """
        if self._scout is not None:
            return self._scout.foresee(x)
        standing = self._standing
        held = self._held if standing is None else standing.solutions
        slow = held[self.slow]
        if slow is None or (standing is None and self.gate.num_experts > 1):
            return None
        phi = self._find_looked(x)
        phi_ND = phi.double()
        known_K, novelty_N = None, None
        num_effective = self._memories[self.slow].num_effective
        if slow.reach is not None:
            novelty_N = compute_novelty(slow.reach, phi_ND)
            num_effective = slow.reach.num_effective
        if self.task == "classification":
            known_K = nn.functional.pad(
                slow.offset.isfinite(), (0, self.num_classes - len(slow.offset))
            )
        solutions = [one or slow for one in held]
        prior = None
        if standing is not None and self.has_prior:
            prior = standing.prior
            prior.grow(self.num_classes)
        stacked = experts.answer_held(solutions, phi_ND, prior, self.num_classes)
        answers = stacked[0]
        if standing is not None:
            answers = standing.gate.mix(stacked, present_K=self._find_mixed(standing.prior))
        codes = phi if self.is_coded else None
        return Foresight(answers, known_K, novelty_N, num_effective, codes)

    def _find_looked(self, x_NI: Tensor) -> Tensor:
        """Features of the last examples, (N, D); of codes those that were computed already."""
        num_pending = len(x_NI) - sum(map(len, self._looked))
        if not self.is_coded or not 0 <= num_pending <= len(self._pending):
            return self._compute_features(check_inputs(x_NI, self.num_inputs))
        parts = list(self._looked)
        if num_pending:
            start = len(self._pending) - num_pending
            phi_ND = self._map_pending(start)
            self._pending.fill(start, phi_ND)
            parts.append(phi_ND)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def predict_experts(self, x: Tensor) -> Tensor:
        """Answers of the memories, then of the class prior: (E, N, K) or (E, N, M), float64."""
        return self._answer_all(self._check_features(x))

    def _check_features(self, x: Tensor) -> Tensor:
        if self.is_empty:
            raise NotFitted("the memory bank is empty; add(x, y) first")
        return self._compute_features(check_inputs(x, self.num_inputs)).double()

    def _answer_all(self, phi_ND: Tensor) -> Tensor:
        if self.has_prior:
            self.prior.grow(self.num_classes)
        prior = self.prior if self.has_prior else None
        return experts.answer_now(self.find_fresh(), self.slow, phi_ND, prior)

    @in_own_modes
    def find_fresh(self) -> list[FreshSolution]:
        """Each memory solved as of the last example, in the order of the half-lives.

        A memory whose examples have all faded away has the slow one's.
        """
        if self.is_empty:
            raise NotFitted("the memory bank is empty; add(x, y) first")
        self._is_asked = True
        self._renew_fresh()
        slow = self._fresh[self.slow]
        assert slow is not None
        return [slow if one is None else one for one in self._fresh]

    @in_own_modes
    def prepare(self) -> None:
        """Solve now what the next answer needs, if learning has left it behind."""
        if not self.is_empty:
            self._renew_fresh()
            for fresh in self._fresh:
                if fresh is not None:
                    fresh.solve()

    def finish(self) -> None:
        """After many examples: solve now, where that depends on no question before; else at the
        next answer, from scratch, so that it does not depend on how they were given."""
        if self._memories[self.slow].follows_codes:
            self.prepare()
        else:
            self.settle()

    def settle(self) -> None:
        """Solve from scratch at the next answer, so that nothing is held from before."""
        self._fresh = []

    def _renew_fresh(self) -> None:
        """Bring what is held up to the last example: rows beside its factors, or new factors."""
        if self._is_current and self._fresh:
            return
        self._add_fresh_rows()
        is_due = any(fresh is None or fresh.is_due for fresh in self._fresh)
        if is_due or not self._fresh or self._fresh_clock < self.clock:
            memories, asks = self.memories, self.compares
            self._fresh = [
                None if one.is_empty else one.make_fresh(with_reach=asks and index == self.slow)
                for index, one in enumerate(memories)
            ]
            self._fresh_clock = self.clock
        for fresh in self._fresh:
            if fresh is not None:
                fresh.grow(self.num_classes)
        self._is_current = True

    def _add_fresh_rows(self) -> None:
        """Take rows of the unfinished block in that are not in what is held, which knows all that
        came before the block, or is left behind."""
        missed = self._fresh_clock - self._memories[0].clock
        if not self._fresh or None in self._fresh or missed < 0 or self._fresh_clock == self.clock:
            return
        y_NM, weight_N = self._pending.read(self.num_classes, start=missed)
        phi_ND = self._map_pending(missed).double()
        for fresh, memory in zip(self._fresh, self._memories, strict=True):
            assert fresh is not None
            h = memory.half_life
            aged_N = decay_weights(weight_N, 0, h)
            fresh.add(phi_ND, y_NM, weight_N, aged_N, decay_factor(len(weight_N), h))
        self._fresh_clock = self.clock

    def novelty(self, x: Tensor) -> Tensor:
        """Novelty of inputs for the slow memory, (N,), from their leverage; see `RidgeMemory`."""
        phi_ND = self._check_features(x)
        if not self.compares:
            return compute_novelty(self.memories[self.slow].reach, phi_ND)
        return self.find_fresh()[self.slow].novelty(phi_ND)

    def predict_and_compare(self, x: Tensor) -> Foresight:
        """As `predict`; with it what the slow memory knows of the inputs, as it stands now."""
        phi_ND = self._check_features(x)
        answers, slow = self._mix(self._answer_all(phi_ND)), self.find_fresh()[self.slow]
        known_K = slow.life_targets > 0.0 if self.task == "classification" else None
        return Foresight(answers, known_K, slow.novelty(phi_ND), slow.num_effective)

    def present(self) -> Tensor:
        """Classes that were seen recently: (K,) bool."""
        return self.prior.present(experts.PRESENCE_THRESHOLD, self.num_classes)

    def copy(self) -> "MemoryBank":
        """An independent bank with the same content."""
        return copy.deepcopy(self)

    def state_dict(self) -> dict[str, object]:
        """Everything, the unfinished block included."""
        return {
            "config": self._read_config(),
            "memories": [memory.state_dict() for memory in self._memories],
            "gate": self.gate.state_dict(),
            "prior": self.prior.state_dict(),
            "block_prior": self._block_prior.state_dict(),
            "pending": self._pending.state_dict(),
            "held": [None if held is None else held.state_dict() for held in self._held],
            "standing": None if self._standing is None else self._standing.state_dict(self._held),
            "scout": None if self._scout is None else self._scout.state_dict(),
        }

    @in_own_modes
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the bank that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._read_config(), "memory bank")
        for memory, saved in zip(self._memories, state["memories"], strict=True):
            memory.load_state_dict(saved)
        self.gate.load_state_dict(state["gate"])
        self.prior.load_state_dict(state["prior"])
        self._block_prior.load_state_dict(state["block_prior"])
        self._pending.load_state_dict(state["pending"])
        if self._scout is not None:
            self._scout.load_state_dict(state["scout"])
        self._current, self._fresh = None, []
        self._held = [
            None if held is None else HeldSolution.from_state(held) for held in state["held"]
        ]
        self._looked, self._num_looked = [], 0
        self._standing = None
        if state["standing"] is not None:
            self._standing = experts.HeldExperts(
                self._held, self.gate.hold_still(), self.prior.copy()
            )
            self._standing.load_state_dict(state["standing"])

    def _read_config(self) -> dict[str, object]:
        return {
            "num_inputs": self.num_inputs,
            "task": self.task,
            "num_outputs": self._memories[0].num_outputs,
            "half_lives": [memory.half_life for memory in self._memories],
            "features": self.features.read_config() if self.features is not None else None,
            "ridge": self._memories[0].ridge,
            "switch_rate": self.gate.switch_rate,
            "has_prior": self.has_prior,
            "prior_half_life": self.prior.half_life,
            "block": self.block,
            "mix": self.mix,
            "foresees": self.foresees,
            "compares": self.compares,
        }

    def _compute_features(self, x: Tensor) -> Tensor:
        """(N, D) in float64, or codes."""
        return self.features(x) if self.features is not None else x.to(torch.float64)

    def find_mixed(self) -> Tensor | None:
        """The classes on which experts are mixed, (K,) bool; None for all of them, or of values."""
        return self._find_mixed(self.prior)

    def _find_mixed(self, prior: ClassPrior) -> Tensor | None:
        if self.mix != "present" or not self._counts_classes:
            return None
        return prior.present(experts.PRESENCE_THRESHOLD, self.num_classes)

    def _mix(self, answers: Tensor) -> Tensor:
        if len(answers) == 1:
            return answers[0]
        return self.gate.mix(answers, present_K=self.find_mixed())

    def _read_block(self) -> experts.Block:
        """The unfinished block; its features are computed at once, which is faster."""
        return self._map_pending(), *self._pending.read(self.num_classes)

    def _map_pending(self, start: int = 0) -> Tensor:
        """Features of the rows of the unfinished block from `start` on: of all at once, but for
        those that are known already."""
        parts: list[Tensor] = []
        missing: list[Tensor] = []
        for x_NI, phi_ND in self._pending.list_inputs(start):
            if phi_ND is None:
                missing.append(x_NI)
                continue
            if missing:
                parts.append(self._compute_features(torch.cat(missing)))
                missing = []
            parts.append(phi_ND)
        if missing:
            parts.append(self._compute_features(torch.cat(missing)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _find_block_size(self) -> int:
        """Examples in the block that is under way; if one foresees it grows with what is known."""
        if not self.foresees:
            return self.block
        return min(self.block, max(FIRST_BLOCK, self._memories[0].clock // BLOCKS_PER_PAST))

    def _add_rows(self, x_NI: Tensor, target: Tensor, weight_N: Tensor) -> None:
        """Take in rows that do not reach beyond the unfinished block; close it if full."""
        num_outputs = experts.count_outputs(target)
        for memory in self._memories:
            memory.grow(num_outputs)
        if self._counts_classes:
            self.prior.add_checked(target, weight_N)
            self.prior.grow(self.num_classes)
        self._pending.add(x_NI, target, weight_N)
        self._num_looked += len(x_NI)
        self._current, self._is_current = None, False
        if len(self._pending) < self._find_block_size():
            return
        if self._is_asked:
            self._add_fresh_rows()
        has_gate, block = self.gate.num_experts > 1, self._read_block()
        if has_gate:
            self._score_block(block)
        for memory in self._memories:
            memory.add_features(*block)
        if self.foresees and self.is_coded:
            num = min(self._num_looked, len(block[0]))
            self._looked.append(block[0][len(block[0]) - num :])
            self._num_looked -= num
        if has_gate:
            self._held = experts.renew_held(self._memories, self._held)
        self._start_block()

    def _score_block(self, block: experts.Block) -> None:
        """Tell the gate how the memories would have answered the block before they learned it."""
        slow = self._held[self.slow]
        if slow is None:
            return
        prior = self._block_prior if self.task == "classification" else None
        if prior is not None:
            prior.grow(self.num_classes)
        solutions = [held or slow for held in self._held]
        experts.hear_block(self.gate, solutions, block, prior, self.has_prior, self.mix)

    def _start_block(self) -> None:
        self._pending = PendingBlock(one_hot=self.task == "classification")
        self._current = None
        self._block_prior = self.prior.copy()
