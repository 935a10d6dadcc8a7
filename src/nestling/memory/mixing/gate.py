"""Gate of a mixture: log-linear mixers at several rates beside a fixed share, under a fixed share.

Letters: E experts, N examples (rows), K classes or outputs, Z zones of inputs, R rates of mixers,
M = R + 1 ways to mix.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nestling.core.errors import ForeignSnapshot, SettingError, ShapeMismatch
from nestling.core.modes import in_own_modes
from nestling.memory.exact.statistics import decay_factor
from nestling.memory.mixing.compared_classes import (
    ComparedClasses,
    compare_classes,
    score_classes,
)
from nestling.memory.mixing.fixed_share import Floats, share_weights
from nestling.memory.mixing.mixture import (
    MixtureWeights,
    keep_absent,
    mix_experts,
    pool_values,
    stand_in,
)
from nestling.memory.mixing.value_losses import (
    ERROR_HALF_LIFE,
    MOST_NATS,
    SMALLEST_VARIANCE,
    score_values,
)

# Of the mixers: slow ones are right where nothing changes, the fast one follows what does.
RATES = (0.002, 0.008, 0.03)
# Examples that are weighed by the same weights before these move: on a pass of many a fast mixer
# would overshoot.
MOST_AT_ONCE = 16
# Share of chance in what an expert is scored by: a memory of few examples is too sure of itself,
# and a single mistake of it must not outweigh many right answers. And that of the ways to mix.
DOUBT, TOP_DOUBT, TOP_SWITCH_RATE = 0.1, 0.01, 0.002
# Part of an example of which all are said to miss the value alike before the first, in each zone.
PRIOR_MASS = 0.01
# What an absent class costs: half-life, and how sure one must be of it.
GUARD_HALF_LIFE, GUARD_SPREADS = 2000.0, 3.0
_LEAST_PRIOR = 1e-3


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
            the prior of the fixed share. A weight of 0 stays 0: who has it never speaks there.
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
    >>> gate.num_heard, gate.mix(answers)[0, 1] > 0.8
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
        is_wrong = start_ZE.ndim != 2 or not start_ZE.numel() or not bool((start_ZE >= 0.0).all())
        if is_wrong or bool((start_ZE.sum(dim=1) <= 0.0).any()):
            raise SettingError(f"weights {start_ZE.tolist()}; rows >= 0 with one above 0 work")
        start: Floats = start_ZE.detach().to("cpu", torch.float64).numpy().copy()
        num_zones, self.num_experts = start.shape
        self.tempers = (1.0,) * num_zones if tempers is None else tempers
        if len(self.tempers) != num_zones:
            raise SettingError(f"{len(self.tempers)} tempers for {num_zones} zones; give one each")
        self.slow = slow
        self.switch_rate = switch_rate
        self.classifies = classifies
        self.num_heard = 0
        self._speaks: Floats = (start > 0.0).astype(np.float64)
        prior = np.maximum(start, _LEAST_PRIOR * self._speaks)
        with np.errstate(divide="ignore"):  # who never speaks has the logarithm of 0
            self._log_prior: Floats = np.log(prior / prior.sum(axis=1, keepdims=True))
        self._mixers: Floats = np.repeat(start[None], len(RATES), axis=0)
        self._log_share = self._log_prior.copy()
        self._log_top: Floats = np.full((1, len(RATES) + 1), -math.log(len(RATES) + 1))
        # Mean squared errors of values, of experts and of ways to mix; None before the first.
        self._errors: Floats | None = None
        self._top_errors: Floats | None = None
        # Squared errors of experts per zone, summed with a part of an example that all miss
        # alike, and of how many examples they are: what comes near says nothing of what is far.
        self._sums: Floats = np.full((num_zones, self.num_experts), PRIOR_MASS)
        self._masses: Floats = np.full((num_zones, 1), PRIOR_MASS)
        # Of absent classes: by how much plain mixing was right more often, and its square.
        self._gain, self._spread = 0.0, 0.0
        self._read: MixtureWeights | None = None

    @property
    def weights(self) -> MixtureWeights:
        """The weights by which it mixes at present; tensors of their own."""
        if self._read is None:
            errors = np.maximum(self._sums / self._masses, SMALLEST_VARIANCE)
            self._read = MixtureWeights(
                torch.from_numpy(self._mixers.copy()),
                torch.from_numpy(np.exp(self._log_share)),
                torch.from_numpy(np.exp(self._log_top[0])),
                torch.from_numpy(errors.min(axis=1, keepdims=True) / errors),
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
        again: bool = False,
    ) -> None:
        """Hear of examples, in order, by the answers that stood before they were learned.

        Args:
            answers_ENK: (E, N, K) probabilities or values, float64.
            target: (N,) classes or (N, K) values.
            zones_NZ: how far each input lies in each zone; None: in all alike.
            present_K: (K,) bool, classes seen before these examples; experts are compared on
                them, and on the examples' own. None: on all.
            heard_N: how much each counts; 0 for one that says nothing, as of a class that the
                slow expert could not know. None: 1. Where nobody has a finite answer it is 0.
            again: these examples were heard in other zones; they are not counted twice.

        Raises:
            ShapeMismatch: not as many answers as experts, or not one per target.
        """
        if answers_ENK.shape[:2] != (self.num_experts, len(target)):
            raise ShapeMismatch(
                f"answers of shape {tuple(answers_ENK.shape)} to {len(target)} targets; "
                f"({self.num_experts}, {len(target)}, K) works"
            )
        self.num_heard += 0 if again else len(target)
        if self.num_experts == 1:
            return  # it answers as it does, whatever its weight
        answers_ENK = stand_in(answers_ENK, self.slow)
        zones_NZ = self._fill_zones(answers_ENK, zones_NZ)
        heard: Floats = np.ones(len(target)) if heard_N is None else heard_N.double().numpy()
        is_finite_N = answers_ENK.isfinite().all(dim=2).all(dim=0)
        heard = np.where(is_finite_N.numpy(), heard, 0.0)
        answers_ENK = torch.where(is_finite_N[:, None], answers_ENK, 0.0)
        if present_K is not None and not again and not self.is_plain:
            self._guard(answers_ENK, target, zones_NZ, present_K, heard)
        if present_K is not None:
            present_K = present_K.clone()
            present_K[target[torch.from_numpy(heard > 0.0)]] = True
        if self.classifies:
            compared = compare_classes(answers_ENK, target, present_K)
        for start in range(0, len(target), MOST_AT_ONCE):
            rows = slice(start, start + MOST_AT_ONCE)
            if not heard[rows].any():
                continue
            if self.classifies:
                self._observe_classes(compared.cut(rows), zones_NZ[rows].numpy(), heard[rows])
            else:
                values_ENK, values_NK = answers_ENK[:, rows], target[rows]
                self._observe_values(values_ENK, values_NK, zones_NZ[rows], heard[rows])
            self._read = None

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

    def _observe_classes(self, found: ComparedClasses, zones_NZ: Floats, heard_N: Floats) -> None:
        gained_REN, own_NE, top_NM = score_classes(
            found, zones_NZ, self._mixers, np.exp(self._log_share)
        )
        even = 1.0 / found.num_compared
        losses_NE = -np.log((1.0 - DOUBT) * own_NE + DOUBT * even)
        top_losses_NM = -np.log((1.0 - TOP_DOUBT) * top_NM + TOP_DOUBT * even)
        self._move(gained_REN, losses_NE, top_losses_NM, zones_NZ, heard_N)

    def _observe_values(
        self, values_ENK: Tensor, target_NK: Tensor, zones_NZ: Tensor, heard_N: Floats
    ) -> None:
        values, target = values_ENK.numpy(), target_NK.numpy()
        is_first, zones = self._errors is None, zones_NZ.numpy()
        self._errors, squares_EN, losses_NE = score_values(values, target, heard_N, self._errors)
        if is_first:
            self._sums = np.full_like(self._sums, PRIOR_MASS * self._errors.mean())
        scales_NZ = zones * (heard_N[:, None] * np.array(self.tempers))
        masses_Z1 = scales_NZ.sum(axis=0)[:, None]
        stays_Z1 = np.exp2(-masses_Z1 / ERROR_HALF_LIFE)
        self._sums = stays_Z1 * self._sums + (squares_EN @ scales_NZ).T
        self._masses = stays_Z1 * self._masses + masses_Z1
        self._read = None
        pooled = pool_values(values_ENK, zones_NZ, self.weights).numpy()
        found = score_values(pooled, target, heard_N, self._top_errors)
        self._top_errors, _, top_losses_NM = found
        # l_e(y) - E l_e of a Gaussian l_e = -tau_e (y - mu_e)^2 / 2, under the mixer's Gaussian.
        tau_ZE = 1.0 / np.maximum(self._sums / self._masses, SMALLEST_VARIANCE)
        tau_EN, least = (zones @ tau_ZE).T, SMALLEST_VARIANCE * tau_ZE.max()
        precision_RZ = np.maximum((self._mixers * tau_ZE).sum(axis=2), least)
        variance_RN = 1.0 / (precision_RZ @ zones.T)
        apart_REN = np.square(pooled[:-1, None] - values[None]).mean(axis=-1)
        gained_REN = 0.5 * tau_EN * (variance_RN[:, None] + apart_REN - squares_EN)
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
        np.maximum(self._mixers * self._speaks, 0.0, out=self._mixers)
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
            "errors": _save(self._errors),
            "top_errors": _save(self._top_errors),
            "sums": torch.from_numpy(self._sums.copy()),
            "masses": torch.from_numpy(self._masses.copy()),
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
        self._sums, self._masses = state["sums"].numpy().copy(), state["masses"].numpy().copy()
        errors, top_errors = state["errors"], state["top_errors"]
        self._errors = None if errors is None else errors.numpy().copy()
        self._top_errors = None if top_errors is None else top_errors.numpy().copy()
        self._gain, self._spread = state["gain"], state["spread"]
        self.num_heard = state["num_heard"]
        self._read = None


def _save(errors_E: Floats | None) -> Tensor | None:
    return None if errors_E is None else torch.from_numpy(errors_E.copy())
