"""Newton-Schulz against singular values, and on the matrices where it could fail."""

import pytest
import torch
from torch import Tensor

from nestling.core.errors import SettingError, ShapeMismatch
from nestling.optim.deep.large_products import Coefficients
from nestling.optim.deep.newton_schulz import (
    CUBIC,
    QUINTIC,
    descend_to_orthogonal,
    orthogonalize,
    orthogonalize_all,
)


def make_matrix(m: int, n: int, seed: int = 0) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def find_exact(matrix: Tensor, steps: int, coefficients: Coefficients) -> Tensor:
    """The polynomial on every singular value."""
    a, b, c = coefficients
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / torch.linalg.vector_norm(s).clamp(min=1e-7)
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vh


# Wide, tall, square; small, and large enough for products by blocks and polynomials.
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (4, 9), (9, 4), (200, 200), (200, 450), (450, 200)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("coefficients", [QUINTIC, CUBIC])
@pytest.mark.parametrize("steps", [0, 1, 3, 5, 7])
def test_is_the_polynomial_of_the_singular_values(
    shape: tuple[int, int], coefficients: Coefficients, steps: int
) -> None:
    matrix = make_matrix(*shape)
    exact = find_exact(matrix, steps, coefficients)
    for dtype, error in ((torch.float64, 1e-11), (torch.float32, 2e-4)):
        found = orthogonalize(matrix.to(dtype), steps=steps, coefficients=coefficients)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=error)


def test_five_quintic_steps_leave_singular_values_in_their_band() -> None:
    found = torch.linalg.svdvals(orthogonalize(make_matrix(64, 32).float()))
    assert 0.65 < float(found.min()) <= float(found.max()) < 1.2
    # Three cubic steps, as others take them, do not reach it.
    cubic = torch.linalg.svdvals(
        orthogonalize(make_matrix(64, 32).float(), steps=3, coefficients=CUBIC)
    )
    assert float(cubic.min()) < 0.3


@pytest.mark.parametrize("shape", [(6, 6), (6, 20), (20, 6), (200, 450)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rank_1_stays_rank_1(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = make_matrix(shape[0], 1) @ make_matrix(1, shape[1], seed=1)
    found = orthogonalize(matrix.to(dtype))
    assert bool(found.isfinite().all())
    values = torch.linalg.svdvals(found.double())
    assert 0.6 < float(values[0]) < 1.25
    # Rounding of few bits is what small singular values are made of, and they are blown up.
    limit = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 1.25}[dtype]
    assert float(values[1]) < limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(4, 4), (3, 9), (9, 3), (1, 5)])
def test_zeros_stay_zeros(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    zeros = torch.zeros(shape, dtype=dtype)
    assert torch.equal(orthogonalize(zeros), zeros)


def test_empty_matrix_stays_empty() -> None:
    assert orthogonalize(torch.zeros(0, 3)).shape == (0, 3)
    assert orthogonalize(torch.zeros(2, 0, 3)).shape == (2, 0, 3)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e25])
def test_scale_does_not_matter(scale: float) -> None:
    matrix = make_matrix(5, 8).float()
    torch.testing.assert_close(orthogonalize(matrix * scale), orthogonalize(matrix))


def test_batches_equal_single_matrices_and_nothing_is_changed() -> None:
    matrices = [make_matrix(*shape, seed=i).float() for i, shape in enumerate([*SHAPES, (4, 9)])]
    kept = [matrix.clone() for matrix in matrices]
    for matrix, before, found in zip(matrices, kept, orthogonalize_all(matrices), strict=True):
        assert torch.equal(matrix, before)
        torch.testing.assert_close(found, orthogonalize(matrix), rtol=0, atol=2e-5)
    batch = torch.stack(matrices[:1] * 3).expand(3, 1, 1)
    assert orthogonalize(batch).shape == (3, 1, 1)
    assert orthogonalize_all([]) == []


def test_wide_is_tall_transposed() -> None:
    matrix = make_matrix(6, 15)
    torch.testing.assert_close(orthogonalize(matrix.mT), orthogonalize(matrix).mT)


@pytest.mark.parametrize("matrix", [torch.zeros(3), torch.zeros(()), torch.zeros(2, 2).long()])
def test_no_matrix_is_an_error(matrix: Tensor) -> None:
    with pytest.raises(ShapeMismatch, match="works"):
        orthogonalize(matrix)


def test_a_kernel_among_matrices_is_an_error() -> None:
    with pytest.raises(ShapeMismatch, match=r"matrix 1 has shape \(2, 2, 2\)"):
        orthogonalize_all([torch.zeros(2, 2), torch.zeros(2, 2, 2)])


@pytest.mark.parametrize("steps", [-1, 100])
def test_steps_out_of_range(steps: int) -> None:
    with pytest.raises(SettingError, match=f"steps={steps} of Newton-Schulz; 0 to 99 work"):
        orthogonalize(torch.eye(2), steps=steps)


def test_the_papers_printed_iteration_does_not_orthogonalise() -> None:
    matrix = make_matrix(4, 4)
    literal = torch.linalg.svdvals(descend_to_orthogonal(matrix, steps=99))
    corrected = torch.linalg.svdvals(orthogonalize(matrix, steps=60, coefficients=CUBIC))
    torch.testing.assert_close(corrected, torch.ones(4, dtype=torch.float64))
    # Where it does end: 2 s^3 - s = sigma.
    sigma = torch.linalg.svdvals(matrix / torch.linalg.vector_norm(matrix))
    torch.testing.assert_close(2 * literal**3 - literal, sigma, rtol=0, atol=1e-6)
    assert float((literal - 1).abs().max()) > 0.05


@pytest.mark.parametrize("shape", [(4, 4), (4, 9)])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_matrix_that_is_not_finite_leaves_its_batch_alone(
    shape: tuple[int, int], bad: float
) -> None:
    good = make_matrix(*shape).float()
    broken = good.clone()
    broken[0, 0] = bad
    found, lost = orthogonalize_all([good, broken])
    torch.testing.assert_close(found, orthogonalize(good))
    assert bool(lost.isnan().any())


def test_large_matrices_with_and_without_gradient_share_a_list() -> None:
    plain, learned = make_matrix(200, 220), make_matrix(200, 220, seed=1).requires_grad_()
    one, other = orthogonalize_all([plain, learned], steps=2)
    torch.testing.assert_close(one, orthogonalize(plain, steps=2), rtol=0, atol=1e-10)
    other.sum().backward()
    assert learned.grad is not None
    assert bool(learned.grad.isfinite().all())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, in jvp
def test_forward_derivative_of_a_large_matrix() -> None:
    matrix, way = make_matrix(200, 220), make_matrix(200, 220, seed=1)
    _, slope = torch.func.jvp(orthogonalize, (matrix,), (way,))
    ends = [orthogonalize(matrix + sign * 1e-5 * way) for sign in (1.0, -1.0)]
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-6)
