"""One mixture of experts: what it keeps, who is left out, and that it traces as it answers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nestling.memory import ClassPrior, mix_experts, mix_on_present, restrict_to_present
from nestling.memory.mixing.mixture import heed, mix_rows, pad_classes, stand_in


def draw_answers(num_experts: int = 3, num_classes: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_experts, 7, num_classes, generator=generator).double().softmax(dim=-1)


WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 6))
def test_mixing_on_present_keeps_what_the_slow_expert_gives_to_absent_classes(
    seed: int, num_experts: int, num_classes: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5.0 * torch.randn(num_experts, 7, num_classes, generator=generator)
    probabilities = logits.double().softmax(dim=-1)
    weights = torch.rand(num_experts, generator=generator).double().softmax(dim=0)
    present = torch.rand(num_classes, generator=generator) < 0.5
    mixed = mix_on_present(probabilities, weights, 0, present)
    slow = probabilities[0]
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(7, dtype=torch.float64))
    assert torch.equal(mixed[:, ~present], slow[:, ~present])
    if bool(present.any()):
        conditional = mixed[:, present] / mixed[:, present].sum(dim=1, keepdim=True)
        wanted = sum(
            w * p[:, present] / p[:, present].sum(dim=1, keepdim=True)
            for w, p in zip(weights, probabilities, strict=True)
        )
        torch.testing.assert_close(conditional, wanted)


def test_an_expert_without_opinion_on_present_classes_counts_as_even() -> None:
    found = restrict_to_present(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([False, True, True]))
    assert found.tolist() == [[0.0, 0.5, 0.5]]


def test_who_has_no_answer_to_a_row_is_not_asked_about_it() -> None:
    answers = draw_answers()
    answers[0, 1, 2], answers[2, 1] = math.nan, math.inf
    mixed = mix_experts(answers, WEIGHTS, 1)
    assert torch.equal(mixed[1], mix_rows(answers[1].expand(3, 7, 4), WEIGHTS)[1])
    others = [0, *range(2, 7)]
    assert torch.equal(mixed[others], mix_rows(answers, WEIGHTS)[others])
    assert torch.equal(stand_in(answers, 1)[0, 1], answers[1, 1])


def test_one_expert_answers_as_it_is() -> None:
    alone = draw_answers(1)
    alone[0, 0] = math.nan  # nobody stands in
    found = mix_experts(alone, torch.ones(1), 0, torch.tensor([True, False, True, False]))
    assert found is not None
    torch.testing.assert_close(found, alone[0], rtol=0, atol=0, equal_nan=True)


def test_with_nothing_present_the_slow_expert_answers_bit_for_bit() -> None:
    answers, nothing = draw_answers(), torch.zeros(4, dtype=torch.bool)
    assert torch.equal(mix_experts(answers, WEIGHTS, 2, nothing), answers[2])


def test_without_a_word_on_presence_it_is_the_weighted_sum() -> None:
    answers = draw_answers()
    wanted = sum(w * a for w, a in zip(WEIGHTS, answers, strict=True))
    torch.testing.assert_close(mix_experts(answers, WEIGHTS, 0), wanted)


@given(st.lists(st.floats(0.0, 1.0), min_size=7, max_size=7), st.integers(0, 2))
def test_what_is_not_heeded_goes_to_the_slow_expert(heeded: list[float], slow: int) -> None:
    heeded_N = torch.tensor(heeded, dtype=torch.float64)
    weights = heed(WEIGHTS, heeded_N, slow)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(7, dtype=torch.float64))
    others = [index for index in range(3) if index != slow]
    assert torch.equal(weights[:, others], heeded_N[:, None] * WEIGHTS[others])
    # A row of weights for every example mixes as if each were mixed by itself.
    answers = draw_answers()
    for n in range(7):
        alone = mix_experts(answers[:, n : n + 1], weights[n], slow)
        torch.testing.assert_close(mix_experts(answers, weights, slow)[n : n + 1], alone)


def test_classes_that_an_expert_does_not_know_get_nothing() -> None:
    padded = pad_classes([torch.ones(2, 1), torch.full((2, 3), 1 / 3)])
    assert padded.shape == (2, 2, 3)
    assert padded[0].tolist() == [[1.0, 0.0, 0.0]] * 2


def test_presence_fits_as_many_classes_as_are_asked_for() -> None:
    prior = ClassPrior(20.0)
    prior.add(torch.tensor([0, 2]))
    assert prior.present(0.1).tolist() == [True, False, True]
    assert prior.present(0.1, 5).tolist() == [True, False, True, False, False]
    assert prior.present(0.1, 2).tolist() == [True, False]


class Mixing(nn.Module):
    """The live functions, as an export calls them."""

    def forward(self, answers: Tensor, heeded: Tensor, present: Tensor) -> Tensor:
        return mix_experts(answers, heed(WEIGHTS, heeded, 1), 1, present)


@pytest.mark.parametrize("present", [(True, False, True, False), (False,) * 4, (True,) * 4])
def test_a_trace_made_on_other_values_gives_the_same_bits(present: tuple[bool, ...]) -> None:
    """Nothing may branch on a value: what was not finite or present when it was traced may be."""
    clean, some = draw_answers(seed=1), torch.tensor([False, True, True, False])
    program = torch.export.export(Mixing(), (clean, torch.ones(7).double(), some))
    answers = draw_answers()
    answers[0, 3] = math.nan
    asked = (answers, torch.linspace(0, 1, 7).double(), torch.tensor(present))
    assert torch.equal(program.module()(*asked), Mixing()(*asked))
