"""Density ratio of recent and all inputs: how far a fast expert may be trusted on an input.

Letters: N examples, I inputs, D directions.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nestling.core.modes import in_own_modes
from nestling.core.seeds import make_generator
from nestling.memory.checks import check_half_life, check_inputs, check_saved
from nestling.memory.exact.clocked import ClockedStatistics
from nestling.memory.exact.statistics import Statistics, decay_factor, mirror_scatter

# Variance that every direction has at least, as a share of the mean one: a constant input must
# not make a likelihood infinite.
_FLOOR = 1e-6
# Beyond this an example says no more about how unlike it is: nats.
_FAR = 20.0


class RecentContext:
    """Density ratio of recent inputs to all inputs: how far an input looks recent.

        r(x) = min(1, exp(l(x) - max(0, l_h))),   l(x) = log N(z; m_h, C_h) / N(z; m, C),   z = P x

    with P random directions, (m, C) mean and covariance of all examples and (m_h, C_h) those of
    the last ones, faded by a half-life; C_h is shrunk towards C by D examples' worth. l_h is the
    mean of l over recent examples before they were taken in. Inputs of an older context are
    likelier under all than under the recent ones: r falls towards 0. While the stream does not
    change, both are the same and r stays near 1.

    Examples are taken in by blocks of `block`, so the answer lags by up to one block, and in
    which batches they come does not matter.

    Args:
        num_inputs: I.
        half_life: of the recent ones, in examples.
        num_directions: D; inputs of no more than that many are taken as they are.
        block: examples taken in at once.
        seed: of the directions.

    >>> context = RecentContext(1, half_life=10.0, block=20)
    >>> context.add(torch.cat([torch.zeros(40, 1), torch.ones(40, 1)]))
    >>> old, new = context.compare(torch.tensor([[0.0], [1.0]])).tolist()
    >>> old < -2.0, new
    (True, 0.0)
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        half_life: float = 200.0,
        num_directions: int = 32,
        block: int = 128,
        seed: int = 0,
    ) -> None:
        self.num_inputs = num_inputs
        self.half_life = check_half_life(half_life)
        self.num_directions = min(num_directions, num_inputs)
        self.block = block
        self.seed = seed
        if self.num_directions == num_inputs:
            self.directions_ID = torch.eye(num_inputs, dtype=torch.float64, device="cpu")
        else:
            shape = (num_inputs, self.num_directions)
            generator = make_generator(seed, "context", num_inputs, self.num_directions)
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            self.directions_ID = drawn / math.sqrt(num_inputs)
        self._recent = ClockedStatistics(self.num_directions, 0, self.half_life)
        self._life = ClockedStatistics(self.num_directions, 0)
        self._pending: list[Tensor] = []
        self._num_pending = 0
        self._level = 0.0
        self._densities: tuple[Gaussian, Gaussian] | None = None

    def add(self, x: Tensor) -> None:
        """Take in inputs (N, I), in order; ShapeMismatch or NonFiniteInput if they are none."""
        self.add_checked(check_inputs(x, self.num_inputs))

    @in_own_modes
    def add_checked(self, x: Tensor) -> None:
        """As `add`, for inputs that were checked already."""
        self._pending.append(x.detach().clone())
        self._num_pending += len(x)
        while self._num_pending >= self.block:
            joined = torch.cat(self._pending)
            self._pending, self._num_pending = [joined[self.block :]], len(joined) - self.block
            z_ND = self._project(joined[: self.block])
            none_N0 = torch.zeros(self.block, 0, dtype=torch.float64, device="cpu")
            ones_N = torch.ones(self.block, dtype=torch.float64, device="cpu")
            if self._life.clock:
                share = 1.0 - decay_factor(self.block, self.half_life)
                found = float(self._compute_ratio(z_ND).clamp_min(-_FAR).mean())
                self._level += share * (found - self._level)
            for statistics in (self._recent, self._life):
                statistics.add(z_ND, none_N0, ones_N)
            self._densities = None

    def compare(self, x: Tensor) -> Tensor:
        """ln r(x) of inputs (N, I): (N,) float64 <= 0; 0 before the first block."""
        if self.densities is None:
            return torch.zeros(len(x), dtype=torch.float64, device="cpu")
        ratio_N = self._compute_ratio(self._project(check_inputs(x, self.num_inputs)))
        return correct_ratio(ratio_N, self.level)

    def hold_still(self) -> "RecentContext":
        """A twin that compares as this one does now, whatever this one takes in later."""
        densities = self.densities
        twin = copy.copy(self)
        twin._densities = densities
        twin._pending, twin._num_pending = [], 0
        twin._recent = twin._life = ClockedStatistics(self.num_directions, 0)
        return twin

    @property
    def level(self) -> float:
        """max(0, l_h), by which r is corrected."""
        return max(self._level, 0.0)

    @property
    def densities(self) -> "tuple[Gaussian, Gaussian] | None":
        """Gaussians of recent inputs and of all inputs; None before the first block."""
        if self._densities is None and self._life.clock:
            life_DD = _measure_covariance(self._life.values, None)
            recent_DD = _measure_covariance(self._recent.values, life_DD)
            self._densities = (
                make_gaussian(self._recent.values.mean, recent_DD),
                make_gaussian(self._life.values.mean, life_DD),
            )
        return self._densities

    def _compute_ratio(self, z_ND: Tensor) -> Tensor:
        assert self.densities is not None
        return compare_densities(z_ND, *self.densities)

    def state_dict(self) -> dict[str, object]:
        """Everything, the unfinished block included."""
        return {
            "config": self._read_config(),
            "recent": self._recent.state_dict(),
            "life": self._life.state_dict(),
            "level": self._level,
            "pending": [torch.cat(self._pending)] if self._num_pending else [],
        }

    @in_own_modes
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._read_config(), "context")
        self._recent.load_state_dict(state["recent"])
        self._life.load_state_dict(state["life"])
        self._level = state["level"]
        self._pending = [part.clone() for part in state["pending"]]
        self._num_pending = sum(len(part) for part in self._pending)
        self._densities = None

    def _read_config(self) -> dict[str, object]:
        return {
            "num_inputs": self.num_inputs,
            "half_life": self.half_life,
            "num_directions": self.num_directions,
            "block": self.block,
            "seed": self.seed,
        }

    def _project(self, x: Tensor) -> Tensor:
        return x.to(torch.float64) @ self.directions_ID


