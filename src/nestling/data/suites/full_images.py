"""Suites of all images of MNIST and Fashion-MNIST, 28 x 28, as their files cut them.

60,000 images to learn and 10,000 to test, where the suites of `grey_images` have a tenth of them
at half the size.
"""

from collections.abc import Callable

from nestling.data.archives import Split, load
from nestling.data.scenarios import class_incremental
from nestling.data.suites.suite import Request, Suite, shuffle_once

NUM_VALIDATION = 10_000
BATCH_SIZE = 32
WIDTHS = (400, 400)
_PROTOCOL = (
    "All 60,000 training images of 28 x 28 pixels in [0, 1] to learn and the 10,000 test images, "
    "which the file keeps apart; the classes in 5 pairs drawn by the seed, single head; batch 32, "
    "one pass. The network is 784-400-400-10. Methods are tuned on 10,000 of the training images, "
    "shuffled once with numpy RandomState(0), and learn the other 50,000 then. "
)


def make_split_mnist_full(request: Request) -> Suite:
    """All digits in five pairs of classes."""
    note = (
        "Split MNIST (Zenke 2017), whole. " + _PROTOCOL + "The nearest setting of the literature "
        "is S-MNIST of the DER and CLS-ER papers (784-100-100, batch 10, digits in the order 0 to "
        "9), which `nestling bench reproduce --methods smnist` runs."
    )
    return _make_split("split-mnist-full", "mnist", note, request)


def make_split_fashion_full(request: Request) -> Suite:
    """All clothing in five pairs of classes."""
    note = "Fashion-MNIST (Xiao 2017), whole. " + _PROTOCOL.rstrip()
    return _make_split("split-fashion-full", "fashion-mnist", note, request)


def cut_full(request: Request, parts: Split) -> Split:
    """What a stream learns and is tested on: all of it, or training images alone to validate.

    Args:
        request: of the test split, or of the validation split.
        parts: training images and labels, test images and labels.

    Returns: the same; for validation 10,000 of the training images stand in the test images'
        place, and are not learned from.
    """
    x, y, _, _ = parts
    if request.split == "test":
        return parts
    order = shuffle_once(len(x))
    held_out, kept = order[:NUM_VALIDATION], order[NUM_VALIDATION:]
    return x[kept], y[kept], x[held_out], y[held_out]


def _make_split(name: str, source: str, note: str, request: Request) -> Suite:
    (path,) = request.obtain(source)
    parts = load(source, path.parent, offline=True)
    return Suite(
        name=name,
        kind="class-incremental",
        experiences=class_incremental(
            *cut_full(request, parts), num_experiences=5, seed=request.stream_seed
        ),
        num_classes=10,
        batch_size=BATCH_SIZE,
        epochs=1,
        known_task_at_training=False,
        known_task_at_test=False,
        features="pixels",
        note=note,
        widths=WIDTHS,
    )


BUILDERS: dict[str, Callable[[Request], Suite]] = {
    "split-mnist-full": make_split_mnist_full,
    "split-fashion-full": make_split_fashion_full,
}

# What each builder obtains.
SOURCES: dict[str, tuple[str, ...]] = {
    "split-mnist-full": ("mnist",),
    "split-fashion-full": ("fashion-mnist",),
}
