"""Meanings of labels that change and change back: found, kept apart, recalled."""

from functools import partial

import pytest
import torch
from torch import Tensor

from nestling.memory.concept_slots import LEAST_OF_CLASS, ConceptSlots
from nestling.memory.exact.clocked import ClockedStatistics
from nestling.memory.exact.statistics import Statistics

K, D = 4, 24
CENTERS = 3.0 * torch.randn(K, D, generator=torch.Generator().manual_seed(1)).double()
MEANINGS = (torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2]))


def draw(meaning: int, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points around centres, labelled by one of the meanings."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(K, (num,), generator=generator)
    x = CENTERS[kind] + torch.randn(num, D, generator=generator).double()
    return x, MEANINGS[meaning][kind]


class Stream:
    """Slots beside a memory of the first meaning that is sure of it."""

    def __init__(self, num_slots: int = 6) -> None:
        self.slots = ConceptSlots(D, num_slots, coded=False)
        self.sums = ClockedStatistics(D, K)

    def teach(self, meaning: int, num: int, seed: int, *, batch_size: int = 5) -> float:
        """Learn examples batch by batch; how many were foreseen right."""
        x, y = draw(meaning, num, seed)
        right = 0
        for rows in torch.arange(num).split(batch_size):
            if self.slots.num_used:
                foreseen = self.slots.foresee(x[rows], K)
                answer = self.slots.mix(foreseen)
            else:
                kind = torch.cdist(x[rows], CENTERS).argmin(dim=1)
                answer = 0.02 + 0.92 * torch.nn.functional.one_hot(kind, K).double()
                foreseen = [answer]
            right += int((answer.argmax(dim=1) == y[rows]).sum())
            self.slots.learn(partial(x.__getitem__, rows), y[rows], foreseen, self.read)
            if not self.slots.num_used:
                ones = torch.ones(len(rows)).double()
                self.sums.add(x[rows], torch.nn.functional.one_hot(y[rows], K).double(), ones)
        return right / num

    def read(self) -> Statistics:
        return self.sums.values


def test_nothing_is_opened_while_nothing_changes() -> None:
    stream = Stream()
    assert stream.teach(0, 400, 0) > 0.95
    assert stream.slots.num_used == stream.slots.num_found == 0


def test_a_changed_meaning_is_found_learned_and_the_old_one_recalled() -> None:
    stream = Stream()
    stream.teach(0, 200, 0)
    stream.teach(1, 40, 1)
    assert stream.slots.num_used == 2
    assert stream.teach(1, 200, 2) > 0.9
    stream.teach(0, 15, 3)
    assert stream.slots.in_force == 0
    assert stream.teach(0, 100, 4) > 0.95
    assert stream.slots.num_found == 1


def test_the_first_slot_is_what_the_memory_knew() -> None:
    stream = Stream()
    stream.teach(0, 200, 0)
    stream.teach(1, 60, 1)
    x, y = draw(0, 100, 7)
    first = stream.slots.slots[0].answer(x, K)
    assert float((first.argmax(dim=1) == y).double().mean()) > 0.9


def test_the_slot_in_force_longest_ago_goes_when_all_are_taken() -> None:
    stream = Stream(num_slots=2)
    for meaning, seed in ((0, 0), (1, 1), (2, 2)):
        stream.teach(meaning, 200, seed)
    assert stream.slots.num_used == 2
    assert stream.slots.num_found == 2
    stream.teach(1, 15, 3)  # still there: the first meaning went
    assert stream.teach(1, 60, 4) > 0.9


def test_a_class_of_few_examples_is_no_change() -> None:
    slots = ConceptSlots(D, 6, coded=False)
    wrong = torch.full((LEAST_OF_CLASS, K), 1e-3).double()
    wrong[:, 0] = 1.0 - 3e-3
    label = torch.full((LEAST_OF_CLASS,), 3)
    phi = torch.zeros(LEAST_OF_CLASS, D).double()
    assert not slots.learn(phi.clone, label, [wrong], Stream().read)
    assert slots.num_used == 0
    assert slots.probabilities == [0.99, 0.01]


@pytest.mark.parametrize("at", [0, 230, 400])
def test_resumes_bitwise(at: int) -> None:
    def run(stream: Stream, start: int) -> None:
        for step in range(start, 500, 10):
            stream.teach(0 if step < 200 or step >= 350 else 1, 10, step)

    whole = Stream()
    run(whole, 0)
    cut = Stream()
    for step in range(0, at, 10):
        cut.teach(0 if step < 200 or step >= 350 else 1, 10, step)
    cut.slots = ConceptSlots.from_state(cut.slots.state_dict(), 6)
    run(cut, at)
    x, _ = draw(1, 20, 99)
    assert whole.slots.probabilities == cut.slots.probabilities
    if whole.slots.num_used:
        assert torch.equal(whole.slots.answer(x, K), cut.slots.answer(x, K))


def test_asking_changes_nothing_of_what_follows() -> None:
    asked, silent = Stream(), Stream()
    x, _ = draw(1, 20, 99)
    for step in range(0, 400, 10):
        for stream in (asked, silent):
            stream.teach(0 if step < 200 else 1, 10, step)
        if asked.slots.num_used:
            asked.slots.answer(x, K)
    assert asked.slots.probabilities == silent.slots.probabilities
    assert torch.equal(asked.slots.answer(x, K), silent.slots.answer(x, K))


def test_a_label_that_no_slot_has_seen() -> None:
    stream = Stream()
    stream.teach(0, 200, 0)
    stream.teach(1, 60, 1)
    x = torch.zeros(3, D).double()
    stream.slots.learn(x.clone, torch.full((3,), 6), stream.slots.foresee(x, K), stream.read)
    assert stream.slots.answer(x, 7).shape == (3, 7)
    assert bool(stream.slots.answer(x, 7).isfinite().all())
