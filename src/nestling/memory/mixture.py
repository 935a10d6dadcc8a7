"""Mixtures of experts' answers, as the bank, the read-out and its export use them.

Nothing branches on a value, so torch.export traces the very functions that answer live.

Letters: E experts, N examples (rows), K classes or outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_SMALLEST = 1e-12


def mix_experts(
    answers_ENK: Tensor, weights: Tensor, slow: int, present_K: Tensor | None = None
) -> Tensor:
    """Weighted mixture of experts' probabilities or values, leaving out NaN: (N, K).

    Args:
        answers_ENK: (E, N, K) probabilities or values; who has no finite answer to a row is not
            asked about it, see `stand_in`.
        weights: (E,), sums to 1; or (N, E), for each row its own, see `heed`.
        slow: the expert that stands in for others and answers for absent classes.
        present_K: (K,) bool, classes on which experts are mixed, see `mix_on_present`; None: all
            of them alike, sum_e w_e a_e.

    >>> answers = torch.tensor([[[0.25, 0.75]], [[torch.nan, 1.0]], [[0.75, 0.25]]])
    >>> mix_experts(answers, torch.tensor([0.25, 0.25, 0.5]), 0)
    tensor([[0.5000, 0.5000]])
    """
    if answers_ENK.shape[0] == 1:
        return answers_ENK[0]
    answers_ENK = stand_in(answers_ENK, slow)
    if present_K is None:
        return mix_rows(answers_ENK, weights)
    return mix_on_present(answers_ENK, weights, slow, present_K)


def mix_on_present(probabilities: Tensor, weights: Tensor, slow: int, present: Tensor) -> Tensor:
    """Mix experts on recently seen classes; all others keep the slow expert's probability.

    p(c) = p_slow(c)                                            for c absent,
    p(c) = p_slow(present) sum_i w_i p_i(c | present)           for c present.

    When classes come one after the other, a fast expert seems good because it has forgotten all
    but the newest; mixed plainly it would take their probability away. Here it may only say how
    the present classes share what the slow expert gives to all of them.

    Args:
        probabilities: (E, N, K).
        weights: (E,), sums to 1; or (N, E), for each example its own.
        slow: which expert remembers longest.
        present: (K,) bool, classes seen recently; none: the slow expert answers alone.

    Returns: (N, K); rows sum to 1 if the slow expert's do.

    >>> slow, fast = [[0.4, 0.4, 0.2]], [[0.0, 0.1, 0.9]]
    >>> p = torch.tensor([slow, fast])
    >>> mix_on_present(p, torch.tensor([0.0, 1.0]), 0, torch.tensor([False, True, True]))
    tensor([[0.4000, 0.0600, 0.5400]])
    """
    slow_NK = probabilities[slow]
    mixed_NK = mix_rows(restrict_to_present(probabilities, present), weights)
    given_N1 = (slow_NK * present).sum(dim=-1, keepdim=True)
    return torch.where(present, given_N1 * mixed_NK, slow_NK)


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
    return torch.where(total > _SMALLEST, kept / total.clamp_min(_SMALLEST), even)


def mix_rows(answers: Tensor, weights: Tensor) -> Tensor:
    """sum_e w_e a_e: (E, N, K) and weights (E,), or (N, E) for each row its own -> (N, K).

    >>> mix_rows(torch.tensor([[[0.0]], [[1.0]]]), torch.tensor([[0.25, 0.75]]))
    tensor([[0.7500]])
    """
    letters = "e" if weights.ndim == 1 else "ne"
    return torch.einsum(f"{letters},enk->nk", weights.to(answers.dtype), answers)


def heed(weights_E: Tensor, heeded_N: Tensor, slow: int) -> Tensor:
    """Weights of each row, where fast experts are heeded more or less: (N, E), rows sum to 1.

    w_ne = r_n w_e, and what is missing of 1 goes to the slow expert.

    Args:
        weights_E: (E,), sums to 1.
        heeded_N: r, (N,) in [0, 1].
        slow: its index.

    >>> heed(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.5]), 0)
    tensor([[0.5000, 0.5000],
            [0.7500, 0.2500]])
    """
    weights_NE = weights_E * heeded_N[:, None]
    is_slow_E = torch.arange(weights_E.shape[0], device=weights_E.device) == slow
    return weights_NE + is_slow_E * (1.0 - weights_NE.sum(dim=1, keepdim=True))


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
