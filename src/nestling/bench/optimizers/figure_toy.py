"""The toy of the paper's figure 4: steps to a target, with every rule tuned alike.

Axes: S starting points, 2 = coordinates r and theta.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nestling.bench.optimizers.contenders import CONTENDERS, Contender, Settings, draw_trials
from nestling.bench.timing import Figures, Rows
from nestling.core.seeds import make_generator

START = (-3.5, 2.0)  # the paper's
SPREAD = 0.5  # of further starting points about it, standard deviation
TARGET, MAX_STEPS = 1e-3, 1_000
NUM_STARTS = 4  # of each seed
TUNING_SEED = 100  # no test seed: those count from 0
NUM_TRIALS, NUM_FEW = 40, 8


@dataclass(frozen=True)
class Toy:
    """psi(r, theta) = r^2 + k (r - theta + a sin(w r))^2   [NL fig. 4]; least at (0, 0), where it
    is 0.

    The paper prints neither k nor a nor w.
    """

    k: float
    a: float
    w: float

    def value(self, point_S2: Tensor) -> Tensor:
        """psi at each point: (S, 2) -> (S,).

        >>> Toy(2.0, 0.0, 1.0).value(torch.tensor([[1.0, 0.0]]))
        tensor([3.])
        """
        r_S, _ = point_S2.unbind(-1)
        return r_S.square() + self.k * self._miss(point_S2).square()

    def gradient(self, point_S2: Tensor) -> Tensor:
        """Gradient of psi at each point: (S, 2) -> (S, 2)."""
        r_S, _ = point_S2.unbind(-1)
        pull_S = 2.0 * self.k * self._miss(point_S2)
        along_S = 2.0 * r_S + pull_S * (1.0 + self.a * self.w * (self.w * r_S).cos())
        return torch.stack([along_S, -pull_S], dim=-1)

    def _miss(self, point_S2: Tensor) -> Tensor:
        r_S, theta_S = point_S2.unbind(-1)
        return r_S - theta_S + self.a * (self.w * r_S).sin()


# A gentle valley, a narrow one, and one with more bends.
TOYS: Mapping[str, Toy] = {
    "k 1, a 1, w 2": Toy(1.0, 1.0, 2.0),
    "k 10, a 1, w 2": Toy(10.0, 1.0, 2.0),
    "k 10, a 0.5, w 6": Toy(10.0, 0.5, 6.0),
}
_FORGET = (0.01, 1.0)  # 1 - momentum: from a long one to nearly none
_ERASE = (1e-3, 10.0)
# Rules that need no matrix. Delta momentum has a third setting, and no more trials for it.
RULES: Mapping[str, Contender] = {
    name: Contender(space, CONTENDERS[name].build)
    for name, space in {
        "momentum": {"lr": (3e-4, 0.3), "forget": _FORGET},
        "adamw": {"lr": (3e-3, 3.0), "forget": _FORGET},
        "delta": {"lr": (3e-4, 0.3), "forget": _FORGET, "erase_rate": _ERASE},
        "delta_matrix": {"lr": (3e-4, 0.3), "forget": _FORGET, "erase_rate": _ERASE},
        "preconditioned": {"lr": (3e-4, 0.3), "forget": _FORGET},
        "dmgd": {"lr": (3e-4, 0.3), "inner_lr": (0.03, 30.0)},
    }.items()
}


def draw_starts(seed: int) -> Tensor:
    """Starting points of a seed, (S, 2) float64: about the paper's; seed 0 has that one first."""
    generator = make_generator(seed, "toy starts")
    noise_S2 = torch.randn(NUM_STARTS, 2, generator=generator, dtype=torch.float64, device="cpu")
    starts_S2 = torch.tensor(START, dtype=torch.float64, device="cpu") + SPREAD * noise_S2
    if seed == 0:
        starts_S2[0] = torch.tensor(START, dtype=torch.float64, device="cpu")
    return starts_S2


