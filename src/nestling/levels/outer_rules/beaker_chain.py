"""Benna-Fusi chain: how slow variables (beakers) behind a weight flow into one another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.core.params import Params, check_same_names, widen_half


@dataclass(frozen=True)
class Chain:
    """Benna-Fusi chain: capacities of n beakers and conductances between them.

    Args:
        capacities: C_1 .. C_n, > 0; the first beaker is the weight itself.
        conductances: g_{1,2} .. g_{n-1,n}, per step, >= 0.
        leak: g_{n,n+1} to a beaker that is always 0; 0 keeps all that was poured in.
    """

    capacities: tuple[float, ...]
    conductances: tuple[float, ...]
    leak: float = 0.0

    def __post_init__(self) -> None:
        sizes = (*self.capacities, *self.conductances, self.leak)
        if (
            len(self.capacities) < 2
            or len(self.conductances) != len(self.capacities) - 1
            or not all(0.0 <= size < math.inf for size in sizes)
            or min(self.capacities) == 0.0
        ):
            raise SettingError(
                f"capacities {self.capacities} and conductances {self.conductances} with leak "
                f"{self.leak}; n >= 2 capacities above 0 and n - 1 conductances work"
            )

    @property
    def largest_step(self) -> float:
        """The largest step size at which no beaker overshoots: min_k C_k / (g_k-1,k + g_k,k+1)."""
        tubes = (0.0, *self.conductances, self.leak)
        flows = [
            (left + right) / capacity
            for left, right, capacity in zip(tubes, tubes[1:], self.capacities, strict=False)
        ]
        return 1.0 / max(flows) if max(flows) > 0.0 else math.inf


def make_chain(
    num_beakers: int, shortest: float, longest: float, *, with_leak: bool = False
) -> Chain:
    """Benna-Fusi chain with time constants in geometric progression between two values.

    C_k = x^(k-1),  g_{k,k+1} = x^(1-k) / alpha,  x = (beta/alpha)^(1/(2n-2))  [Kaplanis 2018]

    so that beaker k's time C_k / g_{k,k+1} is alpha x^(2k-2).

    Args:
        num_beakers: n >= 2, the weight itself included.
        shortest: alpha in steps, the time of the weight's own exchange.
        longest: beta >= alpha in steps, the time of the last beaker.
        with_leak: whether the last beaker leaks at its own time, so that what is old fades to 0.

    Raises:
        SettingError: an argument outside its range.

    >>> make_chain(3, shortest=4, longest=64)
    Chain(capacities=(1.0, 2.0, 4.0), conductances=(0.25, 0.125), leak=0.0)
    """
    if num_beakers < 2 or not 0.0 < shortest <= longest < math.inf:
        raise SettingError(
            f"{num_beakers} beakers of {shortest} to {longest} steps; 2 or more beakers and "
            "0 < shortest <= longest work"
        )
    ratio = (longest / shortest) ** (1.0 / (2 * num_beakers - 2))
    conductances = [ratio**-k / shortest for k in range(num_beakers)]
    return Chain(
        tuple(ratio**k for k in range(num_beakers)),
        tuple(conductances[:-1]),
        conductances[-1] if with_leak else 0.0,
    )


@torch.no_grad()
def step_beakers(
    levels: Sequence[Params], chain: Chain, step_size: float = 1.0
) -> list[dict[str, Tensor]]:
    """One Euler step of the Benna-Fusi chain for all weights at once.

    C_k du_k/dt = g_{k-1,k} (u_{k-1} - u_k) + g_{k,k+1} (u_{k+1} - u_k)   [Kaplanis 2018]

    What flows out of one beaker flows into its neighbour: without a leak sum_k C_k u_k stays.

    Args:
        levels: u_1 .. u_n, each name -> floating tensor, same names and shapes.
        chain: its capacities and conductances.
        step_size: in steps, > 0 and at most `chain.largest_step`: then every new u_k lies between
            the old ones beside it, which is more than stability asks for.

    Returns: the new u_1 .. u_n, float32 at least.

    Raises:
        SettingError: the step is too large, or there are not n levels.
        MismatchedParameters: names or shapes differ.

    >>> full, empty = {"w": torch.ones(1)}, {"w": torch.zeros(1)}
    >>> step_beakers([full, empty], Chain((1.0, 2.0), (0.5,)))
    [{'w': tensor([0.5000])}, {'w': tensor([0.2500])}]
    """
    check_step(chain, step_size)
    if len(levels) != len(chain.capacities):
        raise SettingError(f"{len(levels)} levels for a chain of {len(chain.capacities)} beakers")
    for level in levels[1:]:
        check_same_names(levels[0], level)
    result: list[dict[str, Tensor]] = [{} for _ in levels]
    for name in levels[0]:
        values = [widen_half(level[name]) for level in levels]
        # flows[k] runs from beaker k + 1 into beaker k, once for both of them.
        flows = [
            (deep - shallow).mul_(conductance)  # in place: fresh memory is what costs
            for conductance, shallow, deep in zip(
                chain.conductances, values, values[1:], strict=False
            )
        ]
        flows.append(values[-1] * -chain.leak)
        for k, value in enumerate(values):
            inflow = flows[k] - flows[k - 1] if k else flows[0].clone()
            result[k][name] = inflow.mul_(step_size / chain.capacities[k]).add_(value)
    return result


def measure_charge(levels: Sequence[Params], chain: Chain) -> dict[str, Tensor]:
    """Total charge of a Benna-Fusi chain: name -> sum_k C_k u_k."""
    charge = {name: torch.zeros_like(widen_half(value)) for name, value in levels[0].items()}
    for capacity, level in zip(chain.capacities, levels, strict=True):
        for name, value in level.items():
            charge[name] = charge[name] + capacity * widen_half(value)
    return charge


def check_step(chain: Chain, step_size: float) -> None:
    """Raise SettingError unless no beaker overshoots in a step of this size."""
    if not 0.0 < step_size <= chain.largest_step * (1.0 + 1e-12):
        raise SettingError(
            f"a step of {step_size:g} in a chain that is stable up to {chain.largest_step:g}; "
            "take a smaller step or a longer shortest time"
        )
