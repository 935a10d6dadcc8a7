"""Persons who come to a model that was trained on others: digits in another hand, or turned."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nestling.core.seeds import make_generator
from nestling.data.digits import SIDE, load_digits, restyle_digits

Pair = tuple[Tensor, Tensor]  # (N, D) inputs, here (N, 64) images in [0, 1], and (N,) labels
Style = Callable[[Tensor], Tensor]  # (N, 64) -> (N, 64)

NUM_TRAIN, NUM_OTHERS, NUM_STREAM = 1000, 300, 300
# Of the writers that a model is trained on: mild slants, drawn by the seed.
NUM_WRITERS, MILD_SLANT = 20, 0.3
# Of the six who come: five slant strongly, the last hardly.
SLANTS = (-0.8, 0.8, -0.85, 0.75, 0.85, -0.3)


@dataclass(frozen=True, eq=False)
class Person:
    """One person, and what the model was trained on.

    Attributes:
        name: of the person.
        trained: what the model learned before; never seen again.
        others: further examples like those, to test on.
        stream: what the person gives, in order.
        own: the person's further examples, to test on.
    """

    name: str
    trained: Pair
    others: Pair
    stream: Pair
    own: Pair


def _write(slant: float) -> Style:
    return lambda x: restyle_digits(x, slant=slant, turn_degrees=0.0, pen=0.0)


def _shift(x: Tensor) -> Tensor:
    images = x.reshape(-1, SIDE, SIDE)
    return torch.nn.functional.pad(images, (2, 0, 1, 0))[:, :SIDE, :SIDE].reshape(len(x), -1)


def _add_noise(x: Tensor) -> Tensor:
    noise = torch.randn(
        x.shape,
        generator=make_generator(round(float(x.sum())), "noise"),
        dtype=torch.float32,
        device="cpu",
    )
    return (x + 0.35 * noise).clamp(0.0, 1.0)


WRITERS: dict[str, Style] = {f"writer {i + 1}": _write(slant) for i, slant in enumerate(SLANTS)}
KINDS: dict[str, Style] = {
    "inverted": lambda x: 1.0 - x,
    "turned": lambda x: restyle_digits(x, slant=0.0, turn_degrees=60.0, pen=0.0),
    "shifted": _shift,
}
# Looked at beside the others: harder, since they resemble what the model knows.
FURTHER: dict[str, Style] = {
    "mirrored": lambda x: x.reshape(-1, SIDE, SIDE).flip(2).reshape(len(x), -1),
    "upside down": lambda x: x.reshape(-1, SIDE, SIDE).rot90(2, (1, 2)).reshape(len(x), -1),
    "noisy": _add_noise,
    "dim": lambda x: 0.3 * x,
    "as the others": lambda x: x,
}


def make_writers(seed: int) -> Iterator[Person]:
    """Six writers who come to a model of twenty others, all of whom slant mildly.

    Args:
        seed: draws the images, and the others' slants.
    """
    x, y = _shuffle(seed)
    generator = make_generator(seed, "writers")
    slants = MILD_SLANT * (
        2.0 * torch.rand(NUM_WRITERS, generator=generator, dtype=torch.float32, device="cpu") - 1.0
    )
    num_known = NUM_TRAIN + NUM_OTHERS
    writer_N = torch.randint(NUM_WRITERS, (num_known,), generator=generator, device="cpu")
    known = x[:num_known].clone()
    for writer in range(NUM_WRITERS):
        rows = writer_N == writer
        known[rows] = _write(float(slants[writer]))(known[rows])
    yield from _bring(known, x[num_known:], y, WRITERS)


def make_kinds(seed: int, kinds: Mapping[str, Style]) -> Iterator[Person]:
    """Persons of several kinds who come to a model of plain digits.

    Args:
        seed: draws the images.
        kinds: `KINDS`, `FURTHER` or the user's own: name -> style.

    >>> [person.name for person in make_kinds(0, KINDS)]
    ['inverted', 'turned', 'shifted']
    """
    x, y = _shuffle(seed)
    num_known = NUM_TRAIN + NUM_OTHERS
    yield from _bring(x[:num_known], x[num_known:], y, kinds)


def _shuffle(seed: int) -> Pair:
    x, y = load_digits()
    order = torch.randperm(len(x), generator=make_generator(seed, "persons"), device="cpu")
    return x[order], y[order]


def _bring(
    known: Tensor, fresh: Tensor, y: Tensor, styles: Mapping[str, Style]
) -> Iterator[Person]:
    num_known = len(known)
    for name, style in styles.items():
        own_x, own_y = style(fresh), y[num_known:]
        yield Person(
            name,
            (known[:NUM_TRAIN], y[:NUM_TRAIN]),
            (known[NUM_TRAIN:], y[NUM_TRAIN:num_known]),
            (own_x[:NUM_STREAM], own_y[:NUM_STREAM]),
            (own_x[NUM_STREAM:], own_y[NUM_STREAM:]),
        )
