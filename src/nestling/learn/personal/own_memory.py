"""A person's own memory: ridge regression on few of the common memory's features, never held.

Letters: N examples, d features, K classes.
"""

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nestling.core.params import digest_tensors, flatten_tensors
from nestling.levels import LevelReading
from nestling.memory.checks import encode_one_hot
from nestling.memory.exact.calibrate import calibrate
from nestling.memory.exact.clocked import ClockedStatistics
from nestling.memory.exact.reach import measure_reach
from nestling.memory.exact.solve import solve_ridge
from nestling.memory.exact.statistics import Statistics, make_statistics, select_features
from nestling.memory.prequential import Foresight, HeldSolution, hold_solution
from nestling.memory.scout import choose_few, foresee_quickly

# Of (d / n)^2, the ridge strength.
STRENGTH_SHARE = 1.0 / 9.0
# Where the first search for a calibration's sharpness begins; each ends where it gains no more, in
# nats per unit of the logarithm; and what is found holds until examples have grown by this factor.
USUAL_SHARPNESS, LEAST_GAIN, NEXT_SEARCH = 0.175, 1e-2, 1.1


class OwnMemory:
    """Endless ridge memory of one person: every answer includes every example so far.

    No solution is held from one batch to the next, but for one number of its calibration: an answer
    is a function of the sums and of that. So a person who was saved and restored answers with the
    same bits, and the gate is told of each example what would have been answered to it just before.
    Solving looks at 4 features per example, all d from d / 4 examples on.

    Args:
        num_features: d.
        num_outputs: K to begin with.

    >>> memory = OwnMemory(2, 2)
    >>> x, y = torch.eye(2).double().repeat(10, 1), torch.arange(2).repeat(10)
    >>> memory.learn(x, y, torch.ones(20, dtype=torch.float64))
    >>> found = memory.foresee(torch.eye(2).double())
    >>> found.answers.argmax(dim=1)
    tensor([0, 1])
    """

    def __init__(self, num_features: int, num_outputs: int) -> None:
        self._sums = ClockedStatistics(num_features, num_outputs)
        # The scatter while it rests: its upper triangle; None while it is at work.
        self._packed: Tensor | None = None
        self._held: HeldSolution | None = None
        # Of the calibration before the last batch, and the clock at which it was searched for.
        self._sharpness, self._searched_at = USUAL_SHARPNESS, 0
        self.seconds = 0.0

    @property
    def num_features(self) -> int:
        """d."""
        return self._sums.num_features

    @property
    def num_classes(self) -> int:
        """K."""
        return self._sums.num_outputs

    @property
    def num_examples(self) -> int:
        """Examples that arrived so far."""
        return self._sums.clock

    def foresee(self, phi_Nd: Tensor) -> Foresight | None:
        """What it answers to features (N, d), and how novel they are; None while it is empty."""
        if self._sums.weight <= 0.0:
            return None
        started = time.perf_counter()
        if self._held is None:
            self._wake()
            chosen_d = choose_few(self.num_features, self._sums.num_effective)
            stats = select_features(self._sums.values, chosen_d)
            self._held = solve_at_once(stats, self._sums.clock, self._sharpness, self._searched_at)
        found = foresee_quickly(self._held, phi_Nd, self.num_classes, classifies=True)
        self.seconds += time.perf_counter() - started
        return found

    def learn(self, phi_Nd: Tensor, label_N: Tensor, weight_N: Tensor) -> None:
        """Take in features (N, d), labels (N,) and weights (N,), which were checked."""
        started = time.perf_counter()
        self._wake()
        self._sums.grow(int(label_N.max()) + 1)
        y_NK = encode_one_hot(label_N, self.num_classes)
        self._sums.add(phi_Nd, y_NK, weight_N)
        if self._held is not None and self._held.sharpness is not None:
            self._sharpness, self._searched_at = self._held.sharpness, self._held.tuned_at
        self._held = None
        self.seconds += time.perf_counter() - started

    def rest(self) -> None:
        """Keep nothing but the sums, packed, until it is asked again."""
        self._held = None
        if self._packed is None:
            stats = self._sums.values
            self._packed = pack_upper(stats.scatter)
            stats.scatter = torch.zeros(0, 0, dtype=torch.float64, device="cpu")

    def _wake(self) -> None:
        if self._packed is not None:
            self._sums.values.scatter = unpack_upper(self._packed, self.num_features)
            self._packed = None

    def read(self) -> LevelReading:
        """How it stands: it learns every example at once, so its period is 1."""
        num = self.num_examples
        return LevelReading(
            level="memory",
            kind="memory",
            num_parameters=sum(value.numel() for value in self.tensors().values()),
            share=0.0,
            period=1,
            age=0,
            num_steps=num,
            num_updates=num,
            seconds=self.seconds,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Its sums by dotted names; copies."""
        return flatten_tensors(self.state_dict())

    def digest(self) -> str:
        """The sha256 of its tensors."""
        return digest_tensors(self.tensors())

    def state_dict(self) -> dict[str, Any]:
        """Its sums; of the scatter the upper triangle."""
        state = self._sums.state_dict()
        values: dict[str, Any] = dict(state["values"])  # type: ignore[call-overload]
        packed = self._packed
        values["scatter"] = pack_upper(values["scatter"]) if packed is None else packed.clone()
        search = {"sharpness": self._sharpness, "searched_at": self._searched_at}
        return {**state, **search, "values": values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; ValueError if a tensor has another size."""
        values = dict(state["values"])
        d, K = len(values["mean"]), len(values["target_sum"])
        blank = vars(make_statistics(d, K))
        blank["scatter"] = pack_upper(blank["scatter"])
        for name, mine in blank.items():
            theirs = values[name]
            if isinstance(mine, Tensor) and mine.shape != theirs.shape:
                raise ValueError(f"{name} of shape {tuple(theirs.shape)}, not {tuple(mine.shape)}")
        values["scatter"] = unpack_upper(values["scatter"], d)
        self._sums.load_state_dict({**state, "values": values})
        self._packed, self._held = None, None
        self._sharpness, self._searched_at = state["sharpness"], state["searched_at"]


def solve_at_once(
    stats: Statistics, clock: int, sharpness: float = USUAL_SHARPNESS, searched_at: int = 0
) -> HeldSolution:
    """Ridge regression whose strength is known beforehand, calibrated, and what it has seen.

    lambda = (d / n)^2 / 9 is what cross-validation picked within a half for 18 persons of other
    slants and turns than those of `nestling bench personal`, at 20 to 300 examples, and was as good
    to a tenth of a point, without its eigenvalues. Degrees of freedom are counted: guessed ones
    made the memory too sure of itself (2 points).

    Args:
        stats: of one example or more, of the features that are looked at.
        clock: of these.
        sharpness: of the calibration before.
        searched_at: the clock at which that was searched for.
    """
    strength = STRENGTH_SHARE * (stats.num_features / stats.num_effective) ** 2
    solution = solve_ridge(stats, min(max(strength, 1e-8), 1e4))
    is_due = clock >= NEXT_SEARCH * searched_at
    calibration = calibrate(stats, solution, sharpness, LEAST_GAIN if is_due else math.inf)
    held = hold_solution(solution, calibration, clock, clock if is_due else searched_at)
    return replace(held, reach=measure_reach(stats))


@functools.lru_cache(maxsize=4)
def _index_upper(num_rows: int) -> Tensor:
    """Where the upper triangle lies in a flat square matrix."""
    rows, columns = torch.triu_indices(num_rows, num_rows, device="cpu")
    flat: Tensor = rows * num_rows + columns
    return flat


def pack_upper(square_DD: Tensor) -> Tensor:
    """The upper triangle of a matrix, row by row: (D (D + 1) / 2,).

    >>> pack_upper(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
    tensor([1., 2., 3.])
    """
    packed: Tensor = square_DD.reshape(-1)[_index_upper(len(square_DD))]
    return packed


def unpack_upper(packed: Tensor, num_rows: int) -> Tensor:
    """Undo `pack_upper`: (D, D), zero below the diagonal."""
    flat = torch.zeros(num_rows * num_rows, dtype=packed.dtype, device="cpu")
    flat[_index_upper(num_rows)] = packed
    return flat.view(num_rows, num_rows)
