"""The ridge suite's own logic, on real digits brought to MNIST's size, with few features."""

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from nestling.bench.promises import ridge_promises
from nestling.bench.promises.ridge_promises import Pairs, compare_sums
from nestling.memory import RidgeMemory
from nestling.memory.coded.coded_features import CodedFeatures
from nestling.memory.coded.input_codes import InputScale
from nestling.memory.features import Features

SUMS = ("order_max_diff", "remove_max_diff", "merge_max_diff")


def make_few() -> Features:
    return CodedFeatures(784, InputScale("unit", factor=255.0), num_raw_features=96)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> tuple[Pairs, Pairs]:
    monkeypatch.setattr(ridge_promises, "NUM_REMOVED", 60)
    monkeypatch.setattr(ridge_promises, "NUM_SMALL", 100)
    monkeypatch.setattr(ridge_promises, "BLOCK", 100)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images).float().reshape(-1, 1, 8, 8) / 16
    x = torch.nn.functional.interpolate(x, size=(28, 28)).reshape(-1, 784)
    y = torch.tensor(labels)
    return (x[:1000], y[:1000]), (x[1000:], y[1000:])


def measure(digits: tuple[Pairs, Pairs]) -> dict[str, Any]:
    return ridge_promises.measure(*digits, make_few, num_rounds=1)


def test_the_suite_measures_what_it_promises(digits: tuple[Pairs, Pairs]) -> None:
    found = measure(digits)
    figures = found["figures"]
    answers = tuple(name.replace("max", "answer") for name in SUMS)
    assert sorted(figures) == sorted([*SUMS, *answers, "mnist_accuracy", "time_over_matmul"])
    assert figures["mnist_accuracy"] > 85.0
    for name in SUMS:
        assert figures[name] == 0.0
    for name in answers:
        assert figures[name] < 1e-7
    assert figures["time_over_matmul"] > 0.0
    passes = [row["pass"] for row in found["rows"] if "pass" in row]
    assert passes[1] == "random order 0, batches of 32, threads: 1"
    assert len([name for name in passes if name.startswith("random order")]) == 10
    assert passes[-6:] == [
        "sorted by class",
        "batches of 1",
        "batches of 7",
        "4 shards merged",
        "4 shards merged, last first",
        "60 removed",
    ]


def test_one_example_less_is_seen_in_the_sums(
    digits: tuple[Pairs, Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_all = ridge_promises.learn

    def learn(train: Pairs, features: Any, order: Tensor, batch_size: int = 100) -> RidgeMemory:
        # Neither the pass in file order nor what it is compared with.
        lost = batch_size != 100
        return learn_all(train, features, order[lost:], batch_size)

    def remove(memory: RidgeMemory, train: Pairs, start: int, count: int) -> None:
        remove_all(memory, train, start, count - 1)

    remove_all = ridge_promises.remove
    monkeypatch.setattr(ridge_promises, "learn", learn)
    monkeypatch.setattr(ridge_promises, "remove", remove)
    figures = measure(digits)["figures"]
    for name in SUMS:
        assert figures[name] >= 1.0
        assert figures[name.replace("max", "answer")] > 1e-7


def test_sums_that_are_not_the_same() -> None:
    one = {"gram": torch.tensor([[1, 2], [2, 5]]), "count": torch.tensor(2.0)}
    assert compare_sums(one, {name: value.clone() for name, value in one.items()}) == 0.0
    assert compare_sums(one, {**one, "gram": one["gram"] + 1}) == 1.0
    assert compare_sums(one, {**one, "count": torch.tensor(2.0 + 2**-20)}) == 2**-20
    for other in (
        {"gram": one["gram"]},
        {**one, "gram": one["gram"].double()},
        {**one, "gram": one["gram"][:1]},
        {**one, "count": torch.tensor(math.nan)},
    ):
        assert compare_sums(one, other) == math.inf
