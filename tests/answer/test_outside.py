"""Who answers where a memory has seen nothing: found out, by zones of familiarity."""

import logging
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nestling.answer.outside import (
    MOST_COMPARED,
    NUM_ENOUGH,
    Knowers,
    Outside,
    add_classes,
    fill_classes,
    find_heard,
    is_told_otherwise,
    split_zones,
)

INSIDE, NEAR, FAR = 0.0, 3.0, 9.0
LABELS = torch.arange(60) % 3


def make_outside(switch_rate: float = 1e-3) -> Outside:
    return Outside(switch_rate, "classification")


def make_answers(labels: Tensor, *, sure: float, num_classes: int = 3) -> Tensor:
    """Probabilities that give each label so much."""
    rest = (1.0 - sure) / (num_classes - 1)
    answers = torch.full((len(labels), num_classes), rest, dtype=torch.float64)
    return answers.scatter_(1, labels[:, None], sure)


RIGHT, WRONG = make_answers(torch.tensor([0]), sure=0.9), make_answers(torch.tensor([1]), sure=0.9)


def pair(memory: Tensor, given: Tensor, novelty: float, num_effective: float = 300.0) -> Knowers:
    known, rows = (memory > 0).any(dim=0), len(memory)
    return Knowers(memory, known, given, torch.full((rows,), novelty).double(), num_effective)


def ask(outside: Outside, memory: Tensor, given: Tensor, novelty: float) -> Tensor:
    return outside.mix(pair(memory, given, novelty))[0]


def teach(
    outside: Outside, labels: Tensor, *, memory: float, given: float, novelty: float, times: int = 1
) -> None:
    """Both say so much of each label; the rest of the memory is spread, the given model's not."""
    said = make_answers(labels, sure=memory), make_answers(labels, sure=given)
    for _ in range(times):
        outside.observe(pair(*said, novelty), labels)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return bool(one == other)


# --- whom to believe


def test_before_anything_is_heard_the_given_model_answers() -> None:
    outside = make_outside()
    for novelty in (INSIDE, NEAR, FAR):
        answer = ask(outside, WRONG, RIGHT, novelty)
        assert answer.argmax() == 0
        torch.testing.assert_close(answer.sum(), torch.tensor(1.0).double())


def test_inside_the_memory_speaks_once_it_has_proved_itself() -> None:
    outside = make_outside()
    teach(outside, LABELS, memory=0.9, given=0.1, novelty=INSIDE)
    assert ask(outside, RIGHT, WRONG, INSIDE).argmax() == 0
    # What it has learned of the familiar says nothing of the rest.
    assert ask(outside, WRONG, RIGHT, FAR).argmax() == 0


def test_far_off_it_is_found_out_too_but_takes_more() -> None:
    outside = make_outside()
    teach(outside, LABELS[:20], memory=0.9, given=0.1, novelty=FAR)
    assert ask(outside, RIGHT, WRONG, FAR).argmax() == 1
    assert ask(outside, RIGHT, WRONG, INSIDE).argmax() == 1
    teach(outside, LABELS, memory=0.9, given=0.1, novelty=FAR, times=60)
    assert ask(outside, RIGHT, WRONG, FAR).argmax() == 0


def test_without_experience_nothing_is_found_out() -> None:
    outside = make_outside()
    before = outside.gate.weights.mixers
    said = make_answers(LABELS, sure=0.9), make_answers(LABELS, sure=0.1)
    outside.observe(pair(*said, INSIDE, num_effective=0.0), LABELS)
    assert torch.equal(outside.gate.weights.mixers, before)


def test_a_fresh_head_has_no_opinion() -> None:
    outside = make_outside()
    fresh = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    for novelty in (INSIDE, NEAR, FAR):
        assert ask(outside, RIGHT, fresh, novelty).argmax() == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_not_believed(value: float) -> None:
    outside = make_outside()
    broken = torch.full((1, 3), value, dtype=torch.float64)
    for novelty in (INSIDE, FAR):
        answer = ask(outside, RIGHT, broken, novelty)
        assert answer.argmax() == 0
        torch.testing.assert_close(answer.sum(), torch.tensor(1.0).double())
    outside.observe(pair(RIGHT, broken, INSIDE), torch.tensor([0]))
    assert all(bool(one.isfinite().all()) for one in outside.gate.weights)
    assert len(outside.pairs) == 0
    values = Outside(1e-3, "regression")
    knowers = Knowers(RIGHT, None, broken, torch.zeros(1).double(), 9.0)
    before = values.state_dict()
    values.observe(knowers, RIGHT)
    after = values.state_dict()
    before["gate"]["num_heard"] = 1  # type: ignore[index]
    assert same(before, after)
    torch.testing.assert_close(values.mix(knowers)[0], RIGHT)


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    outside = make_outside()
    given = torch.cat((RIGHT, RIGHT * math.nan))
    both, alone = ask(outside, WRONG.repeat(2, 1), given, FAR), ask(outside, WRONG, RIGHT, FAR)
    torch.testing.assert_close(both[:1], alone)
    assert both[1].argmax() == 1


