"""The gate: its bound, its twin, what it follows, and what never moves it."""

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import SlowMixture
from torch import Tensor

from nestling.core.errors import ForeignSnapshot, SettingError, ShapeMismatch
from nestling.memory import ClassPrior, Mixture
from nestling.memory.mixing.gate import (
    DOUBT,
    MOST_AT_ONCE,
    RATES,
    TOP_DOUBT,
    TOP_SWITCH_RATE,
)
from nestling.memory.mixing.mixture import LEAST_LOG, pool_classes
from nestling.memory.mixing.value_losses import ERROR_HALF_LIFE, MOST_NATS

seeds = st.integers(0, 10_000)


def draw_stream(
    seed: int, num: int, num_experts: int = 3, num_classes: int = 4
) -> tuple[Tensor, Tensor]:
    """Answers (E, N, K), from unsure to certain and with classes of no probability; labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    sharp = 12.0 * torch.rand(num_experts, num, 1, generator=generator)
    logits = sharp * torch.randn(num_experts, num, num_classes, generator=generator)
    answers = logits.double().softmax(dim=-1)
    answers[answers < 1e-3] = 0.0
    answers = answers / answers.sum(dim=-1, keepdim=True)
    return answers, torch.randint(num_classes, (num,), generator=generator)


def draw_zones(seed: int, num: int) -> Tensor:
    inside = torch.rand(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.stack((inside, 1.0 - inside), dim=1)


def make_sure(labels: Tensor, sure: float, num_classes: int) -> Tensor:
    """Probabilities (N, K) that give each label so much."""
    rest = (1.0 - sure) / (num_classes - 1)
    answers = torch.full((len(labels), num_classes), rest, dtype=torch.float64)
    return answers.scatter_(1, labels[:, None], sure)


def make_gate(num_experts: int = 3, **settings: Any) -> Mixture:
    return Mixture(torch.full((1, num_experts), 1.0 / num_experts), **settings)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        for name, value in one.items()
    )


# --- the bound


def top_losses(gate: Mixture, answers: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """The floored log-loss of the mixture, event by event, and those of the ways to mix, (N, M)."""
    total, rows = 0.0, []
    for n in range(len(labels)):
        weights, one = gate.weights, answers[:, n : n + 1]
        pooled_MK = pool_classes(one, torch.ones(1, 1, dtype=torch.float64), weights)[:, 0]
        floored_M = (1.0 - TOP_DOUBT) * pooled_MK[:, labels[n]] + TOP_DOUBT / answers.shape[2]
        total -= math.log(float(weights.top @ floored_M))
        rows.append(-floored_M.log())
        gate.observe(one, labels[n : n + 1])
    return total, torch.stack(rows)


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(1, 30))
def test_the_regret_bound_holds(seed: int, num: int) -> None:
    answers, labels = draw_stream(seed, num)
    found, losses_NM = top_losses(make_gate(), answers, labels)
    num_ways, stay = losses_NM.shape[1], -math.log1p(-TOP_SWITCH_RATE)
    best = float(losses_NM.sum(dim=0).min())
    assert found <= best + math.log(num_ways) + num * stay + 1e-9
    # Of the best two of them, one after the other.
    change = math.log(num_ways) - math.log(TOP_SWITCH_RATE)
    for cut in range(1, num):
        parts = losses_NM[:cut].sum(dim=0).min() + losses_NM[cut:].sum(dim=0).min()
        assert found <= float(parts) + math.log(num_ways) + change + num * stay + 1e-9


def test_the_bound_is_not_won_by_being_loose() -> None:
    """The loss is near that of the best way, where one is far better than all others."""
    labels = torch.arange(200) % 2
    answers = torch.stack((make_sure(labels, 0.95, 2), make_sure(1 - labels, 0.95, 2)))
    found, losses_NM = top_losses(make_gate(2), answers, labels)
    assert found <= float(losses_NM.sum(dim=0).min()) + math.log(4.0)
    assert found < 0.25 * 200 * math.log(2.0)


# --- the twin


@settings(deadline=None, max_examples=25)
@given(seeds, st.booleans(), st.sampled_from([0.0, 1e-3, 0.1]))
def test_it_equals_its_twin_event_by_event(seed: int, is_some: bool, switch_rate: float) -> None:
    num = 12
    answers, labels = draw_stream(seed, num)
    zones = draw_zones(seed, num)
    generator = torch.Generator().manual_seed(seed)
    heard = torch.rand(num, generator=generator, dtype=torch.float64)
    heard[heard < 0.2] = 0.0
    present = torch.rand(num, 4, generator=generator) < 0.5
    start = torch.tensor([[1.0, 0.05, 0.3], [0.0, 0.5, 0.5]], dtype=torch.float64)
    gate = Mixture(start, tempers=(1.0, 0.1), switch_rate=switch_rate)
    twin = SlowMixture(start.tolist(), (1.0, 0.1), switch_rate)
    for n in range(num):
        rows = slice(n, n + 1)
        mask = present[n] if is_some else None
        gate.observe(
            answers[:, rows], labels[rows], zones[rows], present_K=mask, heard_N=heard[rows]
        )
        twin.observe(
            answers[:, n].tolist(),
            int(labels[n]),
            zones[n].tolist(),
            None if mask is None else mask.tolist(),
            float(heard[n]),
        )
    weights = gate.weights
    torch.testing.assert_close(weights.mixers, torch.tensor(twin.mixers, dtype=torch.float64))
    torch.testing.assert_close(weights.share, torch.tensor(twin.share, dtype=torch.float64))
    torch.testing.assert_close(weights.top, torch.tensor(twin.top, dtype=torch.float64))


def test_the_twin_has_the_constants_of_the_gate() -> None:
    assert SlowMixture.CONSTANTS == (RATES, LEAST_LOG, DOUBT, TOP_DOUBT, TOP_SWITCH_RATE)


# --- properties


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(0, 50), st.integers(1, 5), st.integers(1, 20), st.booleans())
def test_weights_stay_weights_and_answers_answers(
    seed: int, num: int, num_experts: int, size: int, is_broken: bool
) -> None:
    answers, labels = draw_stream(seed, num + 1, num_experts)
    if is_broken:
        answers[-1, ::3] = math.nan
    gate = make_gate(num_experts)
    for rows in torch.arange(num).split(size):
        gate.observe(answers[:, rows], labels[rows])
    assert gate.num_heard == num
    weights = gate.weights
    for value in weights:
        assert bool(value.isfinite().all())
        assert bool((value >= 0.0).all())
    one = torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(weights.share.sum(), one)
    torch.testing.assert_close(weights.top.sum(), one)
    torch.testing.assert_close(gate.shares.sum(), one)
    clean = answers.nan_to_num(0.25)
    mixed = gate.mix(clean, present_K=torch.tensor([True, True, False, False]))
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(num + 1, dtype=torch.float64))


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_one_expert_is_that_expert(seed: int) -> None:
    answers, labels = draw_stream(seed, 40, 1)
    gate = make_gate(1)
    gate.observe(answers, labels)
    assert torch.equal(gate.mix(answers), answers[0])
    assert gate.num_heard == 40


@pytest.mark.parametrize("classifies", [True, False])
def test_a_saved_state_goes_on_bit_by_bit(classifies: bool) -> None:
    answers, labels = draw_stream(3, 60)
    target = labels if classifies else answers[0] + 0.1
    present = torch.tensor([True, False, True, True]) if classifies else None
    gate, twin = (make_gate(classifies=classifies) for _ in range(2))
    gate.observe(answers[:, :30], target[:30], present_K=present)
    state = gate.state_dict()
    twin.load_state_dict(state)
    assert same(state, twin.state_dict())
    for one in (gate, twin):
        one.observe(answers[:, 30:], target[30:], present_K=present)
    assert same(gate.state_dict(), twin.state_dict())
    assert not same(gate.state_dict(), state)  # what was saved is not shared
    assert torch.equal(gate.mix(answers, present_K=present), twin.mix(answers, present_K=present))


def test_observing_nothing_and_asking_change_nothing() -> None:
    answers, labels = draw_stream(4, 30)
    gate = make_gate()
    gate.observe(answers, labels)
    before = gate.state_dict()
    gate.observe(answers[:, :0], labels[:0])
    gate.mix(answers)
    assert gate.shares.shape == (1, 3)
    assert same(before, gate.state_dict())
    gate.observe(answers, labels, heard_N=torch.zeros(30))
    assert same(before | {"num_heard": 60}, gate.state_dict())


def test_weights_that_were_read_are_the_readers_own() -> None:
    answers, labels = draw_stream(4, 30)
    gate = make_gate()
    read = [value.clone() for value in gate.weights]
    kept = gate.weights
    gate.observe(answers, labels)
    assert all(torch.equal(one, other) for one, other in zip(kept, read, strict=True))


def test_what_it_is_given_is_left_as_it_is() -> None:
    answers, labels = draw_stream(4, 30)
    answers[1, 3] = math.nan
    present, heard = torch.tensor([True, False, False, False]), torch.ones(30)
    given = [answers.clone(), labels.clone(), present.clone(), heard.clone()]
    make_gate().observe(answers, labels, present_K=present, heard_N=heard)
    for one, was in zip((answers, labels, present, heard), given, strict=True):
        torch.testing.assert_close(one, was, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("classifies", [True, False])
def test_where_nobody_has_an_answer_nothing_is_heard(classifies: bool) -> None:
    answers, labels = draw_stream(5, 20)
    target = labels if classifies else answers[0]
    gate, twin = (make_gate(classifies=classifies, slow=1) for _ in range(2))
    broken = answers.clone()
    broken[1, ::2] = math.inf  # the slow one, who would stand in
    kept = torch.arange(20) % 2 == 1
    gate.observe(broken, target)
    twin.observe(answers, target, heard_N=kept.double())
    assert same(gate.state_dict(), twin.state_dict())
    assert bool(gate.mix(answers).isfinite().all())


def test_an_example_that_says_nothing_is_not_present_either() -> None:
    answers, labels = draw_stream(6, 8)
    labels[:] = 0
    labels[3] = 2
    heard = (labels == 0).double()
    present = torch.tensor([True, True, False, False])
    gate, twin = make_gate(), make_gate()
    gate.observe(answers, labels, present_K=present, heard_N=heard)
    labels[3] = 1
    twin.observe(answers, labels, present_K=present, heard_N=heard)
    assert same(gate.state_dict(), twin.state_dict())


def test_it_follows_an_expert_that_becomes_best() -> None:
    labels = torch.arange(600) % 3
    good, poor = make_sure(labels, 0.9, 3), make_sure((labels + 1) % 3, 0.9, 3)
    gate = make_gate(2)
    gate.observe(torch.stack((good, poor)), labels)
    assert float(gate.mix(torch.stack((good, poor)))[0, 0]) > 0.9
    assert float(gate.shares[0, 0]) > 0.8
    gate.observe(torch.stack((poor, good))[:, :100], labels[:100])
    assert float(gate.mix(torch.stack((poor, good)))[0, 0]) > 0.8


def test_experts_that_know_different_things_are_better_together() -> None:
    """What a weighted sum cannot do: two that are each unsure are sure where they agree."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (2000,), generator=generator)
    flip = torch.rand(3, 2000, generator=generator) < 0.25
    answers = torch.stack(
        [make_sure(torch.where(one, 1 - labels, labels), 0.75, 2) for one in flip]
    )
    gate = make_gate(3)
    gate.observe(answers[:, :1000], labels[:1000])
    own = gate.mix(answers[:, 1000:]).gather(1, labels[1000:, None])
    assert float(-own.log().mean()) < 0.45  # one alone has .56, their mean .50


