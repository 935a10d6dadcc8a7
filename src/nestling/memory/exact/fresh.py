"""A solved ridge regression that takes in further examples at once, by the Woodbury identity.

Letters: D features, M outputs, N new examples, P examples since the factor was made, V probes.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nestling.memory.exact.added_rows import AddedRows
from nestling.memory.exact.calibrate import Calibration, calibrate
from nestling.memory.exact.reach import FreshReach, Reach
from nestling.memory.exact.solve import (
    Scaled,
    Solution,
    choose_code_strength,
    describe_solution,
    draw_probes,
)
from nestling.memory.exact.statistics import Statistics

# A factor is made anew when so many examples stand beside it: each answer then costs P^2.
MOST_ROWS = 512
# ... or when the weight has grown by this factor: its ridge was chosen for fewer examples.
GROWTH = 1.25
# Ridges of codes are powers of the root of 2: nearer than this they are the same one.
SAME_RIDGE = 0.1


@dataclass(frozen=True)
class StandingSolution:
    """A memory's solution as it stood at some moment, for those who only ask.

    Args:
        weights: (D, M).
        intercept: (M,).
        calibration: from scores to probabilities; None for values.
        reach: what was seen, where anyone asks for it.
        num_effective: examples that are known.
        known: (M,) bool, outputs that were ever seen.
    """

    weights: Tensor
    intercept: Tensor
    calibration: Calibration | None
    reach: FreshReach | None
    num_effective: float
    known: Tensor

    def answer(self, phi_ND: Tensor) -> Tensor:
        """Probabilities (N, K) or values (N, M), float64."""
        return answer_calibrated(phi_ND, self.weights, self.intercept, self.calibration)

    def novelty(self, phi_ND: Tensor) -> Tensor:
        """Novelty of inputs, (N,); see `compute_novelty`."""
        assert self.reach is not None
        return self.reach.novelty(phi_ND, self.num_effective)


def answer_calibrated(
    phi_ND: Tensor, weights_DM: Tensor, intercept_M: Tensor, calibration: Calibration | None
) -> Tensor:
    """softmax((phi W + b) C + c), or phi W + b where nothing is calibrated: (N, M)."""
    scores_NM = torch.addmm(intercept_M, phi_ND, weights_DM)
    if calibration is None:
        return scores_NM
    logits_NK = torch.addmm(calibration.offset, scores_NM, calibration.matrix)
    return torch.softmax(logits_NK, dim=1)


class FreshSolution:
    """The solution of a memory as of its last example, without solving from scratch.

    With A = Z^T Z + rho I of the examples that were factored, and V the rows that came since,

        (A + V^T V)^-1 = A^-1 - A^-1 V^T (I + V A^-1 V^T)^-1 V A^-1    [Woodbury 1950]

    so a new example costs two triangular solves with the held factor, and an answer nothing that
    grows with D^2. Rows have a 1 for the intercept, which is not shrunk. Equal to solving from
    scratch with the same ridge and scales, up to rounding; those are held until the factor is made
    anew.

    Args:
        stats: that `solution` was solved from; the scatter is not kept.
        solution: with its factor.
        reach: what was seen, where anyone asks for it.
        classifies: targets are one-hot.
        follows_codes: the ridge is that of `choose_code_strength`, which says when it is out of
            date; else it is when the weight has grown by a quarter.
    """

    def __init__(
        self,
        stats: Statistics,
        solution: Solution,
        reach: Reach | None = None,
        *,
        classifies: bool,
        follows_codes: bool,
    ) -> None:
        self.classifies = classifies
        self.follows_codes = follows_codes
        self._solution: Solution | None = solution
        self._calibration: Calibration | None = None
        self._sharpness: float | None = None
        assert solution.upper is not None
        self._upper_DD = solution.upper
        self._inverse_D = solution.inverse_scale
        self._centre_D = stats.mean.clone()
        # Statistics change in place.
        self._base = replace(stats, scatter=stats.scatter.new_zeros(0, 0)).copy()
        self._freedom = solution.freedom
        n = stats.weight
        self._num_factored = n
        self._ridge = n * (solution.strength + solution.shift)
        back_D = torch.where(self._inverse_D > 0.0, 1.0 / self._inverse_D, 0.0)
        self._weights_DM = solution.weights * back_D[:, None]
        # Sums about the held centre, in units of the examples' weights when the factor was made.
        self._kept = 1.0
        self._weight, self._squared_weight = n, stats.squared_weight
        self._target_sum = stats.target_sum.clone()
        self._target_squares = stats.target_scatter + stats.target_sum.square() / n
        self._sum_D = torch.zeros_like(stats.mean)
        self._cross_DM = stats.cross.clone()
        self._squares = float(stats.life_scatter.sum())
        self._life_targets = stats.life_targets.clone()
        self.reach = None if reach is None else FreshReach(reach)
        self._rows = AddedRows(len(stats.mean) + 1)
        self._error_PM = stats.target_sum.new_zeros(0, len(stats.target_sum))
        self._probe_PV: Tensor | None = None
        self._probed_DV: Tensor | None = None

    @property
    def num_outputs(self) -> int:
        """M."""
        return len(self._target_sum)

    @property
    def is_due(self) -> bool:
        """Whether it is time to make the factor anew: many rows stand beside it, or its ridge is
        out of date."""
        if self._rows.num > MOST_ROWS:
            return True
        if not self.follows_codes or self._kept != 1.0:
            return self._weight > GROWTH * self._num_factored or self._kept * GROWTH < 1.0
        return not math.isclose(self._find_ridge(), self._ridge, rel_tol=SAME_RIDGE)

    def _find_ridge(self) -> float:
        """The ridge that `choose_code_strength` wants now, in units of the scaled features."""
        n, D = self._weight, len(self._sum_D)
        variance = (self._squares - float(self._sum_D.square().sum()) / n) / (D * n)
        if variance <= 0.0:
            return self._ridge
        ridge = choose_code_strength(D, self.num_effective, n, variance) * n * variance
        return ridge * float(self._inverse_D[0]) ** 2

    def grow(self, num_outputs: int) -> None:
        """Make room for outputs that were zero so far."""
        extra = num_outputs - self.num_outputs
        if extra <= 0:
            return
        pad = torch.nn.functional.pad
        self._weights_DM = pad(self._weights_DM, (0, extra))
        self._cross_DM = pad(self._cross_DM, (0, extra))
        self._target_sum = pad(self._target_sum, (0, extra))
        self._target_squares = pad(self._target_squares, (0, extra))
        self._life_targets = pad(self._life_targets, (0, extra))
        self._error_PM = pad(self._error_PM, (0, extra))
        self._base = replace(self._base, target_sum=pad(self._base.target_sum, (0, extra)))
        self._solution = self._calibration = None

    def add(
        self, phi_ND: Tensor, y_NM: Tensor, weight_N: Tensor, aged_N: Tensor, factor: float
    ) -> None:
        """Let what was learned before fade by `factor`, then take in a block.

        Args:
            phi_ND: (N, D) float64.
            y_NM: (N, M) float64.
            weight_N: (N,) float64, as given.
            aged_N: (N,) float64, decayed within the block.
            factor: of all that was there before.
        """
        self.grow(y_NM.shape[1])
        self._kept *= factor
        heard_N = aged_N > 0.0
        if not bool(heard_N.all()):
            phi_ND, y_NM = phi_ND[heard_N], y_NM[heard_N]
            weight_N, aged_N = weight_N[heard_N], aged_N[heard_N]
        self._solution = self._calibration = None
        if not len(phi_ND):
            return
        share_N = aged_N / self._kept
        if self.reach is not None:
            self.reach.add(phi_ND, share_N * (self._base.num_effective / self._num_factored))
        moved_ND = phi_ND - self._centre_D
        weighted_ND = moved_ND * share_N[:, None]
        self._weight += float(share_N.sum())
        self._squared_weight += float(share_N @ share_N)
        self._target_sum += share_N @ y_NM
        self._target_squares += share_N @ y_NM.square()
        self._sum_D += weighted_ND.sum(0)
        self._cross_DM.addmm_(weighted_ND.T, y_NM)
        self._squares += float((weighted_ND * moved_ND).sum())
        self._life_targets += weight_N @ y_NM
        z_ND = moved_ND * self._inverse_D
        base_M = self._base.target_sum / self._base.weight
        errors_NM = y_NM - torch.addmm(base_M, z_ND, self._weights_DM)
        root_N1 = share_N.sqrt()[:, None]
        z_ND = z_ND * root_N1
        half_ND = self._solve(z_ND, half=True)
        whole_ND = self._solve(half_ND, half=False)
        edge_N1 = root_N1 / math.sqrt(self._num_factored)
        self._rows.add(
            torch.cat((half_ND, edge_N1), dim=1),
            torch.cat((whole_ND, edge_N1 / math.sqrt(self._num_factored)), dim=1),
        )
        self._error_PM = torch.cat((self._error_PM, errors_NM * root_N1))
        probe_NV = z_ND @ self._probe()
        have_PV = self._probe_PV
        self._probe_PV = probe_NV if have_PV is None else torch.cat((have_PV, probe_NV))

    def _solve(self, rows_ND: Tensor, *, half: bool) -> Tensor:
        """rows U^-1 (half), or rows U^-T, over the root of n."""
        U_DD = self._upper_DD
        solved_ND: Tensor = torch.linalg.solve_triangular(
            U_DD if half else U_DD.T, rows_ND, upper=half, left=False
        )
        return solved_ND.div_(math.sqrt(self._num_factored))

    def _probe(self) -> Tensor:
        """A^-1 v of fixed vectors v, (D, V): they tell the trace, as when the factor was made."""
        if self._probed_DV is None:
            probes_DV, _ = draw_probes(len(self._sum_D))
            half_VD = self._solve(probes_DV.T, half=True)
            self._probed_DV = self._solve(half_VD, half=False).T.contiguous()
        return self._probed_DV

    def novelty(self, phi_ND: Tensor) -> Tensor:
        """Novelty of inputs as of the last example, (N,); see `compute_novelty`."""
        assert self.reach is not None
        return self.reach.novelty(phi_ND, self.num_effective)

    @property
    def weight(self) -> float:
        """Weight of all that is known, faded."""
        return self._kept * self._weight

    @property
    def num_effective(self) -> float:
        """The number of equally weighted examples that know as much."""
        return self._weight**2 / self._squared_weight if self._squared_weight > 0.0 else 0.0

    @property
    def life_targets(self) -> Tensor:
        """Weight of each class over the memory's whole life, (M,)."""
        return self._life_targets

    @property
    def statistics(self) -> Statistics:
        """What is known now, without the scatter."""
        n, kept, sum_D, sums_M = self._weight, self._kept, self._sum_D, self._target_sum
        return replace(
            self._base,
            weight=kept * n,
            squared_weight=kept**2 * self._squared_weight,
            mean=self._centre_D + sum_D / n,
            target_sum=kept * sums_M,
            cross=kept * (self._cross_DM - torch.outer(sum_D / n, sums_M)),
            target_scatter=kept * (self._target_squares - sums_M.square() / n),
            life_targets=self._life_targets,
        )

    @property
    def solution(self) -> Solution:
        """As of the last example."""
        if self._solution is None:
            stats, n = self.statistics, self._weight
            weights_DM, trace_lost = self._weights_DM, 0.0
            if self._probe_PV is not None:
                step_DM = self._rows.whole[:, :-1].T @ self._rows.solve(self._error_PM)
                weights_DM = weights_DM + step_DM
                trace_lost = float(self._rows.whiten(self._probe_PV).square().sum())
            scaled = Scaled(
                weights_DM,
                stats.cross * (self._inverse_D / stats.weight)[:, None],
                (stats.target_scatter / stats.weight).clamp_min(0.0),
                self._inverse_D,
            )
            share = draw_probes(len(self._sum_D))[1]
            freedom = self._freedom + self._ridge * trace_lost * share
            self._solution = describe_solution(stats, scaled, self._ridge / n, freedom, 0.0, None)
        return self._solution

    @property
    def calibration(self) -> Calibration:
        """As of the last example; the search for its sharpness begins at the last one found."""
        if self._calibration is None:
            self._calibration = calibrate(self.statistics, self.solution, self._sharpness)
            self._sharpness = self._calibration.sharpness
        return self._calibration

    def solve(self) -> None:
        """Compute now what the next answer needs."""
        _ = self.calibration if self.classifies else self.solution

    def answer(self, phi_ND: Tensor) -> Tensor:
        """Probabilities (N, K) or values (N, M), float64."""
        solution, calibration = self.solution, self.calibration if self.classifies else None
        return answer_calibrated(phi_ND, solution.weights, solution.intercept, calibration)

    def hold_still(self) -> StandingSolution:
        """What it answers now, whatever is added later; solved if it is not yet."""
        return StandingSolution(
            self.solution.weights,
            self.solution.intercept,
            self.calibration if self.classifies else None,
            None if self.reach is None else self.reach.hold_still(),
            self.num_effective,
            self._life_targets > 0.0,
        )
