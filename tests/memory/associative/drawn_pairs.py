"""Random key-value pairs for tests of associative memories."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nestling.memory.associative import FastState, InnerObjective, WeightRetention, WriteRule

INITIAL = WeightRetention("initial")
RULES = {
    "hebbian": WriteRule(InnerObjective("dot")),
    "delta": WriteRule(),
    "delta, printed": WriteRule(InnerObjective("l2", erase=2.0)),
    "delta, read before": WriteRule(read="before"),
    "delta, blocks of 4": WriteRule(block=4),
    "delta, blocks of 3, read before": WriteRule(block=3, read="before"),
    "hebbian, blocks of 3, read before": WriteRule(InnerObjective("dot"), block=3, read="before"),
    "delta, blocks of 10": WriteRule(block=10),
    "oja": WriteRule(swapped=True),
    "oja, blocks of 4": WriteRule(swapped=True, block=4),
    "omega 3": WriteRule(window=3),
    "omega 3, read before": WriteRule(window=3, read="before"),
    "omega 2, huber": WriteRule(InnerObjective("huber", threshold=0.5), window=2),
    "huber": WriteRule(InnerObjective("huber", threshold=0.5)),
    "huber, blocks of 4": WriteRule(InnerObjective("huber", threshold=0.5), block=4),
    "lp 3": WriteRule(InnerObjective("lp", power=3.0)),
    "lp 1.5, blocks of 4": WriteRule(InnerObjective("lp", power=1.5), block=4),
    "proximal": WriteRule(proximal=True),
    "proximal oja": WriteRule(swapped=True, proximal=True),
    "to the start": WriteRule(retention=INITIAL),
    "to the start, printed delta": WriteRule(InnerObjective("l2", erase=2.0), retention=INITIAL),
    "to the start, hebbian, blocks of 3": WriteRule(
        InnerObjective("dot"), block=3, read="before", retention=INITIAL
    ),
    "to the start, huber, blocks of 4": WriteRule(
        InnerObjective("huber", threshold=0.5), block=4, retention=INITIAL
    ),
    "to the start, oja": WriteRule(swapped=True, retention=INITIAL),
    "to the start, omega 3": WriteRule(window=3, retention=INITIAL),
    "kl": WriteRule(retention=WeightRetention("kl", total=3.0)),
    "kl, blocks of 4, read before": WriteRule(
        block=4, read="before", retention=WeightRetention("kl")
    ),
    "kl, omega 2": WriteRule(window=2, retention=WeightRetention("kl")),
    "lq": WriteRule(retention=WeightRetention("lq")),
    "lq 3, lp 3, blocks of 4, read before": WriteRule(
        InnerObjective("lp", power=3.0),
        block=4,
        read="before",
        retention=WeightRetention("lq", power=3.0),
    ),
}


@dataclass(frozen=True)
class Drawn:
    """Tensors as `write_pairs` takes them."""

    keys: Tensor
    values: Tensor
    rates: Tensor
    decays: Tensor
    momenta: Tensor
    queries: Tensor
    state: FastState

    def part(self, start: int, end: int) -> "Drawn":
        cut = [one[:, :, start:end] for one in self.streams()]
        return Drawn(*cut, self.state)

    def streams(self) -> tuple[Tensor, ...]:
        return self.keys, self.values, self.rates, self.decays, self.momenta, self.queries


def draw_pairs(
    length: int,
    *,
    num_samples: int = 2,
    num_heads: int = 2,
    key_width: int = 5,
    value_width: int = 4,
    most_rate: float = 0.4,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Drawn:
    generator = torch.Generator().manual_seed(seed)
    axes = (num_samples, num_heads, length)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def rand(least: float, most: float) -> Tensor:
        drawn = torch.rand(*axes, generator=generator, dtype=torch.float64).to(dtype)
        return least + (most - least) * drawn

    return Drawn(
        functional.normalize(randn(*axes, key_width), dim=-1),
        functional.normalize(randn(*axes, value_width), dim=-1),
        rand(0.0, most_rate),
        rand(0.8, 1.0),
        rand(0.0, 0.8),
        functional.normalize(randn(*axes, key_width), dim=-1),
        FastState(0.3 * randn(num_samples, num_heads, value_width, key_width)),
    )
