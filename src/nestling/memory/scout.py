"""A small quick memory that foresees what a large one, which learns in blocks, would answer.

Letters: N examples, I inputs, D features of the large memory, d of the small one, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nestling.memory.exact.calibrate import calibrate
from nestling.memory.exact.reach import compute_novelty, measure_reach
from nestling.memory.exact.solve import solve_ridge
from nestling.memory.exact.statistics import space_evenly
from nestling.memory.features import Features, JoinedFeatures, RandomFeatures, map_randomly
from nestling.memory.prequential import (
    RENEWAL,
    Foresight,
    HeldSolution,
    answer,
    hold_solution,
)
from nestling.memory.ridge import RidgeMemory, Task

# Features that it looks at: enough to tell whom to believe, few enough to solve many times.
NUM_SCOUTED = 256
# It is solved anew when so much is new, relative or in examples, whichever comes first; of few
# examples no more features are looked at than so many times their number.
MOST_NEW, FEATURES_PER_EXAMPLE = 32, 4


class Scout:
    """Foresees at once, from every example so far, what a memory on many features would answer.

    A ridge regression on 256 of its features, evenly spaced, learned at every call and solved anew
    for each twentieth that is new, or 32 examples.

    Args:
        features: of the large memory; None for the inputs themselves.
        num_features: D.
        task: "classification" or "regression".
        num_outputs: declared, as in `RidgeMemory`.
        half_life: of the large memory.

    >>> scout = Scout(None, 2, "classification", None, float("inf"))
    >>> x, y = torch.eye(2).repeat(10, 1), torch.arange(2).repeat(10)
    >>> scout.learn(x, y, torch.ones(20, dtype=torch.float64))
    >>> scout.foresee(torch.eye(2)).answers.argmax(dim=1)
    tensor([0, 1])
    """

    def __init__(
        self,
        features: Features | None,
        num_features: int,
        task: Task,
        num_outputs: int | None,
        half_life: float,
    ) -> None:
        chosen_d = space_evenly(num_features, NUM_SCOUTED)
        self._map = select_outputs(features, chosen_d)
        self.memory = RidgeMemory(
            len(chosen_d), task=task, num_outputs=num_outputs, half_life=half_life
        )
        self._held: HeldSolution | None = None

    def learn(self, x_NI: Tensor, target: Tensor, weight_N: Tensor) -> None:
        """Take in inputs (N, I) with labels (N,) or values (N, M), which were checked."""
        self.memory.grow(int(target.max()) + 1 if target.ndim == 1 else target.shape[1])
        y_NM = target
        if target.ndim == 1:
            y_NM = nn.functional.one_hot(target, self.memory.num_classes).double()
        self.memory.add_features(self._map(x_NI), y_NM, weight_N)

    def foresee(self, x_NI: Tensor) -> Foresight | None:
        """What would be answered to inputs (N, I), and how novel they are; None at first."""
        held = self._renew()
        if held is None:
            return None
        is_classifier = self.memory.task == "classification"
        num_outputs = self.memory.num_classes
        return foresee_quickly(held, self._map(x_NI), num_outputs, classifies=is_classifier)

    def _renew(self) -> HeldSolution | None:
        memory, held = self.memory, self._held
        if memory.is_empty:
            return None
        if held is not None:
            num_new = memory.clock - held.solved_at
            if num_new < min(RENEWAL * memory.weight, MOST_NEW) or not num_new:
                return held
        chosen_d = choose_few(memory.num_features, memory.num_effective)
        stats = memory.select_statistics(chosen_d)
        strength = min(max((stats.num_features / stats.num_effective) ** 2, 1e-8), 1e4)
        # What the strength leaves free, if the spectrum fell off evenly.
        freedom = 1.0 + min(stats.num_features, stats.num_effective) / (1.0 + strength**0.5)
        solution = solve_ridge(stats, strength, freedom)
        calibration = calibrate(stats, solution) if memory.task == "classification" else None
        made = hold_solution(solution, calibration, memory.clock, memory.clock)
        self._held = replace(made, reach=measure_reach(stats))
        return self._held

    def state_dict(self) -> dict[str, object]:
        """Sums, and the solution that is held."""
        return {
            "memory": self.memory.state_dict(),
            "held": None if self._held is None else self._held.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.memory.load_state_dict(state["memory"])
        held = state["held"]
        self._held = None if held is None else HeldSolution.from_state(held)


def choose_few(num_features: int, num_effective: float) -> Tensor:
    """Which features to look at where examples are few: evenly spaced ones, 4 per example.

    >>> choose_few(9, 1.0)
    tensor([0, 3, 5, 8])
    """
    return space_evenly(num_features, max(1, int(FEATURES_PER_EXAMPLE * num_effective)))


def foresee_quickly(
    held: HeldSolution, phi_Nd: Tensor, num_outputs: int, *, classifies: bool
) -> Foresight:
    """What a solution answers to features (N, d), and how novel they are.

    Args:
        held: with its reach, of all d features or of those that `choose_few` chose.
        phi_Nd: (N, d).
        num_outputs: K or M, which may have grown since.
        classifies: targets are labels.
    """
    assert held.reach is not None
    phi_Nd = phi_Nd[:, space_evenly(phi_Nd.shape[1], len(held.weights))]
    known_K = None
    if classifies:
        known_K = nn.functional.pad(held.offset.isfinite(), (0, num_outputs - len(held.offset)))
    novelty_N = compute_novelty(held.reach, phi_Nd)
    answers = answer(held, phi_Nd, num_outputs)
    return Foresight(answers, known_K, novelty_N, held.reach.num_effective)


def select_outputs(features: Features | None, chosen_d: Tensor) -> Callable[[Tensor], Tensor]:
    """The map from inputs to some of their features, (N, I) -> (N, d) float64, and no others.

    Args:
        features: None for the inputs themselves.
        chosen_d: rising indices of features.
    """
    if isinstance(features, RandomFeatures):
        return _select_random(features, chosen_d)
    if isinstance(features, JoinedFeatures):
        return _select_joined(features, chosen_d)
    if features is None:
        return lambda x: x[:, chosen_d].double()
    return lambda x: features(x)[:, chosen_d].double()


def _select_random(features: RandomFeatures, chosen_d: Tensor) -> Callable[[Tensor], Tensor]:
    num_passed = features.num_inputs if features.passthrough else 0
    passed, made = chosen_d[chosen_d < num_passed], chosen_d[chosen_d >= num_passed] - num_passed
    draws, kind = features.draws.select(made), features.kind
    width = features.num_features

    def apply(x: Tensor) -> Tensor:
        wide = x.detach().to("cpu", torch.float64)
        phi = map_randomly(wide, draws, kind, passthrough=False, num_drawn=width)
        return torch.cat((wide[:, passed], phi), dim=1)

    return apply


def _select_joined(features: JoinedFeatures, chosen_d: Tensor) -> Callable[[Tensor], Tensor]:
    maps, widths, first = [], [], 0
    for part in features.parts:
        inside = (chosen_d >= first) & (chosen_d < first + part.num_outputs)
        maps.append(_select_random(part, chosen_d[inside] - first))
        widths.append(part.num_inputs)
        first += part.num_outputs

    def apply(x: Tensor) -> Tensor:
        views = x.split(widths, dim=1)
        return torch.cat([one(view) for one, view in zip(maps, views, strict=True)], dim=1)

    return apply
