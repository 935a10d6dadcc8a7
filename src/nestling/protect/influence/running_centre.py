"""Where the rows lie that were learned: a robust centre that moves slowly, and usual distances.

All by torch: NumPy between two steps of a model was measured to be three times as slow.

Axis letters: N rows, K rows that are learned, D features, W rows remembered.
"""

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import DataError
from nestling.protect.influence.influence_rules import find_far_rows, measure_distances, move_centre

# Once as many rows as the window has were looked at, only those of every 16th call are: centre
# and median move slowly, and to look takes longer than to judge.
_CALLS_PER_LOOK = 16


class RunningCentre:
    """Robust centre of the rows, and the median of their distances from it.

    Args:
        norm: times the median distance that a row may lie off.
        window: rows whose distances are remembered.
        least_heard: rows that were looked at before any is judged.
    """

    def __init__(self, norm: float, window: int, least_heard: int) -> None:
        self.norm, self.window, self.least_heard = norm, window, least_heard
        self.centre: Tensor | None = None  # (D,)
        self.median = 0.0
        # Of the rows that were looked at last, in a ring.
        self._distances_W = torch.zeros(window, dtype=torch.float32, device="cpu")
        self._num_heard = 0
        self._num_calls = self._num_rows = 0  # since the last look
        self._limit = inf  # distance beyond which a row is held

    def measure(self, x_ND: Tensor | None) -> list[float]:
        """||x_n - c|| of N rows; empty while nothing is judged by it.

        Raises:
            DataError: rows of another width.
        """
        if x_ND is None or self.centre is None:
            return []
        if x_ND.shape[1] != self.centre.shape[0]:
            raise DataError(
                f"rows of {x_ND.shape[1]} features where those before had {len(self.centre)}; "
                "make a SourceGuard of their own for them"
            )
        if self._limit == inf:
            return []
        distances: list[float] = measure_distances(x_ND, self.centre).tolist()
        return distances

    def has_none_far(self, distances: Sequence[float]) -> bool:
        """Whether no row lies too far out; may be False for rows that are not finite."""
        return not distances or max(distances) <= self._limit

    def list_far(self, distances: Sequence[float]) -> list[int]:
        """Places of the rows that lie too far out."""
        is_far = find_far_rows(distances, self.median, self.norm)
        return [row for row, is_one in enumerate(is_far) if is_one]

    def note(
        self, x_ND: Tensor | None, distances: Sequence[float], places: Sequence[int] | None
    ) -> None:
        """Take note of rows that are learned.

        Args:
            x_ND: rows of a call.
            distances: what `measure` gave.
            places: of those that are learned; None for all of them.
        """
        if x_ND is None:
            return
        self._num_calls += 1
        self._num_rows += x_ND.shape[0] if places is None else len(places)
        if self._num_heard < self.window or self._num_calls >= _CALLS_PER_LOOK:
            if places is not None:
                x_ND = x_ND[torch.tensor(places, dtype=torch.int64, device="cpu")]
                distances = [distances[row] for row in places] if distances else ()
            self._look(x_ND, distances)

    def _look(self, x_KD: Tensor, distances: Sequence[float]) -> None:
        """Move centre and median by some rows."""
        is_first = self.centre is None
        if self.centre is None:
            x_KD = x_KD[x_KD.isfinite().all(dim=1)]
            if not len(x_KD):
                return
            self.centre = x_KD.median(dim=0).values
        distances = distances or measure_distances(x_KD, self.centre).tolist()
        if not isfinite(sum(distances)):
            finite = [row for row, distance in enumerate(distances) if isfinite(distance)]
            x_KD = x_KD[torch.tensor(finite, dtype=torch.int64, device="cpu")]
            distances = [distances[row] for row in finite]
        if not distances:
            return
        usual, num_rows = self.median, len(distances)
        self._remember(distances)
        # Rows that nobody looked at count as if they had been like these.
        rate = max(num_rows / self._num_heard, min(1.0, self._num_rows / self.window))
        if not is_first:  # else it is their median
            self.centre = move_centre(self.centre, x_KD, distances, usual, rate)
        self._num_calls = self._num_rows = 0

    def _remember(self, distances: Sequence[float]) -> None:
        latest = torch.tensor(distances[-self.window :], dtype=torch.float32, device="cpu")
        num = len(latest)
        start = (self._num_heard + len(distances) - num) % self.window
        room = self.window - start
        self._distances_W[start : start + num] = latest[:room]
        if num > room:
            self._distances_W[: num - room] = latest[room:]
        self._num_heard += len(distances)
        self._find_median()

    def _find_median(self) -> None:
        """Of the distances of rows that were looked at; 0 before the first."""
        known = self._distances_W[: self._num_heard]
        self.median = float(known.median()) if self._num_heard else 0.0
        is_judging = self._num_heard >= self.least_heard and self.median > 0.0
        self._limit = self.norm * self.median if is_judging else inf

    def state_dict(self) -> dict[str, Any]:
        """Centre, distances, and how many rows and calls there were; tensors are copies."""
        return {
            "centre": [] if self.centre is None else [self.centre.clone()],
            "distances": self._distances_W[: self._num_heard].clone(),
            "num_heard": self._num_heard,
            "since_look": [self._num_calls, self._num_rows],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.centre = state["centre"][0].clone() if state["centre"] else None
        self._num_heard = state["num_heard"]
        self._num_calls, self._num_rows = state["since_look"]
        self._distances_W[: self._num_heard] = state["distances"]
        self._find_median()


def flatten_inputs(inputs: Sequence[Tensor]) -> Tensor | None:
    """Floating inputs as rows (N, D) of float32 on the CPU, without gradient; None without any."""
    rows = [_flatten(one) for one in inputs if one.is_floating_point() and one.numel()]
    return torch.cat(rows, dim=1) if len(rows) > 1 else rows[0] if rows else None


def _flatten(rows: Tensor) -> Tensor:
    if rows.requires_grad:
        rows = rows.detach()
    if rows.ndim != 2:
        rows = rows.reshape(rows.shape[0], -1)
    return rows if rows.dtype is torch.float32 and rows.is_cpu else rows.to("cpu", torch.float32)
