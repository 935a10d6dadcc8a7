"""Streams that a model of MNIST digits does not know: turned, another source, light for dark.

The protocol `person`: a base learns 5,000 digits of `mnist-10k`; then 600 examples of a stream B
come. All inputs are 14 x 14, averaged from 28 x 28. Axis letters: N images.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from nestling.core.seeds import make_generator
from nestling.data.archives import Split
from nestling.data.digits import SIDE, load_digits
from nestling.data.persons import Pair, Person
from nestling.data.suites.grey_images import pool_images, rotate_images

NUM_BASE, NUM_STREAM = 5_000, 600
TURN_DEGREES = 60.0
INNER, WHOLE = 20, 28  # pixels: of a digit, and with its border, as in MNIST


def make_shifts(split: Split, seed: int) -> Iterator[Person]:
    """Three streams B that come to a model of MNIST digits.

    `trained` is 5,000 of the training images and `others` all test images. Of B the seed draws
    two halves: 600 of the first are the stream, the second is tested on. Turned and inverted
    digits are the training images that the base has not learned; `other digits` are
    scikit-learn's.

    Args:
        split: of `grey_images.read_mnist`: 7,000 training images (N, 28, 28), labels, and tests.
        seed: draws what is trained on, and the streams.

    Returns: an iterator over persons "turned", "other digits" and "inverted".
    """
    x, y, x_test, y_test = split
    order = torch.randperm(len(x), generator=make_generator(seed, "shifts"), device="cpu")
    base, rest = order[:NUM_BASE], order[NUM_BASE:]
    trained = (pool_images(x[base]), y[base])
    others = (pool_images(x_test), y_test)
    found: dict[str, Pair] = {
        "turned": (pool_images(rotate_images(x[rest], TURN_DEGREES)), y[rest]),
        "other digits": _shuffle(*_read_other_digits(), seed),
        "inverted": (1.0 - pool_images(x[rest]), y[rest]),
    }
    for name, (shifted, labels) in found.items():
        half = len(shifted) // 2
        stream = (shifted[:half][:NUM_STREAM], labels[:half][:NUM_STREAM])
        yield Person(name, trained, others, stream, (shifted[half:], labels[half:]))


def frame_digits(x: Tensor) -> Tensor:
    """8 x 8 digits as MNIST shows them: scaled to 20 x 20, in the middle of 28 x 28.

    Args:
        x: (N, 64).

    Returns: (N, 28, 28).

    >>> frame_digits(torch.ones(1, 64))[0, 3:5, 14].tolist()
    [0.0, 1.0]
    """
    images = x.reshape(-1, 1, SIDE, SIDE)
    large = functional.interpolate(images, size=INNER, mode="bilinear", align_corners=False)
    border = (WHOLE - INNER) // 2
    return functional.pad(large, (border,) * 4)[:, 0]


def _read_other_digits() -> Pair:
    x, y = load_digits()
    return pool_images(frame_digits(x)), y


def _shuffle(x: Tensor, y: Tensor, seed: int) -> Pair:
    generator = make_generator(seed, "shifts", "other digits")
    order = torch.randperm(len(x), generator=generator, device="cpu")
    return x[order], y[order]
