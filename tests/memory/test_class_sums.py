"""Integer sums of classes: the same bits in any order and any cutting, merged and removed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import DataError, ForeignSnapshot, MergeError, ShapeMismatch
from nestling.memory.exact.class_sums import MOST_ROWS, NUM_GATHERED, ClassSums, unpack_triangle


def draw_rows(num: int, num_inputs: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 128, (num, num_inputs), generator=generator, dtype=torch.uint8)
    return codes, torch.randint(0, 3, (num,), generator=generator)


def sum_rows(codes: Tensor, labels: Tensor, block: int) -> ClassSums:
    sums = ClassSums(codes.shape[1])
    for rows, classes in zip(codes.split(block), labels.split(block), strict=True):
        sums.add(rows, classes)
    return sums


def is_equal(left: ClassSums, right: ClassSums) -> bool:
    one, other = left.state_dict(), right.state_dict()
    return all(torch.equal(one[name], other[name]) for name in ("counts", "histograms", "moments"))


def test_sums_are_those_of_the_definition() -> None:
    codes, labels = draw_rows(3_000)
    sums = sum_rows(codes, labels, 37)
    assert sums.num_examples == 3_000  # those that wait included
    sums.sum_up()
    for label in range(3):
        rows = codes[labels == label].long()
        assert sums.counts[label] == len(rows)
        whole = unpack_triangle(sums.moments[label], 6)
        assert torch.equal(whole, rows.T @ rows)
        counts = torch.stack([torch.bincount(column, minlength=128) for column in rows.T])
        assert torch.equal(sums.histograms[label], counts)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 7, 32, 512]), st.integers(0, 10_000), st.integers(0, 200))
def test_order_cutting_merging_and_removal_are_bitwise(block: int, seed: int, cut: int) -> None:
    codes, labels = draw_rows(200)
    whole = sum_rows(codes, labels, 200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    assert is_equal(sum_rows(codes[order], labels[order], block), whole)
    first, rest = order[:cut], order[cut:]
    part = sum_rows(codes[first], labels[first], block)
    other = sum_rows(codes[rest], labels[rest], 64)
    part.merge(other)
    assert is_equal(part, whole)
    part.remove(codes[rest], labels[rest])
    assert is_equal(part, sum_rows(codes[first], labels[first], 16))


def test_two_threads_give_the_same_bits() -> None:
    codes, labels = draw_rows(2_000, num_inputs=300)
    before = torch.get_num_threads()
    try:
        found = []
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            found.append(sum_rows(codes, labels, 128))
    finally:
        torch.set_num_threads(before)
    assert is_equal(*found)


def test_a_billion_of_the_largest_codes_do_not_overflow() -> None:
    sums = ClassSums(2)
    sums.add(torch.full((5 * MOST_ROWS + 1, 2), 127, dtype=torch.uint8), torch.zeros(5201).long())
    one = ClassSums(2)
    one.load_state_dict(sums.state_dict())
    for _ in range(18):  # doubles: 5,201 * 2^18 is more than a billion
        twin = ClassSums(2)
        twin.load_state_dict(one.state_dict())
        one.merge(twin)
    assert one.counts.tolist() == [5201 * 2**18]
    assert one.counts[0] > 10**9
    assert one.moments.tolist() == [[127 * 127 * 5201 * 2**18] * 3]


def test_only_so_many_rows_wait_as_codes() -> None:
    codes, labels = draw_rows(NUM_GATHERED - 1)
    sums = ClassSums(6)
    sums.add(codes, labels)
    assert len(sums.counts) == 0
    sums.add(codes[:1], labels[:1])
    assert int(sums.counts.sum()) == NUM_GATHERED
    sums.add(codes[:5], labels[:5])
    assert int(sums.state_dict()["counts"].sum()) == NUM_GATHERED + 5  # saving sums them up
    assert not sums._gathered


def test_what_is_added_is_a_copy() -> None:
    codes, labels = draw_rows(5)
    expected = sum_rows(codes.clone(), labels.clone(), 5)
    sums = sum_rows(codes, labels, 5)
    codes.zero_()
    labels.zero_()
    assert is_equal(sums, expected)


def test_bad_input_changes_nothing() -> None:
    codes, labels = draw_rows(20)
    sums, twin = sum_rows(codes, labels, 20), sum_rows(codes, labels, 20)
    with pytest.raises(ShapeMismatch, match=r"codes \(20, 5\) and 20 labels; .* \(20, 6\) work"):
        sums.add(codes[:, :5], labels)
    with pytest.raises(DataError, match=r"up to 200; uint8 up to 127 works"):
        sums.add(torch.full((1, 6), 200, dtype=torch.uint8), labels[:1])
    with pytest.raises(DataError, match=r"label -1; classes are 0, 1"):
        sums.add(codes[:1], torch.tensor([-1]))
    strangers, theirs = draw_rows(3, seed=1)
    with pytest.raises(DataError, match="were not summed, so they cannot be removed"):
        sums.remove(strangers, theirs)
    with pytest.raises(MergeError, match="sums of inputs of 4 values into sums of 6"):
        sums.merge(ClassSums(4))
    with pytest.raises(ForeignSnapshot, match="inputs of 4 values, these sums of 6"):
        sums.load_state_dict(ClassSums(4).state_dict())
    assert is_equal(sums, twin)
