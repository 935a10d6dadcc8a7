"""Prequential evaluation: how well each memory answers examples before it learns them.

Letters: E experts, N examples, D features, K classes, M outputs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nestling.memory.checks import encode_one_hot
from nestling.memory.exact.calibrate import Calibration, calibrate
from nestling.memory.exact.reach import Reach
from nestling.memory.exact.solve import Solution, find_code_strength, solve_ridge
from nestling.memory.exact.statistics import space_evenly
from nestling.memory.ridge import RidgeMemory

# A solution is renewed when this share of what the memory holds is new since it was made, and its
# strength is chosen anew when the clock has grown by this factor.
RENEWAL, RETUNING = 0.05, 2
# Of features in codes so many are looked at for a rough solution, evenly spaced; and its
# calibration is made no better where that gains less than this, in nats.
MOST_CODES, ROUGH_GAIN = 500, 1e-3


@dataclass(frozen=True)
class HeldSolution:
    """A memory's answer as it stood at some clock: one linear map.

    Args:
        weights: (D, K) to logits of probabilities, or (D, M) to means.
        offset: (K,) or (M,).
        variance: (M,) of a regression's residual; empty for classes.
        solved_at: the clock.
        tuned_at: the clock at which the strength was chosen.
        reach: what the memory had seen, then or a little later; None where nobody asks.
        sharpness: of its calibration, if it has one.
    """

    weights: Tensor
    offset: Tensor
    variance: Tensor
    solved_at: int
    tuned_at: int
    reach: Reach | None = None
    sharpness: float | None = None

    def state_dict(self) -> dict[str, object]:
        """Field -> value; nothing is shared."""
        return {
            "weights": self.weights.clone(),
            "offset": self.offset.clone(),
            "variance": self.variance.clone(),
            "solved_at": self.solved_at,
            "tuned_at": self.tuned_at,
            "reach": None if self.reach is None else self.reach.state_dict(),
            "sharpness": self.sharpness,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "HeldSolution":
        """Undo `state_dict`."""
        own: dict[str, Any] = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in state.items()
        }
        own["reach"] = None if own["reach"] is None else Reach.from_state(own["reach"])
        return cls(**own)


@dataclass(frozen=True)
class Foresight:
    """What a bank answers to examples, and what it knows of them.

    Args:
        answers: (N, K) probabilities or (N, M) means.
        known: (K,) bool: classes that it gives an answer for; None for values.
        novelty: (N,) how unlike all that it has learned they are, see `compute_novelty`; None
            where nobody asks.
        num_effective: examples that it knows.
        phi: (N, D) codes of the inputs, where these were computed.
    """

    answers: Tensor
    known: Tensor | None
    novelty: Tensor | None
    num_effective: float
    phi: Tensor | None = None


class _Part(NamedTuple):
    """Rows that came together."""

    x: Tensor
    target: Tensor
    weight: Tensor
    phi: Tensor | None


class PendingBlock:
    """Inputs, targets and weights of the examples that were not scored and learned yet.

    Args:
        one_hot: targets are labels, given back as one-hot rows.
    """

    def __init__(self, one_hot: bool) -> None:
        self.one_hot = one_hot
        self._parts: list[_Part] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def has_weight(self) -> bool:
        """Whether any example has a weight above 0."""
        return any(bool((part.weight > 0.0).any()) for part in self._parts)

    @property
    def num_bytes(self) -> int:
        """Size of what is kept."""
        kept = (t for part in self._parts for t in part if t is not None)
        return sum(t.numel() * t.element_size() for t in kept)

    def add(
        self, x_NI: Tensor, target: Tensor, weight_N: Tensor, phi_ND: Tensor | None = None
    ) -> None:
        """Append rows, with labels (N,) or targets (N, M), and features if they are known; they
        are copied."""
        self._parts.append(_Part(x_NI.clone(), target.clone(), weight_N.clone(), phi_ND))
        self._size += x_NI.shape[0]

    def fill(self, start: int, phi_ND: Tensor) -> None:
        """Keep features of all rows from `start` on."""
        parts, first = [], 0
        for part in self._parts:
            last = first + len(part.x)
            if part.phi is None and first >= start:
                part = part._replace(phi=phi_ND[first - start : last - start])
            parts.append(part)
            first = last
        self._parts = parts

    def list_inputs(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Inputs from row `start` on, part by part, with their features if they are known."""
        for part in self._parts:
            num = len(part.x)
            if start < num:
                yield part.x[start:], None if part.phi is None else part.phi[start:]
            start = max(0, start - num)

    def read(self, num_outputs: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Rows from `start` on: dense targets (N, num_outputs), weights (N,)."""
        target = torch.cat([part.target for part in self._parts])[start:]
        weight_N = torch.cat([part.weight for part in self._parts])[start:]
        return encode_one_hot(target, num_outputs) if self.one_hot else target, weight_N

    def state_dict(self) -> dict[str, object]:
        """All rows, or nothing."""
        if not self._parts:
            return {}
        x, target, weight = (
            torch.cat(parts)
            for parts in zip(*((p.x, p.target, p.weight) for p in self._parts), strict=True)
        )
        return {"x": x, "target": target, "weight": weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._parts, self._size = [], 0
        if state:
            self.add(state["x"], state["target"], state["weight"])


def renew_solution(
    memory: RidgeMemory, held: HeldSolution | None, *, tunes: bool
) -> HeldSolution | None:
    """The solution to score the next block with; the same if too little is new.

    Args:
        memory: solved anew.
        held: the solution so far.
        tunes: choose the memory's strength only when the clock has doubled, and hold it.
    """
    if memory.is_empty:
        return None
    clock = memory.clock
    if held is not None and clock - held.solved_at < RENEWAL * memory.weight:
        return held
    tuned_at = held.tuned_at if held is not None else 0
    if tunes and clock >= RETUNING * tuned_at:
        memory.tune()
        tuned_at = clock
    calibration = memory.calibration if memory.task == "classification" else None
    return hold_solution(memory.solution, calibration, clock, tuned_at)


def add_reach(memory: RidgeMemory, held: HeldSolution | None) -> HeldSolution | None:
    """The solution with what the memory has seen beside it, unless both are there already."""
    if held is None or held.reach is not None:
        return held
    return replace(held, reach=memory.reach)


def renew_codes(memory: RidgeMemory, held: HeldSolution | None) -> HeldSolution | None:
    """As `renew_solution`, at a fraction of the cost, for a memory of classes on codes.

    A third of the features are looked at, each time that a twentieth is new: a solution that lags
    behind makes a memory look worse than it is wherever inputs change. The memory is left as it is.
    """
    if memory.is_empty:
        return None
    clock, D = memory.clock, memory.num_features
    if held is not None and clock - held.solved_at < RENEWAL * memory.weight:
        return held
    chosen = space_evenly(D, MOST_CODES)
    stats = memory.select_statistics(chosen) if len(chosen) < D else memory.statistics
    strength = find_code_strength(stats)
    # What the strength leaves free, if the spectrum fell off evenly: counting costs an inverse.
    freedom = 1.0 + min(stats.num_features, stats.num_effective) / (1.0 + strength**0.5)
    solution = solve_ridge(stats, strength, freedom, coded=True)
    begin = None if held is None else held.sharpness
    calibration = calibrate(stats, solution, begin, ROUGH_GAIN)
    if len(chosen) < D:
        weights_DM = torch.zeros(D, solution.weights.shape[1], dtype=torch.float64, device="cpu")
        weights_DM[chosen] = solution.weights
        solution = replace(solution, weights=weights_DM)
    return hold_solution(solution, calibration, clock, clock)


def hold_solution(
    solution: Solution, calibration: Calibration | None, clock: int, tuned_at: int
) -> HeldSolution:
    """A solution and its calibration as one linear map, to be held.

    Args:
        solution: of some clock.
        calibration: of it; None for values.
        clock: of the solution.
        tuned_at: the clock at which its strength was chosen.
    """
    none = torch.zeros(0, dtype=torch.float64, device="cpu")
    variance = solution.residual_variance if calibration is None else none
    return HeldSolution(
        *fold_calibration(solution, calibration),
        variance,
        clock,
        tuned_at,
        sharpness=None if calibration is None else calibration.sharpness,
    )


def answer(held: HeldSolution, phi_ND: Tensor, num_outputs: int) -> Tensor:
    """Probabilities (N, K) or means (N, M); a class that came later gets 0."""
    is_values = held.variance.numel() > 0
    answers = answer_linearly(phi_ND, held.weights, held.offset, classifies=not is_values)
    if is_values:
        return answers
    return torch.nn.functional.pad(answers, (0, num_outputs - answers.shape[1]))


def answer_linearly(
    phi_ND: Tensor, weights_DK: Tensor, offset_K: Tensor, *, classifies: bool
) -> Tensor:
    """softmax(phi W + b), or phi W + b for values: (N, K).

    Args:
        phi_ND: (N, D).
        weights_DK: (D, K), calibration folded in, see `fold_calibration`.
        offset_K: (K,); -inf for a class that was never seen, whose probability is 0.
        classifies: whether probabilities are asked.
    """
    outputs_NK = torch.addmm(offset_K, phi_ND, weights_DK)
    return torch.softmax(outputs_NK, dim=1) if classifies else outputs_NK


def fold_calibration(solution: Solution, calibration: Calibration | None) -> tuple[Tensor, Tensor]:
    """One linear map of features: weights (D, K) and offset (K,) of calibrated logits; those of
    the solution where nothing is calibrated."""
    if calibration is None:
        return solution.weights, solution.intercept
    return (
        solution.weights @ calibration.matrix,
        solution.intercept @ calibration.matrix + calibration.offset,
    )