def test_a_new_class_speaks_for_nobody() -> None:
    outside = make_outside(switch_rate=0.0)
    before = outside.gate.state_dict()
    memory = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).repeat(9, 1)
    given = make_answers(torch.full((9,), 2), sure=0.98)
    for label in (2, 7):  # known to the given model alone, and to nobody
        outside.observe(pair(memory, given, INSIDE), torch.full((9,), label))
    assert outside.gate.num_heard == 18
    assert same(before | {"num_heard": 18}, outside.gate.state_dict())
    assert len(outside.pairs) == 0
    assert find_heard(torch.tensor([True]), torch.tensor([0, 3])).tolist() == [True, False]


def test_values_are_weighed_by_their_errors() -> None:
    outside = Outside(1e-3, "regression")
    target = torch.linspace(0, 1, 50).double()[:, None]
    knowers = Knowers(target + 0.01, None, target + 5.0, torch.zeros(50).double(), 300.0)
    outside.observe(knowers, target)
    answer, listened = outside.mix(knowers)
    assert (answer - target).abs().max() < 0.6
    assert float(listened.min()) > 0.85


def test_others_are_listened_to_inside_its_experience() -> None:
    outside = make_outside()
    heard = [float(outside.mix(pair(RIGHT, WRONG, n))[1]) for n in (INSIDE, NEAR, FAR)]
    assert heard[0] > 0.9
    assert heard == sorted(heard, reverse=True)
    assert heard[2] < 0.01


# --- classes that one of them does not have


def test_other_numbers_of_outputs_fit() -> None:
    outside = make_outside()
    wide, narrow = make_answers(torch.tensor([3]), sure=0.9, num_classes=5), RIGHT
    assert ask(outside, wide, narrow, INSIDE).shape == (1, 5)
    assert ask(outside, narrow, wide, FAR).argmax() == 3


def test_a_class_that_the_given_model_has_no_output_for_is_as_the_memory_has_it() -> None:
    memory = torch.tensor([[0.1, 0.0, 0.0, 0.0, 0.9]], dtype=torch.float64)
    given = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    inside = float(pair(memory, given, -9.0).zones[0, 0])
    filled, extended = pair(memory, given, -9.0, num_effective=1e12).stack()
    torch.testing.assert_close(
        extended, torch.tensor([[0.02, 0.05, 0.03, 0.0, 0.9]], dtype=torch.float64)
    )
    # What the memory has not seen is as the given model has it; the rest it divides itself.
    torch.testing.assert_close(
        filled, torch.tensor([[0.092, 0.05, 0.03, 0.0, 0.828]], dtype=torch.float64)
    )
    assert inside > 0.9
    # So it is answered though nothing was ever heard of the memory; but far from what that has
    # seen only where the given model has no opinion.
    assert ask(make_outside(), memory, given, INSIDE).argmax() == 4
    sure = torch.tensor([[0.02, 0.96, 0.02]], dtype=torch.float64)
    assert ask(make_outside(), memory, sure, FAR).argmax() == 1
    fresh = torch.full((1, 3), 1.0 / 3.0, dtype=torch.float64)
    assert ask(make_outside(), memory, fresh, FAR).argmax() == 4
    # And nothing goes there before the memory knows the class.
    nothing = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert float(ask(make_outside(), nothing, given, FAR)[0, 3:].sum()) == 0.0


def test_rows_that_are_not_finite_are_the_memorys_with_new_classes_too() -> None:
    memory = torch.tensor([[0.1, 0.0, 0.9]] * 2, dtype=torch.float64)
    given = torch.tensor([[0.5, 0.5], [math.nan, 0.5]], dtype=torch.float64)
    filled, extended = pair(memory, given, INSIDE).stack()
    torch.testing.assert_close(filled[1], memory[1])
    torch.testing.assert_close(extended[1], memory[1])
    torch.testing.assert_close(extended[0], torch.tensor([0.05, 0.05, 0.9]).double())