def count_steps(
    toy: Toy, rule: Contender, settings: Settings, starts_S2: Tensor, max_steps: int = MAX_STEPS
) -> list[int]:
    """Steps until psi is TARGET or less for the first time, from each starting point.

    Each point is a parameter of its own, so that no rule mixes them.

    Args:
        toy: what is descended.
        rule: the optimizer.
        settings: as drawn from its space.
        starts_S2: (S, 2).
        max_steps: what a run counts as that does not get there.
    """
    points = [start.clone().requires_grad_() for start in starts_S2]
    optimizer = rule.build(list(points), settings)
    steps = [max_steps] * len(points)
    is_open = [True] * len(points)
    for step in range(max_steps):
        here_S2 = torch.stack([point.detach() for point in points])
        psi: list[float] = toy.value(here_S2).tolist()
        for row, value in enumerate(psi):
            if is_open[row] and not TARGET < value < 1e6:  # there, or lost
                is_open[row] = False
                steps[row] = step if value <= TARGET else max_steps
        if not any(is_open):
            break
        gradients = toy.gradient(here_S2).unbind()
        for row, (point, gradient) in enumerate(zip(points, gradients, strict=True)):
            point.grad = gradient if is_open[row] else None
        optimizer.step()
    return steps


def measure_toy(
    num_seeds: int,
    *,
    num_trials: int = NUM_TRIALS,
    num_few: int = NUM_FEW,
    toys: Mapping[str, Toy] = TOYS,
    rules: Mapping[str, Contender] = RULES,
    max_steps: int = MAX_STEPS,
) -> tuple[Figures, Rows]:
    """Tune each rule on each toy with the same number of trials, then count steps from new starts.

    Args:
        num_seeds: seeds of test starts, NUM_STARTS points each.
        num_trials: of each search; the trial with the fewest steps in the mean is chosen.
        num_few: the same with the first so many trials of it.
        toys: by name.
        rules: by name; the first is what the others are compared with.
        max_steps: see `count_steps`.

    Returns: figures `toy_<rule>_over_<first>_steps`, the geometric mean over toys and starts of
        the ratio of steps (below 1 is faster); `..._few`, the same with few trials for both; and
        `toy_delta_many_over_few_steps`, delta momentum with all trials over the first with few:
        what an unequal search makes of it. A row per toy and rule.
    """
    starts_S2 = torch.cat([draw_starts(seed) for seed in range(num_seeds)])
    base = next(iter(rules))
    counts: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    rows: Rows = []
    for toy_name, toy in toys.items():
        for name, rule in rules.items():
            trials = draw_trials(rule.space, num_trials, "toy")
            tuned = [
                statistics.mean(count_steps(toy, rule, trial, draw_starts(TUNING_SEED), max_steps))
                for trial in trials
            ]
            chosen = [trials[tuned.index(min(tuned[:end]))] for end in (num_trials, num_few)]
            many, few = (count_steps(toy, rule, one, starts_S2, max_steps) for one in chosen)
            counts[toy_name, name] = many, few
            rows.append(
                {
                    "toy": toy_name,
                    "optimizer": name,
                    "steps": statistics.median(many),
                    "steps_few": statistics.median(few),
                    "reached": sum(one < max_steps for one in many) / len(many),
                    "trials": num_trials,
                    "trials_few": num_few,
                    "starts": len(many),
                    **chosen[0],
                }
            )
    figures: Figures = {}
    for name in rules:
        if name == base:
            continue
        for index, ending in enumerate(("", "_few")):
            figures[f"toy_{name}_over_{base}_steps{ending}"] = _compare(
                [(counts[toy, name][index], counts[toy, base][index]) for toy in toys]
            )
    if "delta" in rules:
        figures["toy_delta_many_over_few_steps"] = _compare(
            [(counts[toy, "delta"][0], counts[toy, base][1]) for toy in toys]
        )
    return figures, rows


def _compare(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Geometric mean of ratios, pair by pair; a start that is the target counts as one step."""
    logs = [
        math.log(max(one, 1) / max(other, 1))
        for ours, theirs in pairs
        for one, other in zip(ours, theirs, strict=True)
    ]
    return math.exp(statistics.mean(logs))
