"""What a suite is, what is asked of its builder, and the cuts that all of them share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nestling.core.errors import SettingError, suggest
from nestling.core.seeds import make_generator
from nestling.data.experiences import Experience
from nestling.data.sources import obtain

Part = Literal["test", "validation"]
Texts = list[tuple[list[str], list[str]]]

# Streams for tuning take the seeds from here on, so that none of them is a test stream.
VALIDATION_SEEDS_FROM = 1_000_000
# Hidden units of the network that every method of the benchmark gets, where a suite names none.
USUAL_WIDTHS = (128, 128)


@dataclass(frozen=True, eq=False)
class Suite:
    """Benchmark suite: a sequence of experiences with a fixed protocol.

    Attributes:
        name: for `make_suite`.
        kind: what changes: "class-incremental", "domain-incremental", "multi-task", "drift" or
            "conflict".
        experiences: in order, with training and test examples as tensors.
        num_classes: output columns over all experiences.
        batch_size: examples per batch.
        epochs: passes over each experience.
        known_task_at_training: may a method use the task label, or the boundary, to learn?
        known_task_at_test: may it use the task label to answer?
        features: "pixels", "text", "vectors", or "encoded" by a pre-trained network.
        note: reference and protocol in words.
        about_features: what the inputs are, in words, where the note does not say it.
        is_ordered: training rows stand in the order of a stream; read them with
            `iterate_stream`, never shuffled.
        texts: for "text", (training, test) strings of each experience, row by row.
        widths: hidden units of the network that every method gets, layer by layer.
    """

    name: str
    kind: str
    experiences: list[Experience]
    num_classes: int
    batch_size: int
    epochs: int
    known_task_at_training: bool
    known_task_at_test: bool
    features: str
    note: str
    is_ordered: bool = False
    texts: Texts = field(default_factory=list)
    about_features: str = ""
    widths: tuple[int, ...] = USUAL_WIDTHS


@dataclass(frozen=True)
class Request:
    """What `make_suite` was asked for.

    Attributes:
        seed: of the suite, 0 to 999,999.
        split: which part of the data is tested on.
        folder: where archives lie.
        offline: do not fetch.
    """

    seed: int
    split: Part
    folder: Path | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed < VALIDATION_SEEDS_FROM:
            raise SettingError(f"seed {self.seed}; give one from 0 to {VALIDATION_SEEDS_FROM - 1}")
        if self.split not in ("test", "validation"):
            raise SettingError(
                f"split {self.split!r}; {suggest(self.split, ['test', 'validation'])}"
            )

    @property
    def stream_seed(self) -> int:
        """The seed of everything that is drawn; those for validation lie apart."""
        return self.seed + (VALIDATION_SEEDS_FROM if self.split == "validation" else 0)

    def obtain(self, name: str) -> list[Path]:
        """Files of a source; see `nestling.data.sources.obtain`."""
        return obtain(name, self.folder, offline=self.offline)

    def choose(self, validation: Tensor, test: Tensor) -> Tensor:
        """The part to test on."""
        return test if self.split == "test" else validation


def shuffle_once(num_rows: int) -> Tensor:
    """The order of rows before any cut: numpy's RandomState(0), whatever the seed.

    Parts are cut once and for all, so that no seed trains on what another tests on.
    """
    return torch.from_numpy(np.random.RandomState(0).permutation(num_rows))


def cut_rows(num_rows: int, num_train: int, num_validation: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to train, validate and test on, disjoint; the rest is for testing.

    >>> [len(rows) for rows in cut_rows(10, 7, 1)]
    [7, 1, 2]
    """
    order = shuffle_once(num_rows)
    return (
        order[:num_train],
        order[num_train : num_train + num_validation],
        order[num_train + num_validation :],
    )


def cut_by_class(y: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Rows to keep and to hold out: of each class the share, rounded, and at least one.

    >>> kept, held_out = cut_by_class(torch.tensor([0, 0, 0, 0, 1, 1]), 0.25)
    >>> sorted(torch.tensor([0, 0, 0, 0, 1, 1])[held_out].tolist())
    [0, 1]
    """
    order = shuffle_once(len(y))
    kept, held_out = [], []
    for label in y.unique():
        rows = order[y[order] == label]
        num_out = max(1, round(share * len(rows)))
        held_out.append(rows[:num_out])
        kept.append(rows[num_out:])
    return torch.cat(kept), torch.cat(held_out)


def shuffle_domains(count: int, request: Request, name: str) -> list[int]:
    """An order of domains, drawn by the seed."""
    generator = make_generator(request.stream_seed, name, "order")
    order: list[int] = torch.randperm(count, generator=generator, device="cpu").tolist()
    return order
