"""Probabilities of classes from ridge scores, calibrated by the statistics alone.

Letters: K classes seen, S draws.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nestling.memory.exact.solve import Solution
from nestling.memory.exact.statistics import Statistics

# Degrees of freedom of the scores' tails. Real residuals are much heavier than Gaussian: with
# Gaussian tails the log-loss on nine real sets was up to 2.6 times that of the best temperature
# in hindsight. Picked on those sets; recipes/measure_calibration.py measures what it gives.
TAIL_FREEDOM = 4
# Draws per class at ten classes; fewer at more, so that the cost stays bounded.
NUM_DRAWS = 256
MIN_DRAWS = 16
# Half of what a score varies by within classes is its own class losing to another one. All from the
# pooled covariance, as if every class varied alike, makes probabilities of 150 classes far too
# sure: log-loss 17 on clinc150 where 0.24 can be had.
CONFUSED_SHARE = 0.5
# Of the softmax that picks whom a class is confused with: near 0 it is one class per draw, but then
# rounding could choose another.
CONFUSION_TEMPERATURE = 0.25
MIN_SHARPNESS, MAX_SHARPNESS = 1e-3, 1e3


@dataclass(frozen=True)
class Calibration:
    """probabilities = softmax(scores @ matrix + offset); offset is -inf for unseen classes.

    `sharpness` is the t that both were multiplied by.
    """

    matrix: Tensor
    offset: Tensor
    sharpness: float = 1.0


def calibrate(
    stats: Statistics,
    solution: Solution,
    sharpness: float | None = None,
    least_gain: float = 0.0,
) -> Calibration:
    """How to turn the scores of a solved classification memory into probabilities.

    The scores of a new example of class c are modelled as m'_c + e with

        m'_c = y + (1 + a)(m_c - y) - a (onehot(c) - y),   a = h / (1 - h),
        cov e = (1 + a)^2 (pooled covariance of the scores within the classes),

    m_c being the mean score of the class among the examples learned, y the mean of all and h the
    mean leverage without the intercept. This is what leaving one out does to a ridge score,
    s_-i = s_i - h_i / (1 - h_i) (y_i - s_i) [Cook & Weisberg 1982, Sec. 2.2], with the mean
    leverage for all, as in generalised cross-validation. Then

        p(c | s) = softmax_c( t ((s . m_c - |m_c|^2 / 2) / v + log prior_c) ),

    which at t = 1 is the posterior of spherical classes with variance v = tr(cov e) / K; the
    sharpness t minimises the model's expected log-loss over

        e = sqrt(1/2) e_0 + sqrt(1/2) g (onehot(c) - onehot(j)),  var g = cov_cc / (2 share_c),

    with e_0 of covariance cov e and j drawn by -cov_cj where that is positive: an example of c
    loses g to class j. If no two scores rise together, such losses alone have covariance cov e,
    too; but they fall on few examples. Both have the tails of Student's t. The draws are fixed
    quasi-random numbers, so all is a function of the statistics: what was seen, not in which
    order.

    Args:
        stats: of one-hot targets.
        solution: of these statistics.
        sharpness: where the search for t begins: near its end it is short.
        least_gain: the search ends where the loss falls by no more per unit of ln t, in nats;
            infinity: there is none, t is as given.

    Returns: the map from scores to logits.
    """
    num_classes = stats.num_outputs
    seen = stats.life_targets > 0.0
    K = int(seen.sum())
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.float64, device="cpu")
    offset = torch.full((num_classes,), -math.inf, dtype=torch.float64, device="cpu")
    if K < 2 or stats.weight <= 0.0:
        offset[seen] = 0.0
        return Calibration(matrix, offset)
    share_K = stats.target_sum[seen].clamp_min(0.0) / stats.weight
    pull_KK, new_pull_KK, covariance_KK, prior_K = _model_scores(stats, solution, seen, share_K)
    # Without any variance the scores say nothing: then 0 / 1 leaves the prior.
    variance = float(covariance_KK.diagonal().mean()) or 1.0
    map_KK = pull_KK.T / variance
    centred_K = prior_K.log() - 0.5 * pull_KK.square().sum(1) / variance
    start = 0.5 if sharpness is None else sharpness
    logits_KK = new_pull_KK @ map_KK + centred_K
    sharpness = _find_sharpness(logits_KK, map_KK, covariance_KK, prior_K, start, least_gain)
    # The mean score of all is the mean target: the intercept sees to that.
    bias_K = centred_K - share_K @ map_KK
    # Scores of classes never seen are zero, so their rows of the matrix do not matter.
    matrix[seen.nonzero(), seen.nonzero()[:, 0]] = sharpness * map_KK
    offset[seen] = sharpness * bias_K
    return Calibration(matrix, offset, sharpness)


def _model_scores(
    stats: Statistics, solution: Solution, seen: Tensor, share_K: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean scores of classes beside the mean of all (class, score), as fitted and as of new
    examples; covariance of new examples within classes; prior. Of the classes seen."""
    count_K = share_K * stats.weight
    pull_KK = (stats.cross[:, seen].T @ solution.weights[:, seen]) / count_K.clamp_min(1e-300)[
        :, None
    ]
    within_KK = solution.covariance[seen][:, seen] - pull_KK.T @ (share_K[:, None] * pull_KK)
    within_KK = 0.5 * (within_KK + within_KK.T)
    n = max(stats.num_effective, 1.0)
    leverage = max(solution.leverage - 1.0 / n, 0.0)
    stretch = 1.0 / (1.0 - leverage)
    own_KK = torch.eye(len(share_K), dtype=torch.float64, device="cpu") - share_K
    new_pull_KK = stretch * pull_KK - (stretch - 1.0) * own_KK
    covariance_KK = within_KK * (stretch**2 * n / (n + 1.0))
    covariance_KK.diagonal().add_(float(solution.covariance.diagonal()[seen].mean()) / (n + 1.0))
    # One imagined example per class: what has faded away stays possible.
    unit = stats.weight / n
    prior_K = (count_K + unit) / (count_K + unit).sum()
    return pull_KK, new_pull_KK, covariance_KK, prior_K