def test_a_zone_that_is_not_to_move_never_does() -> None:
    answers, labels = draw_stream(7, 300)
    start = torch.tensor([[1.0, 0.05, 0.05], [1.0, 0.0, 0.0]], dtype=torch.float64)
    gate = Mixture(start, tempers=(1.0, 0.0))
    before = gate.weights
    for rows in torch.arange(300).split(7):
        gate.observe(answers[:, rows], labels[rows], draw_zones(1, 300)[rows])
    assert torch.equal(gate.weights.mixers[:, 1], before.mixers[:, 1])
    torch.testing.assert_close(gate.weights.share[1], before.share[1])
    assert not torch.allclose(gate.weights.mixers[:, 0], before.mixers[:, 0])


def test_only_the_zone_of_an_example_moves() -> None:
    answers, labels = draw_stream(8, 50)
    gate = Mixture(torch.ones(2, 3) / 3)
    before = gate.weights
    gate.observe(answers, labels, torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(50, 1))
    assert torch.equal(gate.weights.mixers[:, 1], before.mixers[:, 1])
    assert not torch.allclose(gate.weights.mixers[:, 0], before.mixers[:, 0])


def test_batches_are_cut_into_pieces_that_do_not_overshoot() -> None:
    answers, labels = draw_stream(9, 4 * MOST_AT_ONCE)
    whole, parts = make_gate(), make_gate()
    whole.observe(answers, labels)
    for rows in torch.arange(len(labels)).split(MOST_AT_ONCE):
        parts.observe(answers[:, rows], labels[rows])
    assert same(whole.state_dict(), parts.state_dict())


