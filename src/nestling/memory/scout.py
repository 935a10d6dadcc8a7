"""A small quick memory that foresees what a large one, which learns in blocks, would answer.

Letters: N examples, I inputs, D features of the large memory, d of the small one, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nestling.memory.exact.calibrate import calibrate
from nestling.memory.exact.reach import compute_novelty, measure_reach
from nestling.memory.exact.solve import find_code_strength, solve_ridge
from nestling.memory.exact.statistics import Statistics, space_evenly
from nestling.memory.features import (
    Draws,
    FeatureKind,
    Features,
    JoinedFeatures,
    RandomFeatures,
    map_randomly,
)
from nestling.memory.prequential import (
    RENEWAL,
    ROUGH_GAIN,
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
MOST_NEW, FEATURES_PER_EXAMPLE = 16, 4


class Scout:
    """Foresees at once, from every example so far, what a memory on many features would answer.

    A ridge regression on 256 of its features, evenly spaced, learned at every call and solved anew
    for each twentieth that is new, or 16 examples.

    Args:
        features: of the large memory; None for the inputs themselves.
        num_features: D.
        task: "classification" or "regression".
        num_outputs: declared, as in `RidgeMemory`.
        half_life: of the large memory.

    >>> scout = Scout(None, 2, "classification", None, float("inf"))
    >>> x, y = torch.eye(2).repeat(10, 1), torch.arange(2).repeat(10)
    >>> scout.learn(x, y, torch.ones(20, dtype=torch.float64))
    >>> scout.renew()
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

    @property
    def num_bytes(self) -> int:
        """Size of all statistics."""
        return self.memory.num_bytes

    def learn(self, x_NI: Tensor, target: Tensor, weight_N: Tensor) -> None:
        """Take in inputs (N, I) with labels (N,) or values (N, M), which were checked."""
        if not len(target):
            return
        self.memory.grow(int(target.max()) + 1 if target.ndim == 1 else target.shape[1])
        y_NM = target
        if target.ndim == 1:
            y_NM = nn.functional.one_hot(target, self.memory.num_classes).double()
        self.memory.add_features(self._map(x_NI), y_NM, weight_N)

    def remove(self, x_NI: Tensor, target: Tensor, weight_N: Tensor, clock: int) -> None:
        """Take examples away again; arguments and errors of `RidgeMemory.remove`."""
        self.memory.remove(self._map(x_NI), target, weight_N, clock=clock)
        self._held = None

    def foresee(self, x_NI: Tensor) -> Foresight | None:
        """What it would have answered to inputs (N, I) when it was last renewed, and how novel they
        were; None at first."""
        held = self._held
        if held is None or held.reach is None:
            return None
        is_classifier = self.memory.task == "classification"
        num_outputs = self.memory.num_classes
        return foresee_quickly(held, self._map(x_NI), num_outputs, classifies=is_classifier)

    def renew(self) -> None:
        """Solve anew what it foresees by, if enough is new."""
        memory, held = self.memory, self._held
        if memory.is_empty:
            return
        if held is not None:
            num_new = memory.clock - held.solved_at
            if num_new < min(RENEWAL * memory.weight, MOST_NEW) or not num_new:
                return
        stats = memory.select_statistics(choose_few(memory.num_features, memory.num_effective))
        made = solve_quickly(stats, memory.clock, held, classifies=memory.task == "classification")
        self._held = replace(made, reach=measure_reach(stats))

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


def solve_quickly(
    stats: Statistics,
    clock: int,
    before: HeldSolution | None = None,
    *,
    classifies: bool,
    coded: bool = False,
) -> HeldSolution:
    """A ridge regression whose strength follows from the number of examples, solved and calibrated.

    Args:
        stats: of a few hundred features.
        clock: of the statistics.
        before: an earlier one, from whose calibration the search begins.
        classifies: targets are one-hot.
        coded: features are whole numbers, see `find_code_strength`; else the strength is (d/n)^2,
            near what cross-validation picks on the sets that it was tried on (benchmarks/LOG.md).
    """
    if coded:
        strength = find_code_strength(stats)
    else:
        strength = min(max((stats.num_features / stats.num_effective) ** 2, 1e-8), 1e4)
    # What the strength leaves free, if the spectrum fell off evenly: counting costs an inverse.
    freedom = 1.0 + min(stats.num_features, stats.num_effective) / (1.0 + strength**0.5)
    solution = solve_ridge(stats, strength, freedom, coded=coded)
    calibration = None
    if classifies:
        begin = None if before is None else before.sharpness
        calibration = calibrate(stats, solution, begin, ROUGH_GAIN)
    return hold_solution(solution, calibration, clock, clock)


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

    It can be pickled, as what holds it must be.

    Args:
        features: None for the inputs themselves.
        chosen_d: rising indices of features.
    """
    if isinstance(features, RandomFeatures):
        return _select_random(features, chosen_d)
    if isinstance(features, JoinedFeatures):
        return _select_joined(features, chosen_d)
    return partial(_map_and_select, features, chosen_d)


def _map_and_select(features: Features | None, chosen_d: Tensor, x_NI: Tensor) -> Tensor:
    phi_ND = x_NI if features is None else features(x_NI)
    return phi_ND[:, chosen_d].double()


def _select_random(features: RandomFeatures, chosen_d: Tensor) -> Callable[[Tensor], Tensor]:
    num_passed = features.num_inputs if features.passthrough else 0
    passed, made = chosen_d[chosen_d < num_passed], chosen_d[chosen_d >= num_passed] - num_passed
    draws, width = features.draws.select(made), features.num_features
    return partial(_map_some, passed, draws, features.kind, width)


def _map_some(
    passed: Tensor, draws: Draws, kind: FeatureKind, num_drawn: int, x_NI: Tensor
) -> Tensor:
    wide_NI = x_NI.detach().to("cpu", torch.float64)
    phi_Nd = map_randomly(wide_NI, draws, kind, passthrough=False, num_drawn=num_drawn)
    return torch.cat((wide_NI[:, passed], phi_Nd), dim=1)


def _select_joined(features: JoinedFeatures, chosen_d: Tensor) -> Callable[[Tensor], Tensor]:
    maps, widths, first = [], [], 0
    for part in features.parts:
        inside = (chosen_d >= first) & (chosen_d < first + part.num_outputs)
        maps.append(_select_random(part, chosen_d[inside] - first))
        widths.append(part.num_inputs)
        first += part.num_outputs
    return partial(_map_views, maps, widths)


def _map_views(
    maps: Sequence[Callable[[Tensor], Tensor]], widths: Sequence[int], x_NI: Tensor
) -> Tensor:
    views = x_NI.split(list(widths), dim=1)
    return torch.cat([one(view) for one, view in zip(maps, views, strict=True)], dim=1)
