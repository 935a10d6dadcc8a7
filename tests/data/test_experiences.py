"""Cutting a labelled set into experiences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError, SettingError, ShapeMismatch, UnknownLabel
from nestling.data import (
    Experience,
    class_incremental,
    domain_incremental,
    drifting,
    multi_task,
    relabelled,
    repeating,
    split_by_class,
    task_incremental,
)

X = torch.arange(12.0).reshape(12, 1)
Y = torch.arange(12) % 4


@given(st.permutations(range(4)), st.integers(1, 3))
def test_a_split_by_class_keeps_every_example_once(order, cut):
    groups = [order[:cut], order[cut:]]
    made = split_by_class(X, Y, X, Y, groups)
    rows = torch.cat([one.train[0] for one in made]).flatten()
    assert rows.sort().values.tolist() == X.flatten().tolist()
    for one, group in zip(made, groups, strict=True):
        assert set(one.train[1].tolist()) == set(group) == set(one.classes)
        assert one.task is None


def test_task_labels_are_numbered():
    assert [one.task for one in task_incremental(X, Y, X, Y, [[0, 1], [2, 3]])] == [0, 1]


def test_domains_share_classes_but_no_training_example():
    made = domain_incremental(
        X, Y, X, Y, {"a": lambda x: x, "b": lambda x: x + 100}, generator=torch.Generator()
    )
    first, second = made[0].train[0].flatten(), made[1].train[0].flatten() - 100
    assert sorted([*first.tolist(), *second.tolist()]) == X.flatten().tolist()
    assert (made[1].test[0] == X + 100).all()


def test_the_loader_draws_every_example_in_an_order_of_its_generator():
    one = Experience("all", (X, Y), (X, Y), (0, 1, 2, 3))
    drawn = [torch.cat([x for x, _ in one.loader(5, make(seed))]).flatten() for seed in (0, 0, 1)]
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()
    assert drawn[2].sort().values.tolist() == X.flatten().tolist()


def make(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        ([[0, 1], [1, 2]], SettingError, "class 1 stands in two"),
        ([[0, 9]], UnknownLabel, "class 9 has no training example"),
        ([[]], SettingError, "without classes"),
    ],
)
def test_wrong_groups(groups, error, words):
    with pytest.raises(error, match=words):
        split_by_class(X, Y, X, Y, groups)


def test_wrong_experiences():
    with pytest.raises(ShapeMismatch, match="12 inputs and 3 targets"):
        Experience("wrong", (X, Y[:3]), (X, Y), ())
    with pytest.raises(DataError, match="no test example"):
        Experience("wrong", (X, Y), (X[:0], Y[:0]), ())
    with pytest.raises(SettingError, match="at least one domain"):
        domain_incremental(X, Y, X, Y, {}, generator=make(0))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((12, 11, 12, 12), r"train: inputs \(12, 1\) and targets \(11,\)"),
        ((11, 12, 12, 12), r"train: inputs \(11, 1\) and targets \(12,\)"),
        ((12, 12, 12, 11), r"test: inputs \(12, 1\) and targets \(11,\)"),
        ((12, 12, 11, 12), r"test: inputs \(11, 1\) and targets \(12,\)"),
    ],
)
def test_every_split_names_unequal_lengths(sizes, words):
    split = tuple(part[:size] for part, size in zip((X, Y, X, Y), sizes, strict=True))
    whole = (X, Y, X, Y)
    calls = (
        lambda: split_by_class(*split, [[0, 1], [2, 3]]),
        lambda: task_incremental(*split, [[0, 1], [2, 3]]),
        lambda: domain_incremental(*split, {"a": lambda x: x}, generator=torch.Generator()),
        lambda: class_incremental(*split, num_experiences=2, seed=0),
        lambda: repeating(*split, num_experiences=3, classes_per_experience=2, seed=0),
        lambda: multi_task({"a": whole, "b": split}),
        lambda: relabelled(*split, batch_size=2, seed=0),
        lambda: drifting({"a": split}, ["a"], batch_size=2, seed=0),
    )
    for call in calls:
        with pytest.raises(ShapeMismatch, match=words):
            call()