# --- values


def draw_values(num: int = 400) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(num, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, num, 2, generator=generator, dtype=torch.float64)
    return target + torch.tensor([0.1, 1.0])[:, None, None] * noise, target


def test_values_are_weighed_by_their_errors() -> None:
    answers, target = draw_values()
    gate = make_gate(2, classifies=False)
    gate.observe(answers, target)
    error = (gate.mix(answers) - target).square().mean()
    assert float(error) < 0.011
    assert float(gate.weights.precisions[0, 0]) == 1.0
    assert float(gate.weights.precisions[0, 1]) == pytest.approx(0.01, rel=0.3)
    gate.observe(answers.flip(0)[:, :150], target[:150])
    assert float((gate.mix(answers.flip(0)) - target).square().mean()) < 0.05


@pytest.mark.parametrize("scale", [2.0**-12, 2.0**30])
def test_values_of_any_unit_are_mixed_alike(scale: float) -> None:
    answers, target = draw_values()
    gate, scaled = (make_gate(2, classifies=False) for _ in range(2))
    gate.observe(answers, target)
    scaled.observe(answers * scale, target * scale)
    torch.testing.assert_close(scaled.mix(answers * scale) / scale, gate.mix(answers))
    for one, other in zip(gate.weights, scaled.weights, strict=True):
        torch.testing.assert_close(one, other)


