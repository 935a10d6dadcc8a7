"""Maths over named parameters against the same maths over one long vector."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import MismatchedParameters
from nestling.core.params import (
    are_finite,
    average_into,
    check_same_names,
    combine,
    cosine,
    inner_product,
    interpolate,
    relative_change,
    squared_norm,
    subtract,
    wide_dtype,
)

Params = dict[str, Tensor]
numbers = st.floats(-100, 100, width=32)
DOUBLE = torch.float64


@st.composite
def twins(draw: st.DrawFn, count: int = 2) -> list[Params]:
    """Mappings with the same names and shapes, in float64."""
    shapes = draw(st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=4))
    made: list[Params] = []
    for _ in range(count):
        params = {}
        for index, shape in enumerate(shapes):
            size = math.prod(shape)
            values = draw(st.lists(numbers, min_size=size, max_size=size))
            params[f"p{index}"] = torch.tensor(values, dtype=DOUBLE).reshape(shape)
        made.append(params)
    return made


def flat(params: Params) -> Tensor:
    return torch.cat([value.flatten() for value in params.values()])


@given(pair=twins(), weight=st.floats(0, 1))
def test_pairs_agree_with_one_long_vector(pair: list[Params], weight: float) -> None:
    left, right = pair
    a, b = flat(left), flat(right)
    torch.testing.assert_close(flat(subtract(left, right)), a - b)
    torch.testing.assert_close(flat(combine(torch.mul, left, right)), a * b)
    torch.testing.assert_close(flat(interpolate(left, right, weight)), a + weight * (b - a))
    # norms are taken in float32 per tensor
    torch.testing.assert_close(squared_norm(left), a @ a, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(inner_product(left, right), a @ b, rtol=1e-9, atol=1e-9)


@given(pair=twins())
def test_cosine_and_relative_change(pair: list[Params]) -> None:
    left, right = pair
    a, b = flat(left), flat(right)
    assert -1.0001 <= cosine(left, right) <= 1.0001
    assert cosine(left, right) == pytest.approx(cosine(right, left))
    if a.norm() > 1e-3 and b.norm() > 1e-3:
        assert cosine(left, right) == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-4)
    if a.norm() > 1e-3:
        expected = float((b - a).norm() / a.norm())
        assert relative_change(left, right) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert relative_change(left, left) == 0.0


def test_zero_and_empty() -> None:
    zero, one = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    assert cosine(zero, one) == cosine(zero, zero) == 0.0
    assert relative_change(zero, one) == math.inf
    assert relative_change(zero, zero) == 0.0
    assert squared_norm({}) == inner_product({}, {}) == 0.0
    assert relative_change({}, {}) == 0.0
    assert interpolate({}, {}, 0.5) == {}


def test_interpolate_meets_its_ends_and_changes_nothing() -> None:
    start, end = {"w": torch.tensor([0.1, 1e8])}, {"w": torch.tensor([0.7, 1.0])}
    assert torch.equal(interpolate(start, end, 0.0)["w"], start["w"])
    assert torch.equal(interpolate(start, end, 1.0)["w"], end["w"])
    assert start["w"].tolist() == torch.tensor([0.1, 1e8]).tolist()


def test_low_precision_sums_are_wide() -> None:
    """65,536 ones squared would overflow or stall in half precision."""
    ones = {"w": torch.ones(2**16, dtype=torch.bfloat16), "v": torch.ones(1)}
    assert squared_norm(ones).dtype == DOUBLE
    assert float(squared_norm(ones)) == pytest.approx(2**16 + 1, rel=5e-3)
    assert wide_dtype(torch.device("cpu")) == DOUBLE
    assert wide_dtype(torch.device("mps")) == torch.float32


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ({"weihgt": torch.ones(2, 3)}, "'weight' is in only one of two"),
        ({}, "'weight' is in only one of two"),
        (
            {"weight": torch.ones(2, 3), "x": torch.ones(1)},
            r"'x' is in only one of two mappings; known: \['weight'\]",
        ),
        ({"weight": torch.ones(3, 2)}, r"'weight' has shape \((2, 3|3, 2)\) .*\((2, 3|3, 2)\)"),
    ],
)
def test_mismatch_is_named(right: Params, words: str) -> None:
    left = {"weight": torch.ones(2, 3)}
    for function in (check_same_names, subtract, inner_product, relative_change):
        with pytest.raises(MismatchedParameters, match=words):
            function(left, right)


def test_a_running_mean_moves_in_place_and_counters_are_copied() -> None:
    slow = [torch.zeros(2), torch.tensor(3), torch.zeros(1, dtype=torch.complex64)]
    before = list(slow)
    average_into(slow, [torch.ones(2), torch.tensor(8), torch.ones(1) * 1j], decay=0.75)
    assert all(one is other for one, other in zip(slow, before, strict=True))
    torch.testing.assert_close(slow[0], torch.full((2,), 0.25))
    assert slow[1].item() == 8
    torch.testing.assert_close(slow[2], torch.tensor([0.25j]))
    average_into([], [], decay=0.5)


def test_half_precision_is_summed_in_full() -> None:
    half = {"w": torch.full((300,), 300.0, dtype=torch.float16)}
    assert squared_norm(half).item() == pytest.approx(300.0**3)
    assert inner_product(half, half).item() == pytest.approx(300.0**3)
    assert cosine(half, half) == pytest.approx(1.0)
    slow = [torch.ones(1)]
    for _ in range(1000):
        average_into(slow, [torch.full((1,), 2.0, dtype=torch.bfloat16)], decay=0.999)
    assert slow[0].item() == pytest.approx(2.0 - 0.999**1000, rel=1e-4)


def test_what_is_finite_is_told_from_what_overflows_in_a_sum() -> None:
    huge = torch.full((4,), 60_000.0, dtype=torch.float16)
    assert are_finite([huge, torch.full((4,), 3e38), torch.ones(1, dtype=torch.complex64)])
    for wrong in (torch.nan, torch.inf):
        assert not are_finite([huge, torch.tensor([1.0, wrong])])
