import pytest
import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.data import load_digits
from nestling.memory.coded import ImageShape, find_image_shape
from nestling.memory.coded.image_shape import measure_roughness


def draw_blobs(channels: int, side: int, num: int = 40) -> Tensor:
    """Smooth images: noise, averaged over neighbourhoods, (N, C, H, W)."""
    noise = torch.randn(num, channels, side, side, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)


def test_digits_are_found_and_permuted_ones_are_not() -> None:
    x, _ = load_digits()
    assert find_image_shape(x) == ImageShape(1, 8, 8)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert find_image_shape(x[:, order]) is None


@pytest.mark.parametrize("num", [1, 2, 40])
@pytest.mark.parametrize("side", [14, 28, 32])
def test_smooth_images_of_one_and_three_channels_are_found(num: int, side: int) -> None:
    for channels in (1, 3):
        x = draw_blobs(channels, side, num)
        assert find_image_shape(x.flatten(1)) == ImageShape(channels, side, side)
    last = x.permute(0, 2, 3, 1).flatten(1)
    found = find_image_shape(last)
    assert found == ImageShape(3, side, side, channels_last=True)
    assert found is not None
    assert found.roughness is not None
    assert found.roughness < 0.6
    assert torch.equal(found.unflatten(last), x)


@pytest.mark.parametrize("width", [36, 64, 192, 784])
def test_noise_is_no_image(width: int) -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(256, width, generator=generator)
    mixed = torch.randn(256, 5, generator=generator) @ torch.randn(5, width, generator=generator)
    for x in (noise, mixed, noise[:1]):
        assert find_image_shape(x) is None


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_constant_images_are_none(value: float) -> None:
    assert find_image_shape(torch.full((5, 784), value)) is None
    assert find_image_shape(torch.full((1, 784), value)) is None
    assert find_image_shape(torch.zeros(0, 784)) is None


def test_sizes_that_are_not_square_are_not_guessed() -> None:
    x = draw_blobs(1, 20)[:, :, :10].flatten(1)
    assert find_image_shape(x) is None
    assert find_image_shape(draw_blobs(1, 5).flatten(1)) is None  # too small


def test_roughness_is_the_mean_of_all_pairs() -> None:
    x = draw_blobs(1, 6, 9).flatten(1).double()
    differences = x[:, :, None] - x[:, None, :]
    variances = differences.var(0, correction=0)
    i = torch.arange(36)
    beside = (i[:, None] // 6 == i // 6) & ((i[:, None] - i).abs() == 1)
    above = (i[:, None] - i).abs() == 6
    wanted = variances[beside | above].mean() / variances[i[:, None] != i].mean()
    assert measure_roughness(x, ImageShape(1, 6, 6)) == pytest.approx(float(wanted), rel=1e-9)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(SettingError, match="6 x 6"):
        ImageShape(1, 5, 28)
    with pytest.raises(SettingError, match="channel"):
        ImageShape(0, 8, 8)