def _find_sharpness(
    centre_KK: Tensor,
    map_KK: Tensor,
    covariance_KK: Tensor,
    prior_K: Tensor,
    start: float,
    least_gain: float,
) -> float:
    """The t that minimises E[-log softmax_c(t u)], u the logits of modelled examples."""
    if math.isinf(least_gain):
        return start
    K = centre_KK.shape[0]
    num_draws = max(MIN_DRAWS, min(NUM_DRAWS, 10 * NUM_DRAWS // K))
    eigen_K, basis_KK = torch.linalg.eigh(covariance_KK)
    # The symmetric root: unlike a triangular or rotated one it does not jump where eigenvalues
    # meet, so that rounding cannot choose other draws.
    root_KK = (basis_KK * eigen_K.clamp_min(0.0).sqrt()) @ basis_KK.T
    pooled_SK = _draw_tails(num_draws, K) @ root_KK @ map_KK
    lost_KSK = _draw_confusions(covariance_KK, prior_K, num_draws) @ map_KK
    logits_KSK = centre_KK[:, None, :] + math.sqrt(1.0 - CONFUSED_SHARE) * pooled_SK[None]
    logits_KSK += math.sqrt(CONFUSED_SHARE) * lost_KSK
    own_KS = logits_KSK.diagonal(dim1=0, dim2=2).T
    # Only differences matter; this also keeps the products small.
    logits_KSK = logits_KSK - own_KS[:, :, None]
    weight_KS1 = (prior_K / num_draws)[:, None, None]
    low, high = math.log(MIN_SHARPNESS), math.log(MAX_SHARPNESS)
    log_t = math.log(start)
    for _ in range(60):
        p_KSK = torch.softmax(math.exp(log_t) * logits_KSK, dim=2)
        mean_KS1 = (p_KSK * logits_KSK).sum(2, keepdim=True)
        slope = float((weight_KS1 * mean_KS1).sum())
        spread = (p_KSK * (logits_KSK - mean_KS1).square()).sum(2, keepdim=True)
        curvature = float((weight_KS1 * spread).sum())
        if abs(slope) * math.exp(log_t) < least_gain:
            break
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


def _draw_confusions(covariance_KK: Tensor, prior_K: Tensor, num_draws: int) -> Tensor:
    """What examples of each class lose to others: (K, S, K) of g (onehot(c) - onehot(j))."""
    K = covariance_KK.shape[0]
    size_KS, gumbel_SK = _draw_losses(num_draws, K)
    spread_K = (covariance_KK.diagonal() / (2.0 * prior_K)).clamp_min(0.0).sqrt()
    rises_KK = (-covariance_KK).clamp_min(0.0).fill_diagonal_(0.0)
    # Never all zero; a softened draw [Maddison et al. 2017, Eq. 10] of j.
    log_KK = (rises_KK + 1e-12 * float(covariance_KK.diagonal().mean()) + 1e-300).log()
    log_KK.fill_diagonal_(-math.inf)
    gains_KSK = torch.softmax((log_KK[:, None] + gumbel_SK) / CONFUSION_TEMPERATURE, dim=2)
    own_K1K = torch.eye(K, dtype=torch.float64, device="cpu")[:, None]
    return (spread_K[:, None] * size_KS)[:, :, None] * (own_K1K - gains_KSK)


@functools.lru_cache(maxsize=64)
def _draw_tails(num_draws: int, num_classes: int) -> Tensor:
    """Fixed quasi-random draws (S, K) of unit covariance from Student's t with 4 freedoms."""
    engine = torch.quasirandom.SobolEngine(num_classes + 2, scramble=True, seed=0)
    uniform = engine.draw(num_draws, dtype=torch.float64).clamp_(1e-6, 1.0 - 1e-6)
    normal_SK: Tensor = torch.special.ndtri(uniform[:, :num_classes])
    # Chi-squared with four degrees of freedom is twice the sum of two exponentials.
    chi_S = -2.0 * uniform[:, num_classes:].log().sum(1)
    return normal_SK * ((TAIL_FREEDOM - 2.0) / chi_S).sqrt()[:, None]


@functools.lru_cache(maxsize=64)
def _draw_losses(num_draws: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Fixed draws of unit variance from Student's t (K, S), and of Gumbel's law (S, K)."""
    engine = torch.quasirandom.SobolEngine(3, scramble=True, seed=1)
    uniform = engine.draw(num_classes * num_draws, dtype=torch.float64).clamp_(1e-6, 1.0 - 1e-6)
    chi = -2.0 * uniform[:, 1:].log().sum(1)
    sizes = torch.special.ndtri(uniform[:, 0]) * ((TAIL_FREEDOM - 2.0) / chi).sqrt()
    engine = torch.quasirandom.SobolEngine(num_classes, scramble=True, seed=2)
    uniform_SK = engine.draw(num_draws, dtype=torch.float64).clamp_(1e-6, 1.0 - 1e-6)
    return sizes.reshape(num_classes, num_draws), -(-uniform_SK.log()).log()
