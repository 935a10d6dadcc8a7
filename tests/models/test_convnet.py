"""Shapes that the convolutional network takes and refuses."""

import pytest
import torch

from nestling.core.errors import ShapeMismatch
from nestling.models import ConvNet


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 8, 8), (4, 64)])
def test_images_and_flat_inputs_give_the_same(shape: tuple[int, ...]) -> None:
    model = ConvNet(3, (8, 8))
    x = torch.randn(4, 64)
    torch.testing.assert_close(model(x.reshape(shape)), model(x))


def test_an_image_of_another_size_is_refused_by_name() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(2, 784\).*\(1, 8, 8\)"):
        ConvNet(3, (8, 8))(torch.zeros(2, 784))
