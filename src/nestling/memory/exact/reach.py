"""Leverage: how far an input lies from what a memory has seen, from the statistics alone.

Letters: N examples, D features, d of them that are looked at.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestling.memory.exact.added_rows import AddedRows
from nestling.memory.exact.solve import MAX_DECOMPOSED, RELATIVE_ROUNDING
from nestling.memory.exact.statistics import Statistics, select_features, space_evenly

# Of the ridge, relative to the mean squared length of an example.
STRENGTH = 0.02
# A feature that hardly varied counts as if it had varied by this share of what features do on
# average, so that what wakes it up is new, but not endlessly so.
LEAST_DEVIATION = 0.1
# Where nothing varied at all: differences this small beside the mean are rounding in float32.
ROUNDING = 1e-5
# Standard deviation of ln(h / (1 - h)) over what was learned. It was .34 to .48 for 17 persons
# (digits; a conv net and an MLP; 20 to 300 examples), and depends on no statistic that is kept.
SPREAD = 0.4
# In such deviations above what is usual: where familiarity falls to a half, and how slowly.
THRESHOLD, SLOPE = 2.0, 0.25
# Examples after which a memory is believed half about what it has seen.
NUM_HALF = 30.0
MAX_LEVERAGE = 0.999


@dataclass(frozen=True)
class Reach:
    """What a memory had seen at some clock; `compute_novelty` compares inputs with it.

    Args:
        mean: (d,) of the features.
        inverse_scale: (d,) what a feature is multiplied by.
        whitening: (d, d) T with T T^t = (n R + lambda I)^-1.
        usual: ln(h / (1 - h)) of the mean leverage of what was learned.
        num_effective: n.
        strength: lambda.
        freedom: degrees of freedom, tr R (R + lambda/n I)^-1 + 1.
    """

    mean: Tensor
    inverse_scale: Tensor
    whitening: Tensor
    usual: float
    num_effective: float
    strength: float = 0.0
    freedom: float = 0.0

    def state_dict(self) -> dict[str, object]:
        """Field -> value; nothing is shared."""
        return {
            "mean": self.mean.clone(),
            "inverse_scale": self.inverse_scale.clone(),
            "whitening": self.whitening.clone(),
            "usual": self.usual,
            "num_effective": self.num_effective,
            "strength": self.strength,
            "freedom": self.freedom,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Reach":
        """Undo `state_dict`."""
        own: dict[str, Any] = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in state.items()
        }
        return cls(**own)


class FreshReach:
    """What a memory had seen as of its last example: a reach and the rows that came since.

    Args:
        reach: of the examples before.
    """

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        d, n = len(reach.mean), max(reach.num_effective, 1.0)
        self._edge = 1.0 / math.sqrt(n)
        self._rows = AddedRows(d + 1)

    def add(self, phi_ND: Tensor, weight_N: Tensor) -> None:
        """Take in examples: (N, D), with weights (N,) in units of effective ones."""
        reach, root_N1 = self._reach, weight_N.sqrt()[:, None]
        half_Nd = self._scale(phi_ND) @ reach.whitening
        self._rows.add(
            torch.cat((half_Nd, torch.full_like(root_N1, self._edge)), dim=1) * root_N1,
            torch.cat((half_Nd @ reach.whitening.T, torch.full_like(root_N1, self._edge**2)), dim=1)
            * root_N1,
        )

    def novelty(self, phi_ND: Tensor, num_effective: float) -> Tensor:
        """As `compute_novelty`, (N,), when the memory knows so many examples."""
        reach, rows = self._reach, self._rows
        if not rows.num:
            return compute_novelty(reach, phi_ND)
        half_Nd = self._scale(phi_ND) @ reach.whitening
        edge_N1 = half_Nd.new_full((len(half_Nd), 1), self._edge)
        half_NW = torch.cat((half_Nd, edge_N1), dim=1)
        seen_PN = rows.whiten(rows.half @ half_NW.T)
        leverage_N = half_NW.square().sum(dim=1) - seen_PN.square().sum(dim=0)
        lost = float(rows.whiten(rows.whole[:, :-1]).square().sum())
        n = max(num_effective, 1.0)
        usual = _find_usual(reach.freedom + reach.strength * lost, n)
        return (leverage_N.clamp_min(1e-300).log() - usual) / SPREAD

    def hold_still(self) -> "FreshReach":
        """This reach as it is, whatever is added later."""
        twin = copy.copy(self)
        twin._rows = self._rows.hold_still()
        return twin

    def _scale(self, phi_ND: Tensor) -> Tensor:
        reach = self._reach
        chosen = space_evenly(phi_ND.shape[1], len(reach.mean))
        return (phi_ND[:, chosen] - reach.mean) * reach.inverse_scale


def measure_reach(stats: Statistics) -> Reach:
    """What a memory has seen, from its statistics: the same for every order of the examples.

    h(x) = 1/n + z^t (n R + lambda I)^-1 z,  lambda = 0.02 tr R   [Hoaglin & Welsch 1978, Eq. 2.4]

    is the leverage of a new example z, centred and scaled as the memory scales its features, R
    being the covariance. An example that was learned has h / (1 - h) if it is left out [Cook &
    Weisberg 1982, Sec. 2.2], and the mean leverage of all is (1 + tr R (R + lambda/n I)^-1) / n.
    Of many features, 400 evenly spaced ones are looked at: with random ones the rest tells the
    same (300 to 1,024 of them told persons apart equally well).

    Differs: the scale of a feature has a floor, so that one that never varied still shows what is
    new; and lambda, which has one too, does not grow with n, so that the memory's sight sharpens
    with experience.

    Args:
        stats: of one or more examples.

    >>> from nestling.memory.exact.statistics import add_block, add_life, make_statistics
    >>> stats, ones = make_statistics(1, 1), torch.ones(99, dtype=torch.float64)
    >>> x = torch.linspace(-1.0, 1.0, 99, dtype=torch.float64)[:, None]
    >>> add_block(stats, x, x, ones, 1.0), add_life(stats, x, x, ones)
    (None, None)
    >>> near, far = compute_novelty(measure_reach(stats), torch.tensor([[0.1], [9.0]]).double())
    >>> bool(near < 2.0 < far)
    True
    """
    chosen = space_evenly(stats.num_features, MAX_DECOMPOSED)
    stats = select_features(stats, chosen)
    inverse_d, varies_d, n = *_find_inverse_scale(stats), max(stats.num_effective, 1.0)
    # What is left of a feature that no longer varies is rounding, and may be below zero.
    inverse_or_0_d = torch.where(varies_d, inverse_d, 0.0)
    A_dd = (stats.scatter * (inverse_or_0_d[:, None] * (n / stats.weight))).mul_(inverse_or_0_d)
    A_dd.diagonal().clamp_min_(0.0)
    d = len(inverse_d)
    trace = float(A_dd.diagonal().sum()) / n
    strength = STRENGTH * max(trace, LEAST_DEVIATION**2 * d)
    U_dd, strength = _factorise(A_dd, strength)
    unit_dd = torch.eye(d, dtype=torch.float64, device="cpu")
    whitening_dd = torch.linalg.solve_triangular(U_dd, unit_dd, upper=True)
    freedom = 1.0 + d - strength * float(whitening_dd.square().sum())
    usual = _find_usual(freedom, n)
    # Statistics change in place.
    return Reach(stats.mean.clone(), inverse_d, whitening_dd, usual, n, strength, freedom)


def _find_usual(freedom: float, num_effective: float) -> float:
    """ln(h / (1 - h)) of the mean leverage of what was learned."""
    mean_leverage = min(max(freedom / num_effective, 1e-12), MAX_LEVERAGE)
    return math.log(mean_leverage / (1.0 - mean_leverage))


def _factorise(A_dd: Tensor, strength: float) -> tuple[Tensor, float]:
    """Cholesky factor U^T U = A + lambda I and lambda, greater if rounding made A indefinite."""
    identity_dd = torch.eye(len(A_dd), dtype=torch.float64, device="cpu")
    while True:
        U_dd, failed = torch.linalg.cholesky_ex(A_dd + strength * identity_dd, upper=True)
        if not int(failed):
            return U_dd, strength
        strength *= 10.0


def compute_novelty(reach: Reach, phi_ND: Tensor) -> Tensor:
    """How much more unlike what was learned inputs are than those were when they came.

    u(x) = (ln h(x) - ln(h'/(1 - h'))) / 0.4, h' the mean leverage: about 0 for the like, with a
    standard deviation of 1; what is above 2 is new.

    Args:
        reach: what was seen.
        phi_ND: (N, D) features of the memory, float64.

    Returns: (N,) float64.
    """
    chosen = space_evenly(phi_ND.shape[1], len(reach.mean))
    z_Nd = (phi_ND[:, chosen] - reach.mean) * reach.inverse_scale
    leverage_N = (z_Nd @ reach.whitening).square().sum(dim=1) + 1.0 / reach.num_effective
    return (leverage_N.log() - reach.usual) / SPREAD


def compute_familiarity(novelty_N: Tensor, num_effective: float) -> Tensor:
    """sigmoid(-(u - 2) / (1/4)) n / (n + 30): how far a memory may speak about an input.

    Args:
        novelty_N: (N,) u.
        num_effective: n, examples that the memory knows.

    Returns: (N,) in [0, 1).

    >>> compute_familiarity(torch.tensor([0.0, 2.0, 4.0]), 30.0).round(decimals=3).tolist()
    [0.5, 0.25, 0.0]
    """
    return torch.sigmoid((THRESHOLD - novelty_N) / SLOPE) * trust_experience(num_effective)


def trust_experience(num_effective: float) -> float:
    """n / (n + 30): how far a memory of n examples is believed about what it has seen."""
    return num_effective / (num_effective + NUM_HALF)


def _find_inverse_scale(stats: Statistics) -> tuple[Tensor, Tensor]:
    """1 / the deviation of each feature over its whole life, which has a floor, (d,); and whether
    it varied, (d,)."""
    rounding_d = stats.life_weight * (RELATIVE_ROUNDING * stats.life_mean).square()
    varies_d = stats.life_scatter > torch.maximum(rounding_d, stats.rounding)
    variance_d = torch.where(varies_d, stats.life_scatter / stats.life_weight, 0.0)
    floor_d = ROUNDING * stats.life_mean.abs()
    common = LEAST_DEVIATION * float(variance_d.mean().sqrt())
    if common == 0.0:  # all alike: whatever differs by more than rounding is new
        common = ROUNDING * float(stats.life_mean.square().mean().sqrt()) or ROUNDING
    return 1.0 / torch.maximum(variance_d.sqrt(), floor_d.clamp_min(common)), varies_d
