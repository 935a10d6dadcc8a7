"""Probabilities of classes from ridge scores, calibrated by the statistics alone.

Letters: K classes seen, S draws.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nestling.memory.solve import Solution
from nestling.memory.statistics import Statistics

# Degrees of freedom of the scores' tails. Real residuals are much heavier than Gaussian: with
# Gaussian tails the log-loss on nine real sets was 1.0 to 2.6 times that of the best temperature
# in hindsight, with these 1.0 to 1.25 times (docs/memories.md).
TAIL_FREEDOM = 4
# Draws per class at ten classes; fewer at more, so that the cost stays bounded.
NUM_DRAWS = 256
MIN_DRAWS = 8
# One imagined example with this variance keeps few examples from looking certain.
IMAGINED_VARIANCE = 0.25
MIN_SHARPNESS, MAX_SHARPNESS = 1e-3, 1e3


@dataclass(frozen=True)
class Calibration:
    """probabilities = softmax(scores @ matrix + offset); offset is -inf for unseen classes."""

    matrix: Tensor
    offset: Tensor


def calibrate(stats: Statistics, solution: Solution) -> Calibration:
    """How to turn the scores of a solved classification memory into probabilities.

    The scores of a new example of class c are modelled as m_c + e with

        m_c = (1 + a) (mean score of class c) - a onehot(c),   a = h / (1 - h),
        cov e = (1 + a)^2 (pooled covariance of the scores within the classes),

    h being the mean leverage: this is what leaving one out does to a ridge score,
    s_-i = s_i - h_i / (1 - h_i) (y_i - s_i) [Cook & Weisberg 1982, Sec. 2.2], with the mean
    leverage for all, as generalised cross-validation does. Then

        p(c | s) = softmax_c( t (s . m_c - |m_c|^2 / 2 + v log prior_c) ),

    the posterior of nearest class means with variance v = tr(cov e) / K, and the sharpness t
    minimises the expected log-loss of the model, e having the tails of Student's t. The draws are
    fixed quasi-random numbers, so all is a function of the statistics: what was seen, not in
    which order.

    Args:
        stats: of one-hot targets.
        solution: of these statistics.

    Returns: the map from scores to logits.
    """
    num_classes = stats.num_outputs
    seen = stats.life_targets > 0.0
    K = int(seen.sum())
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    offset = torch.full((num_classes,), -math.inf, dtype=torch.float64)
    if K < 2 or stats.weight <= 0.0:
        offset[seen] = 0.0
        return Calibration(matrix, offset)
    means_KK, covariance_KK, prior_K = _model_scores(stats, solution, seen)
    variance = float(covariance_KK.diagonal().mean())
    bias_K = variance * prior_K.log() - 0.5 * means_KK.square().sum(1)
    sharpness = _find_sharpness(means_KK, covariance_KK, bias_K, prior_K)
    # Scores of classes never seen are zero, so their rows of the matrix do not matter.
    matrix[seen.nonzero(), seen.nonzero()[:, 0]] = sharpness * means_KK.T
    offset[seen] = sharpness * bias_K
    return Calibration(matrix, offset)


def _model_scores(
    stats: Statistics, solution: Solution, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Means (class, score), covariance within classes and prior of the classes seen."""
    count_K = stats.target_sum[seen].clamp_min(0.0)
    # (class, score): how far each class's mean score is from the mean of all.
    pull_KK = (stats.cross[:, seen].T @ solution.weights[:, seen]) / count_K.clamp_min(1e-300)[
        :, None
    ]
    share_K = count_K / stats.weight
    within_KK = solution.covariance[seen][:, seen] - pull_KK.T @ (share_K[:, None] * pull_KK)
    within_KK = 0.5 * (within_KK + within_KK.T)
    stretch = 1.0 / (1.0 - solution.leverage)
    means_KK = stretch * (share_K + pull_KK)
    means_KK.diagonal().sub_(stretch - 1.0)
    n = max(stats.num_effective, 1.0)
    covariance_KK = within_KK * (stretch**2 * n / (n + 1.0))
    covariance_KK.diagonal().add_(IMAGINED_VARIANCE / (n + 1.0))
    # One imagined example per class: what has faded away stays possible.
    unit = stats.weight / n
    prior_K = (count_K + unit) / (count_K + unit).sum()
    return means_KK, covariance_KK, prior_K


def _find_sharpness(
    means_KK: Tensor, covariance_KK: Tensor, bias_K: Tensor, prior_K: Tensor
) -> float:
    """The t that minimises E[-log softmax_c(t u)], u the logits of modelled examples."""
    K = means_KK.shape[0]
    num_draws = max(MIN_DRAWS, min(NUM_DRAWS, 10 * NUM_DRAWS // K))
    eigen_K, basis_KK = torch.linalg.eigh(covariance_KK)
    root_KK = basis_KK * eigen_K.clamp_min(0.0).sqrt()
    noise_SK = _draw_tails(num_draws, K) @ root_KK.T @ means_KK.T
    centre_KK = means_KK @ means_KK.T + bias_K  # (class of the example, logit)
    logits_KSK = centre_KK[:, None, :] + noise_SK[None]
    own_KS = logits_KSK.diagonal(dim1=0, dim2=2).T
    # Only differences matter; this also keeps the products small.
    logits_KSK = logits_KSK - own_KS[:, :, None]
    weight_KS1 = (prior_K / num_draws)[:, None, None]
    low, high = math.log(MIN_SHARPNESS), math.log(MAX_SHARPNESS)
    log_t = math.log(10.0)
    for _ in range(60):
        p_KSK = torch.softmax(math.exp(log_t) * logits_KSK, dim=2)
        mean_KS1 = (p_KSK * logits_KSK).sum(2, keepdim=True)
        slope = float((weight_KS1 * mean_KS1).sum())
        spread = (p_KSK * (logits_KSK - mean_KS1).square()).sum(2, keepdim=True)
        curvature = float((weight_KS1 * spread).sum())
        low, high = (log_t, high) if slope < 0.0 else (low, log_t)
        # Newton's step in t, taken in log t; halving where it leaves the bracket.
        step = -slope / (math.exp(log_t) * curvature) if curvature > 0.0 else math.inf
        proposal = log_t + step
        if not low <= proposal <= high:
            proposal = 0.5 * (low + high)
        if abs(proposal - log_t) < 1e-13:
            break
        log_t = proposal
    return math.exp(log_t)


@functools.lru_cache(maxsize=64)
def _draw_tails(num_draws: int, num_classes: int) -> Tensor:
    """Fixed quasi-random draws (S, K) of unit covariance from Student's t with 4 freedoms."""
    engine = torch.quasirandom.SobolEngine(num_classes + 2, scramble=True, seed=0)
    uniform = engine.draw(num_draws, dtype=torch.float64).clamp_(1e-6, 1.0 - 1e-6)
    normal_SK: Tensor = torch.special.ndtri(uniform[:, :num_classes])
    # Chi-squared with four degrees of freedom is twice the sum of two exponentials.
    chi_S = -2.0 * uniform[:, num_classes:].log().sum(1)
    return normal_SK * ((TAIL_FREEDOM - 2.0) / chi_S).sqrt()[:, None]