def test_values_that_are_exactly_right_are_believed() -> None:
    target = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
    answers = torch.stack((target, target + 5.0))
    gate = make_gate(2, classifies=False)
    gate.observe(answers, target)
    assert all(bool(value.isfinite().all()) for value in gate.weights)
    assert float((gate.mix(answers) - target).abs().max()) < 0.5


def test_errors_in_one_zone_say_nothing_of_another() -> None:
    """A memory that is exact near by is not believed for that where it knows nothing."""
    target = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
    gate = Mixture(torch.tensor([[0.1, 0.9], [0.02, 1.0]]), tempers=(1.0, 0.03), classifies=False)
    near = torch.tensor([[0.999, 0.001]], dtype=torch.float64).repeat(50, 1)
    gate.observe(torch.stack((target, target + 10.0)), target, near)
    asked = torch.tensor([[[5.0]], [[0.0]]], dtype=torch.float64)
    far = gate.mix(asked, torch.tensor([[0.001, 0.999]], dtype=torch.float64))
    assert abs(float(far)) < 0.5
    assert float(gate.mix(asked, near[:1])) > 4.0


def test_a_running_error_fades() -> None:
    target = torch.zeros(1, 1, dtype=torch.float64)
    gate = make_gate(2, classifies=False)
    errors = None
    for value in (2.0, 1.0, 3.0):
        gate.observe(torch.tensor([[[value]], [[1.0]]], dtype=torch.float64), target)
        stays = 2.0 ** (-1.0 / ERROR_HALF_LIFE)
        errors = value**2 if errors is None else stays * errors + (1.0 - stays) * value**2
        assert float(gate.state_dict()["errors"][0]) == pytest.approx(errors)  # type: ignore[index]
    # One mistake costs no more than so much, however large.
    assert MOST_NATS == 3.0
    before = gate.weights.share[0, 0]
    gate.observe(torch.tensor([[[1e6]], [[1.0]]], dtype=torch.float64), target)
    assert float(gate.weights.share[0, 0]) > 0.9 * float(before) * math.exp(-MOST_NATS)


# --- the guard of absent classes


def follow_labels(labels: Tensor, slow: Tensor, fast: Tensor, num_classes: int) -> Mixture:
    """A gate that hears of a stream event by event, with what was present before each."""
    gate, prior = Mixture(torch.tensor([[1.0, 0.05]])), ClassPrior(half_life=20.0)
    for n in range(len(labels)):
        present = torch.zeros(num_classes, dtype=torch.bool)
        if n:
            present = prior.present(0.1, num_classes)
        gate.observe(
            torch.stack((slow[n : n + 1], fast[n : n + 1])), labels[n : n + 1], present_K=present
        )
        prior.add(labels[n : n + 1])
    return gate


