import math

import pytest
import torch
from torch import Tensor

from nestling.core.machine import use_threads
from nestling.memory.coded.oriented_gradients import (
    compute_gradient_codes,
    lay_grid,
    shrink_pixels,
)

SIZES = [
    (1, 28, 28),
    (1, 14, 14),
    (1, 8, 8),
    (3, 32, 32),
    (1, 6, 30),
    (2, 9, 7),
    (6, 8, 8),
    (3, 65, 50),
]


def draw(channels: int, height: int, width: int, num: int = 70) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    x = torch.randint(0, 256, (num, channels, height, width), generator=generator).float()
    return x * (torch.rand(x.shape, generator=generator) < 0.6)


def code_slowly(pixels_HW: Tensor, cell: int) -> list[int]:
    """One grey image whose sides are whole numbers of cells, number by number."""
    height, width = pixels_HW.shape

    def read(i: int, j: int) -> int:
        return int(pixels_HW[i, j]) if 0 <= i < height and 0 <= j < width else 0

    def weigh(place: int, index: int) -> float:
        centre = index * cell + (cell - 1) / 2
        return max(0.0, 2 * (cell - abs(place - centre)))

    v = []
    for k in range(8):
        c, s = (round(8 * f(2 * math.pi * k / 8)) for f in (math.cos, math.sin))
        for a in range(height // cell):
            for b in range(width // cell):
                total = 0.0
                for i in range(height):
                    for j in range(width):
                        gx = read(i, j + 1) - read(i, j - 1)
                        gy = read(i + 1, j) - read(i - 1, j)
                        total += max(0, c * gx + s * gy) * weigh(i, a) * weigh(j, b)
                v.append(total)
    norm = math.sqrt(sum(value**2 for value in v))
    fading = round(0.001 * 255 * 8 * (2 * cell**2) ** 2)
    codes = [min(127, round(127 * math.sqrt(value / (norm + fading)) / 0.75)) for value in v]
    for a in range(height // cell):
        for b in range(width // cell):
            box = pixels_HW[a * cell : (a + 1) * cell, b * cell : (b + 1) * cell]
            codes.append(round(127 * 0.3 * float(box.mean()) / 255 / 0.75))
    return codes


@pytest.mark.parametrize(("side", "cell"), [(14, 2), (8, 2)])
def test_codes_are_the_equations(side: int, cell: int) -> None:
    x = draw(1, side, side, 2)
    codes = compute_gradient_codes(x, lay_grid(1, side, side))
    for image, row in zip(x, codes, strict=True):
        wanted = torch.tensor(code_slowly(image[0], cell))
        # Float32 against float64: a code on the edge between two may fall to either side.
        assert int((row - wanted).abs().max()) <= 1
        assert int((row != wanted).sum()) <= 2


@pytest.mark.parametrize("size", SIZES)
def test_the_batch_and_the_threads_change_no_bit(size: tuple[int, int, int]) -> None:
    grid = lay_grid(*size)
    x = shrink_pixels(draw(*size), grid)
    whole = compute_gradient_codes(x, grid)
    assert whole.shape == (70, grid.num_codes)
    assert int(whole.min()) >= 0
    assert len(whole.unique()) > 20
    for num_threads in (1, 2):
        with use_threads(num_threads):
            for batch in (1, 7, 32, 70):
                parts = [compute_gradient_codes(part, grid) for part in x.split(batch)]
                assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(compute_gradient_codes(x.to(torch.uint8), grid), whole)


@pytest.mark.parametrize("size", SIZES)
def test_sums_of_the_steepest_images_are_exact(size: tuple[int, int, int]) -> None:
    """Stripes of the largest contrast: every sum is below 2^24 (squares: 2^53)."""
    grid = lay_grid(*size)
    # |u| of a pixel is at most 6 * 2 * 255; halves of it are pooled with its signed twin.
    largest_pixel = 6 * 2 * 255
    assert float(grid.pooling.sum(0).max()) * largest_pixel < 2**24
    # Of all 8 directions: sum o_k^2 <= 4 * 8^2 |g|^2 (+ rounding of the cosines: none is larger).
    squares = 4 * 64 * 2 * 255**2 * float(grid.pooling.sum(0).max()) ** 2
    assert squares * grid.pooling.shape[1] < 2**53


def test_directions_are_told_apart() -> None:
    ramp = torch.arange(28.0) * 9
    right = ramp.expand(1, 1, 28, 28).contiguous()
    grid = lay_grid(1, 28, 28)
    inner = compute_gradient_codes(right, grid)[0, : 8 * 49].view(8, 7, 7)[:, 1:6, 1:6]
    assert int(inner[0].min()) > 0  # towards the right
    assert int(inner[4].max()) == 0  # towards the left
    down = compute_gradient_codes(right.transpose(2, 3), grid)[0, : 8 * 49].view(8, 7, 7)
    assert torch.equal(down[2, 1:6, 1:6], inner[0].T)


def test_constant_images_have_gradients_at_their_border_only() -> None:
    grid = lay_grid(1, 28, 28)
    codes = compute_gradient_codes(torch.full((1, 1, 28, 28), 255.0), grid)
    assert int(codes[0, : 8 * 49].view(8, 7, 7)[:, 2:5, 2:5].max()) == 0
    assert set(codes[0, 8 * 49 :].tolist()) == {51}  # 127 * .3 / .75
    assert int(compute_gradient_codes(torch.zeros(1, 1, 28, 28), grid).max()) == 0


def test_colours_have_means_of_their_own() -> None:
    grid = lay_grid(3, 32, 32)
    x = torch.zeros(2, 3, 32, 32)
    x[0, 0], x[1, 2] = 255.0, 255.0
    codes = compute_gradient_codes(x, grid)
    num_directed = 8 * grid.pooling.shape[1]
    assert torch.equal(codes[0, :num_directed], codes[1, :num_directed])
    assert not torch.equal(codes[0], codes[1])


def test_large_images_are_averaged_first() -> None:
    small = draw(1, 28, 28, 3)
    large = small.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    assert torch.equal(shrink_pixels(small, lay_grid(1, 28, 28)), small)
    assert torch.equal(shrink_pixels(large, lay_grid(1, 84, 84)), small)
    framed = torch.nn.functional.pad(large, (1, 1, 1, 1), value=9.0)  # cut off evenly
    assert torch.equal(shrink_pixels(framed, lay_grid(1, 86, 86)), small)
    dim = torch.full((1, 1, 33, 40), 7.0)
    dim[0, 0, ::2] = 8.0
    assert torch.equal(shrink_pixels(dim, lay_grid(1, 33, 40)), torch.full((1, 1, 16, 20), 7.0))