class Gaussian(NamedTuple):
    """A normal distribution, ready for its density.

    Args:
        mean: (D,).
        covariance: (D, D).
        whitening: transpose of the inverse of the covariance's lower root, (D, D).
        half_volume: half the logarithm of the covariance's determinant.
    """

    mean: Tensor
    covariance: Tensor
    whitening: Tensor
    half_volume: float


def make_gaussian(mean_D: Tensor, covariance_DD: Tensor) -> Gaussian:
    """The normal distribution of a mean (D,) and a positive definite covariance (D, D)."""
    root_DD = torch.linalg.cholesky(covariance_DD)
    unit_DD = torch.eye(len(mean_D), dtype=covariance_DD.dtype, device="cpu")
    whitening_DD = torch.linalg.solve_triangular(root_DD, unit_DD, upper=False).T
    half_volume = float(root_DD.diagonal().log().sum())
    return Gaussian(mean_D.clone(), covariance_DD, whitening_DD, half_volume)


def log_density(z_ND: Tensor, density: Gaussian) -> Tensor:
    """(N,) log N(z; m, C), without the constant.

    >>> unit = make_gaussian(torch.zeros(1), torch.eye(1))
    >>> log_density(torch.tensor([[2.0]]), unit)
    tensor([-2.])
    """
    whitened_ND = (z_ND - density.mean) @ density.whitening
    return -0.5 * whitened_ND.square().sum(dim=1) - density.half_volume


def compare_densities(z_ND: Tensor, recent: Gaussian, life: Gaussian) -> Tensor:
    """l(x), the logarithm of the ratio of two densities: (N,).

    What is endlessly far from both is unlike what is recent, whatever it is like.
    """
    ratio_N = log_density(z_ND, recent) - log_density(z_ND, life)
    return torch.where(ratio_N.isnan(), -math.inf, ratio_N)


def correct_ratio(ratio_N: Tensor, level: float) -> Tensor:
    """ln r(x) = min(0, l(x) - level): (N,).

    >>> correct_ratio(torch.tensor([2.0, 0.25]), 0.5)
    tensor([ 0.0000, -0.2500])
    """
    return (ratio_N - level).clamp_max(0.0)


def _measure_covariance(statistics: Statistics, prior_DD: Tensor | None) -> Tensor:
    """Covariance (D, D), shrunk towards a prior one by D examples' worth."""
    scatter_DD, weight = mirror_scatter(statistics), statistics.weight
    D = len(scatter_DD)
    if prior_DD is not None:
        scatter_DD, weight = scatter_DD + D * prior_DD, weight + D
    covariance_DD = scatter_DD / weight
    if prior_DD is None:
        variance = float(covariance_DD.diagonal().mean())
        rounding = 1e-20 * float(statistics.mean.square().mean())
        covariance_DD.diagonal().add_(max(_FLOOR * variance, rounding, 1e-100))
    return covariance_DD