def test_labels_that_come_one_class_after_the_other_never_make_it_plain() -> None:
    """The fast expert says whatever came last, and is right nearly always."""
    num_classes = 10
    labels = torch.arange(num_classes).repeat_interleave(60).repeat(2)
    last = torch.cat((labels[:1], labels[:-1]))
    fast = make_sure(last, 0.98, num_classes)
    slow = make_sure(labels, 0.2, num_classes)
    gate = follow_labels(labels, slow, fast, num_classes)
    assert not gate.is_plain
    # So the slow one is asked about what is absent, though the fast one is so often right.
    present = torch.zeros(num_classes, dtype=torch.bool)
    present[9] = True
    asked = torch.stack(
        (make_sure(torch.tensor([3]), 0.4, 10), make_sure(torch.tensor([9]), 0.98, 10))
    )
    assert gate.mix(asked, present_K=present).argmax().item() == 3
    assert gate.mix(asked).argmax().item() == 9


def test_labels_in_any_order_among_many_classes_make_it_plain() -> None:
    num_classes, num = 80, 500
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (num,), generator=generator)
    wrong = torch.randint(num_classes, (num,), generator=generator)
    is_right = torch.rand(num, generator=generator) < 0.4
    slow = make_sure(torch.where(is_right, labels, wrong), 0.4, num_classes)
    fast = make_sure(labels, 0.9, num_classes)
    gate = follow_labels(labels, slow, fast, num_classes)
    assert gate.is_plain
    nothing = torch.zeros(num_classes, dtype=torch.bool)
    asked = torch.stack((slow, fast))
    assert torch.equal(gate.mix(asked, present_K=nothing), gate.mix(asked))
    right = gate.mix(asked, present_K=nothing).argmax(dim=1) == labels
    assert float(right.double().mean()) > 0.9


def test_a_fast_expert_that_is_no_better_does_not_make_it_plain() -> None:
    num_classes, num = 80, 500
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (num,), generator=generator)
    slow = make_sure(labels, 0.4, num_classes)
    assert not follow_labels(labels, slow, slow.clone(), num_classes).is_plain


# --- wrong use


def test_wrong_use_is_named() -> None:
    gate = make_gate(2)
    before = gate.state_dict()
    with pytest.raises(ShapeMismatch, match=r"\(2, 5, K\) works"):
        gate.observe(torch.zeros(3, 5, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.long))
    with pytest.raises(ShapeMismatch, match="to 4 targets"):
        gate.observe(torch.zeros(2, 5, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.long))
    assert same(before, gate.state_dict())
    for switch_rate in (1.0, -0.1, math.nan):
        with pytest.raises(SettingError, match="switch_rate"):
            make_gate(2, switch_rate=switch_rate)
    for start in ([[1.0, -1.0]], [[math.nan, 1.0]], [[0.0, 0.0]], [1.0, 1.0], [[]]):
        with pytest.raises(SettingError, match="rows >= 0 with one above 0"):
            Mixture(torch.tensor(start))
    with pytest.raises(SettingError, match="2 tempers for 1 zones"):
        make_gate(2, tempers=(1.0, 0.5))


def test_a_state_of_another_gate_is_refused() -> None:
    others = [make_gate(3), make_gate(2, switch_rate=0.5), Mixture(torch.tensor([[1.0, 0.1]]))]
    for other in others:
        gate = make_gate(2)
        before = gate.state_dict()
        with pytest.raises(ForeignSnapshot, match="saved by a gate"):
            gate.load_state_dict(other.state_dict())
        assert same(before, gate.state_dict())


def test_pairs_of_rates_differ() -> None:
    """Each mixer follows at its own pace: the fast one moves most."""
    labels = torch.zeros(10, dtype=torch.long)
    answers = torch.stack((make_sure(labels, 0.9, 2), make_sure(1 - labels, 0.9, 2)))
    gate = make_gate(2)
    gate.observe(answers, labels)
    moved = (gate.weights.mixers[:, 0, 0] - 0.5).tolist()
    assert all(slow < fast for slow, fast in combinations(moved, 2))
