"""Who answers where a memory has seen nothing: found out, by zones of familiarity."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nestling.answer.held_answers import HeldAnswers
from torch import Tensor

from nestling.answer.outside import (
    Knowers,
    Outside,
    agree_on_classes,
    find_heard,
    listen_to_others,
    measure_opinion,
    pool_classes,
    split_zones,
    weigh_knowers,
)

INSIDE, NEAR, FAR = 0.0, 3.0, 9.0


def make_answers(labels: Tensor, *, sure: float, num_classes: int = 3) -> Tensor:
    """Probabilities that give each label so much."""
    rest = (1.0 - sure) / (num_classes - 1)
    answers = torch.full((len(labels), num_classes), rest, dtype=torch.float64)
    return answers.scatter_(1, labels[:, None], sure)


def ask(outside: Outside, memory: Tensor, given: Tensor, novelty: float) -> Tensor:
    known = (memory > 0).any(dim=0)
    knowers = Knowers(memory, known, given, torch.full((len(memory),), novelty).double(), 300.0)
    return outside.mix(knowers)[0]


def teach(outside: Outside, labels: Tensor, *, memory: float, given: float, novelty: float) -> None:
    outside.observe(
        Knowers(
            make_answers(labels, sure=memory),
            torch.ones(3, dtype=torch.bool),
            make_answers(labels, sure=given),
            torch.full((len(labels),), novelty).double(),
            300.0,
        ),
        labels,
    )


LABELS = torch.arange(60) % 3
RIGHT, WRONG = make_answers(torch.tensor([0]), sure=0.9), make_answers(torch.tensor([1]), sure=0.9)


def test_before_anything_is_heard_the_given_model_answers() -> None:
    outside = Outside(switch_rate=1e-3)
    for novelty in (INSIDE, NEAR, FAR):
        answer = ask(outside, WRONG, RIGHT, novelty)
        assert answer.argmax() == 0
        torch.testing.assert_close(answer.sum(), torch.tensor(1.0).double())


def test_inside_the_memory_speaks_once_it_has_proved_itself() -> None:
    outside = Outside(switch_rate=1e-3)
    teach(outside, LABELS, memory=0.9, given=0.1, novelty=INSIDE)
    assert ask(outside, RIGHT, WRONG, INSIDE).argmax() == 0
    # What it has learned of the familiar says nothing of the rest.
    assert ask(outside, WRONG, RIGHT, FAR).argmax() == 0
    assert ask(outside, WRONG, RIGHT, NEAR).argmax() == 0


def test_far_off_it_is_found_out_too_but_takes_more() -> None:
    outside = Outside(switch_rate=1e-3)
    teach(outside, LABELS[:6], memory=0.9, given=0.1, novelty=FAR)
    assert outside.weights[2].argmax() == 1
    for _ in range(3):
        teach(outside, LABELS, memory=0.9, given=0.1, novelty=FAR)
    assert outside.skill == 0.0
    assert outside.weights[2].argmax() == 0
    assert outside.weights[0].argmax() == outside.weights[1].argmax() == 1


def test_off_its_experience_a_memory_does_not_replace_who_knows_something() -> None:
    outside = Outside(switch_rate=1e-3)
    half = LABELS.clone()
    half[::2] = (half[::2] + 1) % 3  # every other answer of the given model is wrong
    knowers = Knowers(
        make_answers(LABELS, sure=0.9),
        torch.ones(3, dtype=torch.bool),
        make_answers(half, sure=0.9),
        torch.full((60,), NEAR).double(),
        300.0,
    )
    for _ in range(20):
        outside.observe(knowers, LABELS)
    assert outside.skill == 1.0
    assert outside.weights[1].argmax() == 1


def test_skill_of_values_is_beside_their_mean() -> None:
    target = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).double()
    novelty = torch.zeros(200).double()
    skilled, unskilled = Outside(switch_rate=1e-3), Outside(switch_rate=1e-3)
    skilled.observe(Knowers(target, None, 0.8 * target, novelty, 300.0), target)
    unskilled.observe(Knowers(target, None, target.flip(0), novelty, 300.0), target)
    assert (skilled.skill, unskilled.skill) == (1.0, 0.0)


def test_a_fresh_head_has_no_opinion() -> None:
    outside = Outside(switch_rate=1e-3)
    fresh = torch.tensor([[0.35, 0.33, 0.32]], dtype=torch.float64)
    assert ask(outside, RIGHT, fresh, FAR).argmax() == 0
    assert measure_opinion(fresh) < 0.05
    one_output = torch.ones(2, 1, dtype=torch.float64)
    assert measure_opinion(one_output).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_not_believed(value: float) -> None:
    outside = Outside(switch_rate=1e-3)
    broken = torch.full((1, 3), value, dtype=torch.float64)
    torch.testing.assert_close(ask(outside, RIGHT, broken, FAR), RIGHT)
    novelty, everyone = torch.zeros(1).double(), torch.ones(3, dtype=torch.bool)
    outside.observe(Knowers(RIGHT, everyone, broken, novelty, 9.0), torch.tensor([0]))
    assert bool(outside.weights.isfinite().all())
    assert outside.weights[0, 0] > 0.1
    values = Outside(switch_rate=1e-3)
    knowers = Knowers(RIGHT, None, broken, novelty, 9.0)
    values.observe(knowers, RIGHT)
    torch.testing.assert_close(values.mix(knowers)[0], RIGHT)


def test_a_new_class_speaks_for_nobody() -> None:
    outside = Outside(switch_rate=0.0)
    before = outside.weights
    memory = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).repeat(9, 1)
    given = make_answers(torch.full((9,), 2), sure=0.98)
    novelty, known = torch.zeros(9, dtype=torch.float64), torch.tensor([True, True, False])
    outside.observe(Knowers(memory, known, given, novelty, 300.0), torch.full((9,), 2))
    assert torch.equal(outside.weights, before)
    # Beyond the outputs of either.
    outside.observe(Knowers(memory, known, given, novelty, 300.0), torch.full((9,), 7))
    assert torch.equal(outside.weights, before)
    assert find_heard(torch.tensor([True]), torch.tensor([0, 3])).tolist() == [True, False]


def test_other_numbers_of_outputs_fit() -> None:
    outside = Outside(switch_rate=1e-3)
    wide, narrow = make_answers(torch.tensor([3]), sure=0.9, num_classes=5), RIGHT
    assert ask(outside, wide, narrow, INSIDE).shape == (1, 5)
    assert ask(outside, narrow, wide, FAR).argmax() == 3


def test_values_are_weighed_by_their_errors() -> None:
    outside = Outside(switch_rate=1e-3)
    target = torch.linspace(0, 1, 50).double()[:, None]
    knowers = Knowers(target + 0.01, None, target + 5.0, torch.zeros(50).double(), 300.0)
    outside.observe(knowers, target)
    answer, listened = outside.mix(knowers)
    assert (answer - target).abs().max() < 0.6
    assert float(listened.min()) > 0.99


@given(novelty=st.floats(-10, 50), trust=st.floats(0, 1, exclude_max=True), opinion=st.floats(0, 1))
def test_weights_are_shares(novelty: float, trust: float, opinion: float) -> None:
    weights_ZE = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.0, 1.0, 0.0]]).double()
    novelty_N = torch.tensor([novelty]).double()
    zones = split_zones(novelty_N)
    torch.testing.assert_close(zones.sum(), torch.tensor(1.0).double())
    weights = weigh_knowers(novelty_N, torch.tensor([opinion]).double(), weights_ZE, trust)
    assert float(weights.min()) >= -1e-12
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0).double())
    assert -1e-12 <= float(listen_to_others(novelty_N, weights)) <= 1.0 + 1e-12


@given(seed=st.integers(0, 99))
def test_the_pool_is_a_distribution_and_leaves_unknown_classes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    memory, given_NK = torch.rand(2, 4, 5, generator=generator, dtype=torch.float64)
    known = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    memory, given_NK = memory * known, given_NK
    memory, given_NK = (one / one.sum(dim=1, keepdim=True) for one in (memory, given_NK))
    agreed = agree_on_classes(memory, given_NK, known)
    torch.testing.assert_close(agreed.sum(dim=1), torch.ones(4).double())
    assert torch.equal(agreed[:, known == 0], given_NK[:, known == 0])
    silent, pooled = (pool_classes(memory, given_NK, known, voice) for voice in (0.0, 0.7))
    torch.testing.assert_close(silent, memory, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(pooled.sum(dim=1), torch.ones(4).double())
    wanted = memory * given_NK**0.7
    torch.testing.assert_close(
        pooled, wanted / wanted.sum(dim=1, keepdim=True), atol=5e-3, rtol=5e-2
    )


def test_held_answers_are_given_up_by_the_clock() -> None:
    held = HeldAnswers()
    for start in (0, 4, 8):
        rows = torch.arange(start, start + 4)
        held.add(start, rows, rows[:, None].double(), [rows[:, None].double()] if start else [])
    parts = held.take(0, 6)
    assert [target.tolist() for target, *_ in parts] == [[0, 1, 2, 3], [4, 5]]
    assert [place for *_, place in parts] == [slice(0, 4), slice(4, 6)]
    assert [len(others) for *_, others, _ in parts] == [0, 1]
    twin = HeldAnswers()
    twin.load_state_dict(held.state_dict())
    # Examples that were never foreseen, such as removed ones, are passed over.
    assert [target.tolist() for target, *_ in twin.take(7, 3)] == [[7], [8, 9]]
    assert [target.tolist() for target, *_ in twin.take(10, 9)] == [[10, 11]]
    assert twin.take(12, 1) == []


def test_a_saved_state_goes_on() -> None:
    outside, twin = (Outside(switch_rate=1e-3) for _ in range(2))
    teach(outside, LABELS, memory=0.7, given=0.6, novelty=NEAR)
    twin.load_state_dict(outside.state_dict())
    teach(outside, LABELS, memory=0.7, given=0.6, novelty=INSIDE)
    teach(twin, LABELS, memory=0.7, given=0.6, novelty=INSIDE)
    assert torch.equal(outside.weights, twin.weights)
