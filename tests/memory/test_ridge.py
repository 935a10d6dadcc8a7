import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import cross_validate, fit
from torch import Tensor

from nestling.core.errors import DataError, MergeError, NotFitted, UnknownLabel
from nestling.memory import ClassPrior, RandomFeatures, RidgeMemory
from nestling.memory.exact.solve import CLASS_SHARE

Digits = tuple[Tensor, Tensor, Tensor, Tensor]
RELU = RandomFeatures(64, 100, seed=1, passthrough=True)


def learn(x: Tensor, y: Tensor, **settings: object) -> RidgeMemory:
    memory = RidgeMemory(x.shape[1], **settings)  # type: ignore[arg-type]
    for rows in torch.arange(len(x)).split(37):
        memory.add(x[rows], y[rows])
    return memory


def furthest(left: RidgeMemory, right: RidgeMemory, x: Tensor) -> float:
    return float((left.predict(x) - right.predict(x)).abs().max())


def accuracy(memory: RidgeMemory, x: Tensor, y: Tensor) -> float:
    return float((memory.predict(x).argmax(dim=1) == y).double().mean())


@pytest.mark.parametrize("half_life", [math.inf, 100.0])
@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_scores_equal_least_squares_on_all_rows(
    digits: Digits, half_life: float, strength: float
) -> None:
    x, y, x_test, _ = digits
    x, y = x[:300], y[:300]
    memory = learn(x, y, features=RELU, half_life=half_life, ridge=strength)
    weights, intercept = fit(RELU(x), torch.nn.functional.one_hot(y), strength, half_life)
    wanted = RELU(x_test).numpy() @ weights + intercept
    np.testing.assert_allclose(memory.scores(x_test).numpy(), wanted, atol=1e-8)


def test_weighted_examples_equal_weighted_least_squares(digits: Digits) -> None:
    x, y, x_test, _ = digits
    x, y, weight = x[:200], y[:200], torch.linspace(0.0, 3.0, 200)
    memory = RidgeMemory(64, ridge=0.1)
    memory.add(x[:50], y[:50], weight[:50])
    memory.add(x[50:], y[50:], weight[50:])
    weights, intercept = fit(x, torch.nn.functional.one_hot(y), 0.1, weight=weight)
    np.testing.assert_allclose(
        memory.scores(x_test).numpy(), x_test.numpy() @ weights + intercept, atol=1e-8
    )


@pytest.mark.parametrize("half_life", [math.inf, 150.0])
def test_the_strength_minimises_cross_validation(digits: Digits, half_life: float) -> None:
    x, y, _, _ = digits
    x, y = x[:400], y[:400]
    # Classes take a share of the strength that predicts their one-hot targets best.
    chosen = learn(x, y, half_life=half_life).solution.strength / CLASS_SHARE
    one_hot = torch.nn.functional.one_hot(y)
    tried = {s: cross_validate(x, one_hot, s, half_life) for s in np.geomspace(1e-6, 1e2, 40)}
    assert cross_validate(x, one_hot, chosen, half_life) <= min(tried.values()) * 1.001


def test_order_does_not_matter(digits: Digits) -> None:
    x, y, x_test, _ = digits
    memory = learn(x, y, features=RELU)
    for order in (torch.randperm(len(x)), y.argsort(stable=True), torch.arange(len(x)).flip(0)):
        assert furthest(memory, learn(x[order], y[order], features=RELU), x_test) < 1e-8


@given(st.integers(0, 1_000_000), st.sampled_from([math.inf, 40.0]))
def test_removed_equals_never_seen(seed: int, half_life: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 5, generator=generator) * torch.tensor([1.0, 1e3, 1e-3, 1.0, 1.0]) + 5.0
    y = torch.randint(3, (60,), generator=generator)
    first, count = (int(torch.randint(1, 20, (), generator=generator)) for _ in range(2))
    memory = RidgeMemory(5, half_life=half_life)
    memory.add(x[:first], y[:first])
    clock = memory.add(x[first : first + count], y[first : first + count])
    memory.add(x[first + count :], y[first + count :])
    memory.remove(x[first : first + count], y[first : first + count], clock=clock)
    # "Never seen" with a half-life: at their time came examples of weight 0.
    weight = torch.ones(60)
    weight[first : first + count] = 0.0
    never = RidgeMemory(5, half_life=half_life)
    never.add(x, y, weight)
    assert clock == first
    assert furthest(memory, never, x) < 1e-6


def test_remove_takes_away_classes_and_features_that_only_the_removed_had(digits: Digits) -> None:
    x, y, x_test, _ = digits
    x = x.clone()
    x[:, 0] = 0.0
    odd_x = x[:30].clone()
    odd_x[:, 0] = torch.linspace(-5.0, 9.0, 30)
    memory, never = learn(x, y), learn(x, y)
    clock = memory.add(odd_x, torch.full((30,), 11))
    memory.add(x[:9], y[:9])
    never.add(x[:9], y[:9])
    memory.remove(odd_x, torch.full((30,), 11), clock=clock)
    x_test = x_test.clone()
    x_test[:, 0] = 100.0  # only what was removed could say anything about this
    answer = memory.predict(x_test)
    assert bool((answer[:, 10:] == 0.0).all())
    torch.testing.assert_close(answer[:, :10], never.predict(x_test), rtol=0.0, atol=1e-8)


