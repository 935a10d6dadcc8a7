"""The square root that is the same on every processor."""

import numpy as np
from torch import Tensor


def take_root_(x: Tensor) -> Tensor:
    """Square root of each number in place, rightly rounded, as IEEE 754 wants it.

    `Tensor.sqrt` takes MKL's where it is built in, whose last bit depends on the processor
    (measured: 17 % of float32 roots differ between its AVX-512 and its SSE kernels). NumPy takes
    the processor's own instruction, which rounds rightly on all of them.

    Args:
        x: any shape, float32 or float64, >= 0, on the CPU; changed.

    Returns: x.

    >>> import torch
    >>> take_root_(torch.tensor([0.25, 9.0]))
    tensor([0.5000, 3.0000])
    """
    values = x.numpy()
    np.sqrt(values, out=values)
    return x