@given(
    seed=st.integers(0, 999),
    num_memory=st.integers(1, 6),
    num_given=st.integers(1, 6),
    is_foreign=st.booleans(),
)
def test_both_answer_with_distributions_over_all_classes(
    seed: int, num_memory: int, num_given: int, is_foreign: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    memory = torch.rand(4, num_memory, generator=generator, dtype=torch.float64) + 0.01
    known = torch.rand(num_memory, generator=generator) < 0.6
    known[0] = True
    memory = memory * known
    given_NK = torch.rand(4, num_given, generator=generator, dtype=torch.float64)
    memory, given_NK = (one / one.sum(dim=1, keepdim=True) for one in (memory, given_NK))
    knowers = Knowers(memory, known, given_NK, torch.zeros(4).double(), 300.0)
    filled, extended = knowers.stack(is_foreign=is_foreign)
    assert filled.shape == extended.shape == (4, max(num_memory, num_given))
    for one in (filled, extended):
        torch.testing.assert_close(one.sum(dim=1), torch.ones(4).double())
        assert bool((one >= 0.0).all())
    unseen = torch.ones(filled.shape[1], dtype=torch.bool)
    unseen[:num_memory] = ~known
    torch.testing.assert_close(filled[:, unseen], extended[:, unseen])
    if is_foreign:
        wanted = nn.functional.pad(memory, (0, filled.shape[1] - num_memory))
        torch.testing.assert_close(extended, wanted)
    elif num_given >= num_memory:
        assert torch.equal(extended, given_NK)  # its own classes are left to the bit


@given(seed=st.integers(0, 99))
def test_filling_is_its_equation(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    memory, given_NK = torch.rand(2, 4, 5, generator=generator, dtype=torch.float64)
    known = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    memory = memory * known
    memory, given_NK = (one / one.sum(dim=1, keepdim=True) for one in (memory, given_NK))
    filled = fill_classes(memory, given_NK, known)
    torch.testing.assert_close(filled.sum(dim=1), torch.ones(4).double())
    assert torch.equal(filled[:, known == 0], given_NK[:, known == 0])
    share = given_NK[:, known == 1].sum(dim=1, keepdim=True)
    torch.testing.assert_close(filled[:, known == 1], share * memory[:, known == 1])
    assert torch.equal(add_classes(given_NK, memory, torch.ones(4).double()), given_NK)


class Stacking(nn.Module):
    """What `stack` computes, as an export calls it."""

    def forward(self, memory: Tensor, known: Tensor, given: Tensor) -> Tensor:
        novelty = torch.zeros_like(memory[:, 0])
        return Knowers(memory, known, given, novelty, 300.0).stack()


def test_a_trace_made_on_other_values_gives_the_same_bits() -> None:
    memory = torch.tensor([[0.2, 0.0, 0.8], [1.0, 0.0, 0.0]], dtype=torch.float64)
    given = torch.tensor([[0.5, 0.5], [0.1, 0.9]], dtype=torch.float64)
    known = torch.tensor([True, False, True])
    program = torch.export.export(Stacking(), (memory, known, given))
    asked = memory.flip(1), known.logical_not(), given * torch.tensor([[1.0], [math.nan]]).double()
    assert torch.equal(program.module()(*asked), Stacking()(*asked))


# --- other classes than the labels


def answer_by(names: Tensor, labels: Tensor, size: int = 4) -> Outside:
    """The given model names each label as `names` says; the memory knows nothing better."""
    outside, num_classes = make_outside(), len(names)
    for rows in torch.arange(len(labels)).split(size):
        unsure = make_answers(labels[rows], sure=1.2 / num_classes, num_classes=num_classes)
        said = make_answers(names[labels[rows]], sure=0.9, num_classes=num_classes)
        outside.observe(pair(unsure, said, INSIDE), labels[rows])
    return outside


MANY = torch.randint(6, (200,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [1, 4, 200])
def test_another_order_of_classes_is_found_out_and_said_once(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "nestling")
    outside = answer_by(torch.arange(6).roll(1), MANY, size)
    assert outside.is_foreign
    (said,) = caplog.messages
    assert "the given model's outputs are not the labels' classes" in said
    assert "it is left out of the answers" in said
    assert "\n" not in said
    # Left out: what it says changes nothing.
    asked = make_answers(MANY[:5], sure=0.5, num_classes=6)
    other = make_answers(MANY[5:10], sure=0.99, num_classes=6)
    for novelty in (INSIDE, FAR):
        found = ask(outside, asked, other, novelty)
        torch.testing.assert_close(found.argmax(dim=1), asked.argmax(dim=1))
        assert torch.equal(found, ask(outside, asked, other.flip(0), novelty))


def test_it_takes_enough_examples(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "nestling")
    names = torch.arange(6).roll(1)
    assert not answer_by(names, MANY[: NUM_ENOUGH - 1], 1).is_foreign
    assert caplog.messages == []
    assert answer_by(names, MANY[:NUM_ENOUGH], 1).is_foreign


def test_the_right_order_is_never_taken_for_another() -> None:
    outside = answer_by(torch.arange(6), MANY)
    assert not outside.is_foreign
    assert len(outside.pairs) == min(len(MANY), MOST_COMPARED)  # then nobody asks any more


def test_a_person_of_whom_it_is_merely_wrong_is_not_taken_for_that() -> None:
    """Inverted digits: it answers alike to nearly all of them, so its answers tell no label."""
    generator = torch.Generator().manual_seed(1)
    outside = make_outside()
    scattered = torch.where(
        torch.rand(200, generator=generator) < 0.6,
        torch.full((200,), 5),
        torch.randint(6, (200,), generator=generator),
    )
    for rows in torch.arange(200).split(4):
        labels = MANY[rows]
        unsure = make_answers(labels, sure=0.2, num_classes=6)
        said = make_answers(scattered[rows], sure=0.9, num_classes=6)
        outside.observe(pair(unsure, said, INSIDE), labels)
    assert not outside.is_foreign


def test_one_class_alone_tells_nothing_of_the_order() -> None:
    """Always the same label, always the same wrong answer: that may be the person."""
    labels = torch.full((200,), 2)
    assert not answer_by(torch.arange(6).roll(1), labels).is_foreign
    pairs = torch.tensor([[0, 1]] * 90 + [[1, 0]])
    assert not is_told_otherwise(pairs)


def test_answers_that_never_come_twice_tell_nothing() -> None:
    """A model of many classes that is wrong about this person, each time otherwise."""
    answers, labels = torch.arange(100) + 500, torch.arange(100) % 10
    assert not is_told_otherwise(torch.stack((answers, labels), dim=1))


def test_outputs_of_another_data_set_are_found_out(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand outputs, and labels of another ten classes."""
    caplog.set_level(logging.WARNING, "nestling")
    outside, generator = make_outside(), torch.Generator().manual_seed(0)
    labels = torch.randint(10, (200,), generator=generator)
    for rows in labels.split(5):
        memory = make_answers(rows, sure=0.5, num_classes=10)
        said = 300 + 3 * rows + torch.randint(2, rows.shape, generator=generator)
        given = make_answers(said, sure=0.9, num_classes=1000)
        outside.observe(pair(memory, given, INSIDE), rows)
    assert outside.is_foreign
    assert len(caplog.messages) == 1


def test_classes_that_it_has_no_output_for_say_nothing_of_the_order() -> None:
    outside = make_outside()
    labels = 3 + torch.arange(200) % 3
    for rows in torch.arange(200).split(4):
        memory = make_answers(labels[rows], sure=0.5, num_classes=6)
        # It answers each new class with the same of its own.
        outside.observe(
            pair(memory, make_answers(labels[rows] - 3, sure=0.9), INSIDE), labels[rows]
        )
    assert not outside.is_foreign
    assert len(outside.pairs) == 0


# --- state


@given(novelty=st.floats(-10, 50), num_effective=st.floats(0, 1e6))
def test_zones_are_shares(novelty: float, num_effective: float) -> None:
    zones = split_zones(torch.tensor([novelty]).double(), num_effective)
    assert zones.shape == (1, 4)
    torch.testing.assert_close(zones.sum(), torch.tensor(1.0).double())
    assert float(zones.min()) >= -1e-12


def test_a_saved_state_goes_on() -> None:
    outside, twin = make_outside(), make_outside()
    teach(outside, LABELS, memory=0.7, given=0.6, novelty=NEAR)
    state = outside.state_dict()
    twin.load_state_dict(state)
    for one in (outside, twin):
        teach(one, LABELS, memory=0.7, given=0.6, novelty=INSIDE)
    assert same(outside.state_dict(), twin.state_dict())
    assert not same(outside.state_dict(), state)
    foreign, twin = answer_by(torch.arange(6).roll(1), MANY), make_outside()
    twin.load_state_dict(foreign.state_dict())
    assert twin.is_foreign


def test_asking_changes_nothing() -> None:
    outside = make_outside()
    teach(outside, LABELS, memory=0.7, given=0.6, novelty=NEAR)
    before = outside.state_dict()
    ask(outside, RIGHT, WRONG, FAR)
    assert same(before, outside.state_dict())
