"""How far each source contradicts the answers that stood before its rows were learned.

Axis letters: R rows that wait, U sources among them, S sources, P pieces of rows.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestling.protect.influence.influence_rules import find_disagreement, measure_row_errors
from nestling.protect.influence.source_window import SourceRegister

Values = NDArray[np.float64]
Answers = tuple[Tensor, Tensor] | Values  # outputs and targets of some rows, or their errors

# Rows that wait to be worked off together: what a call costs is shared by all of them.
ROWS_TOGETHER = 256
# Rows of one source, and of all, that a share of errors remembers.
_MEMORY = 200.0
# Rows that are compared with what the others did at that time.
_PIECE = 32
# A residual is wrong from this many times the median on.
_WRONG_RESIDUAL = 3.0
# Numbers of an output per row up to which it is kept as it is until it is worked off.
_MOST_KEPT = 256
_ERRORS, _EXPECTED, _ROWS, _HEARD = range(4)  # columns of the tallies


class Agreement:
    """Errors of each source, and of the others meanwhile; sources that are at odds with them.

    Rows wait until there are 256, then all are worked off together.

    Args:
        register: of the sources.
        window: residuals that are remembered.
        least_heard: rows of a source before it is judged.
        margin: share of errors above that of the others that is held against a source.
        z: standard deviations that chance is granted.
        most_sources: with a tally; who was not heard for longest loses it.

    Attributes:
        at_odds: numbers of the sources whose rows are held.
    """

    def __init__(
        self,
        register: SourceRegister,
        window: int,
        least_heard: int,
        margin: float,
        z: float,
        most_sources: int,
    ) -> None:
        self.register, self.least_heard, self.margin, self.z = register, least_heard, margin, z
        self.most_sources = most_sources
        self.at_odds: set[int] = set()
        self._tally_S4 = np.zeros((1, 4), dtype=np.float64)
        self._num_tallies = self._num_heard = 0
        self._share = [0.0, 0.0]  # errors and rows of all that are not held
        self._residuals: deque[float] = deque(maxlen=window)
        self._waiting: list[int] = []  # numbers of the sources of the rows that wait
        self._answers: list[Answers] = []  # of the same rows
        self._are_residuals = False

    def note_answers(self, numbers: Sequence[int], output: Tensor, target: Tensor) -> bool:
        """Take note of answers; see `measure_row_errors`.

        Returns: whether sources were judged anew.
        """
        is_kept = output.numel() <= _MOST_KEPT * len(numbers)
        if target.is_floating_point() or not is_kept:
            errors = measure_row_errors(output, target).double().numpy()
            return self._wait(numbers, errors, target.is_floating_point())
        # The target may be the caller's, who may write into it.
        return self._wait(numbers, (output.detach(), target.clone()), False)

    def note_errors(
        self, numbers: Sequence[int], errors: Sequence[float], are_residuals: bool
    ) -> bool:
        """Take note of errors; as `note_answers`."""
        return self._wait(numbers, np.array(errors, dtype=np.float64), are_residuals)

    def _wait(self, numbers: Sequence[int], answers: Answers, are_residuals: bool) -> bool:
        is_other = are_residuals is not self._are_residuals and bool(self._waiting)
        if is_other:
            self._work_off()
        self._are_residuals = are_residuals
        self._waiting.extend(numbers)
        self._answers.append(answers)
        if len(self._waiting) < ROWS_TOGETHER:
            return is_other
        self._work_off()
        return True

    def _work_off(self) -> None:
        """Tally all rows that wait, and judge their sources."""
        error_R = self._measure_waiting()
        number_R = np.array(self._waiting, dtype=np.int64)
        self._waiting.clear()
        self._answers.clear()
        if self._are_residuals:
            self._residuals.extend(error_R[~np.isnan(error_R)].tolist())
            usual = median(self._residuals) if self._residuals else math.inf
            error_R = np.where(
                np.isnan(error_R), np.nan, (error_R > _WRONG_RESIDUAL * usual).astype(np.float64)
            )
        is_known_R = ~np.isnan(error_R)
        if not is_known_R.all():
            error_R, number_R = error_R[is_known_R], number_R[is_known_R]
        if len(error_R):
            self._tally(number_R, error_R)

    def _measure_waiting(self) -> Values:
        """How wrong the answers to the rows that wait were, (R,)."""
        errors: list[Values] = []
        group: list[tuple[Tensor, Tensor]] = []
        for answers in self._answers:
            if isinstance(answers, tuple) and (not group or _are_alike(group[0], answers)):
                group.append(answers)
                continue
            errors += _measure_group(group)
            group = []
            if isinstance(answers, tuple):
                group.append(answers)
            else:
                errors.append(answers)
        errors += _measure_group(group)
        return errors[0] if len(errors) == 1 else np.concatenate(errors)

    def _tally(self, number_R: NDArray[np.int64], error_R: Values) -> None:
        heard_U, place_R = np.unique(number_R, return_inverse=True)
        if len(self.register.names) > len(self._tally_S4):
            more = max(len(self.register.names), 2 * len(self._tally_S4)) - len(self._tally_S4)
            self._tally_S4 = np.pad(self._tally_S4, ((0, more), (0, 0)))
        share_R = self._follow_share(number_R, error_R)
        tally_U4 = self._tally_S4[heard_U]
        self._num_tallies += int((tally_U4[:, _ROWS] == 0.0).sum())
        tally_U4[:, _ERRORS] += np.bincount(place_R, error_R)
        tally_U4[:, _EXPECTED] += np.bincount(place_R, share_R)
        tally_U4[:, _ROWS] += np.bincount(place_R)
        tally_U4[:, :_HEARD] *= np.minimum(1.0, _MEMORY / tally_U4[:, _ROWS])[:, None]
        # Of a number that occurs again the last value stays.
        tally_U4[place_R, _HEARD] = np.arange(1, len(place_R) + 1) + self._num_heard
        self._num_heard += len(place_R)
        self._tally_S4[heard_U] = tally_U4
        self._judge(heard_U, tally_U4)
        if self._num_tallies > self.most_sources:
            self._forget()

    def _follow_share(self, number_R: NDArray[np.int64], error_R: Values) -> Values:
        """The share of errors of all that are not at odds, at the time of each row, (R,)."""
        counts_R = np.ones_like(error_R)
        if self.at_odds:
            is_held_R = np.isin(number_R, list(self.at_odds))
            counts_R[is_held_R] = 0.0
        starts = np.arange(0, len(error_R), _PIECE)
        error_P = np.add.reduceat(error_R * counts_R, starts).tolist()
        count_P = np.add.reduceat(counts_R, starts).tolist()
        errors, num = self._share
        shares = []
        for more_errors, more in zip(error_P, count_P, strict=True):
            errors, num = errors + more_errors, num + more
            if num > _MEMORY:
                errors, num = errors * _MEMORY / num, _MEMORY
            shares.append(errors / max(num, 1.0))
        self._share = [errors, num]
        return np.repeat(np.array(shares, dtype=np.float64), _PIECE)[: len(error_R)]

    def _judge(self, heard_U: NDArray[np.int64], tally_U4: Values) -> None:
        """Who of those that were heard is at odds now."""
        error_U, expected_U, num_U = (
            tally_U4[:, _ERRORS],
            tally_U4[:, _EXPECTED],
            tally_U4[:, _ROWS],
        )
        self.at_odds.difference_update(heard_U.tolist())
        is_doubtful_U = error_U > expected_U + self.margin * num_U
        for place in np.flatnonzero(is_doubtful_U).tolist():
            errors, expected, num, _ = tally_U4[place].tolist()
            if find_disagreement(errors, expected, num, self.least_heard, self.margin, self.z):
                self.at_odds.add(int(heard_U[place]))

    def _forget(self) -> None:
        """The tallies of who was not heard for longest, above the number that is kept."""
        known = np.flatnonzero(self._tally_S4[:, _ROWS])
        oldest = known[np.argsort(self._tally_S4[known, _HEARD])][: len(known) - self.most_sources]
        self._tally_S4[oldest] = 0.0
        self.at_odds.difference_update(oldest.tolist())
        self._num_tallies = len(known) - len(oldest)

    def read_tally(self, number: int) -> tuple[float, float, float]:
        """Errors of a source, those expected, and its rows; of the last 200 rows."""
        errors, expected, num, _ = self._tally_S4[number].tolist()
        return errors, expected, num

    def list_numbers(self) -> list[int]:
        """Numbers of the sources that are known here."""
        return [*np.flatnonzero(self._tally_S4[:, _ROWS]).tolist(), *self._waiting]

    def renumber(self, moved: Mapping[int, int]) -> None:
        """Give sources other numbers.

        Args:
            moved: old number -> new one, both rising.
        """
        known = [number for number in moved if number < len(self._tally_S4)]
        tally_S4 = np.zeros((len(moved), 4), dtype=np.float64)
        tally_S4[: len(known)] = self._tally_S4[known]
        self._tally_S4 = tally_S4
        self._waiting = [moved[number] for number in self._waiting]
        self.at_odds = {moved[number] for number in self.at_odds}

    def state_dict(self) -> dict[str, Any]:
        """Tallies, who is at odds, and the errors of the rows that wait, by name."""
        names = self.register.names
        known = np.flatnonzero(self._tally_S4[:, _ROWS])
        known = known[np.argsort(self._tally_S4[known, _HEARD])]
        errors: list[float] = []
        if self._answers:
            error_R = self._measure_waiting()
            self._answers = [error_R]  # need not be measured again
            errors = error_R.tolist()
        return {
            # The last heard at the end.
            "tallies": [[names[n], *self.read_tally(n)] for n in known.tolist()],
            "at_odds": sorted(names[number] for number in self.at_odds),
            "share": list(self._share),
            "residuals": list(self._residuals),
            "waiting": [names[number] for number in self._waiting],
            "waiting_errors": errors,
            "are_residuals": self._are_residuals,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; names that are new are entered in the register."""
        enter = self.register.enter
        numbers = enter(source for source, *_ in state["tallies"])
        self.at_odds = set(enter(state["at_odds"]))
        self._waiting = enter(state["waiting"])
        self._answers = []
        if self._waiting:
            self._answers = [np.array(state["waiting_errors"], dtype=np.float64)]
        self._tally_S4 = np.zeros((len(self.register.names), 4), dtype=np.float64)
        for heard, (number, tally) in enumerate(zip(numbers, state["tallies"], strict=True), 1):
            self._tally_S4[number] = [*tally[1:], heard]
        self._num_tallies = self._num_heard = len(numbers)
        self._share = list(state["share"])
        self._residuals = deque(state["residuals"], maxlen=self._residuals.maxlen)
        self._are_residuals = state["are_residuals"]


def _are_alike(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    """Whether answers can be read as one."""
    return all(
        a.shape[1:] == b.shape[1:] and a.dtype is b.dtype and a.device == b.device
        for a, b in zip(one, other, strict=True)
    )


def _measure_group(group: Sequence[tuple[Tensor, Tensor]]) -> list[Values]:
    if not group:
        return []
    outputs, targets = zip(*group, strict=True)
    errors: Values = measure_row_errors(torch.cat(outputs), torch.cat(targets)).double().numpy()
    return [errors]
