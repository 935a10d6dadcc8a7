"""Routing by likelihood: contexts told apart by Gaussian densities of their inputs.

Letters: N examples, I inputs, D directions, C contexts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.core.seeds import make_generator
from nestling.memory.checks import check_inputs, check_saved
from nestling.memory.context import Gaussian, log_density, make_gaussian
from nestling.memory.exact.clocked import ClockedStatistics
from nestling.memory.exact.statistics import Statistics, mirror_scatter
from nestling.protect.routing.router import (
    Explanation,
    Score,
    Task,
    check_column,
    turn_to_weights,
)

# Variance that every direction has at least, as a share of the mean one.
FLOOR = 1e-2


class LikelihoodRouter:
    """Router by Gaussian likelihood: finds the context of an input without labels.

        w_c(x) = softmax_c log N(P x; m_c, C_c)              (hard: 1 at the largest)
        C_c = (n_c + 1) / n_c (S_c + D C_0) / (n_c + D)

    with n_c, m_c, S_c number, mean and scatter of the context's examples, C_0 the covariance of
    all contexts together, and P random directions (none are needed for D or fewer inputs). Young
    contexts are therefore broad, and none is infinitely sure. The sums do not depend on the order
    of the examples, and two contexts merge exactly (with a finite half-life they fade, each by
    its own examples, and no more is exact but the sum of what is left).

    Differs: the constants of log N cancel between contexts and are left out.

    What it reads must stay comparable: raw inputs or a frozen spine's features. If the spine
    learns, give the router something else to read, or a half-life.

    Args:
        num_inputs: I.
        max_contexts: C.
        num_directions: D at most.
        half_life: of a context's examples, in its own examples.
        hard: all weight on the likeliest context.
        seed: of the directions.

    Raises:
        SettingError: no context, inputs or directions, or a half-life of 0 or less.

    >>> router = LikelihoodRouter(1, 2)
    >>> router.observe(torch.tensor([[0.0], [0.1], [0.2]]), 0)
    >>> router.observe(torch.tensor([[5.0], [5.1], [5.2]]), 1)
    >>> router.route(torch.tensor([[4.9]]))
    tensor([[0., 1.]])
    """

    def __init__(
        self,
        num_inputs: int,
        max_contexts: int,
        *,
        num_directions: int = 64,
        half_life: float = math.inf,
        hard: bool = True,
        seed: int = 0,
    ) -> None:
        for name, value in (
            ("num_inputs", num_inputs),
            ("max_contexts", max_contexts),
            ("num_directions", num_directions),
        ):
            if value < 1:
                raise SettingError(f"{name}={value}; 1 or more works")
        self.num_inputs = num_inputs
        self.num_directions = min(num_directions, num_inputs)
        self.half_life = half_life
        self.hard = hard
        self.seed = seed
        self._directions_ID: Tensor | None = None
        if self.num_directions < num_inputs:
            shape = (num_inputs, self.num_directions)
            generator = make_generator(seed, "routing", *shape)
            drawn_ID = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            self._directions_ID = drawn_ID / math.sqrt(num_inputs)
        self._contexts = [self._make_context() for _ in range(max_contexts)]
        self._densities: list[Gaussian | None] | None = None

    @property
    def num_contexts(self) -> int:
        """Number of contexts, C."""
        return len(self._contexts)

    @property
    def known(self) -> Tensor:
        """Which contexts were ever observed: (C,) bool."""
        return torch.tensor(
            [one.values.weight > 0.0 for one in self._contexts], dtype=torch.bool, device="cpu"
        )

    def count_examples(self) -> list[int]:
        """Examples of each context, faded ones too."""
        return [one.clock for one in self._contexts]

    def measure_log_likelihoods(self, z_ND: Tensor) -> Tensor:
        """log N(P x; m_c, C_c): (N, C) float64 in nats; -inf for contexts never observed.

        Raises: ShapeMismatch, NonFiniteInput: inputs that are not finite floats (N, I).
        """
        projected_ND = self._project(check_inputs(z_ND, self.num_inputs))
        found_NC = torch.full(
            (len(projected_ND), self.num_contexts), -math.inf, dtype=torch.float32, device="cpu"
        ).double()
        for context, density in enumerate(self._fit()):
            if density is not None:
                found_NC[:, context] = log_density(projected_ND, density)
        return found_NC

    def route(self, z_ND: Tensor, task: Task | Sequence[Task] | None = None) -> Tensor:
        """Weights (N, C) float32; the first context before anything was observed."""
        weights_NC = turn_to_weights(self.measure_log_likelihoods(z_ND), self.known, self.hard)
        return weights_NC.to(z_ND.device)

    def explain(self, z_ND: Tensor, task: Task | None, score: Score) -> Explanation:
        """The context of the largest mean log-likelihood; surprise is its negative."""
        if not bool(self.known.any()) or not len(z_ND):
            return Explanation(0, None)
        mean_C = self.measure_log_likelihoods(z_ND).mean(0)
        context = int(mean_C.argmax())
        return Explanation(context, -float(mean_C[context]))

    def observe(self, z_ND: Tensor, context: int) -> None:
        """Add examples (N, I) to a context, which begins with its first ones.

        Raises: SettingError: no such context. ShapeMismatch, NonFiniteInput: as inputs go.
        """
        check_column(context, self.num_contexts)
        z_ND = check_inputs(z_ND, self.num_inputs)
        if not len(z_ND):
            return
        none_N0 = torch.zeros(len(z_ND), 0, dtype=torch.float64, device="cpu")
        ones_N = torch.ones(len(z_ND), dtype=torch.float64, device="cpu")
        self._contexts[context].add(self._project(z_ND), none_N0, ones_N)
        self._densities = None

    def compare_contexts(self) -> Tensor:
        """How unlike each pair is, in nats per direction: (C, C) float64; inf where unknown.

        J_ab / D,  J_ab = (tr(C_a^-1 C_b) + tr(C_b^-1 C_a) - 2 D + d^T (C_a^-1 + C_b^-1) d) / 2,
        d = m_a - m_b: the sum of both Kullback-Leibler divergences of the Gaussians.
        """
        found_CC = torch.full(
            (self.num_contexts, self.num_contexts), math.inf, dtype=torch.float32, device="cpu"
        ).double()
        densities = self._fit()
        for a, one in enumerate(densities):
            for b, other in enumerate(densities[:a]):
                if one is not None and other is not None:
                    found_CC[a, b] = found_CC[b, a] = measure_divergence(one, other)
        return found_CC / self.num_directions

    def merge(self, keep: int, drop: int) -> None:
        """Put the examples of `drop` to those of `keep`, exactly; `drop` is unknown then.

        Raises: SettingError: no such context, or twice the same.
        """
        check_column(keep, self.num_contexts)
        check_column(drop, self.num_contexts)
        if keep == drop:
            raise SettingError(f"context {keep} cannot be merged with itself")
        # Clocks of contexts are their own: nothing fades because the other one is older.
        clock = self._contexts[keep].clock + self._contexts[drop].clock
        twin = self._contexts[drop].copy()
        twin.clock = self._contexts[keep].clock
        self._contexts[keep].merge(twin, may_grow=False)
        self._contexts[keep].clock = clock
        self._contexts[drop] = self._make_context()
        self._densities = None

    def state_dict(self) -> dict[str, Any]:
        """All sums and how it was built."""
        return {
            "config": self._read_config(),
            "contexts": [context.state_dict() for context in self._contexts],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the router that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._read_config(), "likelihood router")
        for context, saved in zip(self._contexts, state["contexts"], strict=True):
            context.load_state_dict(saved)
        self._densities = None

    def _read_config(self) -> dict[str, object]:
        return {
            "num_inputs": self.num_inputs,
            "max_contexts": self.num_contexts,
            "num_directions": self.num_directions,
            "half_life": float(self.half_life),
            "hard": self.hard,
            "seed": self.seed,
        }

    def _make_context(self) -> ClockedStatistics:
        return ClockedStatistics(self.num_directions, 0, self.half_life)

    def _project(self, z: Tensor) -> Tensor:
        z = z.to(torch.float64)
        return z if self._directions_ID is None else z @ self._directions_ID

    def _fit(self) -> list[Gaussian | None]:
        if self._densities is None:
            seen = [one for one in self._contexts if one.values.weight > 0.0]
            pool = ClockedStatistics(self.num_directions, 0)
            for one in seen:
                twin = one.copy()
                twin.clock = 0
                pool.merge(twin, may_grow=False)
            shared_DD = (
                _estimate_shared(pool.values)
                if seen
                else torch.zeros(0, dtype=torch.float32, device="cpu")
            )
            self._densities = [
                fit_gaussian(one.values, shared_DD) if one.values.weight > 0.0 else None
                for one in self._contexts
            ]
        return self._densities


def fit_gaussian(statistics: Statistics, shared_DD: Tensor) -> Gaussian:
    """The Gaussian of one context, shrunk towards a shared covariance by D examples' worth.

    Args:
        statistics: of weight above 0.
        shared_DD: C_0, positive definite.

    Returns: mean, C_c of `LikelihoodRouter`, and what its density needs.
    """
    D, weight = len(shared_DD), statistics.weight
    covariance_DD = (mirror_scatter(statistics) + D * shared_DD) / (weight + D)
    covariance_DD *= (weight + 1.0) / weight
    return make_gaussian(statistics.mean, covariance_DD)


def measure_divergence(one: Gaussian, other: Gaussian) -> float:
    """KL(one | other) + KL(other | one) in nats; see `LikelihoodRouter.compare_contexts`.

    >>> def make(mean):
    ...     return make_gaussian(torch.tensor([mean]), torch.eye(1))
    >>> measure_divergence(make(0.0), make(2.0))
    4.0
    """
    total = -2.0 * len(one.mean)
    shift_D = one.mean - other.mean
    for near, far in ((one, other), (other, one)):
        total += float(((far.covariance @ near.whitening) * near.whitening).sum())
        total += float((shift_D @ near.whitening).square().sum())
    return 0.5 * total


def _estimate_shared(statistics: Statistics) -> Tensor:
    """C_0 (D, D) of all contexts together, with a floor so that no direction is certain."""
    covariance_DD = mirror_scatter(statistics) / statistics.weight
    variance = float(covariance_DD.diagonal().mean())
    rounding = 1e-20 * float(statistics.mean.square().mean())
    covariance_DD.diagonal().add_(max(FLOOR * variance, rounding, 1e-100))
    return covariance_DD
