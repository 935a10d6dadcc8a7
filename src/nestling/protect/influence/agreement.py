"""How far each source contradicts the answers that stood before its rows were learned."""

import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from operator import ne
from statistics import median
from typing import Any

import torch
from torch import Tensor

from nestling.protect.influence.influence_rules import find_disagreement, measure_row_errors
from nestling.protect.influence.source_window import SourceRegister

# Rows that wait to be worked off together: what a call costs is shared by all of them.
ROWS_TOGETHER = 256
# Rows of one source, and of all, that a share of errors remembers.
_MEMORY = 200.0
# Rows that are compared with what the others did at that time.
_PIECE = 32
# A residual is wrong from this many times the median on.
_WRONG_RESIDUAL = 3.0
# Classes up to which outputs are kept as they are until they are worked off.
_MOST_CLASSES = 256


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
        # number -> [errors, errors expected, rows], who was heard last at the end.
        self._tallies: OrderedDict[int, list[float]] = OrderedDict()
        self._share = [0.0, 0.0]  # errors and rows of all that are not held
        self._residuals: deque[float] = deque(maxlen=window)
        # Of the rows that wait: numbers of their sources, and errors or, of the last, the answers.
        self._waiting: list[int] = []
        self._errors: list[float] = []
        self._outputs: list[Tensor] = []
        self._targets: list[int] = []
        self._are_residuals = False
        self._form: tuple[object, ...] = ()  # of the answers that are kept

    def note_answers(self, numbers: Sequence[int], output: Tensor, target: Tensor) -> bool:
        """Take note of answers; see `measure_row_errors`.

        Returns: whether sources were judged anew.
        """
        shape = output.shape
        form = (len(shape), shape[-1], output.dtype, output.device, target.ndim, target.dtype)
        if form != self._form:
            self._measure_errors()
            is_kept = (
                len(shape) == 2
                and target.ndim == 1
                and 1 < shape[1] <= _MOST_CLASSES
                and output.is_cpu
                and not target.is_floating_point()
            )
            if not is_kept:
                errors = measure_row_errors(output, target).tolist()
                return self.note_errors(numbers, errors, target.is_floating_point())
            self._form = form
        was_judged = self._are_residuals and self._begin(are_residuals=False)
        self._outputs.append(output.detach() if output.requires_grad else output)
        self._targets += target.tolist()
        self._waiting += numbers
        return self._end() or was_judged

    def note_errors(
        self, numbers: Sequence[int], errors: Sequence[float], are_residuals: bool
    ) -> bool:
        """Take note of errors; as `note_answers`."""
        was_judged = self._begin(are_residuals)
        self._measure_errors()
        self._errors += errors
        self._waiting += numbers
        return self._end() or was_judged

    def _begin(self, are_residuals: bool) -> bool:
        """Errors and residuals do not wait together."""
        is_other = self._are_residuals is not are_residuals and bool(self._waiting)
        if is_other:
            self._work_off()
        self._are_residuals = are_residuals
        return is_other

    def _end(self) -> bool:
        is_full = len(self._waiting) >= ROWS_TOGETHER
        if is_full:
            self._work_off()
        return is_full

    def _measure_errors(self) -> list[float]:
        """How wrong the answers to all rows that wait were."""
        if self._outputs:
            answers = torch.cat(self._outputs).argmax(dim=1).tolist()
            self._errors += map(ne, answers, self._targets)
            self._outputs, self._targets = [], []
        return self._errors

    def _work_off(self) -> None:
        """Tally all rows that wait, and judge their sources."""
        numbers, errors = self._waiting, self._measure_errors()
        self._waiting, self._errors = [], []
        if math.isnan(sum(errors)):
            known = [(n, e) for n, e in zip(numbers, errors, strict=True) if not math.isnan(e)]
            numbers, errors = [n for n, _ in known], [e for _, e in known]
        if self._are_residuals:
            self._residuals.extend(errors)
            usual = median(self._residuals) if self._residuals else math.inf
            errors = [float(error > _WRONG_RESIDUAL * usual) for error in errors]
        gathered: dict[int, list[float]] = {}
        for start in range(0, len(errors), _PIECE):
            piece, wrong = numbers[start : start + _PIECE], errors[start : start + _PIECE]
            share = self._follow_share(piece, wrong)
            for number, error in zip(piece, wrong, strict=True):
                found = gathered.get(number)
                if found is None:
                    gathered[number] = found = [0.0, 0.0, 0.0]
                found[0] += error
                found[1] += share
                found[2] += 1.0
        # Who was heard last comes last.
        for number in reversed(list(dict.fromkeys(reversed(numbers)))):
            self._add(number, gathered[number])
        while len(self._tallies) > self.most_sources:
            forgotten, _ = self._tallies.popitem(last=False)
            self.at_odds.discard(forgotten)

    def _follow_share(self, numbers: Sequence[int], errors: Sequence[float]) -> float:
        """The share of errors of all that are not at odds, with those of these rows."""
        at_odds, (wrong, num) = self.at_odds, self._share
        if at_odds and not at_odds.isdisjoint(numbers):
            errors = [e for n, e in zip(numbers, errors, strict=True) if n not in at_odds]
        wrong, num = wrong + sum(errors), num + len(errors)
        if num > _MEMORY:
            wrong, num = wrong * _MEMORY / num, _MEMORY
        self._share = [wrong, num]
        return wrong / max(num, 1.0)

    def _add(self, number: int, more: list[float]) -> None:
        """Add to the tally of a source, and judge it."""
        tally = self._tallies.pop(number, None)
        if tally is not None:
            more = [old + new for old, new in zip(tally, more, strict=True)]
        if more[2] > _MEMORY:
            more = [value * _MEMORY / more[2] for value in more]
        self._tallies[number] = more
        errors, expected, num = more
        if errors > expected and find_disagreement(
            errors, expected, num, self.least_heard, self.margin, self.z
        ):
            self.at_odds.add(number)
        else:
            self.at_odds.discard(number)

    def read_tally(self, number: int) -> list[float]:
        """Errors of a source, those expected, and its rows; of the last 200 rows."""
        return self._tallies[number]

    def list_numbers(self) -> list[int]:
        """Numbers of the sources that are known here."""
        return [*self._tallies, *self._waiting]

    def renumber(self, moved: Mapping[int, int]) -> None:
        """Give sources other numbers.

        Args:
            moved: old number -> new one.
        """
        self._tallies = OrderedDict((moved[old], tally) for old, tally in self._tallies.items())
        self._waiting = [moved[number] for number in self._waiting]
        self.at_odds = {moved[number] for number in self.at_odds}

    def state_dict(self) -> dict[str, Any]:
        """Tallies, who is at odds, and the errors of the rows that wait, by name."""
        names = self.register.names
        return {
            "tallies": [[names[number], *tally] for number, tally in self._tallies.items()],
            "at_odds": sorted(names[number] for number in self.at_odds),
            "share": list(self._share),
            "residuals": list(self._residuals),
            "waiting": [names[number] for number in self._waiting],
            "waiting_errors": [float(error) for error in self._measure_errors()],
            "are_residuals": self._are_residuals,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; names that are new are entered in the register."""
        enter = self.register.enter
        numbers = enter(source for source, *_ in state["tallies"])
        tallies = (list(tally) for _, *tally in state["tallies"])
        self._tallies = OrderedDict(zip(numbers, tallies, strict=True))
        self.at_odds = set(enter(state["at_odds"]))
        self._share = list(state["share"])
        self._residuals = deque(state["residuals"], maxlen=self._residuals.maxlen)
        self._waiting, self._errors = enter(state["waiting"]), list(state["waiting_errors"])
        self._outputs, self._targets = [], []
        self._are_residuals = state["are_residuals"]
