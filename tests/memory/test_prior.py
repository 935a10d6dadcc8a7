import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError, NotFitted, SettingError, UnknownLabel
from nestling.memory import ClassPrior


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50), st.floats(0.5, 100.0))
def test_counts_equal_their_definition(labels: list[int], half_life: float) -> None:
    prior = ClassPrior(half_life=half_life)
    prior.add(torch.tensor(labels))
    wanted = torch.zeros(max(labels) + 1, dtype=torch.float64)
    for age, label in enumerate(reversed(labels)):
        wanted[label] += 2.0 ** (-age / half_life)
    torch.testing.assert_close(prior.counts, wanted)
    torch.testing.assert_close(prior.predict(2)[1], wanted / wanted.sum())


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.floats(0.5, 100.0))
def test_the_trace_is_what_one_by_one_would_see(labels: list[int], half_life: float) -> None:
    y = torch.tensor(labels)
    prior = ClassPrior(half_life=half_life, num_classes=4)
    prior.add(torch.tensor([0, 3, 3]))
    traced = prior.trace(y)
    for i in range(len(y)):
        torch.testing.assert_close(traced[i], prior.counts)
        prior.add(y[i : i + 1])


def test_a_class_is_present_for_five_half_lives() -> None:
    prior = ClassPrior(half_life=10.0)
    prior.add(torch.tensor([1]))
    prior.add(torch.zeros(50, dtype=torch.int64))
    assert prior.present().tolist() == [True, True]
    prior.add(torch.zeros(1, dtype=torch.int64))
    assert prior.present().tolist() == [True, False]


def test_removed_labels_no_longer_count() -> None:
    prior, never = ClassPrior(half_life=7.0), ClassPrior(half_life=7.0)
    prior.add(torch.tensor([0, 1]))
    clock = prior.add(torch.tensor([2, 2, 1]))
    prior.add(torch.tensor([0]))
    prior.remove(torch.tensor([2, 2, 1]), clock=clock)
    never.add(torch.tensor([0, 1, 2, 2, 1, 0]), torch.tensor([1.0, 1, 0, 0, 0, 1]))
    torch.testing.assert_close(prior.counts, never.counts)
    with pytest.raises(DataError, match="clock 9"):
        prior.remove(torch.tensor([0]), clock=9)


def test_wrong_use_is_named() -> None:
    with pytest.raises(NotFitted, match="empty"):
        ClassPrior().predict(1)
    with pytest.raises(UnknownLabel, match="label 3"):
        ClassPrior(num_classes=3).add(torch.tensor([3]))
    with pytest.raises(SettingError, match="half-life"):
        ClassPrior(half_life=0.0)
