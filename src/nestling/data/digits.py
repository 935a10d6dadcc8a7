"""Scikit-learn's digits as the experiences of the demo: 1,797 real handwritten 8 x 8 images."""

import torch
from torch import Tensor

from nestling.core.errors import MissingExtra
from nestling.core.seeds import make_generator
from nestling.data.experiences import Experience

OLD, NEW = (0, 1, 2, 3, 4, 5), (6, 7, 8, 9)
SIDE = 8
# One writer's hand: letters lean to the right, sit turned, and come from a broad pen.
SLANT, TURN_DEGREES, PEN = 0.5, 15.0, 0.6
TEST_SHARE = 0.3


def load_digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: pixels (1797, 64) in [0, 1], float32, and labels (1797,).

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise MissingExtra("digits need scikit-learn: pip install 'nestling[data]'") from None
    pixels, labels = load(return_X_y=True)
    return torch.tensor(pixels / 16.0, dtype=torch.float32, device="cpu"), torch.tensor(
        labels, dtype=torch.int64, device="cpu"
    )


def restyle_digits(
    x: Tensor, *, slant: float = SLANT, turn_degrees: float = TURN_DEGREES, pen: float = PEN
) -> Tensor:
    """Digits in one writer's style: slanted, rotated, with a broad pen.

    An affine map (shear, then rotation) is sampled bilinearly at twice the resolution, strokes
    are widened by a maximum over 3 x 3 fine pixels that counts for `pen`, and the image is
    averaged back to 8 x 8. The same for every image: it is one writer's style.

    Args:
        x: (N, 64) in [0, 1].
        slant: of the shear; positive leans to the right.
        turn_degrees: of the rotation.
        pen: in [0, 1].

    Returns: (N, 64) in [0, 1].

    >>> x, _ = load_digits()
    >>> restyle_digits(x[:3]).shape
    torch.Size([3, 64])
    """
    turn = torch.deg2rad(torch.tensor(turn_degrees, dtype=torch.float32, device="cpu"))
    cos, sin = float(turn.cos()), float(turn.sin())
    # Maps output to input coordinates: rotation after shear.
    affine_23 = torch.tensor(
        [[cos, cos * slant - sin, 0.0], [sin, sin * slant + cos, 0.0]],
        dtype=torch.float32,
        device="cpu",
    )
    images_N1HW = x.reshape(-1, 1, SIDE, SIDE)
    grid = torch.nn.functional.affine_grid(
        affine_23.expand(len(x), 2, 3), [len(x), 1, 2 * SIDE, 2 * SIDE], align_corners=False
    )
    fine = torch.nn.functional.grid_sample(images_N1HW, grid, align_corners=False)
    broad = torch.nn.functional.max_pool2d(fine, 3, stride=1, padding=1)
    inked = (1.0 - pen) * fine + pen * broad
    return torch.nn.functional.avg_pool2d(inked, 2).reshape(len(x), -1)


def demo_experiences(seed: int) -> list[Experience]:
    """The four experiences of `nestling demo`: scikit-learn's digits, each image used once.

    Digits 0 to 5; then 6 to 9; then all digits in one writer's style; then 0 to 5 again, as
    they were at first but other images. 30 % of each are held out for testing.

    Args:
        seed: which image goes where.

    >>> [(e.name, len(e.train[0]), e.classes) for e in demo_experiences(0)][:2]
    [('digits 0-5', 315, (0, 1, 2, 3, 4, 5)), ('digits 6-9', 304, (6, 7, 8, 9))]
    """
    x, y = load_digits()
    order = torch.randperm(len(x), generator=make_generator(seed, "demo experiences"), device="cpu")
    is_old = y[order] <= max(OLD)
    old, new = order[is_old], order[~is_old]
    parts = {
        "digits 0-5": old[:450],
        "digits 6-9": new[:434],
        "new style": torch.cat([old[450:750], new[434:]]),
        "digits 0-5 again": old[750:],
    }
    return [_make_experience(name, x[rows], y[rows]) for name, rows in parts.items()]


def _make_experience(name: str, x: Tensor, y: Tensor) -> Experience:
    x = restyle_digits(x) if name == "new style" else x
    num_test = round(TEST_SHARE * len(x))
    # Rows came in random order but sorted by kind; every third or so is held out.
    held_out = torch.zeros(len(x), dtype=torch.bool, device="cpu")
    held_out[
        torch.linspace(0, len(x) - 1, num_test, dtype=torch.float32, device="cpu").round().long()
    ] = True
    classes = tuple(sorted(set(y.tolist())))
    return Experience(
        name, (x[~held_out], y[~held_out]), (x[held_out], y[held_out]), classes=classes
    )
