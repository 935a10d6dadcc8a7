"""A small convolutional network for small images."""

from collections.abc import Sequence

from torch import Tensor, nn

from nestling.core.errors import ModelError, ShapeMismatch

# Axes: N examples, C channels, H height, W width.


class ConvNet(nn.Module):
    """Convolutional network: 3 x 3 convolutions, ReLU, 2 x 2 pooling, one linear head.

    Args:
        num_classes: outputs.
        image_size: (H, W) in pixels; flat inputs (N, C*H*W) are folded back to it.
        num_channels: C of the input.
        widths: channels of each block; each block halves H and W.

    Raises:
        ModelError: the image is too small for so many blocks.

    >>> import torch
    >>> ConvNet(10, (8, 8))(torch.zeros(2, 64)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int] = (28, 28),
        num_channels: int = 1,
        widths: Sequence[int] = (16, 32),
    ) -> None:
        super().__init__()
        height, width = (size >> len(widths) for size in image_size)
        if not widths or min(height, width) < 1:
            raise ModelError(
                f"image_size = {tuple(image_size)} with widths = {list(widths)}: each block halves "
                "the image and at least one pixel must remain; use fewer widths"
            )
        self.shape_CHW = (num_channels, *image_size)
        self.trunk = nn.Sequential()
        for num_inputs, num_outputs in zip((num_channels, *widths), widths, strict=False):
            self.trunk.extend(
                [nn.Conv2d(num_inputs, num_outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            )
        self.head = nn.Linear(widths[-1] * height * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), (N, H, W) or (N, C*H*W) -> (N, num_classes) logits."""
        num_values = self.shape_CHW[0] * self.shape_CHW[1] * self.shape_CHW[2]
        if x[0].numel() != num_values:
            raise ShapeMismatch(
                f"input of shape {tuple(x.shape)}: this convnet reads images of shape "
                f"{self.shape_CHW}; set image_size and num_channels to fit"
            )
        features_NCHW = self.trunk(x.reshape(len(x), *self.shape_CHW))
        logits: Tensor = self.head(features_NCHW.flatten(1))
        return logits
