"""Newton-Schulz: the nearest orthogonal matrix, by matrix products alone.

Axes: b = matrices of one shape, m = the shorter side, n = the longer side.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nestling.core.errors import SettingError, ShapeMismatch
from nestling.core.params import sum_dtype
from nestling.optim.deep.large_products import (
    Coefficients,
    compose_steps,
    is_large,
    make_gram,
    make_space,
)

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
# Whose exponents hold squares of norms, so that small matrices are divided in place of large ones.
_WIDE = (torch.float32, torch.float64, torch.bfloat16)


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
    wide_bmn = batch_bmn.mT if is_tall else batch_bmn
    if is_large(wide_bmn) and steps:
        space = make_space(wide_bmn.shape[1], wide_bmn)
        ones = [_iterate_large(one, steps, coefficients, eps, space) for one in wide_bmn]
        done = ones[0].unsqueeze(0) if len(ones) == 1 else torch.stack(ones)
    else:
        done = _iterate(wide_bmn, steps, coefficients, eps)
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
        first = _lay_wide(matrices[indices[0]])
        if steps and all(is_large(matrices[index]) for index in indices):
            space = make_space(len(first), first)
            for index in indices:
                wide_mn = _lay_wide(matrices[index])
                one = _iterate_large(wide_mn, steps, coefficients, eps, space)
                found[index] = one.mT if _is_tall(matrices[index]) else one
            continue
        size = max(1, _BATCH_NUMEL // max(1, matrices[indices[0]].numel()))
        for start in range(0, len(indices), size):
            chunk = indices[start : start + size]
            turned = [_lay_wide(matrices[index]) for index in chunk]
            batch = turned[0].unsqueeze(0) if len(turned) == 1 else torch.stack(turned)
            done = orthogonalize(batch, steps=steps, coefficients=coefficients, eps=eps)
            for index, one in zip(chunk, done, strict=True):
                found[index] = one.mT if _is_tall(matrices[index]) else one
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


def _is_tall(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _lay_wide(matrix: Tensor) -> Tensor:
    return matrix.mT if _is_tall(matrix) else matrix


def _normalise(batch_bmn: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(batch_bmn, dim=(1, 2), keepdim=True)
    if not bool(norm.isfinite().all()):
        # Squares may overflow where the numbers do not.
        largest = batch_bmn.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1.0)
        batch_bmn = batch_bmn / largest
        norm = torch.linalg.vector_norm(batch_bmn, dim=(1, 2), keepdim=True)
    normed: Tensor = batch_bmn / norm.clamp(min=eps)
    return normed


def _divide_steps(shape: Sequence[int], dtype: torch.dtype, steps: int) -> list[int]:
    """How many steps each product of step polynomials holds; their sum is `steps`.

    >>> _divide_steps((4, 16), torch.bfloat16, 5), _divide_steps((4, 16), torch.float32, 6)
    ([2, 2, 1], [3, 3])
    >>> _divide_steps((4, 4), torch.float32, 3)
    [1, 1, 1]
    """
    size = _STEPS_PER_PRODUCT.get(dtype, 2) if shape[1] >= _MIN_ASPECT * shape[0] else 1
    num_products = math.ceil(steps / size)
    return [steps // num_products + (i < steps % num_products) for i in range(num_products)]


def _find_norm(gram_bmm: Tensor, eps: float) -> Tensor | None:
    """|X|_F of X X^T as (b, 1, 1), by its trace; None where that cannot be trusted."""
    if gram_bmm.dtype not in _WIDE:
        return None
    squares_b = gram_bmm.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=sum_dtype(gram_bmm.dtype))
    if not bool(((squares_b > 1e-20) & (squares_b < 1e30)).all()):
        return None
    return squares_b.sqrt().clamp(min=eps).reshape(-1, 1, 1).to(gram_bmm.dtype)


def _iterate(x_bmn: Tensor, steps: int, coefficients: Coefficients, eps: float) -> Tensor:
    """All matrices at once."""
    a, b, c = coefficients
    if steps == 0:
        return _normalise(x_bmn, eps)
    for index, now in enumerate(_divide_steps(x_bmn.shape[1:], x_bmn.dtype, steps)):
        norm: Tensor | None = None
        if index == 0 and now == 1:
            x_bmn = _normalise(x_bmn, eps)
        gram_bmm = x_bmn @ x_bmn.mT
        if now == 1:
            rest_bmm = torch.baddbmm(gram_bmm, gram_bmm, gram_bmm, beta=b, alpha=c)
            x_bmn = torch.baddbmm(x_bmn, rest_bmm, x_bmn, beta=a)
            continue
        if index == 0:
            norm = _find_norm(gram_bmm, eps)
            if norm is None:
                x_bmn = _normalise(x_bmn, eps)
                gram_bmm = x_bmn @ x_bmn.mT
            else:
                gram_bmm = gram_bmm.div_(norm.square())
        product_bmm = _compose(gram_bmm, now, coefficients)
        x_bmn = torch.bmm(product_bmm if norm is None else product_bmm.div_(norm), x_bmn)
    return x_bmn


def _iterate_large(
    x_mn: Tensor, steps: int, coefficients: Coefficients, eps: float, space: list[Tensor]
) -> Tensor:
    """One large matrix on a CPU, `steps` >= 1; what is in `space` is overwritten."""
    gram_mm, *rest = space
    for index, now in enumerate(_divide_steps(x_mn.shape, x_mn.dtype, steps)):
        make_gram(x_mn, gram_mm)
        norm: Tensor | None = None
        if index == 0:
            norm = _find_norm(gram_mm.unsqueeze(0), eps)
            if norm is None:
                x_mn = _normalise(x_mn.unsqueeze(0), eps)[0]
                make_gram(x_mn, gram_mm)
            else:
                # Two small matrices are divided in place of X.
                gram_mm.div_(norm[0].square())
        product_mm = compose_steps(gram_mm, now, coefficients, rest)
        x_mn = torch.mm(product_mm if norm is None else product_mm.div_(norm[0]), x_mn)
    return x_mn


def _compose(gram_bmm: Tensor, steps: int, coefficients: Coefficients) -> Tensor:
    """As `compose_steps`, of a batch of small matrices."""
    a, b, c = coefficients
    product: Tensor | None = None
    for index in range(steps):
        step_bmm = torch.baddbmm(gram_bmm, gram_bmm, gram_bmm, beta=b, alpha=c)
        step_bmm.diagonal(dim1=-2, dim2=-1).add_(a)
        product = step_bmm if product is None else torch.bmm(step_bmm, product)
        if index + 1 < steps:
            gram_bmm = torch.bmm(step_bmm, torch.bmm(step_bmm, gram_bmm))
    assert product is not None
    return product
