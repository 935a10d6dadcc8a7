"""Newton-Schulz: the nearest orthogonal matrix, by matrix products alone.

Axes: b = matrices of one shape, m = the shorter side, n = the longer side.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nestling.core.errors import SettingError, ShapeMismatch

Coefficients = tuple[float, float, float]
# Keller Jordan's, as torch.optim.Muon has them: the steepest slope at 0, singular values end in
# about [0.68, 1.13] and not at 1.
QUINTIC: Coefficients = (3.4445, -4.7750, 2.0315)
# Newton's own: converges to 1, slowly (after 3 steps .05 is .17).
CUBIC: Coefficients = (1.5, -0.5, 0.0)
MAX_STEPS = 99

# The steps that one product of step polynomials may hold. It is as large as a^steps, so that in
# few bits it drowns what it multiplies.
_STEPS_PER_PRODUCT = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 5, torch.float64: 12}
# From here on the polynomials of the Gram matrix cost less than the steps themselves.
_MIN_ASPECT = 1.5
# Numbers in one batch: more of them leave the cache, fewer waste time on calls.
_BATCH_NUMEL = 1_200_000
# Symmetric products are made of their lower blocks from this size on.
_MIN_BLOCKED = 192
_WIDE = (torch.float32, torch.float64)
_NUM_BLOCKS = 4


def orthogonalize(
    matrices: Tensor, *, steps: int = 5, coefficients: Coefficients = QUINTIC, eps: float = 1e-7
) -> Tensor:
    """Orthogonalise matrices: Newton-Schulz iteration towards U V^T of G = U S V^T.

    X_0 = G / max(|G|_F, eps);  X <- a X + b (X X^T) X + c (X X^T)^2 X   [Jordan 2024; NL after
    eq. 44, where Muon is gradient descent with momentum through this map]

    Every singular value s becomes p(p(...p(s / |G|_F))), p(s) = a s + b s^3 + c s^5; the singular
    vectors stay. A matrix of rank 1 stays of rank 1 and zeros stay zeros. Tall matrices are
    transposed, so that the products have the shorter side; where the longer side is 1.5 times it
    or more, several steps are one polynomial of X X^T (in exact arithmetic the same).

    Args:
        matrices: G, (m, n) or (..., m, n), floating point; not changed.
        steps: iterations, 0 to 99; 0 only normalises.
        coefficients: a, b, c: `QUINTIC` or `CUBIC` or your own.
        eps: a matrix of a smaller Frobenius norm counts as nearly zero, and shrinks.

    Returns: shape, dtype and device of `matrices`; computed in that dtype.

    Raises:
        ShapeMismatch: no matrix, or not of floating point.
        SettingError: steps out of range.

    >>> orthogonalize(torch.tensor([[3.0, 0.0], [0.0, 3.0]]), steps=30, coefficients=CUBIC)
    tensor([[1., 0.],
            [0., 1.]])
    """
    if matrices.dim() < 2 or not matrices.is_floating_point():
        raise ShapeMismatch(
            f"Newton-Schulz got shape {tuple(matrices.shape)} of {matrices.dtype}; "
            "a matrix (m, n) or (..., m, n) of floating point works"
        )
    check_steps(steps)
    if matrices.numel() == 0:
        return matrices.clone()
    batch_bmn = matrices.reshape(-1, *matrices.shape[-2:])
    is_tall = batch_bmn.shape[1] > batch_bmn.shape[2]
    done = _iterate(batch_bmn.mT if is_tall else batch_bmn, steps, coefficients, eps)
    return (done.mT if is_tall else done).reshape(matrices.shape)


def orthogonalize_all(
    matrices: Sequence[Tensor],
    *,
    steps: int = 5,
    coefficients: Coefficients = QUINTIC,
    eps: float = 1e-7,
) -> list[Tensor]:
    """Orthogonalise a list of matrices, those of equal shapes in common batched products.

    A tall matrix and a wide one of the same sides share their batch. Large matrices are taken a
    few at a time, so that a batch stays in the cache. Otherwise as `orthogonalize`.

    Args:
        matrices: each (m, n); not changed.
        steps, coefficients, eps: see `orthogonalize`.

    Returns: one for each, in order.

    >>> wide, tall = torch.eye(2, 3), torch.eye(3, 2)
    >>> [tuple(one.shape) for one in orthogonalize_all([wide, tall])]
    [(2, 3), (3, 2)]
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, matrix in enumerate(matrices):
        if matrix.dim() != 2:
            raise ShapeMismatch(
                f"matrix {index} has shape {tuple(matrix.shape)}; two dimensions work, "
                "reshape(len(kernel), -1) makes a matrix of a kernel"
            )
        key = (min(matrix.shape), max(matrix.shape), matrix.dtype, matrix.device)
        groups.setdefault(key, []).append(index)
    found: dict[int, Tensor] = {}
    for indices in groups.values():
        size = max(1, _BATCH_NUMEL // max(1, matrices[indices[0]].numel()))
        if _is_blocked(matrices[indices[0]]):
            size = 1
        for start in range(0, len(indices), size):
            chunk = indices[start : start + size]
            turned = [_lay_wide(matrices[index]) for index in chunk]
            batch = turned[0].unsqueeze(0) if len(turned) == 1 else torch.stack(turned)
            done = orthogonalize(batch, steps=steps, coefficients=coefficients, eps=eps)
            for index, one in zip(chunk, done, strict=True):
                is_tall = matrices[index].shape[0] > matrices[index].shape[1]
                found[index] = one.mT if is_tall else one
    return [found[index] for index in range(len(matrices))]


def descend_to_orthogonal(gradient: Tensor, *, steps: int, zeta: float = 0.25) -> Tensor:
    """The paper's printed iteration towards an orthogonal matrix, taken literally.

    O_0 = G / |G|_F;  O <- O - zeta (O - G' + 2 O (O^T O - I)),  G' = G / |G|_F   [NL eq. 44]

    Differs: nothing, and therefore it does not orthogonalise. It descends on
    1/2 |O - G'|^2 + 1/2 |O^T O - I|^2, whose fixed points are 2 s^3 - s = sigma: a singular value
    ends at 1 only where it began there, and at .71 where it began at 0. Without the pull to G' and
    with zeta = 1/4 it is `orthogonalize` with `CUBIC`, which is what Muon means.

    Args:
        gradient: G, (m, n); not changed.
        steps: iterations, 0 to 99.
        zeta: step size, > 0.

    Returns: (m, n), dtype and device of `gradient`; zeros of zeros.

    >>> descend_to_orthogonal(torch.tensor([[2.0]]), steps=5)
    tensor([[1.]])
    """
    check_steps(steps)
    goal = _normalise(gradient.unsqueeze(0), 1e-7)[0]
    now = goal
    for _ in range(steps):
        now = now - zeta * (now - goal + 2.0 * (now @ (now.mT @ now) - now))
    return now


def check_steps(steps: int) -> None:
    """Raise SettingError unless 0 <= steps <= 99."""
    if not 0 <= steps <= MAX_STEPS:
        raise SettingError(f"steps={steps} of Newton-Schulz; 0 to {MAX_STEPS} work, 5 is usual")


def _lay_wide(matrix: Tensor) -> Tensor:
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def _normalise(batch_bmn: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(batch_bmn, dim=(1, 2), keepdim=True)
    if not bool(norm.isfinite().all()):
        # Squares may overflow where the numbers do not.
        largest = batch_bmn.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1.0)
        batch_bmn = batch_bmn / largest
        norm = torch.linalg.vector_norm(batch_bmn, dim=(1, 2), keepdim=True)
    normed: Tensor = batch_bmn / norm.clamp(min=eps)
    return normed


def _iterate(x_bmn: Tensor, steps: int, coefficients: Coefficients, eps: float) -> Tensor:
    a, b, c = coefficients
    m, n = x_bmn.shape[1:]
    size = _STEPS_PER_PRODUCT.get(x_bmn.dtype, 2) if n >= _MIN_ASPECT * m else 1
    size = max(1, min(size, steps))
    # 5 steps of at most 2 are 2, 2, 1; and 6 of at most 5 are 3, 3.
    num_products = math.ceil(steps / size)
    for index in range(num_products):
        now = steps // num_products + (index < steps % num_products)
        if now == 1:
            x_bmn = _normalise(x_bmn, eps) if index == 0 else x_bmn
            gram_bmm = _multiply_symmetric(x_bmn, x_bmn.mT)
            rest_bmm = _square_symmetric(gram_bmm, b, c)
            x_bmn = _add_product(x_bmn, rest_bmm, x_bmn, a, 1.0)
            continue
        gram_bmm = _multiply_symmetric(x_bmn, x_bmn.mT)
        norm: Tensor | None = None
        if index == 0:
            # |X|_F from the trace of X X^T: two small matrices are divided in place of X.
            squares = gram_bmm.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
            if x_bmn.dtype in _WIDE and bool(((squares > 1e-20) & (squares < 1e30)).all()):
                norm = squares.sqrt().clamp(min=eps).reshape(-1, 1, 1)
                gram_bmm = gram_bmm.div_(norm.square())
            else:
                x_bmn = _normalise(x_bmn, eps)
                gram_bmm = _multiply_symmetric(x_bmn, x_bmn.mT)
        product_bmm = _compose(gram_bmm, now, coefficients)
        x_bmn = _multiply(product_bmm if norm is None else product_bmm.div_(norm), x_bmn)
    return _normalise(x_bmn, eps) if steps == 0 else x_bmn


def _compose(gram_bmm: Tensor, steps: int, coefficients: Coefficients) -> Tensor:
    """The polynomial Q of G = X X^T by which Q X is X after `steps` steps.

    P = a I + b G + c G^2;  Q <- P Q;  G <- P G P. All of them commute, so each is symmetric.
    """
    a, b, c = coefficients
    product: Tensor | None = None
    for index in range(steps):
        step_bmm = _square_symmetric(gram_bmm, b, c)
        step_bmm.diagonal(dim1=-2, dim2=-1).add_(a)
        product = step_bmm if product is None else _multiply_symmetric(step_bmm, product)
        if index + 1 < steps:
            half = _multiply_symmetric(step_bmm, gram_bmm)
            gram_bmm = _multiply_symmetric(step_bmm, half)
    assert product is not None
    return product


def _multiply_symmetric(left_bmn: Tensor, right_bnm: Tensor) -> Tensor:
    """left @ right where that is symmetric: two thirds of the work, where blocks are large."""
    if not _is_blocked(left_bmn):
        return _multiply(left_bmn, right_bnm)
    out = left_bmn.new_empty(left_bmn.shape[0], left_bmn.shape[1], left_bmn.shape[1])
    # One by one: a batched product cannot write into a part of a matrix.
    for out_mm, left_mn, right_nm in zip(out, left_bmn, right_bnm, strict=True):
        for rows, columns in _list_blocks(len(out_mm)):
            torch.mm(left_mn[rows], right_nm[:, columns], out=out_mm[rows, columns])
        _mirror(out_mm)
    return out


def _square_symmetric(gram_bmm: Tensor, b: float, c: float) -> Tensor:
    """b G + c G^2 of a symmetric G."""
    if not _is_blocked(gram_bmm):
        return _add_product(gram_bmm, gram_bmm, gram_bmm, b, c)
    out = torch.empty_like(gram_bmm)
    for out_mm, gram in zip(out, gram_bmm, strict=True):
        for rows, columns in _list_blocks(len(gram)):
            part = gram[rows, columns]
            torch.addmm(
                part, gram[rows], gram[:, columns], beta=b, alpha=c, out=out_mm[rows, columns]
            )
        _mirror(out_mm)
    return out


def _list_blocks(m: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the blocks on and below the diagonal."""
    size = math.ceil(m / _NUM_BLOCKS)
    starts = range(0, m, size)
    return [(slice(start, start + size), slice(0, min(start + size, m))) for start in starts]


def _mirror(matrix_mm: Tensor) -> None:
    """Copy the blocks below the diagonal to above it, in place."""
    for rows, columns in _list_blocks(len(matrix_mm)):
        below = slice(0, rows.start)
        if columns.stop > rows.start > 0:
            matrix_mm[below, rows] = matrix_mm[rows, below].mT


def _multiply(left_bmn: Tensor, right_bnk: Tensor) -> Tensor:
    # For a single one torch's plain product is faster than its batched one.
    if len(left_bmn) == 1:
        return torch.mm(left_bmn[0], right_bnk[0]).unsqueeze(0)
    return torch.bmm(left_bmn, right_bnk)


def _add_product(
    base_bmk: Tensor, left_bmn: Tensor, right_bnk: Tensor, beta: float, alpha: float
) -> Tensor:
    """beta base + alpha left @ right."""
    if len(base_bmk) == 1:
        one = torch.addmm(base_bmk[0], left_bmn[0], right_bnk[0], beta=beta, alpha=alpha)
        return one.unsqueeze(0)
    return torch.baddbmm(base_bmk, left_bmn, right_bnk, beta=beta, alpha=alpha)


def _is_blocked(matrix: Tensor) -> bool:
    """Whether its symmetric products are made of their blocks on and below the diagonal."""
    is_large = min(matrix.shape[-2:]) >= _MIN_BLOCKED
    return is_large and matrix.dtype in _WIDE and matrix.device.type == "cpu"
