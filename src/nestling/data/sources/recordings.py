"""Reader of the smart-watch recordings.

Axis letters: S samples in time, A axes.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nestling.store.legacy_weights import read_object_array

_RECORDINGS = "seglearn/data/watch_dataset.npy"
_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"


@dataclass(frozen=True)
class Recordings:
    """One exercise of one person each.

    Attributes:
        samples: of each recording (S, 6) float32 at 50 Hz: acceleration in g, turning in
            rad/s.
        exercises: (R,) 0 to 6.
        people: (R,).
        exercise_names: of the labels.
    """

    samples: tuple[Tensor, ...]
    exercises: Tensor
    people: Tensor
    exercise_names: tuple[str, ...]


def read_watch(path: Path) -> Recordings:
    """The watch data inside the wheel of seglearn 1.2.5.

    Raises:
        DataError: the wheel holds other recordings than those of that version.
    """
    with zipfile.ZipFile(path) as archive:
        found = read_object_array(archive.read(_RECORDINGS), sha256=_SHA256)
    return Recordings(
        tuple(torch.from_numpy(np.array(one, np.float32)) for one in found["X"]),
        torch.from_numpy(np.array(found["y"], np.int64)),
        torch.from_numpy(np.array(found["subject"], np.int64)),
        tuple(str(name) for name in found["y_labels"]),
    )