def test_all_removed_is_empty_and_can_learn_again(digits: Digits) -> None:
    x, y, x_test, _ = digits
    memory = RidgeMemory(64)
    clock = memory.add(x[:50], y[:50])
    memory.remove(x[:50], y[:50], clock=clock)
    assert memory.is_empty
    with pytest.raises(NotFitted, match="add"):
        memory.predict(x_test)
    memory.add(x, y)
    assert furthest(memory, learn(x, y), x_test) < 1e-8


def test_removing_what_was_not_there_is_refused(digits: Digits) -> None:
    x, y, _, _ = digits
    memory = learn(x[:100], y[:100].clamp_max(8))
    before = memory.predict(x)
    for labels, clock, message in (
        (torch.full((30,), 3), 0, "class 3"),
        (torch.full((30,), 9), 0, "class 9"),
        (y[:30], 90, "clock"),
        (y[:30], -1, "clock"),
    ):
        with pytest.raises(DataError, match=message):
            memory.remove(x[:30], labels, clock=clock)
    with pytest.raises(DataError, match="weight"):
        memory.remove(x[:30], y[:30].clamp_max(8), torch.full((30,), 9.0), clock=0)
    assert torch.equal(memory.predict(x), before)


@pytest.mark.parametrize("half_life", [math.inf, 300.0])
def test_merged_shards_equal_one_pass(digits: Digits, half_life: float) -> None:
    x, y, x_test, _ = digits
    settings = {"features": RELU, "half_life": half_life}
    left, right = learn(x[:500], y[:500].clamp_max(6), **settings), RidgeMemory(64, **settings)  # type: ignore[arg-type]
    right.add(x[500:800], y[500:800])
    left.merge(right)
    # Aligned to the later clock: the right one's examples are 200 examples older.
    both = RidgeMemory(64, **settings)  # type: ignore[arg-type]
    both.add(x[:500], y[:500].clamp_max(6))
    age = 1.0 if math.isinf(half_life) else 2.0 ** (-200 / half_life)
    aged = torch.exp2(-(299.0 - torch.arange(300.0, dtype=torch.float64)) / half_life) * age
    rest = torch.ones(300) if math.isinf(half_life) else aged / aged
    other = RidgeMemory(64, **settings)  # type: ignore[arg-type]
    other.add(x[500:800], y[500:800], rest)
    other.add(x[:200], y[:200], torch.zeros(200))
    other.merge(both)
    assert left.clock == 500
    assert furthest(left, other, x_test) < 1e-8
    if math.isinf(half_life):
        whole = learn(
            torch.cat((x[:500], x[500:800])),
            torch.cat((y[:500].clamp_max(6), y[500:800])),
            **settings,
        )
        assert furthest(left, whole, x_test) < 1e-8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"half_life": 7.0}, "half_life"),
        ({"features": None}, "features"),
        ({"ridge": 1.0}, "ridge"),
    ],
)
def test_unlike_memories_do_not_merge(changed: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"features": RELU, "half_life": math.inf}
    one = RidgeMemory(64, **settings)  # type: ignore[arg-type]
    other = RidgeMemory(64, **(settings | changed))  # type: ignore[arg-type]
    with pytest.raises(MergeError, match=message):
        one.merge(other)


def test_answers_are_calibrated(digits: Digits) -> None:
    x, y, x_test, y_test = digits
    memory = learn(x, y, features=RandomFeatures(64, 300, seed=0, passthrough=True))
    answer = memory.predict(x_test)
    logits = answer.log()

    def log_loss(values: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(values, y_test))

    best = min(log_loss(logits * t) for t in np.geomspace(0.1, 10.0, 80))
    confidence, choice = answer.max(dim=1)
    gap = abs(float(confidence.mean()) - float((choice == y_test).double().mean()))
    assert accuracy(memory, x_test, y_test) > 0.96
    assert log_loss(logits) < 1.1 * best
    assert gap < 0.03
    torch.testing.assert_close(answer.sum(dim=1), torch.ones(len(answer), dtype=torch.float64))


def test_a_long_stream_stays_accurate() -> None:
    # 1e5 events at an offset of a million standard deviations: sums about zero lose all digits.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100_000, 4, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]], dtype=torch.float64) + 3.0
    memory = RidgeMemory(4, task="regression", ridge=1e-8)
    for rows in torch.arange(len(x)).split(10):
        memory.add(x[rows] + 1e6, y[rows])
    assert float((memory.predict(x[:100] + 1e6) - y[:100]).abs().max()) < 1e-5


