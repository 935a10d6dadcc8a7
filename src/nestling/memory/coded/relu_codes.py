"""Random ReLU of integer codes, as integer codes again.

Letters: N examples, I codes of an input, F features.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nestling.core.seeds import make_generator
from nestling.memory.coded.exact_root import take_root_
from nestling.memory.coded.integer_products import multiply_codes

# Standard deviation of the integer weights, and how many of them beside |z| become 127.
WEIGHT_SCALE = 30.0
TOP_DEVIATIONS = 4.5
DRAWN_ROWS = 1024


def draw_weights(num_inputs: int, num_features: int, seed: int, part: str) -> Tensor:
    """Random weights in 8 bits, w = round(30 N(0, 1)) within -127 to 127: (I, F) int8.

    Args:
        num_inputs: I >= 1.
        num_features: F >= 0.
        seed: equal seeds give equal weights.
        part: what the weights are for; other parts are drawn independently.
    """
    generator = make_generator(seed, "coded features", part, num_inputs, num_features)
    weights_IF = torch.empty(num_inputs, num_features, dtype=torch.int8, device="cpu")
    # By blocks, or a wide input needs eight bytes per weight for a moment. In float64, where no
    # processor takes a short cut: rounded, its weights are then the same everywhere.
    for into in weights_IF.split(DRAWN_ROWS):
        drawn = torch.randn(into.shape, generator=generator, dtype=torch.float64, device="cpu")
        into.copy_(drawn.mul_(WEIGHT_SCALE).round_().clamp_(-127, 127))
    return weights_IF


def map_codes(z_NI: Tensor, weights_IF: Tensor) -> Tensor:
    """Random ReLU features in 7 bits, whatever the length of the input.

    phi_j = clamp(round(127 / (4.5 * 30) (w_j . z) / |z|), 0, 127); all 0 where z is 0.

    The products and |z|^2 are sums of integers; the rest is done to each number alone by
    operations that IEEE 754 rounds, so no batch size, thread or processor changes a bit.

    Args:
        z_NI: (N, I) int8, -127 to 127.
        weights_IF: (I, F) int8, from `draw_weights`.

    Returns: (N, F) int8, 0 to 127.
    """
    return scale_products(multiply_codes(z_NI, weights_IF), z_NI, take_root_)


def scale_products(
    products_NF: Tensor, z_NI: Tensor, take_root: Callable[[Tensor], Tensor]
) -> Tensor:
    """`map_codes` behind its products: (N, F) int8, 0 to 127. torch.export traces it.

    Args:
        products_NF: (N, F) int32, z w.
        z_NI: (N, I) int8, -127 to 127.
        take_root: the square root of each number of a float64 tensor that it may change.
    """
    squares_NI = z_NI.float().square_()
    squared_length = squares_NI.sum(1, keepdim=True, dtype=torch.float64)
    length = take_root(squared_length.clamp_(min=1.0))
    # A tensor: torch's ONNX exporter rounds a plain number beside float64 to float32.
    unit = torch.tensor(
        127.0 / (TOP_DEVIATIONS * WEIGHT_SCALE), dtype=torch.float64, device=length.device
    )
    factor = length.reciprocal_().mul_(unit).float()
    return products_NF.float().mul_(factor).round_().clamp_(0.0, 127.0).to(torch.int8)
