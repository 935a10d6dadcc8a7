"""Whether flat inputs are images, and of which shape: neighbours in an image are alike.

Letters: N examples, I inputs, C channels, H height, W width.
"""

import math
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from nestling.core.errors import SettingError

MOST_FIRST_ROWS = 256
# Of the neighbour statistic: images lie at .1 to .7, permuted pixels and noise at .94 to 1.
MOST_ROUGHNESS = 0.8
LEAST_SIDE = 6
# One row alone tells by its own pixels only, of which a small image has too few.
LEAST_INPUTS_OF_ONE_ROW = 196


@dataclass(frozen=True)
class ImageShape:
    """The shape of a flat image.

    Args:
        channels: C >= 1.
        height: H >= 6.
        width: W >= 6.
        channels_last: laid out as (H, W, C) and not as (C, H, W).
        roughness: the neighbour statistic that found it, see `measure_roughness`; None if the
            shape was given. Says where the shape comes from and is no part of it.

    Raises:
        SettingError: a shape that is no image.
    """

    channels: int
    height: int
    width: int
    channels_last: bool = False
    roughness: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.channels < 1 or min(self.height, self.width) < LEAST_SIDE:
            raise SettingError(
                f"images of {self.channels} channels of {self.height} x {self.width}; "
                f"1 channel or more of at least {LEAST_SIDE} x {LEAST_SIDE} work"
            )

    @property
    def num_inputs(self) -> int:
        """Numbers of one image."""
        return self.channels * self.height * self.width

    def read_config(self) -> dict[str, object]:
        """What makes this shape, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "roughness"}

    def unflatten(self, x_NI: Tensor) -> Tensor:
        """(N, I) -> (N, C, H, W), a view where it can be one."""
        if self.channels_last:
            x_NHWC = x_NI.reshape(x_NI.shape[0], self.height, self.width, self.channels)
            return x_NHWC.permute(0, 3, 1, 2)
        return x_NI.reshape(x_NI.shape[0], self.channels, self.height, self.width)


def list_square_shapes(num_inputs: int) -> list[ImageShape]:
    """Shapes that flat square images of so many numbers can have: grey, or of three channels.

    >>> [(shape.channels, shape.height) for shape in list_square_shapes(784)]
    [(1, 28)]
    """
    shapes = []
    for channels in (1, 3):
        side = math.isqrt(num_inputs // channels)
        if side >= LEAST_SIDE and channels * side * side == num_inputs:
            shapes.append(ImageShape(channels, side, side))
            if channels > 1:
                shapes.append(ImageShape(channels, side, side, channels_last=True))
    return shapes


def find_image_shape(x_NI: Tensor) -> ImageShape | None:
    """Whether flat inputs are square images, told by neighbours that vary together.

    Shapes that are not square are not guessed. A smooth signal that is laid out as a square
    passes too, so say aloud what was found.

    Args:
        x_NI: (N, I) any dtype; the first 256 rows are read.

    Returns: the shape with its roughness, or None.

    >>> rows = torch.arange(8.0) * torch.tensor([[1.0], [2.0]])
    >>> found = find_image_shape(rows.repeat(1, 8))
    >>> (found.height, found.width)
    (8, 8)
    """
    found: ImageShape | None = None
    for shape in list_square_shapes(x_NI.shape[1]):
        roughness = measure_roughness(x_NI, shape)
        best = MOST_ROUGHNESS if found is None or found.roughness is None else found.roughness
        if roughness is not None and roughness < best:
            found = ImageShape(
                shape.channels, shape.height, shape.width, shape.channels_last, roughness
            )
    return found


def measure_roughness(x_NI: Tensor, shape: ImageShape) -> float | None:
    """How much neighbours differ, relative to pixels anywhere: about 1 if there is no image.

    q = mean over neighbours of Var(x_i - x_j) / mean over all pairs of Var(x_i - x_j), with
    variances over the rows and pairs within a channel. A single row is judged by squares of
    differences instead, and only if it is large.

    Args:
        x_NI: (N, I) any dtype; the first 256 rows are read.
        shape: what the inputs may be.

    Returns: q >= 0; None where it is not defined: constant images, not finite, too few numbers.
    """
    rows = x_NI[:MOST_FIRST_ROWS].detach().to("cpu", torch.float64)
    if len(rows) == 0 or (len(rows) == 1 and rows.shape[1] < LEAST_INPUTS_OF_ONE_ROW):
        return None
    # Means are taken off once: the variance of a difference is then a mean square.
    x_NCHW = shape.unflatten(rows - rows.mean(0) if len(rows) > 1 else rows)
    num_pixels = shape.height * shape.width
    # All ordered pairs of different pixels: 2 (P sum x^2 - (sum x)^2) / (P (P - 1)).
    squares, sums = x_NCHW.square().sum((2, 3)), x_NCHW.sum((2, 3))
    anywhere = 2.0 * float((num_pixels * squares - sums.square()).mean())
    anywhere /= num_pixels * (num_pixels - 1)
    along = x_NCHW.diff(dim=3).square()
    across = x_NCHW.diff(dim=2).square()
    neighbours = float(along.sum() + across.sum()) / (along.numel() + across.numel())
    if not (math.isfinite(anywhere) and math.isfinite(neighbours)) or anywhere <= 0.0:
        return None
    return neighbours / anywhere