def test_a_short_half_life_survives_a_million_events_of_binary_features() -> None:
    # As in LED: a feature that stops varying fades to nothing in R and must not come back large.
    generator = torch.Generator().manual_seed(0)
    memory = RidgeMemory(6, half_life=30.0)
    for step in range(1000):
        x = torch.randint(2, (1000, 6), generator=generator).float()
        if step > 0:
            x[:, 5] = 1.0
        y = (x[:, 0] + x[:, 1] >= 1).long()
        memory.add(x, y)
    probe = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    answer = memory.predict(probe)
    assert memory.clock == 1_000_000
    assert float(memory.solution.weights.abs().max()) < 10.0
    assert answer.argmax(dim=1).tolist() == [1, 0]
    scatter = memory.statistics.scatter
    assert not bool(((scatter.abs() < 1e-200) & (scatter != 0.0)).any())


def test_degenerate_beginnings_give_probabilities() -> None:
    memory = RidgeMemory(3)
    probe = torch.tensor([[1.0, 2.0, 3.0]])
    memory.add(torch.zeros(1, 3), torch.tensor([4]))
    assert memory.predict(probe).tolist() == [[0.0, 0.0, 0.0, 0.0, 1.0]]
    memory.add(torch.ones(1, 3), torch.tensor([1]))
    answer = memory.predict(probe)[0]
    assert float(answer.sum()) == pytest.approx(1.0)
    assert 0.0 < float(answer[4]) < float(answer[1]) < 1.0
    for _ in range(50):  # the same example again and again, constant features
        memory.add(torch.ones(1, 3), torch.tensor([1]))
    assert float(memory.predict(probe)[0, 1]) > 0.9


def test_answers_do_not_depend_on_units(digits: Digits) -> None:
    x, y, x_test, _ = digits
    features = RandomFeatures(64, 100, seed=1)
    one = learn(x, y, features=features)
    other = learn(x * 1000.0, y, features=features)
    torch.testing.assert_close(
        one.predict(x_test), other.predict(x_test * 1000.0), rtol=0.0, atol=1e-6
    )


def test_declared_classes_are_kept(digits: Digits) -> None:
    x, y, _, _ = digits
    memory = RidgeMemory(64, num_outputs=5)
    with pytest.raises(UnknownLabel, match="label 9"):
        memory.add(x, y)
    assert memory.clock == 0
    memory.add(x[y < 4], y[y < 4])
    assert memory.predict(x).shape == (1200, 5)
    assert bool((memory.predict(x)[:, 4] == 0.0).all())


def test_regression_variance_is_that_of_new_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 60, generator=generator, dtype=torch.float64)
    noise = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    y = torch.stack((x[:, 0] * 3.0, x[:, 1]), dim=1) + noise * torch.tensor([0.5, 2.0])
    memory = RidgeMemory(60, task="regression")
    memory.add(x[:200], y[:200])
    found = (memory.predict(x[200:]) - y[200:]).square().mean(dim=0)
    assert bool((memory.variance() / found).log().abs().max() < 0.35)


def test_tuning_holds_the_strength(digits: Digits) -> None:
    x, y, x_test, y_test = digits
    memory = learn(x[:300], y[:300])
    memory.tune()
    held = memory.solution.strength
    memory.add(x[300:], y[300:])
    assert memory.solution.strength == held
    assert accuracy(memory, x_test, y_test) > 0.93
    memory.tune()
    assert memory.solution.strength == pytest.approx(learn(x, y).solution.strength, rel=1e-6)


def test_a_copy_goes_its_own_way(digits: Digits) -> None:
    x, y, x_test, _ = digits
    memory = learn(x[:100], y[:100])
    before = memory.predict(x_test)
    twin = memory.copy()
    twin.add(x[100:], y[100:])
    assert torch.equal(memory.predict(x_test), before)
    assert not torch.equal(twin.predict(x_test), before)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_finite_input_that_would_overflow_is_refused_whole(
    task: Literal["classification", "regression"],
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    y = (x[:, 0] > 0).long() if task == "classification" else x[:, 0]
    memory = RidgeMemory(4, task=task)
    memory.add(x, y)
    before = memory.predict(x)
    with pytest.raises(DataError, match=r"inputs of up to .* overflow; scale them down"):
        memory.add(x * 1e160, y)
    with pytest.raises(DataError, match="weights of up to"):
        memory.add(x, y, torch.full((40,), 1e300, dtype=torch.float64))
    if task == "regression":
        with pytest.raises(DataError, match="targets of up to"):
            memory.add(x, y * 1e160)
    with pytest.raises(DataError, match="inputs of up to"):
        memory.predict(x * 1e300)
    assert torch.equal(memory.predict(x), before)
    memory.add(x * 1e65, y)
    assert bool(memory.predict(x).isfinite().all())
    assert bool(memory.novelty(x).isfinite().all())


def test_a_label_far_beyond_all_others_is_refused() -> None:
    x, y = torch.eye(4), torch.arange(4)
    memory = RidgeMemory(4)
    for _ in range(2):
        with pytest.raises(UnknownLabel, match=r"label 250000 where [04] classes are known"):
            memory.add(x, y.index_fill(0, torch.tensor(0), 250_000))
        memory.add(x, y)
    assert memory.num_classes == 4
    memory.add(x[:1], torch.tensor([50]))
    assert memory.num_classes == 51
    ClassPrior().add(torch.arange(20_000))  # none is left out
