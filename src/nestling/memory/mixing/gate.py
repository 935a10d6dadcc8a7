"""Gate of a mixture: log-linear mixers at several rates beside a fixed share, under a fixed share.

Letters: E experts, N examples (rows), K classes or outputs, Z zones of inputs, R rates of mixers,
M = R + 1 ways to mix.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nestling.core.errors import ForeignSnapshot, SettingError, ShapeMismatch
from nestling.core.modes import in_own_modes
from nestling.memory.exact.statistics import decay_factor
from nestling.memory.mixing.mixture import (
    LEAST_LOG,
    MixtureWeights,
    keep_absent,
    mix_experts,
    pool_classes,
    pool_values,
    restrict_to_present,
    stand_in,
)

Floats = npt.NDArray[np.float64]

# Of the mixers: slow ones are right where nothing changes, the fast one follows what does.
RATES = (0.002, 0.008, 0.03)
# Examples that are weighed by the same weights before these move: on a pass of many a fast mixer
# would overshoot.
MOST_AT_ONCE = 16
# Share of chance in what an expert is scored by: a memory of few examples is too sure of itself,
# and a single mistake of it must not outweigh many right answers. And that of the ways to mix.
DOUBT, TOP_DOUBT, TOP_SWITCH_RATE = 0.1, 0.01, 0.002
# By how many nats one value may be worse than expected: bounds the cost of one mistake.
MOST_NATS = 3.0
# Of the running squared error of a value.
ERROR_HALF_LIFE = 50.0
# What an absent class costs: half-life, and how sure one must be of it.
GUARD_HALF_LIFE, GUARD_SPREADS = 2000.0, 3.0
SMALLEST_VARIANCE = 1e-12
_LEAST_PRIOR = 1e-3


def share_weights(
    log_weights_ZE: Floats,
    losses_NE: Floats,
    scales_NZ: Floats,
    switch_rate: float,
    log_prior_ZE: Floats,
) -> Floats:
    """One fixed-share update of the weights of each zone, for examples that came together.

    v_i = w_i exp(-sum_n s_n l_ni) / sum_j ...,   w_i' = (1 - a)^S v_i + (1 - (1 - a)^S) prior_i,
    S = sum_n s_n   [Herbster & Warmuth 1998, Fig. 1, eta = 1]

    Differs: from the paper in that what is shared returns to the prior, itself included; and in
    that N examples are one trial, of the sum of their losses, after which N trials' worth is
    shared. With N = 1 and s = 1 it is the paper's.

    Args:
        log_weights_ZE: (Z, E) logarithms of weights, each row of which sums to 1.
        losses_NE: (N, E) finite nats.
        scales_NZ: (N, Z) s >= 0, how much an example counts in a zone.
        switch_rate: a, probability per example that the best expert changes, in [0, 1).
        log_prior_ZE: (Z, E).

    Returns: (Z, E).

    >>> even = np.log(np.full((1, 2), 0.5))
    >>> losses, one = np.array([[0.0, 50.0]]), np.ones((1, 1))
    >>> np.exp(share_weights(even, losses, one, 0.1, even)).round(2).tolist()
    [[0.95, 0.05]]
    """
    joint_ZE = log_weights_ZE - scales_NZ.T @ losses_NE
    joint_ZE = joint_ZE - np.logaddexp.reduce(joint_ZE, axis=1, keepdims=True)
    if switch_rate == 0.0:
        return joint_ZE
    stays_Z1 = scales_NZ.sum(axis=0)[:, None] * math.log1p(-switch_rate)
    returned_Z1 = np.log(np.maximum(-np.expm1(stays_Z1), 1e-300))
    shared_ZE: Floats = np.logaddexp(joint_ZE + stays_Z1, log_prior_ZE + returned_Z1)
    return shared_ZE


class Mixture:
    """Gate over experts: learns from every example how to mix their answers, and when to change.

    R log-linear mixers, each with weights per zone of inputs,

        p_r ~ prod_e p_e^w_re,   w_re += eta_r (ln p_e(y) - E_{k ~ p_r} ln p_e(k)),   w >= 0,

    the gradient of the log-loss [Mattern 2012, Sec. 3]; beside them a fixed share over the
    experts, which follows one that is best all at once; on top a fixed share over these M = R + 1,
    which holds the bound: let L be the summed loss -log sum_m t_m q_m(y) of its T trials, q_m the
    way's probability with a hundredth of chance. For every way m with loss L_m,

        L <= L_m + ln M + T ln(1 / (1 - a)),   a = 0.002,

    and a further ln M + ln(1 / a) for each change of m along the way [Herbster & Warmuth 1998,
    Theorem 1, for eta = 1 and log-loss; M experts, shared evenly]. Nothing is assumed about the
    data. A trial is a batch of at most 16 examples, whose probabilities are multiplied, and of
    which each counts as a trial of its own in T; event by event it is one example.

    For values the experts are Gaussians whose variance is their running squared error.

    Args:
        start_ZE: the mixers' first weights >= 0, per zone; normalised, and with a floor, they are
            the prior of the fixed share.
        tempers: per zone how much an example counts; None for 1. 0: weights never move.
        slow: the expert that stands in for others, and answers for absent classes.
        switch_rate: of the fixed share over experts, in [0, 1).
        classifies: whether answers are probabilities.

    Raises:
        SettingError: an argument outside its range.

    >>> gate = Mixture(torch.ones(1, 2))
    >>> answers = torch.tensor([[[0.9, 0.1]], [[0.1, 0.9]]]).double()
    >>> for _ in range(50):
    ...     gate.observe(answers, torch.tensor([1]))
    >>> gate.num_heard, gate.mix(answers)[0, 1] > 0.95
    (50, tensor(True))
    """

    def __init__(
        self,
        start_ZE: Tensor,
        *,
        tempers: tuple[float, ...] | None = None,
        slow: int = 0,
        switch_rate: float = 1e-3,
        classifies: bool = True,
    ) -> None:
        if not 0.0 <= switch_rate < 1.0:
            raise SettingError(f"switch_rate {switch_rate}; a probability from 0 to below 1 works")
        if start_ZE.ndim != 2 or not start_ZE.numel() or bool((start_ZE < 0.0).any()):
            raise SettingError(f"weights {start_ZE.tolist()}; rows of one or more >= 0 work")
        start: Floats = start_ZE.detach().to("cpu", torch.float64).numpy().copy()
        num_zones, self.num_experts = start.shape
        self.tempers = (1.0,) * num_zones if tempers is None else tempers
        if len(self.tempers) != num_zones:
            raise SettingError(f"{len(self.tempers)} tempers for {num_zones} zones; give one each")
        self.slow = slow
        self.switch_rate = switch_rate
        self.classifies = classifies
        self.num_heard = 0
        prior = np.maximum(start, _LEAST_PRIOR)
        self._log_prior: Floats = np.log(prior / prior.sum(axis=1, keepdims=True))
        self._mixers: Floats = np.repeat(start[None], len(RATES), axis=0)
        self._log_share = self._log_prior.copy()
        self._log_top: Floats = np.full((1, len(RATES) + 1), -math.log(len(RATES) + 1))
        # Mean squared errors of values; NaN before the first.
        self._errors: Floats = np.full(self.num_experts, math.nan)
        self._top_errors: Floats = np.full(len(RATES) + 1, math.nan)
        # Of absent classes: by how much plain mixing was right more often, and its square.
        self._gain, self._spread = 0.0, 0.0
        self._read: MixtureWeights | None = None

    @property
    def weights(self) -> MixtureWeights:
        """The weights by which it mixes at present; tensors of their own."""
        if self._read is None:
            errors = np.where(np.isnan(self._errors), 1.0, self._errors)
            self._read = MixtureWeights(
                torch.from_numpy(self._mixers.copy()),
                torch.from_numpy(np.exp(self._log_share)),
                torch.from_numpy(np.exp(self._log_top[0])),
                torch.from_numpy(1.0 / np.maximum(errors, SMALLEST_VARIANCE)),
            )
        return self._read

    @property
    def shares(self) -> Tensor:
        """How much each expert counts in each zone, over all ways to mix: (Z, E), rows sum to 1."""
        weights = self.weights
        total_RZ1 = weights.mixers.sum(dim=2, keepdim=True).clamp_min(1e-300)
        ways_MZE = torch.cat((weights.mixers / total_RZ1, weights.share[None]))
        shares_ZE = torch.einsum("m,mze->ze", weights.top, ways_MZE)
        return shares_ZE / shares_ZE.sum(dim=1, keepdim=True)

    @property
    def is_plain(self) -> bool:
        """Whether classes that are absent at present come so often, and are answered so much
        better by all experts, that they are no longer left to the slow one.

        D / sqrt(V + 4) >= 3, D the sum over examples whose class was absent of [plainly mixed
        right - left to the slow one right], V that of its square, fading by half in 2,000.
        """
        return self._gain / math.sqrt(self._spread + 4.0) >= GUARD_SPREADS

    def mix(
        self, answers_ENK: Tensor, zones_NZ: Tensor | None = None, present_K: Tensor | None = None
    ) -> Tensor:
        """One answer of all experts, (N, K) float64; arguments as in `mix_experts`."""
        return mix_experts(
            answers_ENK,
            self._fill_zones(answers_ENK, zones_NZ),
            self.weights,
            self.slow,
            classifies=self.classifies,
            present_K=None if self.is_plain else present_K,
        )

    def _fill_zones(self, answers_ENK: Tensor, zones_NZ: Tensor | None) -> Tensor:
        if zones_NZ is not None:
            return zones_NZ
        num_rows, num_zones = answers_ENK.shape[1], len(self.tempers)
        even = torch.ones(num_rows, num_zones, dtype=torch.float64, device="cpu")
        return even / num_zones

    def hold_still(self) -> "Mixture":
        """A twin that mixes as this one does now, whatever this one hears later."""
        weights = self.weights
        twin = copy.copy(self)
        # All else is replaced when it changes.
        twin._mixers, twin._read = self._mixers.copy(), weights
        return twin

    @in_own_modes
    def observe(
        self,
        answers_ENK: Tensor,
        target: Tensor,
        zones_NZ: Tensor | None = None,
        *,
        present_K: Tensor | None = None,
        heard_N: Tensor | None = None,
    ) -> None:
        """Hear of examples, in order, by the answers that stood before they were learned.

        Args:
            answers_ENK: (E, N, K) probabilities or values, float64.
            target: (N,) classes or (N, K) values.
            zones_NZ: how far each input lies in each zone; None: in all alike.
            present_K: (K,) bool, classes seen before these examples; experts are compared on
                them, and on the examples' own. None: on all.
            heard_N: how much each counts; 0 for one that says nothing, as of a class that the
                slow expert could not know. None: 1.

        Raises:
            ShapeMismatch: not as many answers as experts, or not one per target.
        """
        if answers_ENK.shape[:2] != (self.num_experts, len(target)):
            raise ShapeMismatch(
                f"answers of shape {tuple(answers_ENK.shape)} to {len(target)} targets; "
                f"({self.num_experts}, {len(target)}, K) works"
            )
        answers_ENK = stand_in(answers_ENK, self.slow)
        zones_NZ = self._fill_zones(answers_ENK, zones_NZ)
        heard: Floats = np.ones(len(target)) if heard_N is None else heard_N.double().numpy()
        if present_K is not None and not self.is_plain:
            self._guard(answers_ENK, target, zones_NZ, present_K, heard)
        if present_K is not None:
            present_K = present_K.clone()
            present_K[target] = True
        for start in range(0, len(target), MOST_AT_ONCE):
            rows = slice(start, start + MOST_AT_ONCE)
            if not heard[rows].any():
                continue
            block = answers_ENK[:, rows], target[rows], zones_NZ[rows], heard[rows]
            if self.classifies:
                self._observe_classes(*block, present_K)
            else:
                self._observe_values(*block)
            self._read = None
        self.num_heard += len(target)

    def _guard(
        self,
        answers_ENK: Tensor,
        target_N: Tensor,
        zones_NZ: Tensor,
        present_K: Tensor,
        heard: Floats,
    ) -> None:
        """Note what it costs to leave absent classes to the slow expert."""
        rows_A = (~present_K[target_N] & torch.from_numpy(heard > 0.0)).nonzero()[:, 0]
        fades = decay_factor(len(target_N), GUARD_HALF_LIFE)
        self._gain, self._spread = fades * self._gain, fades * self._spread
        if not len(rows_A):
            return
        mixed_AK = mix_experts(
            answers_ENK[:, rows_A], zones_NZ[rows_A], self.weights, self.slow, classifies=True
        )
        kept_AK = keep_absent(mixed_AK, answers_ENK[self.slow, rows_A], present_K)
        right = [one.argmax(dim=1) == target_N[rows_A] for one in (mixed_AK, kept_AK)]
        gained_A = right[0].double() - right[1].double()
        self._gain += float(gained_A.sum())
        self._spread += float(gained_A.square().sum())

    def _observe_classes(
        self,
        answers_ENK: Tensor,
        target_N: Tensor,
        zones_NZ: Tensor,
        heard_N: Floats,
        present_K: Tensor | None,
    ) -> None:
        pooled_MNK = pool_classes(answers_ENK, zones_NZ, self.weights)
        compared_ENK, num_compared = answers_ENK, answers_ENK.shape[2]
        if present_K is not None:
            pooled_MNK = restrict_to_present(pooled_MNK, present_K)
            compared_ENK = restrict_to_present(answers_ENK, present_K)
            num_compared = int(present_K.sum())
        rows, labels = np.arange(len(target_N)), target_N.numpy()
        pooled, compared = pooled_MNK.numpy(), compared_ENK.numpy()
        logs = np.maximum(np.log(np.maximum(answers_ENK.numpy(), 1e-12)), LEAST_LOG)
        expected_REN = np.einsum("rnk,enk->ren", pooled[:-1], logs)
        gained_REN = logs[:, rows, labels] - expected_REN
        own_NE = compared[:, rows, labels].T
        losses_NE = -np.log((1.0 - DOUBT) * own_NE + DOUBT / num_compared)
        top_NM = pooled[:, rows, labels].T
        top_losses_NM = -np.log((1.0 - TOP_DOUBT) * top_NM + TOP_DOUBT / num_compared)
        self._move(gained_REN, losses_NE, top_losses_NM, zones_NZ.numpy(), heard_N)

    def _observe_values(
        self, values_ENK: Tensor, target_NK: Tensor, zones_NZ: Tensor, heard_N: Floats
    ) -> None:
        values, target = values_ENK.numpy(), target_NK.numpy()
        self._errors, squares_EN, losses_NE = _score(values, target, heard_N, self._errors)
        self._read = None
        pooled = pool_values(values_ENK, zones_NZ, self.weights).numpy()
        found = _score(pooled, target, heard_N, self._top_errors)
        self._top_errors, _, top_losses_NM = found
        # l_e(y) - E l_e of a Gaussian l_e = -tau_e (y - mu_e)^2 / 2, under the mixer's Gaussian.
        tau_E1 = 1.0 / np.maximum(self._errors, SMALLEST_VARIANCE)[:, None]
        variance_RZ = 1.0 / np.maximum(self._mixers @ tau_E1[:, 0], SMALLEST_VARIANCE)
        variance_RN = variance_RZ @ zones_NZ.numpy().T
        apart_REN = np.square(pooled[:-1, None] - values[None]).mean(axis=-1)
        gained_REN = 0.5 * tau_E1 * (variance_RN[:, None] + apart_REN - squares_EN)
        gained_REN = np.clip(gained_REN, -MOST_NATS, MOST_NATS)
        self._move(gained_REN, losses_NE, top_losses_NM, zones_NZ.numpy(), heard_N)

    def _move(
        self,
        gained_REN: Floats,
        losses_NE: Floats,
        top_losses_NM: Floats,
        zones_NZ: Floats,
        heard_N: Floats,
    ) -> None:
        """Move all weights by what a few examples say."""
        scales_NZ = zones_NZ * (heard_N[:, None] * np.array(self.tempers))
        steps_RZE = np.einsum("nz,ren->rze", scales_NZ, gained_REN)
        self._mixers += np.array(RATES)[:, None, None] * steps_RZE
        np.maximum(self._mixers, 0.0, out=self._mixers)
        self._log_share = share_weights(
            self._log_share, losses_NE, scales_NZ, self.switch_rate, self._log_prior
        )
        even = np.full_like(self._log_top, -math.log(self._log_top.shape[1]))
        self._log_top = share_weights(
            self._log_top, top_losses_NM, scales_NZ.sum(1, keepdims=True), TOP_SWITCH_RATE, even
        )

    def state_dict(self) -> dict[str, object]:
        """Weights, running errors, and what they belong to; tensors are copies."""
        return {
            "switch_rate": self.switch_rate,
            "log_prior": torch.from_numpy(self._log_prior.copy()),
            "mixers": torch.from_numpy(self._mixers.copy()),
            "log_share": torch.from_numpy(self._log_share.copy()),
            "log_top": torch.from_numpy(self._log_top.copy()),
            "errors": torch.from_numpy(self._errors.copy()),
            "top_errors": torch.from_numpy(self._top_errors.copy()),
            "gain": self._gain,
            "spread": self._spread,
            "num_heard": self.num_heard,
        }

    @in_own_modes
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the gate that was saved; ForeignSnapshot if experts or rate differ."""
        prior = torch.from_numpy(self._log_prior)
        if state["switch_rate"] != self.switch_rate or not torch.equal(state["log_prior"], prior):
            raise ForeignSnapshot(
                f"saved by a gate of switch rate {state['switch_rate']} over "
                f"{state['log_prior'].shape[1]} experts, here it is {self.switch_rate} over "
                f"{self.num_experts} with another prior or number"
            )
        self._mixers = state["mixers"].numpy().copy()
        self._log_share = state["log_share"].numpy().copy()
        self._log_top = state["log_top"].numpy().copy()
        self._errors = state["errors"].numpy().copy()
        self._top_errors = state["top_errors"].numpy().copy()
        self._gain, self._spread = state["gain"], state["spread"]
        self.num_heard = state["num_heard"]
        self._read = None


def _score(
    values: Floats, target: Floats, heard_N: Floats, errors_E: Floats
) -> tuple[Floats, Floats, Floats]:
    """Gaussian log-losses with each expert's running squared error as variance.

    Args:
        values: (E, N, K).
        target: (N, K).
        heard_N: (N,) how much each counts.
        errors_E: (E,) running squared errors; NaN before the first.

    Returns: the new running errors (E,), squared errors (E, N), and nats (N, E).
    """
    squares_EN = np.square(values - target[None]).mean(axis=-1)
    weight = float(heard_N.sum())
    now_E = squares_EN @ heard_N / weight
    stays = decay_factor(weight, ERROR_HALF_LIFE)
    errors_E = np.where(np.isnan(errors_E), now_E, stays * errors_E + (1.0 - stays) * now_E)
    variance_E1 = np.maximum(errors_E, SMALLEST_VARIANCE)[:, None]
    losses_EN = 0.5 * (np.log(2 * math.pi * variance_E1) + squares_EN / variance_E1)
    best_N = losses_EN.min(axis=0)
    return errors_E, squares_EN, np.minimum(losses_EN, best_N + MOST_NATS).T
