"""A memory knows what it has seen: familiarity by leverage, from the statistics alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import NotFitted
from nestling.memory import MemoryBank, RandomFeatures, RidgeMemory
from nestling.memory.exact import reach
from nestling.memory.exact.reach import SPREAD, compute_familiarity, compute_novelty

Digits = tuple[Tensor, Tensor, Tensor, Tensor]
PRODUCTS = RandomFeatures(64, 100, kind="product", seed=1, passthrough=True)


def learn(x: Tensor, y: Tensor, **settings: object) -> RidgeMemory:
    memory = RidgeMemory(x.shape[1], **settings)  # type: ignore[arg-type]
    for rows in torch.arange(len(x)).split(37):
        memory.add(x[rows], y[rows])
    return memory


def find_leverages(phi: Tensor, asked: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Slow twin: leverages of what was learned and of what is asked, from all the rows."""
    rows, new = phi.numpy(), asked.numpy()
    deviation = rows.std(axis=0)
    pooled = math.sqrt((deviation**2).mean())
    scale = np.maximum(deviation, np.maximum(0.1 * pooled, 1e-5 * np.abs(rows.mean(axis=0))))
    z, z_new = ((one - rows.mean(axis=0)) / scale for one in (rows, new))
    inverse = np.linalg.inv(z.T @ z + 0.02 * (z**2).sum(axis=1).mean() * np.eye(z.shape[1]))
    return tuple(1 / len(rows) + ((one @ inverse) * one).sum(axis=1) for one in (z, z_new))


def test_novelty_is_the_leverage_of_the_rows(digits: Digits) -> None:
    x, y, x_test, _ = digits
    x, y = x[:200], y[:200]
    memory = learn(x, y, features=PRODUCTS)
    own, new = find_leverages(PRODUCTS(x), PRODUCTS(x_test))
    usual = own.mean() / (1 - own.mean())
    np.testing.assert_allclose(
        memory.novelty(x_test).numpy(), np.log(new / usual) / SPREAD, atol=1e-6
    )
    # The mean leverage stands for the leave-one-out values of all that was learned.
    left_out = np.log(own / (1 - own))
    assert abs(left_out.mean() - math.log(usual)) < 0.5 * SPREAD
    assert 0.5 < left_out.std() / SPREAD < 1.5


