"""Images as oriented gradients and cell means, in integers: where edges run, and in which way.

Nothing is learned. All sums are of integers below 2^24 (exact in float32 in any order), or below
2^53 (exact in float64), so codes are the same bits whatever the batch, threads or processor.

Letters: N images, C channels, H height, W width, P pixels with their padding, K cells,
J codes of an image.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nestling.memory.coded.exact_root import take_root_

# Larger images are averaged over whole blocks first.
MOST_SIDE = 32
CELLS_PER_SIDE = 7
# h = .75 becomes 127: larger ones are rare.
TOP_HEIGHT = 0.75
GREY_WEIGHT, COLOUR_WEIGHT = 0.3, 0.6
# Pooled gradients fade where all of them together are weaker than this share of the strongest
# that one pixel in each place of a cell could have, 255 * 8.
FADING = 0.001
# With more channels than these, means of each would outweigh the gradients.
MOST_COLOURS = 4
# Images at once: what they need for a moment fits a second-level cache.
BLOCK = 32


class GradientGrid(NamedTuple):
    """Where the cells of an image lie: all that its size alone decides.

    Args:
        channels: C.
        shrink: rows and columns of a block that is averaged first, (1, 1) if none is.
        height: H after that.
        width: W after that.
        pooling: (P, K) triangular weights of pixels around the centres of cells, integers.
        boxes: (P, K), 1 where a pixel lies in a cell.
        turns: (8, 6), makes eight directions of pooled gx, gy, |gx + gy|, |gy - gx|, |gx|, |gy|.
        fading: added to the norm of the pooled gradients.
        pixels_per_cell: pixels of a cell.
    """

    channels: int
    shrink: tuple[int, int]
    height: int
    width: int
    pooling: Tensor
    boxes: Tensor
    turns: Tensor
    fading: float
    pixels_per_cell: int

    @property
    def num_means(self) -> int:
        """Planes of means: one per colour, or one of grey."""
        return self.channels if self.channels <= MOST_COLOURS else 1

    @property
    def num_codes(self) -> int:
        """J = (8 directions + planes of means) times cells."""
        return (8 + self.num_means) * self.pooling.shape[1]


def lay_grid(channels: int, height: int, width: int) -> GradientGrid:
    """Cells for images of one size: about 7 x 7, of at least 2 x 2 pixels.

    Args:
        channels: C >= 1.
        height: H >= 6.
        width: W >= 6.

    >>> grid = lay_grid(1, 28, 28)
    >>> grid.pooling.shape[1], grid.num_codes, grid.fading
    (49, 441, 2089.0)
    """
    shrink = (math.ceil(height / MOST_SIDE), math.ceil(width / MOST_SIDE))
    height, width = height // shrink[0], width // shrink[1]
    rows, columns = _choose_cell(height), _choose_cell(width)
    return GradientGrid(
        channels,
        shrink,
        height,
        width,
        _spread(_weigh_triangles(height, rows), _weigh_triangles(width, columns)),
        _spread(_mark_boxes(height, rows), _mark_boxes(width, columns)),
        _list_turns(),
        # A triangle's weights add up to 2 cell^2 per axis.
        float(round(FADING * 255 * 8 * (2 * rows**2) * (2 * columns**2))),
        rows * columns,
    )


def shrink_pixels(pixels_NCHW: Tensor, grid: GradientGrid) -> Tensor:
    """Large images as means over whole blocks, rounded down; what is left over is cut off evenly.

    Args:
        pixels_NCHW: (N, C, H, W), whole numbers 0 to 255 in float32 or uint8.
        grid: from `lay_grid` for the same C, H, W.

    Returns: (N, C, H', W'), whole numbers 0 to 255, both sides at most 32; small images as given.
    """
    rows, columns = grid.shrink
    if (rows, columns) == (1, 1):
        return pixels_NCHW
    top = (pixels_NCHW.shape[2] - rows * grid.height) // 2
    left = (pixels_NCHW.shape[3] - columns * grid.width) // 2
    inner = pixels_NCHW[:, :, top : top + rows * grid.height, left : left + columns * grid.width]
    # Sums of at most 255 * rows * columns: exact, and so is the floor of their quotient.
    shape = (*inner.shape[:2], grid.height, grid.width)
    sums = torch.zeros(shape, dtype=torch.float32, device=inner.device)
    for i in range(rows):
        for j in range(columns):
            sums += inner[:, :, i::rows, j::columns]
    return sums.div_(rows * columns).floor_()


def compute_gradient_codes(pixels_NCHW: Tensor, grid: GradientGrid) -> Tensor:
    """Oriented gradients and cell means of images, as 7-bit codes.

    g = central differences of grey, zeros beyond the border; o_k = max(0, c_k gx + s_k gy) in 8
    directions, (c, s) = round(8 (cos, sin)); v = o pooled by triangles around cells;
    h = sqrt(v / (|v| + fading)), |v| over the whole image; code = min(127, round(127 h / .75)).
    After them the means of cells in [0, 1], times .3 (of each colour: .6), on the same scale.

    Since max(0, u) = (|u| + u)/2 and opposite directions differ in the sign of u only, four
    pooled |u| and two pooled differences give all eight.

    Args:
        pixels_NCHW: (N, C, H, W) from `shrink_pixels`.
        grid: from `lay_grid`.

    Returns: (N, J) int8, 0 to 127.

    >>> codes = compute_gradient_codes(torch.zeros(2, 1, 28, 28), lay_grid(1, 28, 28))
    >>> codes.shape, int(codes.max())
    (torch.Size([2, 441]), 0)
    """
    codes_NJ = torch.empty(len(pixels_NCHW), grid.num_codes, dtype=torch.int8, device="cpu")
    for start in range(0, len(pixels_NCHW), BLOCK):
        block_NCHW = pixels_NCHW[start : start + BLOCK]
        codes_NJ[start : start + BLOCK] = code_gradients(block_NCHW, grid, take_root_)
    return codes_NJ


def code_gradients(
    pixels_NCHW: Tensor, grid: GradientGrid, take_root: Callable[[Tensor], Tensor]
) -> Tensor:
    """`compute_gradient_codes` of all images at once: (N, J) int8. torch.export traces it.

    Args:
        pixels_NCHW: (N, C, H, W) from `shrink_pixels`.
        grid: from `lay_grid`.
        take_root: the square root of each number of a float32 or float64 tensor that it may
            change.
    """
    num = pixels_NCHW.shape[0]
    if grid.channels == 1:
        padded = _pad(pixels_NCHW[:, 0].float())
    else:
        grey_NHW = pixels_NCHW[:, 0].float()
        for channel in range(1, grid.channels):
            grey_NHW = grey_NHW + pixels_NCHW[:, channel]
        padded = _pad(grey_NHW.div_(grid.channels).floor_())
    codes_8NK = _code_directions(padded, grid, take_root).to(torch.int8)
    weight = GREY_WEIGHT
    if grid.num_means > 1:
        weight = COLOUR_WEIGHT
        padded = _pad(pixels_NCHW.flatten(0, 1).float())
    factor = 127.0 * weight / TOP_HEIGHT / (255.0 * grid.pixels_per_cell)
    means_NK = (padded[1:-1] @ grid.boxes).mul_(factor).round_().to(torch.int8)
    means_NJK = means_NK.view(num, grid.num_means, grid.boxes.shape[1])
    return torch.cat([codes_8NK.transpose(0, 1), means_NJK], dim=1).flatten(1)


def _pad(planes_MHW: Tensor) -> Tensor:
    """Planes with a column and a row of zeros behind each, between planes of zeros: (M + 2, P).

    So a neighbour beyond a border is a zero, and all neighbours are one shift of one flat row.
    """
    return torch.nn.functional.pad(planes_MHW, (0, 1, 0, 1, 1, 1)).flatten(1)


def _code_directions(
    padded: Tensor, grid: GradientGrid, take_root: Callable[[Tensor], Tensor]
) -> Tensor:
    """Codes of the 8 directions, (8, N, K) float32, from grey pixels that `_pad` laid out."""
    num, size, stride = padded.shape[0] - 2, padded.shape[1], grid.width + 1
    flat = padded.view(-1)
    gx = (flat[size + 1 : 1 - size] - flat[size - 1 : -1 - size]).view(num, size)
    gy = (flat[size + stride : stride - size] - flat[size - stride : -stride - size]).view(
        num, size
    )
    # Each is pooled as soon as it is there, and turned into its size in place: one after the
    # other they stay in the cache.
    pooled_6NK = torch.stack(
        [
            gx @ grid.pooling,
            gy @ grid.pooling,
            (gx + gy).abs_() @ grid.pooling,
            (gy - gx).abs_() @ grid.pooling,
            gx.abs_() @ grid.pooling,
            gy.abs_() @ grid.pooling,
        ]
    )
    num_cells = grid.pooling.shape[1]
    v = (grid.turns @ pooled_6NK.view(6, num * num_cells)).view(8, num, num_cells)
    norm = take_root(v.double().square_().sum((0, 2))).add_(grid.fading).float()
    v = v.div_(norm[:, None])
    return take_root(v).mul_(127.0 / TOP_HEIGHT).round_().clamp_(max=127.0)


def _choose_cell(side: int) -> int:
    """Pixels of a cell along one side."""
    return max(2, round(side / CELLS_PER_SIDE))


def _place_cells(side: int, cell: int) -> tuple[int, int]:
    """How many whole cells lie along a side, and where the first begins."""
    num_cells = side // cell
    return num_cells, (side - num_cells * cell) // 2


def _weigh_triangles(side: int, cell: int) -> Tensor:
    """Weights 2 (cell - |d|) of pixels at distance d of each centre, (side, cells)."""
    num_cells, start = _place_cells(side, cell)
    place = torch.arange(side, dtype=torch.float32, device="cpu")[:, None] - start
    centre = torch.arange(num_cells, dtype=torch.float32, device="cpu") * cell + (cell - 1) / 2
    return (2.0 * (cell - (place - centre).abs())).clamp_(min=0.0)


def _mark_boxes(side: int, cell: int) -> Tensor:
    """1 where a pixel lies in a cell, (side, cells)."""
    num_cells, start = _place_cells(side, cell)
    place = torch.arange(side, dtype=torch.int64, device="cpu")[:, None] - start
    of_cell = place.div(cell, rounding_mode="floor")
    return (of_cell == torch.arange(num_cells, dtype=torch.int64, device="cpu")).float()


def _list_turns() -> Tensor:
    """u = 8 gx, 6 (gx + gy), 8 gy, 6 (gy - gx) and their opposites: (|u| + u)/2, (8, 6)."""
    signed = [(4, 0), (3, 3), (0, 4), (-3, 3)]
    sizes = [(0, 0, 4, 0), (3, 0, 0, 0), (0, 0, 0, 4), (0, 3, 0, 0)]
    rows = [(*u, *size) for u, size in zip(signed, sizes, strict=True)]
    rows += [(-u[0], -u[1], *size) for u, size in zip(signed, sizes, strict=True)]
    return torch.tensor(rows, dtype=torch.float32, device="cpu")


def _spread(rows: Tensor, columns: Tensor) -> Tensor:
    """Weights of pixels, padded as `_pad` pads, for cells in two dimensions: (P, K)."""
    rows = torch.nn.functional.pad(rows, (0, 0, 0, 1))
    columns = torch.nn.functional.pad(columns, (0, 0, 0, 1))
    return torch.einsum("ha,wb->hwab", rows, columns).flatten(2).flatten(0, 1).contiguous()
