import math

import pytest
import torch
from torch import Tensor

from nestling.core.errors import DataError, NonFiniteInput, SettingError
from nestling.memory.coded import InputScale, choose_input_scale
from nestling.memory.coded.input_codes import encode_inputs

UNIT = InputScale("unit", 0.0, 255.0)
BYTES = InputScale("bytes")


def draw_bytes() -> Tensor:
    x = torch.randint(0, 256, (20, 30), generator=torch.Generator().manual_seed(0))
    x[0, 0], x[0, 1] = 0, 255
    return x.to(torch.uint8)


def test_pixels_in_all_units_become_the_same_bytes() -> None:
    x = draw_bytes()
    for given, kind in ((x, "bytes"), (x.float(), "bytes"), (x / 255, "unit"), (x / 255.0, "unit")):
        scale = choose_input_scale(given, pixels=True)
        assert scale.kind == kind
        codes, num_clipped = encode_inputs(given, scale)
        assert torch.equal(codes, x.float())
        assert codes.dtype == torch.float32
        assert num_clipped == 0
    assert torch.equal(encode_inputs(x, UNIT)[0], x.float())  # bytes where [0, 1] came first
    assert torch.equal(encode_inputs((x / 255).double(), UNIT)[0], x.float())


@pytest.mark.parametrize(("top", "kind"), [(255, "bytes"), (90, "bytes"), (16, "pixels")])
def test_whole_numbers_are_bytes_unless_they_are_few(top: int, kind: str) -> None:
    x = (draw_bytes().long() * top // 255).float()
    scale = choose_input_scale(x, pixels=True)
    assert scale.kind == kind
    assert float(encode_inputs(x, scale)[0].max()) >= 90.0


def test_standardised_pixels_keep_their_range() -> None:
    x = (draw_bytes() / 255 - 0.1307) / 0.3081
    scale = choose_input_scale(x, pixels=True)
    codes, num_clipped = encode_inputs(x, scale)
    assert scale.kind == "pixels"
    assert num_clipped == 0
    assert float(codes.min()) == 0.0
    assert 128 <= float(codes.max()) <= 255


@pytest.mark.parametrize("size", [1e-30, 0.01, 1.0, 3.0, 1e6, 1e30, 1e60])
def test_numbers_of_any_size_fill_seven_bits(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 30, generator=generator, dtype=torch.float64) * size
    scale = choose_input_scale(x, pixels=False)
    codes, num_clipped = encode_inputs(x, scale)
    if 1e-25 < size < 1e25:  # factors go no further
        assert 16 <= float(codes.square().mean().sqrt()) <= 46
        assert math.log2(scale.factor).is_integer()
    assert num_clipped <= 0.005 * x.numel()
    assert float(codes.abs().max()) <= 127


def test_nearly_equal_first_batches_choose_the_same_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(64, 10, generator=generator) * 1.1 for _ in range(20)]
    assert len({choose_input_scale(x, pixels=False) for x in rows}) == 1


def test_a_heavy_tail_is_clipped_and_counted() -> None:
    x = torch.full((100, 10), 1.0)
    scale = choose_input_scale(x, pixels=False)
    x[0, 0], x[1, 1] = 1e6, -1e6
    codes, num_clipped = encode_inputs(x, scale)
    assert num_clipped == 2
    assert codes[0, 0] == 127
    assert codes[1, 1] == -127
    codes, num_clipped = encode_inputs(torch.tensor([[-0.5, 0.5, 2.0]]), UNIT)
    assert codes.tolist() == [[0.0, 128.0, 255.0]]
    assert num_clipped == 2


def test_what_was_given_is_left_alone() -> None:
    for scale in (InputScale("signed"), InputScale("pixels", 0.5, 2.0), BYTES):
        x = torch.tensor([[3.0, 999.0]])
        encode_inputs(x, scale)
        assert x.tolist() == [[3.0, 999.0]]


def test_constant_and_zero_inputs_have_a_scale() -> None:
    for pixels in (True, False):
        for value in (0.0, 7.3, -2.0):
            x = torch.full((3, 4), value)
            codes, num_clipped = encode_inputs(x, choose_input_scale(x, pixels=pixels))
            assert num_clipped == 0
            assert len(codes.unique()) == 1


def test_wrong_use_is_named() -> None:
    with pytest.raises(DataError, match="fractions"):
        encode_inputs(torch.tensor([[0.5, 1.0]]), BYTES)
    for bad in (math.nan, math.inf):
        x = torch.tensor([[0.5, bad]])
        with pytest.raises(NonFiniteInput):
            encode_inputs(x, UNIT)
        with pytest.raises(NonFiniteInput):
            choose_input_scale(x, pixels=True)
    with pytest.raises(DataError, match="1 row"):
        choose_input_scale(torch.zeros(0, 3), pixels=True)
    with pytest.raises(SettingError, match="'bytes'"):
        InputScale("byte")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="factor"):
        InputScale("signed", 0.0, math.nan)
