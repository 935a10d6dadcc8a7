"""How well experts, and ways to mix them, gave the labels of examples: in numpy, for a gate.

Letters: E experts, N examples (rows), K classes, Z zones of inputs, R rates of mixers, M = R + 1
ways to mix.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nestling.memory.mixing.fixed_share import Floats
from nestling.memory.mixing.mixture import LEAST_LOG, SMALLEST


class ComparedClasses(NamedTuple):
    """Answers to examples as far as they do not depend on any weight.

    Args:
        logs: (N, E, K) of probabilities.
        is_possible: (N, K) bool, classes that are compared and to which anybody gives something.
        own: (N, E) probability of the label.
        masses: (N, E) of all classes that are compared.
        labels: (N,).
        is_compared: (K,) bool.
    """

    logs: Floats
    is_possible: npt.NDArray[np.bool_]
    own: Floats
    masses: Floats
    labels: npt.NDArray[np.int64]
    is_compared: npt.NDArray[np.bool_]

    @property
    def num_compared(self) -> int:
        """Classes that are compared."""
        return int(self.is_compared.sum())

    def cut(self, rows: slice) -> "ComparedClasses":
        """Those of some of the examples."""
        return ComparedClasses(
            self.logs[rows],
            self.is_possible[rows],
            self.own[rows],
            self.masses[rows],
            self.labels[rows],
            self.is_compared,
        )


def compare_classes(
    answers_ENK: Tensor, target_N: Tensor, present_K: Tensor | None
) -> ComparedClasses:
    """What is compared of experts' answers, for all examples at once.

    Args:
        answers_ENK: probabilities, finite.
        target_N: labels.
        present_K: (K,) bool, classes on which experts are compared; None: all.
    """
    answers_NEK = answers_ENK.transpose(0, 1).numpy()
    is_compared_K: npt.NDArray[np.bool_] = np.ones(answers_NEK.shape[2], dtype=bool)
    if present_K is not None:
        is_compared_K = present_K.numpy()
    rows, labels = np.arange(len(target_N)), target_N.numpy()
    return ComparedClasses(
        np.maximum(np.log(np.maximum(answers_NEK, SMALLEST)), LEAST_LOG),
        (answers_NEK > 0.0).any(axis=1) & is_compared_K,
        answers_NEK[rows, :, labels],
        (answers_NEK * is_compared_K).sum(axis=2),
        labels,
        is_compared_K,
    )


def score_classes(
    found: ComparedClasses, zones_NZ: Floats, mixers_RZE: Floats, share_ZE: Floats
) -> tuple[Floats, Floats, Floats]:
    """How experts and ways to mix them did, among the classes that are compared.

    The mixers of `nestling.memory.mixing.mixture.pool_classes`, and the gradient of their
    log-likelihood: ln p_e(y) - E_{k ~ p_r} ln p_e(k).

    Args:
        found: what is compared.
        zones_NZ: how far each input lies in each zone.
        mixers_RZE: weights of the log-linear mixers.
        share_ZE: of the linear mixture.

    Returns: the gradients (R, E, N), and the probabilities of the labels by each expert (N, E) and
        by each way (N, M).
    """
    rows, even = np.arange(len(found.labels)), 1.0 / found.num_compared
    weights_RNE = zones_NZ @ mixers_RZE
    scores_RNK = (weights_RNE[:, :, None] @ found.logs)[:, :, 0]
    scores_RNK = np.where(found.is_possible, scores_RNK, -math.inf)
    highest_RN1 = scores_RNK.max(axis=2, keepdims=True, initial=-1e3)
    pooled_RNK = np.exp(scores_RNK - highest_RN1)
    total_RN1 = pooled_RNK.sum(axis=2, keepdims=True)
    pooled_RNK = np.where(
        total_RN1 > SMALLEST,
        pooled_RNK / np.maximum(total_RN1, SMALLEST),
        even * found.is_compared,
    )
    expected_RNE = (found.logs @ pooled_RNK[..., None])[..., 0]
    gained_RNE = found.logs[rows, :, found.labels] - expected_RNE
    own_NE = _restrict(found.own, found.masses, even)
    shares_NE = zones_NZ @ share_ZE
    shared_N = _restrict(
        (shares_NE * found.own).sum(axis=1), (shares_NE * found.masses).sum(axis=1), even
    )
    top_NM = np.concatenate((pooled_RNK[:, rows, found.labels], shared_N[None])).T
    return gained_RNE.transpose(0, 2, 1), own_NE, top_NM


def _restrict(own: Floats, masses: Floats, even: float) -> Floats:
    """Probabilities among the classes that are compared; even shares where these have nothing."""
    shares: Floats = np.where(masses > SMALLEST, own / np.maximum(masses, SMALLEST), even)
    return shares
