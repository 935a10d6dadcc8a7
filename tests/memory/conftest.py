"""Real digits for the tests of memories, and the folder of their slow twins."""

import sys
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

Digits = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="session")
def digits() -> Digits:
    """1,200 images to learn and 597 to be asked about: x, y, x_test, y_test."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images).float(), torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]
