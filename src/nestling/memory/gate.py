"""Fixed-share gate over experts: online weights that follow the best one.

Letters: E experts, N examples.
"""

import math
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import ForeignSnapshot, SettingError, ShapeMismatch
from nestling.core.modes import in_own_modes

_LEAST = sys.float_info.min


def fixed_share_update(
    log_weights_E: Tensor, losses_E: Tensor, switch_rate: float, prior_E: Tensor
) -> Tensor:
    """One fixed-share update of the experts' weights after one example.

    v_i = w_i exp(-l_i) / sum_j w_j exp(-l_j),   w_i' = (1 - a) v_i + a prior_i
    [Herbster & Warmuth 1998, Fig. 1, eta = 1]

    Differs: from the paper in that what is shared returns to the prior, itself included, and not
    to the others in equal parts; the bound in `FixedShare` is for this form.

    Args:
        log_weights_E: (E,) logarithms of weights that sum to 1.
        losses_E: (E,) log-losses in nats; infinity is allowed, NaN counts as infinity. If all
            are infinite nobody is better and only the sharing happens.
        switch_rate: a, probability per example that the best expert changes, in [0, 1).
        prior_E: (E,) sums to 1.

    Returns: (E,) logarithms of the new weights.

    >>> even = torch.tensor([0.5, 0.5]).log()
    >>> losses = torch.tensor([0.0, math.inf])
    >>> fixed_share_update(even, losses, 0.1, torch.tensor([0.5, 0.5])).exp()
    tensor([0.9500, 0.0500])
    """
    losses_E = losses_E.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    joint_E = log_weights_E - losses_E
    total = torch.logsumexp(joint_E, dim=0)
    if bool(total.isfinite()):
        log_weights_E = joint_E - total
    if switch_rate == 0.0:
        return log_weights_E
    return torch.logaddexp(
        log_weights_E + math.log1p(-switch_rate), prior_E.log() + math.log(switch_rate)
    )


def follow_losses(
    log_weights_E: list[float],
    losses_NE: list[list[float]],
    switch_rate: float,
    prior_E: list[float],
) -> list[float]:
    """`fixed_share_update` example by example, in plain floats: faster for few experts.

    >>> follow_losses([math.log(0.5)] * 2, [[0.0, math.inf]], 0.0, [0.5, 0.5])
    [0.0, -inf]
    """
    stays = math.log1p(-switch_rate)
    # The product may underflow where neither factor is 0.
    returns_E = [math.log(max(switch_rate * p, _LEAST)) for p in prior_E] if switch_rate else []
    for losses_E in losses_NE:
        joint_E = [
            -math.inf if math.isnan(loss) else log_weight - loss
            for log_weight, loss in zip(log_weights_E, losses_E, strict=True)
        ]
        top = max(joint_E)
        if math.isfinite(top):
            total = top + math.log(sum(math.exp(joint - top) for joint in joint_E))
            log_weights_E = [joint - total for joint in joint_E]
        if switch_rate:
            log_weights_E = [
                _add_logs(log_weight + stays, returned)
                for log_weight, returned in zip(log_weights_E, returns_E, strict=True)
            ]
    return log_weights_E


def _add_logs(left: float, right: float) -> float:
    """log(exp(left) + exp(right))."""
    top = max(left, right)
    return top + math.log1p(math.exp(min(left, right) - top))


class FixedShare:
    """Fixed-share gate: online mixture of experts that follows the best one as it changes.

    Let L be the sum over T examples of the mixture's log-loss -log sum_i w_i p_i(y). For every
    way to cut the examples into k + 1 segments with expert e_s in segment s whose summed loss is
    L*, of which e_1, ..., e_(k+1) are the experts,

        L <= L* + sum_{s=1}^{k+1} ln(1 / prior_{e_s}) + k ln(1 / switch_rate)
                + (T - 1 - k) ln(1 / (1 - switch_rate)),

    after Herbster & Warmuth [1998, Theorem 1 and Corollary 1] with eta = 1 and log-loss, for which
    the mixture's loss is exactly what the weights lose. Nothing is assumed about the data.

    Args:
        num_experts: E.
        switch_rate: in [0, 1); about one over the examples between two changes. 0 is Bayes' rule.
        prior: (E,) > 0, normalised here; None for equal. Weights start from it and what is shared
            returns to it.

    Raises:
        SettingError: switch_rate or prior outside their range.

    >>> gate = FixedShare(2, switch_rate=0.01)
    >>> gate.update(torch.tensor([[0.1, 2.0]] * 5))
    >>> round(gate.weights[0].item(), 2)
    0.99
    """

    def __init__(
        self, num_experts: int, switch_rate: float = 1e-3, prior: Tensor | None = None
    ) -> None:
        if num_experts < 1:
            raise SettingError(f"a gate over {num_experts} experts; 1 or more works")
        if not 0.0 <= switch_rate < 1.0:
            raise SettingError(f"switch_rate {switch_rate}; a probability from 0 to below 1 works")
        given = (
            torch.ones(num_experts, dtype=torch.float32, device="cpu")
            if prior is None
            else prior.detach()
        )
        wide_E = given.to("cpu", torch.float64)
        if wide_E.shape != (num_experts,) or not bool(
            (wide_E > 0.0).all() & wide_E.isfinite().all()
        ):
            raise SettingError(f"prior {given.tolist()}; {num_experts} numbers above 0 work")
        self.num_experts = num_experts
        self.switch_rate = switch_rate
        self.prior = wide_E / wide_E.sum()
        self.log_weights = self.prior.log()

    @property
    def weights(self) -> Tensor:
        """(E,) float64, sums to 1: how much each expert's next answer counts."""
        return self.log_weights.softmax(dim=0)

    def update(self, losses: Tensor) -> None:
        """Take the experts' losses into account, example by example.

        Args:
            losses: (N, E) nats, in the order of the examples.

        Raises:
            ShapeMismatch: not (N, E).
        """
        if losses.ndim != 2 or losses.shape[1] != self.num_experts:
            raise ShapeMismatch(
                f"losses of shape {tuple(losses.shape)}; (N, {self.num_experts}) works"
            )
        log_weights = follow_losses(
            self.log_weights.tolist(), losses.tolist(), self.switch_rate, self.prior.tolist()
        )
        self.log_weights = torch.tensor(log_weights, dtype=torch.float64, device="cpu")

    def state_dict(self) -> dict[str, object]:
        """Weights, and what they belong to."""
        return {
            "switch_rate": self.switch_rate,
            "prior": self.prior.clone(),
            "log_weights": self.log_weights.clone(),
        }

    @in_own_modes
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the gate that was saved; ForeignSnapshot if experts or rate differ."""
        if state["switch_rate"] != self.switch_rate or not torch.equal(state["prior"], self.prior):
            raise ForeignSnapshot(
                f"saved by a gate of switch rate {state['switch_rate']} over "
                f"{len(state['prior'])} experts, here it is {self.switch_rate} over "
                f"{self.num_experts} with another prior or number"
            )
        self.log_weights = state["log_weights"].clone()
