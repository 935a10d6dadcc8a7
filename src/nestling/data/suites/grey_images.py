"""Suites of small grey images: MNIST and Fashion-MNIST, 28 x 28 averaged to 14 x 14.

The protocol of TARGETS.md, section 1: 10,000 images shuffled once with numpy's RandomState(0),
7,000 to train, 1,000 to validate, 2,000 to test. Axis letters: N images, H x W pixels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nestling.core.seeds import make_generator
from nestling.data.archives import Split, load
from nestling.data.drifts import drifting, relabelled
from nestling.data.experiences import Experience, list_classes
from nestling.data.scenarios import class_incremental
from nestling.data.sources.images import read_mnist_10k
from nestling.data.suites.suite import Request, Suite, cut_rows

NUM_TRAIN, NUM_VALIDATION, NUM_ALL = 7_000, 1_000, 10_000
NUM_TASKS, NUM_TASK_TEST = 10, 500
_CUT = (
    "10,000 images shuffled once with numpy RandomState(0), 7,000 to train, 1,000 to validate, "
    "2,000 to test, averaged 2 x 2 to 14 x 14; batch 10, one pass."
)
_DRIFT_ORDER = (0, 1, 2, 3, 0, 2, 1, 3, 2, 0, 3, 1)


def read_mnist(request: Request) -> Split:
    """MNIST by the protocol, before pooling: training images (7000, 28, 28) and so on."""
    x, y = read_mnist_10k(*request.obtain("mnist-10k"))
    return _cut(request, x, y)


def read_fashion(request: Request) -> Split:
    """The first 10,000 training images of Fashion-MNIST, cut as MNIST is."""
    (path,) = request.obtain("fashion-mnist")
    x, y, _, _ = load("fashion-mnist", path.parent, offline=True)
    return _cut(request, x[:NUM_ALL].reshape(-1, 28, 28), y[:NUM_ALL])


def pool_images(images_NHW: Tensor) -> Tensor:
    """2 x 2 averages, as rows: (N, H, W) -> (N, H W / 4).

    >>> pool_images(torch.tensor([[[0.0, 1.0], [2.0, 5.0]]]))
    tensor([[2.]])
    """
    return torch.nn.functional.avg_pool2d(images_NHW[:, None], 2).flatten(1)


def rotate_images(images_NHW: Tensor, degrees: float) -> Tensor:
    """Images turned about their middle, bilinear, black where nothing was.

    >>> turned = rotate_images(torch.eye(4)[None], 90.0)[0]
    >>> bool(torch.allclose(turned, torch.eye(4).flip(0), atol=1e-5))
    True
    """
    if degrees == 0.0:
        return images_NHW
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    affine_23 = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=torch.float32, device="cpu")
    num_images, height, width = images_NHW.shape
    # One grid for all of them, which makes half of the work free.
    grid = torch.nn.functional.affine_grid(
        affine_23[None], [1, 1, height, width], align_corners=False
    ).expand(num_images, height, width, 2)
    return torch.nn.functional.grid_sample(images_NHW[:, None], grid, align_corners=False)[:, 0]


def make_split_mnist(request: Request) -> Suite:
    """Digits in five pairs of classes."""
    note = "Split MNIST (Zenke 2017): the classes in 5 pairs drawn by the seed, single head. "
    return _make_split("split-mnist", read_mnist(request), note, request)


def make_split_fashion(request: Request) -> Suite:
    """Clothing in five pairs of classes."""
    note = (
        "Fashion-MNIST (Xiao 2017), its first 10,000 training images: the classes in 5 pairs "
        "drawn by the seed, single head. "
    )
    return _make_split("split-fashion", read_fashion(request), note, request)


def make_permuted_mnist(request: Request) -> Suite:
    """Digits whose pixels stand in another order in each task."""
    generator = make_generator(request.stream_seed, "permuted-mnist", "pixels")
    orders = [torch.randperm(196, generator=generator, device="cpu") for _ in range(NUM_TASKS - 1)]
    looks: dict[str, Callable[[Tensor], Tensor]] = {"unpermuted": pool_images}
    for index, order in enumerate(orders, start=1):
        looks[f"permutation {index}"] = _permute_by(order)
    note = (
        "Permuted MNIST (Goodfellow 2013): 10 tasks of 700 images, the first unpermuted, the "
        "others each with one permutation of the 196 pixels; 500 test images each. "
    )
    return _make_domains("permuted-mnist", looks, note, request)


def make_rotated_mnist(request: Request) -> Suite:
    """Digits that turn by 20 degrees from task to task."""
    looks = {f"{20 * index} degrees": _rotate_by(20.0 * index) for index in range(NUM_TASKS)}
    note = (
        "Rotated MNIST (Lopez-Paz 2017), 10 tasks of 700 images turned by 0, 20, ..., 180 "
        "degrees at 28 x 28, bilinear; 500 test images each. "
    )
    return _make_domains("rotated-mnist", looks, note, request)


def make_drift(request: Request) -> Suite:
    """Digits under four contexts that return, without a word about boundaries."""
    x, y, x_test, y_test = read_mnist(request)
    generator = make_generator(request.stream_seed, "drift")
    shown = torch.randperm(len(x_test), generator=generator, device="cpu")[:NUM_TASK_TEST]
    order = torch.randperm(196, generator=generator, device="cpu")
    looks: dict[str, Callable[[Tensor], Tensor]] = {
        "upright": pool_images,
        "60 degrees": _rotate_by(60.0),
        "permuted": _permute_by(order),
        "180 degrees": _rotate_by(180.0),
    }
    contexts = {
        name: (look(x), y, look(x_test[shown]), y_test[shown]) for name, look in looks.items()
    }
    names = list(looks)
    return Suite(
        name="drift",
        kind="drift",
        experiences=drifting(
            contexts,
            [names[index] for index in _DRIFT_ORDER],
            batch_size=10,
            seed=request.stream_seed,
        ),
        num_classes=10,
        batch_size=10,
        epochs=1,
        known_task_at_training=False,
        known_task_at_test=False,
        features="pixels",
        note=(
            "12 segments of 50-79 batches drawn with replacement; contexts upright, 60 degrees, "
            "permuted, 180 degrees in the order 0 1 2 3 0 2 1 3 2 0 3 1; the first 20 batches "
            "of a segment blend linearly from the last context. Score each batch before "
            "learning it, and the four contexts at the end, 500 images each. " + _CUT
        ),
        is_ordered=True,
    )


def make_conflict(request: Request) -> Suite:
    """Digits whose labels change meaning and change back."""
    x, y, x_test, y_test = read_mnist(request)
    return Suite(
        name="conflict",
        kind="conflict",
        experiences=relabelled(
            *(pool_images(x), y, pool_images(x_test), y_test),
            batch_size=10,
            seed=request.stream_seed,
        ),
        num_classes=10,
        batch_size=10,
        epochs=1,
        known_task_at_training=False,
        known_task_at_test=False,
        features="pixels",
        note=(
            "12 segments of 50-79 batches drawn with replacement under three labellings, the "
            "given one and two permutations, in the order 0 1 0 2 1 0 2 1 0 2 1 2, without "
            "blending. Score each batch before learning it. " + _CUT
        ),
        is_ordered=True,
    )


def _cut(request: Request, x: Tensor, y: Tensor) -> Split:
    train, validation, test = cut_rows(len(x), NUM_TRAIN, NUM_VALIDATION)
    rows = request.choose(validation, test)
    return x[train], y[train], x[rows], y[rows]


def _rotate_by(degrees: float) -> Callable[[Tensor], Tensor]:
    return lambda images: pool_images(rotate_images(images, degrees))


def _permute_by(order: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: pool_images(images)[:, order]


def _make_split(name: str, split: Split, note: str, request: Request) -> Suite:
    x, y, x_test, y_test = split
    return Suite(
        name=name,
        kind="class-incremental",
        experiences=class_incremental(
            *(pool_images(x), y, pool_images(x_test), y_test),
            num_experiences=5,
            seed=request.stream_seed,
        ),
        num_classes=10,
        batch_size=10,
        epochs=1,
        known_task_at_training=False,
        known_task_at_test=False,
        features="pixels",
        note=note + _CUT,
    )


def _make_domains(
    name: str, looks: dict[str, Callable[[Tensor], Tensor]], note: str, request: Request
) -> Suite:
    """Disjoint parts of the training images, each with its own look."""
    x, y, x_test, y_test = read_mnist(request)
    generator = make_generator(request.stream_seed, name, "rows")
    parts = torch.randperm(len(x), generator=generator, device="cpu").tensor_split(len(looks))
    made = []
    for rows, (label, look) in zip(parts, looks.items(), strict=True):
        shown = torch.randperm(len(x_test), generator=generator, device="cpu")[:NUM_TASK_TEST]
        train, test = (look(x[rows]), y[rows]), (look(x_test[shown]), y_test[shown])
        made.append(Experience(label, train, test, list_classes(y)))
    return Suite(
        name=name,
        kind="domain-incremental",
        experiences=made,
        num_classes=10,
        batch_size=10,
        epochs=1,
        known_task_at_training=False,
        known_task_at_test=False,
        features="pixels",
        note=note + _CUT,
    )


BUILDERS: dict[str, Callable[[Request], Suite]] = {
    "split-mnist": make_split_mnist,
    "permuted-mnist": make_permuted_mnist,
    "rotated-mnist": make_rotated_mnist,
    "split-fashion": make_split_fashion,
    "drift": make_drift,
    "conflict": make_conflict,
}

# What each builder obtains.
SOURCES: dict[str, tuple[str, ...]] = {
    "split-mnist": ("mnist-10k",),
    "permuted-mnist": ("mnist-10k",),
    "rotated-mnist": ("mnist-10k",),
    "split-fashion": ("fashion-mnist",),
    "drift": ("mnist-10k",),
    "conflict": ("mnist-10k",),
}
