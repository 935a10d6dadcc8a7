"""Where the rows lie that were learned: a robust centre that moves slowly, and usual distances.

Axis letters: N rows, D features, W rows remembered.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestling.core.errors import DataError
from nestling.protect.influence.influence_rules import find_far_rows, measure_squares, move_centre

Rows = NDArray[np.float32]

# Once as many rows as the window has were looked at, only those of every eighth call are: centre
# and median move slowly, and to look takes as long as to judge.
_CALLS_PER_LOOK = 8


class RunningCentre:
    """Robust centre of the rows, and the median of their distances from it.

    Args:
        norm: times the median distance that a row may lie off.
        window: rows whose distances are remembered.
        least_heard: rows that were looked at before any is judged.
    """

    def __init__(self, norm: float, window: int, least_heard: int) -> None:
        self.norm, self.window, self.least_heard = norm, window, least_heard
        self.centre: Rows | None = None  # (D,)
        self.median = 0.0
        # Of the rows that were looked at last, in a ring.
        self._distances_W = np.zeros(window, dtype=np.float32)
        self._num_heard = 0
        self._num_calls = self._num_rows = 0  # since the last look
        self._limit = inf  # squared distance from which on a row is held

    def measure(self, x_ND: Rows | None) -> Rows | None:
        """||x_n - c||^2, (N,); None while nothing is judged by it.

        Raises:
            DataError: rows of another width.
        """
        if x_ND is None or self.centre is None:
            return None
        if x_ND.shape[1] != len(self.centre):
            raise DataError(
                f"rows of {x_ND.shape[1]} features where those before had {len(self.centre)}; "
                "make a SourceGuard of their own for them"
            )
        return None if self._limit == inf else measure_squares(x_ND, self.centre)

    def holds_all(self, square_N: Rows | None) -> bool:
        """Whether no row lies too far out; may be False for rows that are not finite."""
        return square_N is None or float(np.maximum.reduce(square_N)) <= self._limit

    def list_far(self, square_N: Rows | None) -> list[int]:
        """Places of the rows that lie too far out."""
        if square_N is None:
            return []
        is_far_N = find_far_rows(square_N, self.median, self.norm)
        return [int(row) for row in np.flatnonzero(is_far_N)]

    def note(self, x_ND: Rows | None, square_N: Rows | None, places: Sequence[int] | None) -> None:
        """Take note of rows that are learned.

        Args:
            x_ND: rows of a call.
            square_N: what `measure` gave.
            places: of those that are learned; None for all of them.
        """
        if x_ND is None:
            return
        self._num_calls += 1
        self._num_rows += len(x_ND) if places is None else len(places)
        if self._num_heard < self.window or self._num_calls >= _CALLS_PER_LOOK:
            if places is not None:
                x_ND = x_ND[places]
                square_N = None if square_N is None else square_N[places]
            self._look(x_ND, square_N)

    def _look(self, x_KD: Rows, square_K: Rows | None) -> None:
        """Move centre and median by some rows."""
        if square_K is None:
            if self.centre is None:
                x_KD = x_KD[np.isfinite(x_KD).all(axis=1)]
                if not len(x_KD):
                    return
                self.centre = np.median(x_KD, axis=0).astype(np.float32)
            square_K = measure_squares(x_KD, self.centre)
        is_finite_K = np.isfinite(square_K)
        if not is_finite_K.all():
            x_KD, square_K = x_KD[is_finite_K], square_K[is_finite_K]
        if not len(x_KD):
            return
        assert self.centre is not None
        distance_K, usual, is_first = np.sqrt(square_K), self.median, self._num_heard == 0
        self._remember(distance_K)
        # Rows that nobody looked at count as if they had been like these.
        rate = max(len(x_KD) / self._num_heard, min(1.0, self._num_rows / self.window))
        if not is_first:  # else it is their median
            self.centre = move_centre(self.centre, x_KD, distance_K, usual, rate)
        self._num_calls = self._num_rows = 0

    def _remember(self, distance_K: Rows) -> None:
        latest_K = distance_K[-self.window :]
        start = (self._num_heard + len(distance_K) - len(latest_K)) % self.window
        room = self.window - start
        self._distances_W[start : start + len(latest_K)] = latest_K[:room]
        self._distances_W[: max(0, len(latest_K) - room)] = latest_K[room:]
        self._num_heard += len(distance_K)
        self._find_median()

    def _find_median(self) -> None:
        """Of the distances of rows that were looked at; 0 before the first."""
        known = self._distances_W[: self._num_heard]
        middle = (len(known) - 1) // 2
        self.median = float(np.partition(known, middle)[middle]) if len(known) else 0.0
        is_judging = self._num_heard >= self.least_heard and self.median > 0.0
        self._limit = (self.norm * self.median) ** 2 if is_judging else inf

    def state_dict(self) -> dict[str, Any]:
        """Centre, distances, and how many rows and calls there were; tensors are copies."""
        return {
            "centre": [] if self.centre is None else [torch.from_numpy(self.centre.copy())],
            "distances": torch.from_numpy(self._distances_W[: self._num_heard].copy()),
            "num_heard": self._num_heard,
            "since_look": [self._num_calls, self._num_rows],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.centre = to_rows(state["centre"][0]).copy() if state["centre"] else None
        self._num_heard = state["num_heard"]
        self._num_calls, self._num_rows = state["since_look"]
        self._distances_W[: self._num_heard] = to_rows(state["distances"])
        self._find_median()


def to_rows(values: Tensor) -> Rows:
    """A tensor as float32 numbers on the CPU, in the same memory where it can be."""
    if values.dtype is not torch.float32 or not values.is_cpu:
        values = values.to("cpu", torch.float32)
    rows: Rows = values.detach().numpy() if values.requires_grad else values.numpy()
    return rows


def flatten_inputs(inputs: Sequence[Tensor]) -> Rows | None:
    """Floating inputs as rows (N, D); None if there are none."""
    if len(inputs) == 1 and inputs[0].ndim == 2 and inputs[0].is_floating_point():
        return to_rows(inputs[0]) if inputs[0].numel() else None
    rows = [
        to_rows(one).reshape(len(one), -1)
        for one in inputs
        if one.is_floating_point() and one.ndim and one.numel()
    ]
    if not rows:
        return None
    return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
