"""The scout: a ridge regression on some columns, from every example at once."""

import math

import pytest
import torch
from torch import Tensor

from nestling.memory import JoinedFeatures, RandomFeatures, RidgeMemory
from nestling.memory.coded.coded_features import CodedFeatures
from nestling.memory.coded.input_codes import InputScale
from nestling.memory.exact.statistics import space_evenly
from nestling.memory.features import Features
from nestling.memory.scout import NUM_SCOUTED, Scout, select_outputs

Digits = tuple[Tensor, Tensor, Tensor, Tensor]
INF = math.inf
FEATURES: dict[str, Features] = {
    "relu": RandomFeatures(64, 300),
    "fourier": RandomFeatures(64, 300, "fourier"),
    "product": RandomFeatures(64, 300, "product", passthrough=True),
    "joined": JoinedFeatures(
        [RandomFeatures(20, 100, passthrough=True), RandomFeatures(44, 200, "fourier")]
    ),
}


def ones(num: int) -> Tensor:
    return torch.ones(num, dtype=torch.float64)


def make_scout(features: Features | None = None, half_life: float = INF) -> Scout:
    width = 64 if features is None else features.num_outputs
    return Scout(features, width, "classification", None, half_life)


def learn(scout: Scout, x: Tensor, y: Tensor, size: int = 10) -> None:
    for rows in torch.arange(len(x)).split(size):
        scout.learn(x[rows], y[rows], ones(len(rows)))


@pytest.mark.parametrize("name", FEATURES)
def test_it_makes_some_features_and_no_others(name: str, digits: Digits) -> None:
    features, x = FEATURES[name], digits[0][:30]
    chosen = space_evenly(features.num_outputs, 90)
    found = select_outputs(features, chosen)(x)
    torch.testing.assert_close(found, features(x)[:, chosen].double(), rtol=1e-12, atol=1e-12)
    assert torch.equal(select_outputs(None, chosen[:9])(x), x[:, chosen[:9]].double())


@pytest.mark.parametrize("half_life", [60.0, INF])
def test_it_is_a_ridge_memory_of_the_same_columns(half_life: float, digits: Digits) -> None:
    x, y, x_test, _ = digits
    features = RandomFeatures(64, 1000)
    scout = make_scout(features, half_life)
    learn(scout, x[:400], y[:400])
    chosen = space_evenly(1000, NUM_SCOUTED)
    alone = RidgeMemory(NUM_SCOUTED, half_life=half_life)
    alone.add(features(x[:400])[:, chosen], y[:400])
    mine, theirs = scout.memory.statistics, alone.statistics
    torch.testing.assert_close(mine.mean, theirs.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        scout.memory.predict(features(x_test)[:, chosen].double()),
        alone.predict(features(x_test)[:, chosen]),
        rtol=0,
        atol=1e-7,
    )


def test_values_are_those_of_a_ridge_memory_of_its_strength(digits: Digits) -> None:
    x, _, x_test, _ = digits
    x, x_test = x[:, 20:28], x_test[:, 20:28]
    target = x.double() @ torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).double()
    scout = Scout(None, 8, "regression", None, INF)
    assert scout.foresee(x_test) is None
    learn(scout, x[:500], target[:500], 500)
    assert scout.foresee(x_test) is None  # until it is renewed
    scout.renew()
    alone = RidgeMemory(8, task="regression", ridge=(8 / 500) ** 2)
    alone.add(x[:500], target[:500])
    found = scout.foresee(x_test)
    assert found is not None
    assert found.known is None
    torch.testing.assert_close(found.answers, alone.predict(x_test), rtol=1e-7, atol=1e-7)


def test_it_foresees_well_from_every_example(digits: Digits) -> None:
    x, y, x_test, y_test = digits
    scout = make_scout(RandomFeatures(64, 1000))
    scores = []
    for start, stop in ((0, 1), (1, 30), (30, 300), (300, 1200)):
        learn(scout, x[start:stop], y[start:stop])
        scout.renew()
        found = scout.foresee(x_test)
        assert found is not None
        assert found.novelty is not None
        assert found.novelty.shape == (len(x_test),)
        assert bool(found.answers.isfinite().all())
        right = found.answers.argmax(dim=1) == y_test
        scores.append(float(right.double().mean()))
    assert scores == sorted(scores)
    assert scores[1] > 0.5
    assert scores[3] > 0.9


def test_classes_that_come_later_are_unknown_until_then(digits: Digits) -> None:
    x, y, _, _ = digits
    scout = make_scout()
    few = y < 3
    learn(scout, x[few][:60], y[few][:60])
    scout.renew()
    found = scout.foresee(x[:5])
    assert found is not None
    assert found.known is not None
    assert found.known.tolist() == [True] * 3
    learn(scout, x[y == 5][:1], y[y == 5][:1])
    scout.renew()  # too little is new
    found = scout.foresee(x[:5])
    assert found is not None
    assert found.known is not None
    assert found.known.tolist() == [True] * 3 + [False] * 3
    assert found.answers.shape == (5, 6)
    assert bool((found.answers[:, 3:] == 0.0).all())
    learn(scout, x[y == 5][:30], y[y == 5][:30])
    scout.renew()
    found = scout.foresee(x[y == 5][:30])
    assert found is not None
    assert found.known is not None
    assert found.known.tolist() == [True] * 3 + [False, False, True]
    assert float((found.answers.argmax(dim=1) == 5).double().mean()) > 0.9


@pytest.mark.parametrize("name", [None, *FEATURES])
def test_a_saved_state_goes_on_bit_by_bit(name: str | None, digits: Digits) -> None:
    x, y, x_test, _ = digits
    features = None if name is None else FEATURES[name]
    scout, twin = make_scout(features), make_scout(features)
    learn(scout, x[:95], y[:95])
    scout.renew()
    learn(scout, x[95:98], y[95:98])  # what it holds is behind
    twin.load_state_dict(scout.state_dict())
    for start in (98, 100, 140):
        answers = []
        for one in (scout, twin):
            one.renew()
            found = one.foresee(x_test)
            assert found is not None
            answers.append(found.answers)
            learn(one, x[start : start + 40], y[start : start + 40])
        assert torch.equal(*answers)


def test_no_examples_and_such_of_no_weight_teach_nothing(digits: Digits) -> None:
    x, y, _, _ = digits
    scout = make_scout()
    scout.learn(x[:0], y[:0], ones(0))
    scout.renew()
    assert scout.foresee(x[:3]) is None
    scout.learn(x[:4], y[:4], 0.0 * ones(4))
    scout.renew()
    assert scout.foresee(x[:3]) is None
    learn(scout, x[:40], y[:40])
    scout.renew()
    before = scout.foresee(x[:3])
    scout.learn(x[:0], y[:0], ones(0))
    scout.renew()
    after = scout.foresee(x[:3])
    assert before is not None
    assert after is not None
    assert torch.equal(before.answers, after.answers)
    assert scout.num_bytes > 0


def test_features_that_are_codes_are_selected_too(digits: Digits) -> None:
    x, chosen = digits[0][:20], torch.tensor([0, 5, 64, 90])
    codes = CodedFeatures(64, InputScale("signed", factor=8.0), num_raw_features=96, constant=64)
    assert torch.equal(select_outputs(codes, chosen)(x), codes(x)[:, chosen].double())