@given(seed=st.integers(0, 1000), half_life=st.sampled_from([math.inf, 80.0]))
def test_order_and_blocks_do_not_matter(seed: int, half_life: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, asked = torch.randn(60, 5, generator=generator), torch.randn(9, 5, generator=generator)
    y = (x[:, 0] > 0).long()
    one = learn(x, y, half_life=half_life)
    order = torch.arange(60) if half_life < math.inf else torch.randperm(60, generator=generator)
    other = RidgeMemory(5, half_life=half_life)
    for rows in order.split(1 + seed % 13):
        other.add(x[rows], y[rows])
    torch.testing.assert_close(one.novelty(asked), other.novelty(asked), atol=1e-7, rtol=1e-7)


def test_removed_is_unfamiliar_again_and_merged_is_familiar(digits: Digits) -> None:
    x, y, x_test, _ = digits
    first, strange = x[:300], 16.0 - x[300:400]
    memory = learn(first, y[:300], features=PRODUCTS)
    before = memory.familiarity(strange)
    clock = memory.add(strange, y[300:400])
    assert memory.familiarity(strange).median() > 0.5 > before.max()
    memory.remove(strange, y[300:400], clock=clock)
    torch.testing.assert_close(memory.familiarity(strange), before, atol=1e-6, rtol=1e-6)
    there = learn(strange, y[300:400], features=PRODUCTS)
    memory.merge(there)
    both = learn(torch.cat((first, strange)), y[:400], features=PRODUCTS)
    torch.testing.assert_close(memory.novelty(x_test), both.novelty(x_test), atol=1e-6, rtol=1e-6)


def test_what_has_faded_is_unfamiliar(digits: Digits) -> None:
    x, y, x_test, _ = digits
    fading, endless = (
        learn(x[:300], y[:300], features=PRODUCTS, half_life=h) for h in (30.0, math.inf)
    )
    for memory in (fading, endless):
        memory.add(16.0 - x[300:600], y[300:600])
    assert endless.familiarity(x_test).median() > 0.5
    assert fading.familiarity(x_test).median() < 0.05


def test_a_saved_memory_knows_the_same(digits: Digits) -> None:
    x, y, x_test, _ = digits
    memory = learn(x[:200], y[:200], features=PRODUCTS)
    twin = RidgeMemory(64, features=PRODUCTS)
    twin.load_state_dict(memory.state_dict())
    assert torch.equal(twin.familiarity(x_test), memory.familiarity(x_test))


def test_weights_of_two_are_no_more_experience_than_ones(digits: Digits) -> None:
    x, y, x_test, _ = digits
    once, heavy = RidgeMemory(64), RidgeMemory(64)
    once.add(x[:200], y[:200])
    heavy.add(x[:200], y[:200], torch.full((200,), 2.0))
    torch.testing.assert_close(once.familiarity(x_test), heavy.familiarity(x_test))


@pytest.mark.parametrize("num", [1, 50])
def test_without_spread_only_the_same_is_familiar(num: int) -> None:
    memory = RidgeMemory(3)
    memory.add(torch.full((num, 3), 0.7), torch.zeros(num, dtype=torch.long))
    same, other = memory.familiarity(torch.tensor([[0.7, 0.7, 0.7], [0.7, 0.7, 0.9]])).tolist()
    assert other < 1e-3
    assert (same > 0.5) == (num > 30)
    zeros = RidgeMemory(2)
    zeros.add(torch.zeros(9, 2), torch.zeros(9, dtype=torch.long))
    assert bool(zeros.novelty(torch.eye(2)).isfinite().all())


@pytest.mark.parametrize("num", [20, 300])
def test_all_but_one_can_be_removed(num: int) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(num, 10, generator=generator)
        y = (x[:, 0] > 0).long()
        memory = RidgeMemory(10)
        memory.add(x, y)
        memory.remove(x[:-1], y[:-1], clock=0)
        assert bool(memory.novelty(x).isfinite().all())
        assert memory.novelty(x[-1:]) < memory.novelty(x[:1])


def test_an_outlier_can_be_removed() -> None:
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    y, far = (x[:, 0] > 0).long(), torch.full((1, 5), 1e10)
    memory = RidgeMemory(5)
    memory.add(x, y)
    clock = memory.add(far, y[:1])
    memory.remove(far, y[:1], clock=clock)
    assert bool(memory.novelty(x).isfinite().all())


def test_what_is_all_alike_lately_keeps_a_sense_of_scale() -> None:
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    memory = RidgeMemory(5, half_life=5.0)
    memory.add(x, (x[:, 0] > 0).long())
    memory.add(x[:1].repeat(300, 1), torch.zeros(300, dtype=torch.long))
    near, far = memory.novelty(torch.stack((x[0] + 1e-4, x[0] + 3.0))).tolist()
    assert near < 2.0 < far


def test_a_feature_that_wakes_up_is_new() -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    x[:, 3] = 0.0
    memory = RidgeMemory(4)
    memory.add(x, (x[:, 0] > 0).long())
    asleep, awake = x[:1].clone(), x[:1].clone()
    awake[0, 3] = 1.0
    assert memory.familiarity(asleep) > 0.5
    assert memory.familiarity(awake) < 0.01


def test_an_empty_memory_has_seen_nothing() -> None:
    with pytest.raises(NotFitted):
        RidgeMemory(2).familiarity(torch.zeros(1, 2))


def test_wide_memories_look_at_some_of_their_features(digits: Digits) -> None:
    x, y, x_test, _ = digits
    wide = RandomFeatures(64, 3 * reach.MAX_DECOMPOSED, kind="product")
    memory = learn(x[:300], y[:300], features=wide)
    assert len(memory.reach.mean) == reach.MAX_DECOMPOSED
    assert memory.familiarity(x_test).median() > 0.5
    assert memory.familiarity(16.0 - x_test).max() < 0.1


def test_novelty_of_the_like_is_about_standard(digits: Digits) -> None:
    x, y, x_test, _ = digits
    novelty = learn(x[:400], y[:400], features=PRODUCTS).novelty(x_test)
    assert -0.7 < novelty.mean() < 0.7
    assert 0.5 < novelty.std() < 1.5
    assert (compute_familiarity(novelty, 400.0) > 0.5).double().mean() > 0.9


@pytest.mark.parametrize("half_lives", [(math.inf,), (40.0, math.inf)])
def test_a_bank_foresees_examples_before_it_learns_them(
    digits: Digits, half_lives: tuple[float, ...]
) -> None:
    x, y, _, _ = digits
    x, y = x[:300], y[:300]

    def run(size: int) -> tuple[MemoryBank, list[Tensor]]:
        bank = MemoryBank(
            64, half_lives=half_lives, features=PRODUCTS, foresees=True, compares=True
        )
        right: list[Tensor] = []
        for rows in torch.arange(len(x)).split(size):
            bank.renew_held()
            bank.learn_checked(*bank.check(x[rows], y[rows], None))
            found = bank.foresee(x[rows])
            if found is None:
                assert int(rows[0]) < 16  # only at the very beginning
            else:
                assert found.novelty is not None
                assert found.novelty.shape == (len(rows),)
                right.append((found.answers.argmax(dim=1) == y[rows]).double())
        return bank, right

    bank, right = run(7)
    assert torch.cat(right)[-200:].mean() > 0.7
    # In which batches examples come does not matter for what is answered of one memory.
    torch.testing.assert_close(
        run(300)[0].predict_experts(x), bank.predict_experts(x), atol=1e-8, rtol=1e-8
    )


def test_novelty_needs_no_other_features(digits: Digits) -> None:
    x, y, x_test, _ = digits
    memory = learn(x[:100], y[:100], features=PRODUCTS)
    found = compute_novelty(memory.reach, PRODUCTS(x_test))
    assert torch.equal(found, memory.novelty(x_test))
