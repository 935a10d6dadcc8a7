"""Texts and photographs as features of pre-trained encoders, computed once and kept on disk."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from nestling.core.errors import DataError
from nestling.data.experiences import Experience
from nestling.data.sources import find_cache, obtain
from nestling.data.suites import Suite
from nestling.models.encoders.efficientnet import load_efficientnet_lite0, prepare_images
from nestling.models.encoders.minilm import encode_texts, load_minilm
from nestling.store import write_whole

# Pictures are seen at twice their size: at 32 x 32 the network's last map is a single pixel.
PICTURE_SIZE = 64
# Rows between two writings of the cache: an interrupted encoding goes on from the last.
_BLOCK = 2_000
# Of a sha256.
_NAME_BYTES = 32

Encode = Callable[[Sequence[bytes]], Tensor]


@dataclass(frozen=True)
class Encoder:
    """What turns the raw examples of a suite into features.

    Attributes:
        source: of its weights, for `nestling data fetch`.
        note: what features they are, in words.
        load: file of the weights -> function from raw examples to features (N, D).
    """

    source: str
    note: str
    load: Callable[[Path], Encode]


def encode_suite(suite: Suite, folder: Path | None = None, *, offline: bool = False) -> Suite:
    """Encode a suite's texts or pictures by a pre-trained network; one without stays as it is.

    Args:
        suite: with raw inputs, or with `texts`.
        folder: where weights lie and features are kept (in `encoded/`); None as for `make_suite`,
            but features then lie in the cache of the user, never beside shared data.
        offline: do not fetch the weights.

    Raises:
        DataError: the weights cannot be had; says which command gets them.
        MissingExtra: a package is absent that the encoder needs.
    """
    encoder = ENCODERS.get(suite.name)
    if encoder is None:
        return suite
    raw = _read_raw(suite)
    cache = (folder or find_cache()) / "encoded" / f"{encoder.source}-{suite.name}.safetensors"
    features = encode_once(
        [one for part in raw for one in part],
        cache,
        lambda: encoder.load(obtain(encoder.source, folder, offline=offline)[0]),
    )
    parts = iter(features.split([len(part) for part in raw]))
    experiences = [
        Experience(one.name, (next(parts), one.train[1]), (next(parts), one.test[1]), one.classes)
        for one in suite.experiences
    ]
    return replace(
        suite, experiences=experiences, features="encoded", about_features=encoder.note, texts=[]
    )


def encode_once(raw: Sequence[bytes], cache: Path, load: Callable[[], Encode]) -> Tensor:
    """Features of raw examples; those that a file holds are not computed again.

    Args:
        raw: N examples; the sha256 of each is its name in the file.
        cache: written after every block of 2,000, whole or not at all; a damaged one is made anew.
        load: the encoder, called only if something is missing.

    Returns: (N, D) float32, in the order of `raw`.

    Raises:
        DataError: the file cannot be written.
    """
    names = [hashlib.sha256(one).digest() for one in raw]
    known = _read(cache)
    missing = {name: one for name, one in zip(names, raw, strict=True) if name not in known}
    if missing:
        encode = load()
        waiting = list(missing.items())
        for start in range(0, len(waiting), _BLOCK):
            block = waiting[start : start + _BLOCK]
            found = encode([one for _, one in block])
            known |= {name: row for (name, _), row in zip(block, found, strict=True)}
            _write(cache, known)
    return torch.stack([known[name] for name in names])


def _read(cache: Path) -> dict[bytes, Tensor]:
    try:
        held = load_file(cache)
        names, rows = held["names"], held["features"]
    except (OSError, SafetensorError, KeyError):
        return {}
    # A file that reads well may still be another program's, or of another version.
    if names.dtype != torch.uint8 or names.shape != (len(rows), _NAME_BYTES) or rows.ndim != 2:
        return {}
    return {name.tobytes(): row for name, row in zip(names.numpy(), rows, strict=True)}


def _write(cache: Path, known: dict[bytes, Tensor]) -> None:
    names = torch.frombuffer(bytearray(b"".join(known)), dtype=torch.uint8)
    held = {
        "names": names.reshape(-1, _NAME_BYTES),
        "features": torch.stack(list(known.values())),
    }
    try:
        write_whole(cache, save(held))
    except OSError as error:
        raise DataError(
            f"cannot keep features in '{cache}': {error.strerror or error}; "
            "give a folder that can be written with --data"
        ) from error


def _read_raw(suite: Suite) -> list[list[bytes]]:
    """Training and test examples of each experience in turn, as bytes."""
    if suite.texts:
        return [[text.encode() for text in part] for pair in suite.texts for part in pair]
    pixels = [part for one in suite.experiences for part in (one.train[0], one.test[0])]
    return [
        [image.numpy().tobytes() for image in (part * 255).round().to(torch.uint8)]
        for part in pixels
    ]


def _load_minilm(weights: Path) -> Encode:
    model, tokenizer = load_minilm(weights)
    return lambda raw: encode_texts(model, tokenizer, [one.decode() for one in raw])


def _load_efficientnet(weights: Path) -> Encode:
    model = load_efficientnet_lite0(weights).eval()

    @torch.inference_mode()
    def encode(raw: Sequence[bytes]) -> Tensor:
        flat = torch.frombuffer(bytearray(b"".join(raw)), dtype=torch.uint8)
        images_NHWC = flat.reshape(-1, 3, 32, 32).permute(0, 2, 3, 1)
        blocks = prepare_images(images_NHWC, PICTURE_SIZE).split(50)
        return torch.cat([model.extract(block) for block in blocks])

    return encode


_SENTENCES = Encoder(
    "all-minilm-l6-v2",
    "Features are the 384 of all-MiniLM-L6-v2, a frozen encoder of 22.7 million weights trained "
    "on other texts; what is learned stands on top of it.",
    _load_minilm,
)
_PHOTOGRAPHS = Encoder(
    "efficientnet-lite0",
    "Features are the 1,280 of EfficientNet-Lite0, trained on ImageNet and frozen, of pictures "
    "enlarged to 64 x 64; what is learned stands on top of it.",
    _load_efficientnet,
)

ENCODERS: dict[str, Encoder] = {
    "clinc150": _SENTENCES,
    "banking77": _SENTENCES,
    "split-cifar10": _PHOTOGRAPHS,
}
