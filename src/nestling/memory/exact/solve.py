"""Ridge regression from sufficient statistics, its strength, and what its residuals say.

Letters: D features, M outputs, G strengths tried.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nestling.core.seeds import make_generator
from nestling.memory.exact.statistics import Statistics, space_evenly

# Strengths are relative to features of unit variance.
MIN_STRENGTH = 1e-8
STRENGTHS_PER_DECADE = 4
# Of the strength that predicts one-hot targets best, so much finds the right class more often: the
# squared error also pays for shrinking all scores alike, which changes no order of classes.
# With many classes even less: a class has few rows for itself and many on which its score should
# merely stay low, and those ask for shrinking. Both picked by recipes/measure_strength.py.
CLASS_SHARE = 0.25
FEW_CLASSES = 10
# Of features in codes, which share a scale; see `choose_code_strength`.
CODE_STRENGTH = 0.1
# Eigenvalues of so many features choose the strength for all: the time of the decomposition is that
# of 14 solutions, and on digits, Fashion-MNIST and MNIST (1,600 random features; 100 to 8,000
# examples) the strength from a quarter of the features cost 0.4 and 0.7 points in two cases of 9.
MAX_DECOMPOSED = 400
# Random vectors that measure a trace: degrees of freedom to 0.1 %, or 2 % where examples are few.
NUM_PROBES = 64
# A degree of freedom is charged this much more than it costs [Kim & Gu 2004, Sec. 3]: plain
# cross-validation (1.0) now and then picks far too little ridge when examples are few.
FREEDOM_CHARGE = 1.4
# Mean leverage is not believed beyond this: 1/(1 - h) inflates what residuals say.
MAX_LEVERAGE = 0.95
# A standard deviation this small beside the mean is rounding, not variation.
RELATIVE_ROUNDING = 1e-13


@dataclass(frozen=True)
class Solution:
    """A solved memory: scores(phi) = phi @ weights + intercept.

    Args:
        weights: in the features' own units, float64.
        intercept: float64.
        strength: lambda, relative to features of unit variance.
        freedom: effective degrees of freedom, the intercept included.
        leverage: mean leverage h = freedom / effective examples, at most MAX_LEVERAGE.
        residual_variance: of a new example, (RSS / weight) / (1 - h)^2.
        covariance: of the scores of the examples it was fitted to.
        inverse_scale: what features were multiplied by.
        upper: U of U^T U = R + (lambda + shift) I, R the covariance of scaled features; None where
            eigenvalues were taken instead.
        shift: what was added to lambda where rounding asked for it.
    """

    weights: Tensor
    intercept: Tensor
    strength: float
    freedom: float
    leverage: float
    residual_variance: Tensor
    covariance: Tensor
    inverse_scale: Tensor
    upper: Tensor | None
    shift: float


def measure_inverse_scale(stats: Statistics) -> Tensor:
    """1 / standard deviation of each feature over its whole life, 0 where it never varied.

    The undecayed deviation is used whatever the half-life. A feature that has not varied for
    many half-lives then has next to no weight against the ridge; scaled by its own recent
    deviation it would come back at full size, with a coefficient that nothing bounds.

    Returns: (D,) float64.
    """
    if stats.life_weight <= 0.0:
        return torch.zeros_like(stats.mean)
    floor_D = stats.life_weight * (RELATIVE_ROUNDING * stats.life_mean).square()
    scatter_D = stats.life_scatter
    varies_D = scatter_D > torch.maximum(floor_D, stats.rounding)
    inverse_D = (stats.life_weight / scatter_D.where(varies_D, torch.ones_like(floor_D))).sqrt()
    return inverse_D.where(varies_D, torch.zeros_like(inverse_D))


def measure_common_scale(stats: Statistics) -> Tensor:
    """1 / the root of the features' mean variance for all of them, or 0 if none ever varied.

    For codes: they share a scale that was fixed beforehand, and a common factor does not move when
    one feature's variance does.

    Returns: (D,) float64.
    """
    variance = float(stats.life_scatter.mean()) / max(stats.life_weight, 1e-300)
    return torch.full_like(stats.mean, variance**-0.5 if variance > 0.0 else 0.0)


def choose_code_strength(
    num_features: int, num_effective: float, weight: float, variance: float
) -> float:
    """The ridge strength for classes on codes, without looking at targets.

    lambda = 1/10 min(1, (D / n)^2),   rounded so that lambda n v is a power of the root of 2

    Cross-validation needs an eigendecomposition, is misled while examples are few, and moves with
    every example. On pixels this rule was as good with many examples and 4 to 11 points better
    with 300; on features of an encoder of small photographs 3 to 5 points worse
    (recipes/measure_code_strength.py). What is added to the Gram matrix, lambda n v, keeps its
    value while n grows by four tenths.

    Args:
        num_features: D.
        num_effective: n, effective examples.
        weight: total weight.
        variance: v, mean variance of the features, > 0.

    >>> round(choose_code_strength(100, 50.0, 50.0, 1.0) * 50.0, 3)  # of 5
    5.657
    """
    ratio = num_features / max(num_effective, 1.0)
    ridge = CODE_STRENGTH * min(1.0, ratio * ratio) * weight * variance
    rounded = 2.0 ** (round(2.0 * math.log2(ridge)) / 2.0)
    return float(rounded / (weight * variance))


def find_code_strength(stats: Statistics) -> float:
    """As `choose_code_strength`, from statistics; CODE_STRENGTH where nothing ever varied."""
    variance = float(stats.life_scatter.mean()) / max(stats.life_weight, 1e-300)
    if variance <= 0.0:
        return CODE_STRENGTH
    return choose_code_strength(stats.num_features, stats.num_effective, stats.weight, variance)


def solve_ridge(
    stats: Statistics,
    strength: float | None = None,
    freedom: float | None = None,
    regression: bool = False,
    coded: bool = False,
) -> Solution:
    """Ridge regression on centred features scaled to unit variance.

    W = (R + lambda I)^-1 r,  R = Z^T Z / n,  r = Z^T Y / n        [Hoerl & Kennard 1970]

    with Z the centred and scaled features and n the total weight, all from the statistics. The
    intercept is not shrunk. The answer depends on what was seen, not on its order.

    Args:
        stats: of one or more examples.
        strength: lambda; None to choose it by `choose_strength`, from MAX_DECOMPOSED of the
            features if there are more.
        freedom: degrees of freedom if they are known for this strength from before; saves the
            inverse that counts them.
        regression: choose the strength for outputs scaled to unit variance, and take all of it;
            of classes only a share, see `share_strength`.
        coded: features are codes of one scale; see `measure_common_scale` and, for classes,
            `choose_code_strength`.

    Returns: the solution; zero weights if nothing can be learned yet.
    """
    inverse_D = measure_common_scale(stats) if coded else measure_inverse_scale(stats)
    n = stats.weight
    if coded and strength is None and not regression:
        strength = find_code_strength(stats)
    # As the scatter: only the upper triangle holds. At 4,000 features copies are what costs.
    R_DD = (stats.scatter * (inverse_D[:, None] / n)).mul_(inverse_D)
    r_DM = stats.cross * (inverse_D[:, None] / n)
    total_M = (stats.target_scatter / n).clamp_min(0.0)
    unit_M = total_M.clamp_min(1e-300) if regression else torch.ones_like(total_M)
    share = 1.0 if regression else share_strength(int((stats.life_targets > 0.0).sum()))
    if strength is None and stats.num_features > MAX_DECOMPOSED:
        strength = (
            _extrapolate_strength(R_DD, r_DM / unit_M.sqrt(), total_M / unit_M, stats) * share
        )
        freedom = None
    shift = 0.0
    U_DD: Tensor | None = None
    if strength is None:
        eigen_D, basis_DD = torch.linalg.eigh(R_DD, UPLO="U")
        eigen_D = eigen_D.clamp_min(0.0)
        projected_DM = basis_DD.T @ r_DM
        strength = choose_strength(
            eigen_D, projected_DM / unit_M.sqrt(), (total_M / unit_M).sum(), stats.num_effective
        )
        strength *= share
        freedom = 1.0 + float((eigen_D / (eigen_D + strength)).sum())
        scaled_DM = basis_DD @ (projected_DM / (eigen_D + strength)[:, None])
    else:
        U_DD, shift = _factorise(R_DD, strength)
        scaled_DM = torch.cholesky_solve(r_DM, U_DD, upper=True)
        if freedom is None:
            freedom = 1.0 + stats.num_features - strength * _trace_inverse(U_DD)
    found = Scaled(scaled_DM, r_DM, total_M, inverse_D)
    return describe_solution(stats, found, strength, freedom, shift, U_DD)


class Scaled(NamedTuple):
    """Ridge regression on centred and scaled features.

    Args:
        weights: (D, M) W.
        cross: (D, M) r = Z^T Y / n.
        total: (M,) variance of the targets.
        inverse_scale: (D,) what features were multiplied by.
    """

    weights: Tensor
    cross: Tensor
    total: Tensor
    inverse_scale: Tensor


def describe_solution(
    stats: Statistics,
    scaled: Scaled,
    strength: float,
    freedom: float,
    shift: float,
    upper: Tensor | None,
) -> Solution:
    """What scaled weights say of features in their own units and of new examples.

    Args:
        stats: with weight, means and sums of targets; the scatter is not looked at.
        scaled: solved.
        strength: lambda.
        freedom: effective degrees of freedom.
        shift: what was added to lambda where rounding asked for it.
        upper: the factor, if there is one.
    """
    scaled_DM, r_DM, total_M, inverse_D = scaled
    # R w = r - lambda w, which saves a product with R.
    covariance_MM = scaled_DM.T @ (r_DM - (strength + shift) * scaled_DM)
    covariance_MM = 0.5 * (covariance_MM + covariance_MM.T)
    explained_M = 2.0 * (r_DM * scaled_DM).sum(0) - covariance_MM.diagonal()
    leverage = min(max(freedom / max(stats.num_effective, 1.0), 0.0), MAX_LEVERAGE)
    residual_M = (total_M - explained_M).clamp_min(0.0) / (1.0 - leverage) ** 2
    weights_DM = scaled_DM * inverse_D[:, None]
    intercept_M = stats.target_sum / stats.weight - stats.mean @ weights_DM
    return Solution(
        weights_DM,
        intercept_M,
        strength,
        freedom,
        leverage,
        residual_M,
        covariance_MM,
        inverse_D,
        upper,
        shift,
    )


def share_strength(num_classes: int) -> float:
    """How much of the strength that predicts one-hot targets best is taken for K classes.

    >>> share_strength(2), share_strength(100)
    (0.25, 0.025)
    """
    return CLASS_SHARE * min(1.0, FEW_CLASSES / max(1, num_classes))


def _extrapolate_strength(R_DD: Tensor, r_DM: Tensor, total_M: Tensor, stats: Statistics) -> float:
    """The strength for all D features from evenly spaced d of them: lambda_D = lambda_d D / d.

    Random features are draws from one distribution, and their products estimate a kernel
    [Rahimi & Recht 2007]: Z Z^T / D is the same for any number of them up to noise, and so is
    the best lambda / D.
    """
    D = stats.num_features
    chosen = space_evenly(D, MAX_DECOMPOSED)
    eigen_d, basis_dd = torch.linalg.eigh(R_DD[chosen[:, None], chosen], UPLO="U")
    projected_dM = basis_dd.T @ r_DM[chosen]
    found = choose_strength(
        eigen_d.clamp_min(0.0), projected_dM, total_M.sum(), stats.num_effective
    )
    return found * D / MAX_DECOMPOSED


def draw_probes(num_features: int) -> tuple[Tensor, float]:
    """Vectors v (D, V) and a share s with tr A = s sum v^T A v: all unit vectors, which is exact,
    or where D is large fixed signs [Hutchinson 1989]."""
    D = num_features
    if D <= MAX_DECOMPOSED:
        return torch.eye(D, dtype=torch.float64, device="cpu"), 1.0
    generator = make_generator(0, "trace", D)
    signs_DV = torch.randint(0, 2, (D, NUM_PROBES), generator=generator, device="cpu").double()
    return signs_DV * 2 - 1, 1.0 / NUM_PROBES


def _trace_inverse(U_DD: Tensor) -> float:
    """tr (U^T U)^-1, see `draw_probes`."""
    D = U_DD.shape[0]
    if D <= MAX_DECOMPOSED:
        return float(torch.cholesky_inverse(U_DD, upper=True).diagonal().sum())
    probes_DV, share = draw_probes(D)
    half_DV = torch.linalg.solve_triangular(U_DD.T, probes_DV, upper=False)
    return float(half_DV.square().sum()) * share


def choose_strength(
    eigen_D: Tensor, projected_DM: Tensor, total: Tensor, num_effective: float
) -> float:
    """The ridge strength by generalised cross-validation, from the statistics alone.

    V(lambda) = RSS(lambda) / (1 - a df(lambda) / n)^2        [Golub, Heath & Wahba 1979, Eq. 1.4]

    over four strengths per decade, refined by a parabola through the best three; a = 1.4 after
    Kim & Gu [2004]. Under forgetting, n is the effective number of examples.

    Args:
        eigen_D: (D,) eigenvalues of R, >= 0.
        projected_DM: (D, M) r in the eigenvectors' coordinates.
        total: () variance of the targets, summed over outputs.
        num_effective: n.

    Returns: lambda; the largest one tried while there are too few examples to tell.
    """
    D = eigen_D.shape[0]
    low = math.log10(MIN_STRENGTH)
    num = math.ceil((math.log10(10.0 * D) - low) * STRENGTHS_PER_DECADE) + 1
    log_G = low + torch.arange(num, dtype=torch.float64, device="cpu") / STRENGTHS_PER_DECADE
    strength_G1 = torch.pow(10.0, log_G)[:, None]
    power_D = projected_DM.square().sum(1)
    shrunk_GD = 1.0 / (eigen_D + strength_G1)
    explained_G = (power_D * (eigen_D + 2.0 * strength_G1) * shrunk_GD.square()).sum(1)
    residual_G = (total - explained_G).clamp_min(1e-12 * float(total))
    freedom_G = 1.0 + (eigen_D * shrunk_GD).sum(1)
    room_G = 1.0 - FREEDOM_CHARGE * freedom_G / max(num_effective, 1e-9)
    values_G = residual_G.log() - 2.0 * room_G.clamp_min(1e-9).log()
    values_G[room_G <= 0.0] = math.inf
    best = int(values_G.argmin())
    if math.isinf(values_G[best]) or not math.isfinite(float(total)) or float(total) <= 0.0:
        return float(strength_G1[-1, 0])
    return float(10.0 ** _find_vertex(log_G, values_G, best))


def _find_vertex(log_G: Tensor, values_G: Tensor, best: int) -> float:
    middle = float(log_G[best])
    if best in (0, len(log_G) - 1):
        return middle
    left, centre, right = (float(v) for v in values_G[best - 1 : best + 2])
    curvature = left - 2.0 * centre + right
    if not math.isfinite(curvature) or curvature <= 0.0:
        return middle
    return middle + 0.5 * (left - right) / curvature / STRENGTHS_PER_DECADE


def _factorise(R_DD: Tensor, strength: float) -> tuple[Tensor, float]:
    """Cholesky factor U^T U = R + (lambda + e) I, and e: above 0 if rounding made it indefinite.

    R is used up.
    """
    extra = 0.0
    R_DD.diagonal().add_(strength)
    for _ in range(12):
        U_DD, failed = torch.linalg.cholesky_ex(R_DD, upper=True)
        if not int(failed):
            return U_DD, extra
        more = max(10.0 * extra, 1e-12)
        R_DD.diagonal().add_(more - extra)
        extra = more
    raise AssertionError("statistics are not finite")  # inputs are checked before they are added


def factorise_solved(stats: Statistics, solution: Solution) -> Solution:
    """The solution with its factor, which is made if there is none."""
    if solution.upper is not None:
        return solution
    inverse_D = solution.inverse_scale
    R_DD = (stats.scatter * (inverse_D[:, None] / stats.weight)).mul_(inverse_D)
    upper_DD, shift = _factorise(R_DD, solution.strength)
    return replace(solution, upper=upper_DD, shift=shift)
