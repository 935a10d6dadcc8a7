"""Suites of pictures: handwritten characters, emoji, photographs, and several sets at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from nestling.core.seeds import make_generator
from nestling.data.archives import Split
from nestling.data.digits import load_digits
from nestling.data.experiences import Experience, list_classes, split_by_class
from nestling.data.scenarios import class_incremental, multi_task
from nestling.data.sources.images import Emoji, read_cifar10, read_emoji, read_omniglot
from nestling.data.suites.grey_images import pool_images, read_fashion, read_mnist
from nestling.data.suites.suite import Request, Suite, cut_by_class, cut_rows, shuffle_domains

# Who drew it, so that no hand is tested on that was trained on.
OMNIGLOT_TRAIN, OMNIGLOT_VALIDATION = range(1, 15), range(15, 17)
MULTI_TRAIN, MULTI_TEST = 1_200, 400
# Of 1,334, since two vendors alone have only two orders.
EMOJI_TRAIN = 1_200
VENDORS = ("google", "twitter")
# Five pictures are no class.
_SKIPPED_CATEGORY = "Component"


def make_omniglot(request: Request) -> Suite:
    """Characters: one alphabet after another."""
    found = read_omniglot(request.obtain("omniglot"))
    x = torch.nn.functional.adaptive_avg_pool2d(found.ink[:, None].float(), 28)
    names = sorted(set(found.characters))
    y = torch.tensor(
        [names.index(name) for name in found.characters], dtype=torch.int64, device="cpu"
    )
    alphabets = sorted({name.split("/")[0] for name in names})
    groups = [
        [label for label, name in enumerate(names) if name.split("/")[0] == alphabets[place]]
        for place in shuffle_domains(len(alphabets), request, "omniglot")
    ]
    is_train, is_validation = (
        torch.isin(found.drawers, torch.tensor(drawers, dtype=torch.int64, device="cpu"))
        for drawers in (OMNIGLOT_TRAIN, OMNIGLOT_VALIDATION)
    )
    rows = request.choose(is_validation, ~(is_train | is_validation))
    made = split_by_class(x[is_train], y[is_train], x[rows], y[rows], groups)
    return _make_suite(
        "omniglot",
        "class-incremental",
        [
            Experience(names[group[0]].split("/")[0], one.train, one.test, one.classes)
            for one, group in zip(made, groups, strict=True)
        ],
        num_classes=len(names),
        epochs=5,
        note=(
            "Omniglot's small sets (Lake 2015): 242 characters, one of 8 alphabets after another "
            "in an order drawn by the seed, single head. Drawers 1-14 to train, 15-16 to "
            "validate, 17-20 to test; 105 x 105 averaged to 28 x 28, ink is 1; batch 10, "
            "5 passes over 14 drawings of each character."
        ),
    )


def make_emoji(request: Request) -> Suite:
    """Emoji: the same things as one vendor draws them, then as another does."""
    paths = request.obtain("emoji")
    generator = make_generator(request.stream_seed, "emoji", "names")
    drawn = None
    made = []
    for place in shuffle_domains(len(VENDORS), request, "emoji"):
        emoji = read_emoji(paths[place], VENDORS[place])
        x, y = _prepare_emoji(emoji)
        # By name, alike for both vendors: a thing is trained on or tested on, never both.
        pool, validation, test = cut_rows(len(y), round(0.7 * len(y)), round(0.1 * len(y)))
        if drawn is None:
            drawn = pool[torch.randperm(len(pool), generator=generator, device="cpu")[:EMOJI_TRAIN]]
        rows = request.choose(validation, test)
        train, held_out = (x[drawn], y[drawn]), (x[rows], y[rows])
        made.append(Experience(VENDORS[place], train, held_out, list_classes(y)))
    return _make_suite(
        "emoji-domains",
        "domain-incremental",
        made,
        num_classes=9,
        epochs=5,
        note=(
            "Emoji of Google (Noto) and Twitter (Twemoji), version 16.0.0: 9 categories, one "
            "vendor after the other in an order drawn by the seed. 70 % of the names to train, of "
            "which the seed draws 1,200, 10 % to validate, 20 % to test, alike for both vendors; "
            "64 x 64 averaged to 3 x 32 x 32 on white; batch 10, 5 passes. 'People & Body' is a "
            "fifth of all: compare with always saying it."
        ),
    )


def make_split_cifar10(request: Request) -> Suite:
    """Photographs in five pairs of classes."""
    x, y, x_test, y_test = read_cifar10(*request.obtain("cifar10-6k"))
    kept, held_out = cut_by_class(y, 0.1)
    if request.split == "validation":
        x_test, y_test = x[held_out], y[held_out]
    return _make_suite(
        "split-cifar10",
        "class-incremental",
        class_incremental(
            *(x[kept], y[kept], x_test, y_test), num_experiences=5, seed=request.stream_seed
        ),
        num_classes=10,
        epochs=1,
        note=(
            "A tenth of CIFAR-10 (Krizhevsky 2009), kept as JPEG: the classes in 5 pairs drawn by "
            "the seed, single head; 450 images of each to train, 50 to validate, 100 to test; "
            "32 x 32 pixels, RGB; batch 10, one pass. Figures of the literature come from 50,000 "
            "images and other networks: do not set them beside these. No licence is stated: "
            "measure with it, do not pass it on."
        ),
    )


def make_multi_task(request: Request) -> Suite:
    """Three sets of small grey images, each with its own output columns."""
    digits, labels = load_digits()
    x = torch.nn.functional.interpolate(
        digits.reshape(-1, 1, 8, 8), size=14, mode="bilinear", align_corners=False
    ).flatten(1)
    train, validation, test = cut_rows(len(x), MULTI_TRAIN, 197)
    rows = request.choose(validation, test)
    sets: dict[str, Split] = {
        "mnist": _pool(read_mnist(request)),
        "fashion": _pool(read_fashion(request)),
        "digits": (x[train], labels[train], x[rows], labels[rows]),
    }
    generator = make_generator(request.stream_seed, "multi-task", "rows")
    names = [list(sets)[place] for place in shuffle_domains(len(sets), request, "multi-task")]
    return _make_suite(
        "multi-task",
        "multi-task",
        multi_task({name: _draw(sets[name], generator) for name in names}),
        num_classes=30,
        epochs=1,
        note=(
            "MNIST, Fashion-MNIST and scikit-learn's digits at 14 x 14, in an order drawn by the "
            "seed, each with its own ten output columns and its task label, which is known in "
            "training and at test. 1,200 images each to train; up to 400 to test; batch 10, "
            "one pass."
        ),
    )


def _pool(split: Split) -> Split:
    x, y, x_test, y_test = split
    return pool_images(x), y, pool_images(x_test), y_test


def _draw(split: Split, generator: torch.Generator) -> Split:
    x, y, x_test, y_test = split
    train = torch.randperm(len(x), generator=generator, device="cpu")[:MULTI_TRAIN]
    test = torch.randperm(len(x_test), generator=generator, device="cpu")[:MULTI_TEST]
    return x[train], y[train], x_test[test], y_test[test]


def _prepare_emoji(emoji: Emoji) -> tuple[Tensor, Tensor]:
    """Pixels (N, 3, 32, 32) and labels (N,) of the nine categories."""
    kept = torch.tensor(
        [category != _SKIPPED_CATEGORY for category in emoji.categories],
        dtype=torch.bool,
        device="cpu",
    )
    names = sorted(set(emoji.categories) - {_SKIPPED_CATEGORY})
    labels = [names.index(one) for one in emoji.categories if one != _SKIPPED_CATEGORY]
    return torch.nn.functional.avg_pool2d(emoji.pixels[kept], 2), torch.tensor(
        labels, dtype=torch.int64, device="cpu"
    )


def _make_suite(
    name: str, kind: str, made: list[Experience], *, num_classes: int, epochs: int, note: str
) -> Suite:
    return Suite(
        name=name,
        kind=kind,
        experiences=made,
        num_classes=num_classes,
        batch_size=10,
        epochs=epochs,
        known_task_at_training=kind == "multi-task",
        known_task_at_test=kind == "multi-task",
        features="pixels",
        note=note,
    )


BUILDERS: dict[str, Callable[[Request], Suite]] = {
    "omniglot": make_omniglot,
    "emoji-domains": make_emoji,
    "split-cifar10": make_split_cifar10,
    "multi-task": make_multi_task,
}

# What each builder obtains.
SOURCES: dict[str, tuple[str, ...]] = {
    "omniglot": ("omniglot",),
    "emoji-domains": ("emoji",),
    "split-cifar10": ("cifar10-6k",),
    "multi-task": ("digits", "mnist-10k", "fashion-mnist"),
}
