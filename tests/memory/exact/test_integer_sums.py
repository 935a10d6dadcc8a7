"""Sums of codes: the same integers in any order, cutting and sharding; folded without loss."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import DataError, MergeError
from nestling.memory.exact import integer_sums
from nestling.memory.exact.integer_sums import IntegerSums, is_whole

D, M = 8, 3


def draw(num: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 128, (num, D), generator=generator, dtype=torch.int8)
    labels = torch.randint(0, M, (num,), generator=generator)
    return codes, labels, torch.ones(num, dtype=torch.int64)


def sum_blocks(codes: Tensor, labels: Tensor, weight: Tensor, size: int) -> IntegerSums:
    sums = IntegerSums(D, M)
    for rows in torch.arange(len(codes)).split(size):
        sums.add(codes[rows], labels[rows], weight[rows])
    return sums


def assert_same(one: IntegerSums, other: IntegerSums) -> None:
    mine, theirs = one.read(), other.read()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert (one.weight, one.squared_weight) == (other.weight, other.squared_weight)
    saved, other_saved = one.state_dict(), other.state_dict()
    for name in ("gram_triangle", "cross", "counts"):
        left, right = saved[name], other_saved[name]
        assert isinstance(left, Tensor)
        assert isinstance(right, Tensor)
        assert left.dtype == right.dtype
        assert torch.equal(left, right)


@settings(max_examples=40, deadline=None)
@given(
    num=st.integers(1, 60),
    seed=st.integers(0, 99),
    size=st.integers(1, 60),
    cut=st.integers(0, 60),
    heavy=st.booleans(),
)
def test_any_order_cutting_shard_and_removal_give_the_same_bits(
    num: int, seed: int, size: int, cut: int, heavy: bool
) -> None:
    codes, labels, weight = draw(num, seed)
    if heavy:
        weight = torch.arange(num) % 4
    whole = sum_blocks(codes, labels, weight, num)
    order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
    assert_same(whole, sum_blocks(codes[order], labels[order], weight[order], size))
    first, second = slice(0, min(cut, num)), slice(min(cut, num), num)
    shard = sum_blocks(codes[second], labels[second], weight[second], size)
    merged = sum_blocks(codes[first], labels[first], weight[first], size)
    merged.merge(shard)
    assert_same(whole, merged)
    whole.remove(codes[first], labels[first], weight[first], clock=0)
    assert_same(whole, shard)
    assert whole.clock == num  # removing does not turn the clock back


def test_the_sums_are_those_of_their_definition() -> None:
    codes, labels, _ = draw(50, 1)
    weight = torch.arange(50) % 3
    sums = sum_blocks(codes, labels, weight, 7)
    wide, hot = codes.long(), torch.nn.functional.one_hot(labels, M)
    read = sums.read()
    assert torch.equal(read["gram"], (wide * weight[:, None]).T @ wide)
    assert torch.equal(read["cross"], (hot * weight[:, None]).T @ wide)
    assert torch.equal(read["counts"], weight @ hot)
    stats, scaled = sums.values, wide.double()
    mean = (weight.double() @ scaled) / float(weight.sum())
    centred = scaled - mean
    torch.testing.assert_close(stats.mean, mean)
    torch.testing.assert_close(stats.scatter, (centred * weight[:, None]).T @ centred)
    torch.testing.assert_close(stats.cross, (centred * weight[:, None]).T @ hot.double())


def test_a_million_examples_are_folded_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest codes of all: int32 would overflow at 133,153 of them."""
    codes = torch.full((100_000, D), 127, dtype=torch.int8)
    labels, weight = torch.zeros(100_000, dtype=torch.int64), torch.ones(100_000).long()
    sums = IntegerSums(D, M)
    for _ in range(10):
        sums.add(codes, labels, weight)
    assert sums.read()["gram"].unique().tolist() == [127 * 127 * 10**6]
    assert sums.read()["cross"][0].unique().tolist() == [127 * 10**6]
    # Where it is folded changes nothing.
    monkeypatch.setattr(integer_sums, "MOST_IN_INT32", 50)
    codes, labels, weight = draw(300, 2)
    often = sum_blocks(codes, labels, weight, 20)
    monkeypatch.undo()
    assert_same(often, sum_blocks(codes, labels, weight, 300))


def test_a_thousand_million_examples_are_counted_exactly() -> None:
    codes = torch.full((2, D), 127, dtype=torch.int8)
    labels, weight = torch.tensor([0, 2]), torch.tensor([10**9, 1])
    sums = IntegerSums(D, M)
    sums.add(codes, labels, weight)
    sums.add(codes[1:], labels[1:], weight[1:])
    assert int(sums.read()["gram"][0, 0]) == 127 * 127 * (10**9 + 2)
    state = sums.state_dict()
    again = IntegerSums(D, M)
    again.load_state_dict(state)
    assert_same(sums, again)


@pytest.mark.parametrize("most", [133_000, 40])
def test_saved_and_restored_it_goes_on_alike(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_sums, "MOST_IN_INT32", most)
    codes, labels, weight = draw(90, 3)
    sums = sum_blocks(codes[:60], labels[:60], weight[:60], 9)
    packed = sums.state_dict()["gram_triangle"]
    assert isinstance(packed, Tensor)
    assert packed.shape == (D * (D + 1) // 2,)
    assert packed.dtype == torch.int32
    again = IntegerSums(D, 0)
    again.load_state_dict(sums.state_dict())
    for one in (sums, again):
        one.add(codes[60:], labels[60:], weight[60:])
    assert_same(sums, again)
    assert sums.clock == again.clock == 90


def test_what_was_never_there_cannot_be_removed() -> None:
    codes, labels, weight = draw(20, 4)
    sums = sum_blocks(codes, labels, weight, 20)
    before = sums.copy()
    with pytest.raises(DataError, match="of class"):
        sums.remove(codes, torch.zeros_like(labels), weight, clock=0)
    with pytest.raises(DataError, match="never saw"):
        sums.remove(torch.full_like(codes, 127), labels, weight, clock=0)
    with pytest.raises(DataError):
        sums.remove(codes, labels, weight, clock=5)
    assert_same(sums, before)


def test_merging_keeps_declared_classes_apart() -> None:
    one, other = IntegerSums(D, M), IntegerSums(D, M + 1)
    with pytest.raises(MergeError, match="3 and 4"):
        one.merge(other, may_grow=False)
    one.merge(other)
    assert one.num_outputs == M + 1


def test_weights_that_are_not_whole_or_too_heavy_are_told_apart() -> None:
    assert is_whole(torch.tensor([0.0, 3.0]), 10)
    assert not is_whole(torch.tensor([0.5]), 0)
    assert not is_whole(torch.tensor([2.0**39]), 0)
    assert not is_whole(torch.tensor([1.0]), 2**38)
