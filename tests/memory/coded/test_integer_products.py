import pytest
import torch

from nestling.memory.coded import integer_products
from nestling.memory.coded.integer_products import (
    has_int8_products,
    multiply_codes,
    multiply_in_floats,
)


def draw(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, (rows, columns), generator=generator, dtype=torch.int8)


@pytest.mark.parametrize("shape", [(1, 3, 5), (7, 1040, 8), (33, 2500, 17), (0, 4, 3)])
def test_both_ways_give_the_same_integers(shape: tuple[int, int, int]) -> None:
    a, b = draw(shape[0], shape[1], 0), draw(shape[1], shape[2], 1)
    wanted = (a.long() @ b.long()).int()
    assert torch.equal(multiply_in_floats(a, b), wanted)
    assert torch.equal(multiply_codes(a, b), wanted)


def test_the_largest_sums_are_exact() -> None:
    a, b = torch.full((3, 4001), 127, dtype=torch.int8), torch.full((4001, 2), 127).char()
    a[1], b[:, 1] = -127, -127
    assert torch.equal(multiply_in_floats(a, b), (a.long() @ b.long()).int())
    assert torch.equal(multiply_codes(a, b), (a.long() @ b.long()).int())


@pytest.mark.parametrize("fault", ["gone", "raises", "saturates"])
def test_a_processor_without_int8_products_is_found_out(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def multiply_badly(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if fault == "raises":
            raise RuntimeError("not implemented here")
        return (a.long() @ b.long()).clamp(-(2**15), 2**15 - 1).int()

    if fault == "gone":
        monkeypatch.delattr(torch, "_int_mm", raising=False)
    else:
        monkeypatch.setattr(torch, "_int_mm", multiply_badly, raising=False)
    has_int8_products.cache_clear()
    try:
        assert not has_int8_products()
        a, b = draw(2, 1500, 0), draw(1500, 3, 1)
        assert torch.equal(integer_products.multiply_codes(a, b), (a.long() @ b.long()).int())
    finally:
        has_int8_products.cache_clear()
