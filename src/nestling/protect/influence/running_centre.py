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
# Windows of rows that the centre is a running mean of.
_WINDOWS = 4


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
        self._near = inf  # from 0, not from the centre: within it no row can lie beyond the limit

    def measure(self, x_ND: Tensor | None) -> list[float]:
        """||x_n - c|| of N rows; empty while nothing is judged by it, or where ||x_n|| will do.

        ||x_n - c|| <= ||x_n|| + ||c||: no row of small norm lies far out.

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
        if self._near > 0.0:  # the cheaper question is asked first
            norms: list[float] = torch.linalg.vector_norm(x_ND, dim=1).tolist()
            if max(norms) <= self._near:
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
        if not is_first:  # else it is their median
            # Rows that nobody looked at count as if they had been like these.
            heard = len(distances) / (self._num_heard + len(distances))
            rate = max(heard, min(1.0, self._num_rows / (_WINDOWS * self.window)))
            self.centre = move_centre(self.centre, x_KD, distances, self.median, rate)
        self._remember(distances)
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
        self._find_limits()

    def _find_limits(self) -> None:
        """The median of the distances, 0 before the first, and what is too far."""
        known = self._distances_W[: self._num_heard]
        self.median = float(known.median()) if self._num_heard else 0.0
        is_judging = self._num_heard >= self.least_heard and self.median > 0.0
        self._limit = self.norm * self.median if is_judging else inf
        away = 0.0 if self.centre is None else float(self.centre.norm())
        # Less what rounding may add to a norm of float32.
        self._near = (1.0 - 1e-4) * (self._limit - away)

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
        self._find_limits()


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
