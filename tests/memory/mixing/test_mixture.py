"""One mixture of experts: what it keeps, who is left out, and that it traces as it answers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nestling.memory import ClassPrior, MixtureWeights, mix_experts, restrict_to_present
from nestling.memory.mixing.mixture import (
    LEAST_LOG,
    keep_absent,
    mix_rows,
    pad_classes,
    pool_classes,
    pool_values,
    stand_in,
)

NUM_RATES, NUM_ZONES, NUM_ROWS = 2, 2, 7


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_answers(num_experts: int = 3, num_classes: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 3.0 * torch.randn(num_experts, NUM_ROWS, num_classes, generator=generator)
    return logits.double().softmax(dim=-1)


def draw_weights(num_experts: int = 3, seed: int = 1) -> MixtureWeights:
    share = draw(NUM_ZONES, num_experts, seed=seed)
    top = draw(NUM_RATES + 1, seed=seed + 1)
    return MixtureWeights(
        2.0 * draw(NUM_RATES, NUM_ZONES, num_experts, seed=seed + 2),
        share / share.sum(dim=1, keepdim=True),
        top / top.sum(),
        draw(NUM_ZONES, num_experts, seed=seed + 3) + 0.1,
    )


def draw_zones(seed: int = 5) -> Tensor:
    inside = draw(NUM_ROWS, seed=seed)
    return torch.stack((inside, 1.0 - inside), dim=1)


def test_every_way_to_mix_classes_is_its_equation() -> None:
    answers, zones, weights = draw_answers(), draw_zones(), draw_weights()
    answers[1, 2, 0] = 0.0
    pooled = pool_classes(answers, zones, weights)
    for n in range(NUM_ROWS):
        for r in range(NUM_RATES):
            scores = []
            for k in range(4):
                own = [
                    sum(zones[n, z] * weights.mixers[r, z, e] for z in range(2)) for e in range(3)
                ]
                logs = [
                    max(math.log(max(float(answers[e, n, k]), 1e-12)), LEAST_LOG) for e in range(3)
                ]
                scores.append(math.exp(sum(float(w) * x for w, x in zip(own, logs, strict=True))))
            wanted = [score / sum(scores) for score in scores]
            assert pooled[r, n].tolist() == pytest.approx(wanted)
        shares = [float(zones[n] @ weights.share[:, e]) for e in range(3)]
        linear = [sum(shares[e] * float(answers[e, n, k]) for e in range(3)) for k in range(4)]
        assert pooled[-1, n].tolist() == pytest.approx(linear)


def test_values_are_pooled_as_gaussians() -> None:
    values, zones, weights = draw(3, NUM_ROWS, 2), draw_zones(), draw_weights()
    pooled = pool_values(values, zones, weights)
    for n in range(NUM_ROWS):
        for r in range(NUM_RATES):
            own = zones[n] @ (weights.mixers[r] * weights.precisions)
            wanted = (own[:, None] * values[:, n]).sum(dim=0) / own.sum()
            torch.testing.assert_close(pooled[r, n], wanted)
        shares = zones[n] @ weights.share
        torch.testing.assert_close(pooled[-1, n], (shares[:, None] * values[:, n]).sum(dim=0))


def test_mixers_that_trust_nobody_give_the_mean_of_values() -> None:
    values, weights = draw(3, NUM_ROWS, 2), draw_weights()
    weights = weights._replace(mixers=torch.zeros_like(weights.mixers))
    pooled = pool_values(values, draw_zones(), weights)
    torch.testing.assert_close(pooled[0], values.mean(dim=0))


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 6))
def test_rows_sum_to_one_and_absent_classes_are_left_to_the_slow_expert(
    seed: int, num_experts: int, num_classes: int
) -> None:
    answers, weights = draw_answers(num_experts, num_classes, seed), draw_weights(num_experts, seed)
    present = draw(num_classes, seed=seed) < 0.5
    zones = draw_zones(seed)
    plain = mix_experts(answers, zones, weights, 0, classifies=True)
    mixed = mix_experts(answers, zones, weights, 0, classifies=True, present_K=present)
    for one in (plain, mixed):
        torch.testing.assert_close(one.sum(dim=1), torch.ones(NUM_ROWS, dtype=torch.float64))
        assert bool((one >= 0.0).all())
    assert torch.equal(mixed[:, ~present], answers[0][:, ~present])
    if bool(present.any()) and num_experts > 1:
        conditional = mixed[:, present] / mixed[:, present].sum(dim=1, keepdim=True)
        wanted = plain[:, present] / plain[:, present].sum(dim=1, keepdim=True)
        torch.testing.assert_close(conditional, wanted)


@given(st.integers(0, 10_000))
def test_a_class_to_which_all_give_nothing_gets_nothing(seed: int) -> None:
    answers = draw_answers(seed=seed)
    answers[:, 3, 1] = 0.0
    answers = answers / answers.sum(dim=-1, keepdim=True)
    mixed = mix_experts(answers, draw_zones(), draw_weights(seed=seed), 0, classifies=True)
    assert float(mixed[3, 1]) == 0.0
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(NUM_ROWS, dtype=torch.float64))
    nothing = torch.zeros_like(answers)
    assert not bool(mix_experts(nothing, draw_zones(), draw_weights(), 0, classifies=True).any())


def test_an_expert_without_opinion_on_present_classes_counts_as_even() -> None:
    found = restrict_to_present(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([False, True, True]))
    assert found.tolist() == [[0.0, 0.5, 0.5]]


@pytest.mark.parametrize("classifies", [True, False])
def test_who_has_no_answer_to_a_row_is_not_asked_about_it(classifies: bool) -> None:
    answers, zones, weights = draw_answers(), draw_zones(), draw_weights()
    broken = answers.clone()
    broken[0, 1, 2], broken[2, 1] = math.nan, math.inf
    mixed = mix_experts(broken, zones, weights, 1, classifies=classifies)
    alike = answers.clone()
    alike[0, 1] = alike[2, 1] = answers[1, 1]
    assert torch.equal(mixed, mix_experts(alike, zones, weights, 1, classifies=classifies))
    assert torch.equal(stand_in(broken, 1)[0, 1], answers[1, 1])


@pytest.mark.parametrize("classifies", [True, False])
def test_one_expert_answers_as_it_is(classifies: bool) -> None:
    alone, present = draw_answers(1), torch.tensor([True, False, True, False])
    alone[0, 0] = math.nan  # nobody stands in
    found = mix_experts(
        alone, draw_zones(), draw_weights(1), 0, classifies=classifies, present_K=present
    )
    torch.testing.assert_close(found, alone[0], rtol=0, atol=0, equal_nan=True)


def test_with_nothing_present_the_slow_expert_answers_bit_for_bit() -> None:
    answers, nothing = draw_answers(), torch.zeros(4, dtype=torch.bool)
    found = mix_experts(
        answers, draw_zones(), draw_weights(), 2, classifies=True, present_K=nothing
    )
    assert torch.equal(found, answers[2])


def test_each_zone_has_weights_of_its_own() -> None:
    answers, weights = draw_answers(), draw_weights()
    for zone in range(NUM_ZONES):
        wholly = torch.zeros(NUM_ROWS, NUM_ZONES, dtype=torch.float64)
        wholly[:, zone] = 1.0
        found = mix_experts(answers, wholly, weights, 0, classifies=True)
        alone = MixtureWeights(
            weights.mixers[:, zone : zone + 1],
            weights.share[zone : zone + 1],
            weights.top,
            weights.precisions[zone : zone + 1],
        )
        wanted = mix_experts(answers, wholly[:, zone : zone + 1], alone, 0, classifies=True)
        torch.testing.assert_close(found, wanted)


def test_fixed_weights_are_a_weighted_sum() -> None:
    answers, weights = draw_answers(), torch.tensor([0.2, 0.3, 0.5])
    wanted = 0.2 * answers[0] + 0.3 * answers[1] + 0.5 * answers[2]
    torch.testing.assert_close(mix_rows(answers, weights.double()), wanted)


def test_keeping_absent_classes_is_its_equation() -> None:
    mixed, slow = draw_answers(2)
    present = torch.tensor([True, False, True, False])
    kept = keep_absent(mixed, slow, present)
    assert torch.equal(kept[:, [1, 3]], slow[:, [1, 3]])
    ratio = mixed[:, 0] / mixed[:, 2]
    torch.testing.assert_close(kept[:, 0] / kept[:, 2], ratio)
    torch.testing.assert_close(kept.sum(dim=1), torch.ones(NUM_ROWS, dtype=torch.float64))


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

    def __init__(self, classifies: bool) -> None:
        super().__init__()
        self.classifies = classifies

    def forward(self, answers: Tensor, zones: Tensor, present: Tensor) -> Tensor:
        return mix_experts(
            answers,
            zones,
            draw_weights(),
            1,
            classifies=self.classifies,
            present_K=present if self.classifies else None,
        )


@pytest.mark.parametrize("classifies", [True, False])
@pytest.mark.parametrize("present", [(True, False, True, False), (False,) * 4, (True,) * 4])
def test_a_trace_made_on_other_values_gives_the_same_bits(
    present: tuple[bool, ...], classifies: bool
) -> None:
    """Nothing may branch on a value: what was not finite or present when it was traced may be."""
    clean, some = draw_answers(seed=1), torch.tensor([False, True, True, False])
    mixing = Mixing(classifies)
    program = torch.export.export(mixing, (clean, draw_zones(), some))
    answers = draw_answers()
    answers[0, 3] = math.nan
    asked = (answers, draw_zones(9), torch.tensor(present))
    assert torch.equal(program.module()(*asked), mixing(*asked))
