"""A memory level as it stood at some moment: it answers, and never changes."""

import copy

import torch
from torch import Tensor

from nestling.core.batches import Batch
from nestling.core.errors import NotFitted
from nestling.levels.memory import MemoryLevel, Rows, join_rows
from nestling.levels.taps import StandingTaps, align_views, find_image_size, read_taps
from nestling.memory import MemoryBank
from nestling.memory.bank_experts import answer_now
from nestling.memory.checks import check_inputs
from nestling.memory.prequential import Foresight


class StandingBank:
    """What a bank answers as of its last example; all that learns is left behind.

    Args:
        bank: not empty; what it answers is solved if it is not yet.
    """

    def __init__(self, bank: MemoryBank) -> None:
        self.num_inputs, self.slow, self.task = bank.num_inputs, bank.slow, bank.task
        # It counts what it is shown.
        self.features = copy.copy(bank.features)
        self.solutions = [fresh.hold_still() for fresh in bank.find_fresh()]
        self.prior = None
        if bank.has_prior:
            self.prior = bank.prior.copy()
            self.prior.grow(bank.num_classes)
        self.gate, self.present_K = bank.gate.hold_still(), bank.find_mixed()

    def map(self, x_NI: Tensor) -> Tensor:
        """Features (N, D) float64; errors as `MemoryBank.predict`."""
        x_NI = check_inputs(x_NI, self.num_inputs)
        if self.features is None:
            return x_NI.to(torch.float64)
        return self.features(x_NI).double()

    def answer(self, phi_ND: Tensor) -> Tensor:
        """(N, K) probabilities or (N, M) values, float64."""
        answers_ENK = answer_now(self.solutions, self.slow, phi_ND, self.prior)
        if len(answers_ENK) == 1:
            return answers_ENK[0]
        return self.gate.mix(answers_ENK, present_K=self.present_K)

    def compare(self, phi_ND: Tensor) -> Foresight:
        """As `answer`; with it what the slow memory knows of each row."""
        slow = self.solutions[self.slow]
        known_K = slow.known if self.task == "classification" else None
        return Foresight(self.answer(phi_ND), known_K, slow.novelty(phi_ND), slow.num_effective)


class StandingMemory:
    """What a memory level answers as of its last example.

    Args:
        level: left as it is, but for what is solved.
        standing: the module that it reads, as it stands; None where it reads inputs alone.
    """

    def __init__(self, level: MemoryLevel, standing: StandingTaps | None) -> None:
        self.name, self.taps, self.standing = level.spec.name, tuple(level.reader.taps), standing
        bank = level.bank
        self.bank = None if bank is None or bank.is_empty else StandingBank(bank)

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing to answer from."""
        return self.bank is None

    def read_rows(self, batch: Batch, target: Tensor | None) -> Rows:
        """What is read of a batch; see `MemoryLevel.read_rows`."""
        if self.standing is None:
            views, output = read_taps(None, self.taps, batch)
        else:
            views, output = self.standing.read(batch)
        rows = align_views(views, self.taps, target)
        return join_rows(rows, output, find_image_size(views, rows))

    def answer(self, rows: Tensor) -> Tensor:
        """Probabilities (R, K) or values (R, M), float64; raises NotFitted where it is empty."""
        bank = self._find_bank()
        return bank.answer(bank.map(rows))

    def answer_and_compare(self, rows: Tensor) -> Foresight:
        """As `answer`; with it what is known of each row."""
        bank = self._find_bank()
        return bank.compare(bank.map(rows))

    def _find_bank(self) -> StandingBank:
        if self.bank is None:
            raise NotFitted(f"memory {self.name!r} is empty; learn something first")
        return self.bank
