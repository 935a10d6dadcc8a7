"""The streams of the papers, on all 70,000 images of MNIST, classes in the order 0 to 9."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nestling.data import Experience, load
from nestling.data.suites import Suite
from nestling.data.suites.suite import Part

MEAN, STD = 0.1, 0.2752  # of images padded to 32 x 32 [Hsu 2018]
PROTOCOLS = ("smnist", "hsu_class", "hsu_domain", "hsu_task")
Scenario = Literal["class", "domain", "task"]


def make_protocol(name: str, split: Part, folder: Path | None, offline: bool) -> Suite:
    """The stream of a paper.

    Args:
        name: "smnist": S-MNIST of DER and CLS-ER, five pairs of digits, batch 10, one pass,
            pixels in [0, 1]. "hsu_class", "hsu_domain", "hsu_task": split MNIST of Hsu, with ten
            outputs; with two, odd or even; with a head for each pair and the task label known.
        split: "test", or "validation": 10,000 of the images to learn from.
        folder: where data sets lie; None as for `nestling.data.load`.
        offline: do not fetch.

    Raises:
        DataError: the images cannot be had.
        KeyError: another name.
    """
    made: dict[str, Callable[[], Suite]] = {
        "smnist": lambda: _make_smnist(split, folder, offline),
        "hsu_class": lambda: _make_hsu("class", split, folder, offline),
        "hsu_domain": lambda: _make_hsu("domain", split, folder, offline),
        "hsu_task": lambda: _make_hsu("task", split, folder, offline),
    }
    return made[name]()


def _make_smnist(split: Part, folder: Path | None, offline: bool) -> Suite:
    train, test = _read(split, folder, offline)
    return _cut("smnist", train, test, batch_size=10, epochs=1)


def _make_hsu(scenario: Scenario, split: Part, folder: Path | None, offline: bool) -> Suite:
    (x, y), (x_test, y_test) = _read(split, folder, offline)
    suite = _cut(f"hsu-{scenario}", (_pad(x), y), (_pad(x_test), y_test), batch_size=128, epochs=4)
    if scenario == "domain":
        made = [
            Experience(
                name=one.name,
                train=(one.train[0], one.train[1] % 2),
                test=(one.test[0], one.test[1] % 2),
                classes=(0, 1),
            )
            for one in suite.experiences
        ]
        return replace(suite, kind="domain-incremental", experiences=made, num_classes=2)
    if scenario == "task":
        return replace(suite, known_task_at_training=True, known_task_at_test=True)
    return suite


def _read(
    split: Part, folder: Path | None, offline: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images as rows in [0, 1]; validation holds 10,000 of the former out."""
    x, y, x_test, y_test = load("mnist", folder=folder, offline=offline)
    x, x_test = x.flatten(1), x_test.flatten(1)
    if split == "validation":
        return (x[:50_000], y[:50_000]), (x[50_000:], y[50_000:])
    return (x, y), (x_test, y_test)


def _pad(x: Tensor) -> Tensor:
    images = functional.pad(x.reshape(-1, 28, 28), (2, 2, 2, 2))
    return ((images - MEAN) / STD).flatten(1)


def _cut(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    batch_size: int,
    epochs: int,
) -> Suite:
    made = []
    for first in range(0, 10, 2):
        pair = (first, first + 1)
        rows, tested = (
            torch.isin(labels, torch.tensor(pair, dtype=torch.int64, device="cpu")).nonzero()[:, 0]
            for labels in (train[1], test[1])
        )
        made.append(
            Experience(
                name=f"{first} and {first + 1}",
                train=(train[0][rows], train[1][rows]),
                test=(test[0][tested], test[1][tested]),
                classes=pair,
            )
        )
    return Suite(
        name=name,
        kind="class-incremental",
        experiences=made,
        num_classes=10,
        batch_size=batch_size,
        epochs=epochs,
        known_task_at_training=False,
        known_task_at_test=False,
        features="pixels",
        note="all of MNIST in five pairs of digits, in order",
    )
