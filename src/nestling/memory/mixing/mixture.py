"""Log-linear and fixed-share mixing of experts' answers, as bank, read-out and export use it.

Nothing branches on a value, so torch.export traces the very functions that answer live.

Letters: E experts, N examples (rows), K classes or outputs, Z zones of inputs, R rates of mixers,
M = R + 1 ways to mix.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST = 1e-12
# Below e^-7 an expert's probability is taken for that: one mistake must not cost without bound.
LEAST_LOG = -7.0


class MixtureWeights(NamedTuple):
    """How experts are mixed at present; see `mix_experts`.

    Args:
        mixers: (R, Z, E) weights >= 0 of log-linear mixers, per rate and zone.
        share: (Z, E) weights of the linear mixture, per zone; rows sum to 1.
        top: (M,) how far each of these is believed: the mixers, then the linear mixture; sums to 1.
        precisions: (Z, E) of values, the least mean squared error of all experts over each one's,
            per zone; of classes not used.
    """

    mixers: Tensor
    share: Tensor
    top: Tensor
    precisions: Tensor


def pool_classes(answers_ENK: Tensor, zones_NZ: Tensor, weights: MixtureWeights) -> Tensor:
    """Every way to mix experts' probabilities: (M, N, K).

    p_r(k) ~ prod_e p_e(k)^w_re   of R mixers   [logarithmic pool, Genest & Zidek 1986, Eq. 3.3],
    p_M(k) = sum_e v_e p_e(k)     of the linear mixture,   w_e = sum_z zone_z w_ze, v_e likewise.

    Args:
        answers_ENK: probabilities; a class to which all give 0 gets 0.
        zones_NZ: how far each input lies in each zone; rows sum to 1.
        weights: of the experts.
    """
    logs_ENK = answers_ENK.clamp_min(SMALLEST).log().clamp_min(LEAST_LOG)
    weights_RNE = torch.einsum("nz,rze->rne", zones_NZ, weights.mixers)
    scores_RNK = torch.einsum("rne,enk->rnk", weights_RNE, logs_ENK)
    is_possible_NK = (answers_ENK > 0.0).any(dim=0)
    pooled_RNK = torch.softmax(scores_RNK, dim=-1) * is_possible_NK
    pooled_RNK = pooled_RNK / pooled_RNK.sum(dim=-1, keepdim=True).clamp_min(SMALLEST)
    shared_NK = torch.einsum("ne,enk->nk", zones_NZ @ weights.share, answers_ENK)
    return torch.cat((pooled_RNK, shared_NK[None]))


def pool_values(values_ENK: Tensor, zones_NZ: Tensor, weights: MixtureWeights) -> Tensor:
    """Every way to mix experts' values: (M, N, K).

    The logarithmic pool of Gaussians: mu_r = sum_e w_re tau_e mu_e / sum_e w_re tau_e, tau_e the
    expert's precision; last the linear mixture. See `pool_classes`.
    """
    trusted_RZE = weights.mixers * weights.precisions + SMALLEST
    weights_RNE = torch.einsum("nz,rze->rne", zones_NZ, trusted_RZE)
    weights_RNE = weights_RNE / weights_RNE.sum(dim=-1, keepdim=True)
    pooled_RNK = torch.einsum("rne,enk->rnk", weights_RNE, values_ENK)
    shared_NK = torch.einsum("ne,enk->nk", zones_NZ @ weights.share, values_ENK)
    return torch.cat((pooled_RNK, shared_NK[None]))


def mix_experts(
    answers_ENK: Tensor,
    zones_NZ: Tensor,
    weights: MixtureWeights,
    slow: int,
    *,
    classifies: bool,
    present_K: Tensor | None = None,
) -> Tensor:
    """One answer of several experts, by the weights of their mixture: (N, K).

    sum_m t_m p_m, see `pool_classes`, `pool_values` and, for `present_K`, `keep_absent`. One alone
    answers as it does.

    Args:
        answers_ENK: (E, N, K) probabilities or values; who has no finite answer to a row is not
            asked about it, see `stand_in`.
        zones_NZ: how far each input lies in each zone; rows sum to 1.
        weights: of the experts.
        slow: the expert that stands in for others and answers for absent classes.
        classifies: whether these are probabilities.
        present_K: (K,) bool, classes that experts may divide among themselves; None: all.

    >>> one = torch.ones(1, 1)
    >>> weights = MixtureWeights(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[0.5, 0.5]]),
    ...     torch.tensor([1.0, 0.0]), torch.ones(1, 2))
    >>> answers = torch.tensor([[[0.8, 0.2]], [[0.2, 0.8]]])
    >>> mix_experts(answers, one, weights, 0, classifies=True)
    tensor([[0.5000, 0.5000]])
    """
    if len(answers_ENK) == 1:
        return answers_ENK[0]
    answers_ENK = stand_in(answers_ENK, slow)
    pool = pool_classes if classifies else pool_values
    pooled_MNK = pool(answers_ENK, zones_NZ, weights)
    mixed_NK = torch.einsum("m,mnk->nk", weights.top, pooled_MNK)
    return mixed_NK if present_K is None else keep_absent(mixed_NK, answers_ENK[slow], present_K)


def keep_absent(mixed_NK: Tensor, slow_NK: Tensor, present_K: Tensor) -> Tensor:
    """A mixture on recently seen classes; all others keep the slow expert's probability.

    p(c) = p_slow(c)                          for c absent,
    p(c) = p_slow(present) p(c | present)     for c present.

    When classes come one after the other, a fast expert seems good because it has forgotten all
    but the newest; mixed plainly it would take their probability away. Here it may only say how
    the present classes share what the slow expert gives to all of them.

    Args:
        mixed_NK: (N, K) probabilities.
        slow_NK: (N, K) of the expert that remembers longest.
        present_K: (K,) bool, classes seen recently; none: the slow expert answers alone.

    Returns: (N, K); rows sum to 1 if the slow expert's do.

    >>> slow, mixed = torch.tensor([[0.4, 0.4, 0.2]]), torch.tensor([[0.0, 0.1, 0.9]])
    >>> keep_absent(mixed, slow, torch.tensor([False, True, True]))
    tensor([[0.4000, 0.0600, 0.5400]])
    """
    given_N1 = (slow_NK * present_K).sum(dim=-1, keepdim=True)
    return torch.where(present_K, given_N1 * restrict_to_present(mixed_NK, present_K), slow_NK)


def restrict_to_present(probabilities: Tensor, present: Tensor) -> Tensor:
    """p(c | c is present): probabilities of absent classes set to 0, the rest rescaled.

    Args:
        probabilities: (..., K).
        present: (K,) or (..., K) bool; rows without a present class give zeros.

    Returns: (..., K); equal shares where an expert gives all present classes nothing.
    """
    kept = probabilities * present
    total = kept.sum(dim=-1, keepdim=True)
    count = present.sum(dim=-1, keepdim=True).clamp_min(1)
    even = present.to(probabilities.dtype) / count
    return torch.where(total > SMALLEST, kept / total.clamp_min(SMALLEST), even)


def mix_rows(answers_ENK: Tensor, weights_E: Tensor) -> Tensor:
    """sum_e w_e a_e: (E, N, K) and weights (E,) that never change -> (N, K).

    >>> mix_rows(torch.tensor([[[0.0]], [[1.0]]]), torch.tensor([0.25, 0.75]))
    tensor([[0.7500]])
    """
    return torch.einsum("e,enk->nk", weights_E.to(answers_ENK.dtype), answers_ENK)


def stand_in(answers_ENK: Tensor, slow: int) -> Tensor:
    """Rows of experts that are not finite, replaced by those of the slow expert: (E, N, K)."""
    is_finite_EN1 = answers_ENK.isfinite().all(dim=-1, keepdim=True)
    return torch.where(is_finite_EN1, answers_ENK, answers_ENK[slow])


def pad_classes(answers: Sequence[Tensor]) -> Tensor:
    """Stack probabilities of experts that know different numbers of classes.

    Args:
        answers: per expert (N, K_e).

    Returns: (E, N, K) with K the largest; a class that an expert does not know gets 0.

    >>> pad_classes([torch.ones(1, 1), torch.full((1, 2), 0.5)]).tolist()
    [[[1.0, 0.0]], [[0.5, 0.5]]]
    """
    width = max(answer.shape[-1] for answer in answers)
    return torch.stack(
        [torch.nn.functional.pad(answer, (0, width - answer.shape[-1])) for answer in answers]
    )
