"""Named data sets in one piece: those of scikit-learn, and those read inside their archive.

No data package is ever installed; see `nestling.data.sources` for where archives come from.
"""

import gzip
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError, suggest
from nestling.core.seeds import make_generator
from nestling.data.digits import load_digits
from nestling.data.sources import Source, find_source, obtain

Split = tuple[Tensor, Tensor, Tensor, Tensor]
PARTS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_NAMES = ("digits", "mnist", "fashion-mnist")


def list_datasets() -> list[Source]:
    """Data sets that `load` can read by name.

    >>> [source.name for source in list_datasets()]
    ['digits', 'mnist', 'fashion-mnist']
    """
    return [find_source(name) for name in _NAMES]


def load(name: str, folder: Path | None = None, *, offline: bool = False) -> Split:
    """Load a data set by name, fetching it first if need be.

    Args:
        name: see `list_datasets`.
        folder: where its archive lies or goes; see `find_folder`.
        offline: do not fetch, neither what is absent nor what is damaged.

    Returns: training inputs (N, 784) or (N, 64) float32 in [0, 1], labels (N,), and the same
        for testing. Digits are split 70 : 30, at random but always alike.

    Raises:
        SettingError: an unknown name.
        DataError: it cannot be had; says which command gets it.
    """
    if name not in _NAMES:
        raise SettingError(f"data set {name!r}; {suggest(name, _NAMES)}")
    if name == "digits":
        x, y = load_digits()
        order = torch.randperm(len(x), generator=make_generator(0, "digits"), device="cpu")
        train, test = order[: round(0.7 * len(x))], order[round(0.7 * len(x)) :]
        return x[train], y[train], x[test], y[test]
    (path,) = obtain(name, folder, offline=offline)
    parts = _read_mnist(path) if name == "mnist" else _read_fashion(path)
    x, y, x_test, y_test = (torch.from_numpy(_read_idx(part)) for part in parts)
    return _scale(x), y.long(), _scale(x_test), y_test.long()


def _read_mnist(path: Path) -> list[bytes]:
    with tarfile.open(path) as archive:
        files = [archive.extractfile(f"package/data/{part}") for part in PARTS]
        return [file.read() for file in files if file is not None]


def _read_fashion(path: Path) -> list[bytes]:
    if shutil.which("dpkg-deb") is None:
        raise DataError("reading fashion-mnist needs dpkg-deb; use a Debian or Ubuntu machine")
    with tempfile.TemporaryDirectory() as root:
        subprocess.run(["dpkg-deb", "-x", str(path), root], check=True, capture_output=True)
        inside = Path(root) / "usr/share/datasets/fashion-mnist"
        return [gzip.decompress((inside / f"{part}.gz").read_bytes()) for part in PARTS]


def _read_idx(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The IDX format: two zero bytes, type, number of dimensions, their sizes, the values."""
    num_dims = content[3]
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(num_dims)]
    # A copy, since torch wants memory that it may write.
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_dims).reshape(shape).copy()


def _scale(images: Tensor) -> Tensor:
    return images.reshape(len(images), -1).float() / 255.0
