import contextlib
import io
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from nestling.core.errors import DataError, NonFiniteInput, SettingError, ShapeMismatch
from nestling.core.machine import use_threads
from nestling.data import load_digits
from nestling.memory import RidgeMemory
from nestling.memory.coded import (
    CodedFeatures,
    ImageShape,
    InputScale,
    choose_coded_features,
    integer_products,
)
from nestling.memory.coded.coded_features import read_coded_features

DIGITS, LABELS = load_digits()


def draw_rows(num: int = 512, width: int = 20) -> Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("is_image", [True, False])
def test_the_batch_and_the_threads_change_no_bit(is_image: bool) -> None:
    x = DIGITS[:512] if is_image else draw_rows()
    features = choose_coded_features(x)
    whole = features(x)
    assert whole.dtype == torch.int8
    assert whole.shape == (512, 1504 if is_image else 1280)
    assert int(whole.min()) == 0
    for num_threads in (1, 2):
        with use_threads(num_threads):
            for batch in (1, 7, 32, 256):
                few = x[: 40 * batch]
                codes = torch.cat([features(part) for part in few.split(batch)])
                assert torch.equal(codes, whole[: len(few)])


def test_int8_products_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    for x in (DIGITS[:64], draw_rows(64, 1500)):
        features = choose_coded_features(x)
        codes = []
        for has_them in (True, False):
            monkeypatch.setattr(integer_products, "has_int8_products", lambda has=has_them: has)
            codes.append(features(x))
        assert torch.equal(codes[0], codes[1])


DIGEST_SCRIPT = """
import hashlib
import torch
from nestling.memory.coded import choose_coded_features
noise = (torch.arange(300 * 784).view(300, 784) * 7919 % 1009).float() / 1009
smooth = torch.nn.functional.avg_pool2d(noise.view(300, 1, 28, 28), 5, 1, 2).flatten(1)
digest = hashlib.sha256()
for x in ((smooth * 255).round().to(torch.uint8), noise[:, :30] - 0.5):
    digest.update(choose_coded_features(x)(x).numpy().tobytes())
print(digest.hexdigest()[:16])
"""


def test_another_processor_changes_no_bit() -> None:
    """Kernels of MKL, oneDNN and torch for old processors; MKL's square roots would differ.

    The digest is that of the day when memories were first saved with such features: whoever
    changes it makes them unreadable.
    """
    old = {
        "ATEN_CPU_CAPABILITY": "default",
        "DNNL_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", DIGEST_SCRIPT],
        env={**os.environ, **old},
        capture_output=True,
        text=True,
        check=True,
    )
    here = io.StringIO()
    with contextlib.redirect_stdout(here):
        exec(DIGEST_SCRIPT, {})
    assert done.stdout == here.getvalue() == "797c6d564eff007f\n"


def test_the_kind_of_input_decides() -> None:
    digits = choose_coded_features(DIGITS)
    assert digits.image == ImageShape(1, 8, 8)
    assert (digits.num_image_features, digits.num_raw_features) == (1000, 504)
    assert digits.constant == 0
    assert "8 x 8" in digits.describe()
    assert "found" in digits.describe()
    rows = choose_coded_features(draw_rows())
    assert rows.image is None
    assert (rows.num_image_features, rows.num_raw_features) == (0, 1280)
    assert "no image" in rows.describe()
    assert choose_coded_features(DIGITS, "coded").image is None
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert choose_coded_features(DIGITS[:, order]).image is None
    assert choose_coded_features(DIGITS[:, order], "image").image == ImageShape(1, 8, 8)


def test_a_given_shape_need_not_be_found() -> None:
    flat = choose_coded_features(torch.rand(5, 200), shape=(2, 10, 10))
    assert flat.image == ImageShape(2, 10, 10)
    assert "given" in flat.describe()
    images = torch.rand(5, 2, 10, 10)
    features = choose_coded_features(images)
    assert features == flat
    assert torch.equal(features(images), features(images.flatten(1)))
    thin = choose_coded_features(torch.rand(5, 40), shape=(1, 2, 20))  # too thin for gradients
    assert thin.image is None


@pytest.mark.parametrize(("size", "total"), [("default", 1504), ("large", 4000), ("huge", 8000)])
def test_sizes(size: str, total: int) -> None:
    for x in (DIGITS[:8], draw_rows(8, 24)):
        features = choose_coded_features(x, size=size)  # type: ignore[arg-type]
        assert features.num_outputs == features(x).shape[1] == total


@pytest.mark.parametrize(
    ("num_inputs", "size", "total"),
    [(1, "default", 256), (4, "default", 256), (20, "default", 1280), (20, "large", 3400)],
)
def test_few_numbers_get_fewer_features(num_inputs: int, size: str, total: int) -> None:
    features = choose_coded_features(draw_rows(8, num_inputs), size=size)  # type: ignore[arg-type]
    assert features.num_outputs == features(draw_rows(8, num_inputs)).shape[1] == total


def test_pixels_of_all_units_have_the_same_features() -> None:
    pixels = (DIGITS[:50] * 255).round()
    given = [pixels.to(torch.uint8), pixels, pixels / 255, (pixels / 255).double()]
    codes = [choose_coded_features(x)(x) for x in given]
    for other in codes[1:]:
        assert torch.equal(other, codes[0])


