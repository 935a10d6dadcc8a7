"""Products of int8 matrices, exact: by the processor's int8 units, or in float32 on short sums.

Both ways give the same integers, so which one a machine takes changes no bit of a result.

Letters: N rows, I summed, F columns.
"""

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

# 127^2 * 1040 < 2^24: sums of so many products of 7-bit codes are exact in float32, in any order.
LONGEST_EXACT_SUM = 1040


def multiply_codes(a_NI: Tensor, b_IF: Tensor) -> Tensor:
    """Product of two matrices of 7-bit codes as exact integers, on any processor alike.

    Args:
        a_NI: (N, I) int8, -127 to 127.
        b_IF: (I, F) int8, -127 to 127.

    Returns: (N, F) int32.

    >>> multiply_codes(torch.full((1, 2), 100).char(), torch.full((2, 1), -127).char())
    tensor([[-25400]], dtype=torch.int32)
    """
    if len(a_NI) and has_int8_products():
        return torch._int_mm(a_NI, b_IF)
    return multiply_in_floats(a_NI, b_IF)


def multiply_in_floats(a_NI: Tensor, b_IF: Tensor) -> Tensor:
    """As `multiply_codes`, by float32 products on blocks whose sums stay below 2^24.

    torch.export traces it.

    Args:
        a_NI: (N, I) int8, -127 to 127.
        b_IF: (I, F) int8, -127 to 127.

    Returns: (N, F) int32.
    """
    total_NF = torch.zeros(a_NI.shape[0], b_IF.shape[1], dtype=torch.int32, device=a_NI.device)
    for start in range(0, a_NI.shape[1], LONGEST_EXACT_SUM):
        stop = start + LONGEST_EXACT_SUM
        total_NF += (a_NI[:, start:stop].float() @ b_IF[start:stop].float()).int()
    return total_NF


@cache
def has_int8_products() -> bool:
    """Whether torch multiplies int8 matrices here, rightly and no slower than in float32.

    Asked once per process: `torch._int_mm` is private and may be gone, processors without dot
    products of bytes may saturate their sums of pairs, and where torch has no kernel it loops.
    """
    if not hasattr(torch, "_int_mm"):
        return False
    # The largest codes of either sign beside all others, and more than one block of sums.
    a = torch.arange(16 * 1160, dtype=torch.int32, device="cpu").reshape(16, 1160)
    a = (a * 37 % 255 - 127).char()
    b = torch.arange(1160 * 24, dtype=torch.int32, device="cpu").reshape(1160, 24)
    b = (b * 101 % 255 - 127).char()
    a[:3], b[:, :3] = 127, 127
    a[3], b[:, 3] = -127, -127
    try:
        for rows in (1, 16):
            if not torch.equal(torch._int_mm(a[:rows], b), multiply_in_floats(a[:rows], b)):
                return False
    except (RuntimeError, NotImplementedError):
        return False
    wide_a, wide_b = a.repeat(4, 1)[:, :448].contiguous(), b.repeat(1, 20)[:448].contiguous()
    floats_a, floats_b = wide_a.float(), wide_b.float()
    return _time(lambda: torch._int_mm(wide_a, wide_b)) <= _time(lambda: floats_a @ floats_b)


def _time(compute: Callable[[], Tensor]) -> float:
    """Seconds of the fastest of five calls."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
