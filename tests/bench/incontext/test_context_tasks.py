"""What the tasks of learning in context ask, held against brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.bench.incontext.context_tasks import (
    CONTEXT_TASKS,
    NUM_CLASSES,
    NUM_KEYS,
    UNASKED,
    draw_labels,
    draw_prototypes,
    draw_recall,
)
from nestling.core.errors import SettingError

few = settings(max_examples=15, deadline=None)


@few
@given(seed=st.integers(0, 10**6), half=st.integers(1, NUM_KEYS))
def test_recall_asks_for_the_value_of_each_key_once(seed: int, half: int) -> None:
    inputs, labels = draw_recall(3, 2 * half, torch.Generator().manual_seed(seed))
    for row, answers in zip(inputs, labels, strict=True):
        stored: dict[int, int] = {}
        for place in row[:half]:
            key, value = place[:NUM_KEYS].nonzero().item(), place[NUM_KEYS:].nonzero().item()
            stored[int(key)] = int(value)
        assert len(stored) == half
        asked = [int(place[:NUM_KEYS].nonzero().item()) for place in row[half:]]
        assert sorted(asked) == sorted(stored)
        assert answers[half:].tolist() == [stored[key] for key in asked]
        assert not row[half:, NUM_KEYS:].any()
        assert (answers[:half] == UNASKED).all()


@few
@given(seed=st.integers(0, 10**6), shots=st.integers(1, 3))
def test_labels_are_dealt_anew_to_the_same_classes(seed: int, shots: int) -> None:
    # Prototypes so far from each other that noise cannot hide the class.
    prototypes = 100 * torch.eye(4, 5)
    half = 4 * shots
    inputs, labels = draw_labels(prototypes, 4, 2 * half, torch.Generator().manual_seed(seed))
    for row, answers in zip(inputs, labels, strict=True):
        classes = torch.cdist(row[:, :5], prototypes).argmin(1).tolist()
        assert sorted(classes[:half]) == sorted(list(range(4)) * shots)
        deal = {one: int(row[at, 5:].argmax()) for at, one in enumerate(classes[:half])}
        assert sorted(deal.values()) == [0, 1, 2, 3]
        for at, one in enumerate(classes[:half]):
            assert int(row[at, 5:].argmax()) == deal[one]
        assert answers[half:].tolist() == [deal[one] for one in classes[half:]]
        assert not row[half:, 5:].any()
        assert (answers[:half] == UNASKED).all()


def test_the_deal_differs_between_sequences() -> None:
    prototypes = 100 * torch.eye(4)
    inputs, _ = draw_labels(prototypes, 20, 8, torch.Generator().manual_seed(0))
    classes = torch.cdist(inputs[..., :4], prototypes.expand(20, 4, 4)).argmin(2)[:, :4]
    shown = inputs[:, :4, 4:].argmax(2)
    deals = {
        tuple(label[one.argsort()].tolist()) for one, label in zip(classes, shown, strict=True)
    }
    assert len(deals) > 5


@pytest.mark.parametrize("name", ["parity", "aa", "abab"])
def test_letters_are_one_hot_and_every_position_is_asked(name: str) -> None:
    task = CONTEXT_TASKS[name]
    inputs, labels = task.draw(0)(4, 12, torch.Generator().manual_seed(0))
    assert inputs.shape == (4, 12, 2)
    assert (inputs.sum(2) == 1).all()
    letters = inputs.argmax(2)
    for row, answers in zip(letters, labels, strict=True):
        for at in range(12):
            so_far = row[: at + 1].tolist()
            if name == "parity":
                expected = sum(so_far) % 2
            else:
                word = [0, 0] if name == "aa" else [0, 1, 0, 1]
                expected = int(so_far == word * (len(so_far) // len(word)))
            assert answers[at] == expected


def test_lengths_that_no_sequence_can_have_are_refused() -> None:
    generator = torch.Generator()
    for length in (0, 7, 2 * NUM_KEYS + 2):
        with pytest.raises(SettingError, match="works"):
            draw_recall(1, length, generator)
    with pytest.raises(SettingError, match=f"a multiple of {2 * NUM_CLASSES} works"):
        draw_labels(draw_prototypes(0), 1, NUM_CLASSES, generator)