def test_the_length_of_rows_is_kept_and_that_of_images_is_not() -> None:
    x = draw_rows(200)
    features = choose_coded_features(x)
    assert not torch.equal(features(x), features(2 * x))
    assert features.constant > 0


def test_they_come_back_from_their_config() -> None:
    for x in (DIGITS[:64], draw_rows(64), (DIGITS[:64] - 0.1) / 0.3):
        features = choose_coded_features(x, seed=3)
        again = read_coded_features(json.loads(json.dumps(features.read_config())))
        assert again == features
        assert hash(again) == hash(features)
        assert torch.equal(again(x), features(x))
        assert again != choose_coded_features(x, seed=4)
    with pytest.raises(SettingError, match="scale"):
        read_coded_features({})


def test_no_row_has_no_features() -> None:
    for x in (DIGITS[:8], draw_rows(8)):
        features = choose_coded_features(x)
        assert features(x[:0]).shape == (0, features.num_outputs)


def test_large_images_have_no_more_weights_than_small_ones() -> None:
    x = torch.rand(2, 3 * 96 * 80, generator=torch.Generator().manual_seed(0))
    features = choose_coded_features(x, shape=(3, 96, 80))
    whole = features(x)
    assert torch.equal(torch.cat([features(x[:1]), features(x[1:])]), whole)
    assert int(whole[:, :1000].max()) > 0
    assert int(whole[:, 1000:].max()) > 0
    assert len(features.draws.raw_weights) == 3 * 32 * 26


def test_images_with_channels_last_have_the_same_features() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(20, 3, 16, 16, generator=generator)
    x = (torch.nn.functional.avg_pool2d(noise, 5, 1, 2) * 255).round().to(torch.uint8)
    first = choose_coded_features(x.flatten(1))
    last = choose_coded_features(x.permute(0, 2, 3, 1).flatten(1))
    assert first.image is not None
    assert last.image is not None
    assert last.image.channels_last
    assert torch.equal(
        first(x.flatten(1))[:, :1000], last(x.permute(0, 2, 3, 1).flatten(1))[:, :1000]
    )


def test_clipped_inputs_are_counted() -> None:
    features = choose_coded_features(DIGITS)
    assert (features.num_clipped, features.num_seen) == (0, 0)
    features(DIGITS[:10])
    features(DIGITS[:10] + 3.0)
    assert (features.num_clipped, features.num_seen) == (640, 1280)


def test_constant_images_are_no_image_and_cost_nothing() -> None:
    for x in (torch.zeros(4, 784), torch.ones(4, 784)):
        features = choose_coded_features(x)
        assert features.image is None
        assert features(x).shape == (4, 1504)
        as_image = choose_coded_features(x, "image")
        assert as_image.image == ImageShape(1, 28, 28)
        assert as_image(x).shape == (4, 1504)


def test_a_ridge_memory_learns_digits_better_than_on_raw_features() -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(DIGITS), generator=generator)
    train, test = order[:1200], order[1200:]
    accuracies = []
    for kind in ("auto", "coded"):
        features = choose_coded_features(DIGITS[train], kind)  # type: ignore[arg-type]
        memory = RidgeMemory(features.num_outputs, num_outputs=10, ridge=1e-2)
        memory.add(features(DIGITS[train]).double(), LABELS[train])
        right = memory.predict(features(DIGITS[test]).double()).argmax(1) == LABELS[test]
        accuracies.append(float(right.double().mean()))
    assert accuracies[0] > 0.98
    assert accuracies[1] > 0.97


def test_wrong_use_is_named() -> None:
    with pytest.raises(SettingError, match=r"images as \(N, C, H, W\)"):
        choose_coded_features(draw_rows(4, 20), "image")
    with pytest.raises(SettingError, match="C \\* H \\* W = 64"):
        choose_coded_features(DIGITS, shape=(1, 28, 28))
    with pytest.raises(SettingError, match="'image'"):
        choose_coded_features(DIGITS, "imag")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="'large'"):
        choose_coded_features(DIGITS, size="larg")  # type: ignore[arg-type]
    with pytest.raises(DataError):
        choose_coded_features(torch.zeros(0, 64))
    with pytest.raises(NonFiniteInput):
        choose_coded_features(torch.full((3, 64), math.nan))
    features = choose_coded_features(DIGITS)
    for wrong in (torch.zeros(2, 65), torch.zeros(2, 1, 9, 9), torch.zeros(64)):
        with pytest.raises(ShapeMismatch, match=r"\(N, 64\)"):
            features(wrong)
    with pytest.raises(NonFiniteInput):
        features(torch.full((1, 64), math.nan))
    assert features.num_seen == 0
    whole = choose_coded_features((DIGITS * 255).round())
    with pytest.raises(DataError, match="fractions"):
        whole(DIGITS)
    scale = InputScale("unit", 0.0, 255.0)
    with pytest.raises(SettingError, match="without an image"):
        CodedFeatures(64, scale, num_image_features=8)
    with pytest.raises(SettingError, match="scale of pixels"):
        CodedFeatures(64, InputScale("signed"), image=ImageShape(1, 8, 8), num_raw_features=8)
    with pytest.raises(SettingError, match="65 inputs"):
        CodedFeatures(65, scale, image=ImageShape(1, 8, 8), num_image_features=8)
    with pytest.raises(SettingError, match="1 feature"):
        CodedFeatures(64, scale)
    with pytest.raises(SettingError, match="0 to 127"):
        CodedFeatures(64, scale, num_raw_features=8, constant=128)
