"""Newton-Schulz of one large matrix on a CPU: symmetric products by blocks, in memory used again.

Axes: m = the shorter side, n = the longer side.
"""

import math

import torch
from torch import Tensor

# Symmetric products are made of their lower blocks from this size on.
MIN_LARGE = 192
_NUM_BLOCKS = 4
# In these the work of half a product is more than what the other half's copy costs.
_BLOCKED = (torch.float32, torch.float64)
_NUM_SQUARES = 4

Coefficients = tuple[float, float, float]


def is_large(matrix: Tensor) -> bool:
    """Whether a matrix is worth being orthogonalised alone; not where a gradient is to follow.

    Nor within `torch.func` (jvp, hessian), which knows no products into given memory.
    """
    return (
        min(matrix.shape[-2:]) >= MIN_LARGE
        and matrix.device.type == "cpu"
        and not (torch.is_grad_enabled() and matrix.requires_grad)
        and not _is_transformed(matrix)
    )


def _is_transformed(matrix: Tensor) -> bool:
    """Whether `torch.func` is at work; torch's own name for it is private, and may go."""
    check = getattr(getattr(torch._C, "_functorch", None), "is_functorch_wrapped_tensor", None)
    return check is not None and bool(check(matrix))


def make_space(m: int, like: Tensor) -> list[Tensor]:
    """The (m, m) matrices that one run needs; for any number of runs one after the other."""
    return [like.new_empty(m, m) for _ in range(_NUM_SQUARES)]


def make_gram(x_mn: Tensor, out_mm: Tensor) -> Tensor:
    """X X^T, written into `out_mm`."""
    return _multiply_symmetric(x_mn, x_mn.mT, out_mm)


def compose_steps(
    gram_mm: Tensor, steps: int, coefficients: Coefficients, space: list[Tensor]
) -> Tensor:
    """The polynomial Q of G = X X^T by which Q X is X after `steps` steps.

    P = a I + b G + c G^2;  Q <- P Q;  G <- P G P. All of them commute, so each is symmetric.

    Args:
        gram_mm: G; overwritten.
        steps: at least 1.
        coefficients: a, b, c.
        space: three matrices of the size of G, none of them G; overwritten.

    Returns: Q, one of `space`.
    """
    spare = list(space)
    product_mm: Tensor | None = None
    for index in range(steps):
        step_mm = _make_step(gram_mm, coefficients, spare.pop())
        if index + 1 < steps:
            half_mm = _multiply_symmetric(step_mm, gram_mm, spare[-1])
            _multiply_symmetric(step_mm, half_mm, gram_mm)
        if product_mm is None:
            product_mm = step_mm
        else:
            further_mm = _multiply_symmetric(step_mm, product_mm, spare.pop())
            spare += [step_mm, product_mm]
            product_mm = further_mm
    assert product_mm is not None
    return product_mm


def _make_step(gram_mm: Tensor, coefficients: Coefficients, out_mm: Tensor) -> Tensor:
    """a I + b G + c G^2 of a symmetric G."""
    a, b, c = coefficients
    if gram_mm.dtype in _BLOCKED:
        _multiply_symmetric(gram_mm, gram_mm, out_mm)
        out_mm.mul_(c).add_(gram_mm, alpha=b)
    else:  # rounded once
        torch.addmm(gram_mm, gram_mm, gram_mm, beta=b, alpha=c, out=out_mm)
    out_mm.diagonal().add_(a)
    return out_mm


def _multiply_symmetric(left_mn: Tensor, right_nm: Tensor, out_mm: Tensor) -> Tensor:
    """left @ right where that is symmetric: two thirds of the work where blocks pay."""
    if out_mm.dtype not in _BLOCKED:
        return torch.mm(left_mn, right_nm, out=out_mm)
    size = math.ceil(len(out_mm) / _NUM_BLOCKS)
    for start in range(0, len(out_mm), size):
        stop = min(start + size, len(out_mm))
        below = out_mm[start:stop, :stop]
        torch.mm(left_mn[start:stop], right_nm[:, :stop], out=below)
        if start:
            out_mm[:start, start:stop] = below[:, :start].mT
    return out_mm
