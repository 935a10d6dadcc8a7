"""Guard that bounds what one source of data can do to a learner.

Axis letters: N rows, D features.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.core.arguments import check_whole
from nestling.core.errors import DataError, MismatchedParameters, SettingError
from nestling.levels import Held
from nestling.protect.influence.admission import Admission, read_sources
from nestling.protect.influence.agreement import ROWS_TOGETHER, Agreement
from nestling.protect.influence.running_centre import RunningCentre, flatten_inputs
from nestling.protect.influence.source_window import NOBODY, SourceRegister, SourceWindow

_SETTINGS = ("weight", "rate", "window", "norm", "least_heard", "margin", "z", "most_sources")


class SourceGuard:
    """Bounded influence of one source: rate, norm, weight, and agreement with the answers.

    Rows are held, which means that they are not learned:

    - norm: those farther from the running robust centre than `norm` times the median distance;
    - agreement: those of a source whose labels contradict the answers that stood before far more
      than those of the others did at the same time, as flipped labels do that are of normal size;
    - rate: those that are more than `rate` of the last `window` rows that were learned.

    The first `least_heard` rows are trusted, and a source is judged by agreement from as many on.
    Errors wait until there are 256 of them, then their sources are judged all together: who is
    found at odds is held from the next call on.
    A true shift of the inputs is held, too: its events tell, and a guard made anew takes it in.

    Args:
        weight: most that a row may weigh, > 0.
        rate: share of the last rows that one source may have, in (0, 1]; twice its even share
            always, so that few sources, or some that come one after the other, are heard.
        window: rows, 2 or more.
        norm: times the median distance, > 1.
        least_heard: rows before anything is judged, 2 or more.
        margin: share of errors above that of the others that is held against a source.
        z: standard deviations that chance is granted.
        most_sources: that are remembered one by one; who was not heard for longest is forgotten.

    Raises:
        SettingError: a number that is no such number.

    >>> guard = SourceGuard(rate=0.5, window=4, least_heard=2)
    >>> found = guard.admit(torch.zeros(7, 1), list("abcdaaa"))
    >>> found.rows.tolist(), [(event.source, event.rule) for event in found.events]
    ([0, 1, 2, 3, 4, 5], [('a', 'rate')])
    """

    def __init__(
        self,
        weight: float = 1.0,
        rate: float = 0.2,
        window: int = 1000,
        norm: float = 4.0,
        least_heard: int = 50,
        margin: float = 0.2,
        z: float = 3.0,
        most_sources: int = 10_000,
    ) -> None:
        for name, value, least, most in (
            ("weight", weight, 0.0, math.inf),
            ("rate", rate, 0.0, 1.0),
            ("norm", norm, 1.0, math.inf),
            ("margin", margin, 0.0, 1.0),
            ("z", z, 0.0, math.inf),
        ):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not (least < value <= most and math.isfinite(value)):
                bound = f" and at most {most:g}" if most < math.inf else ""
                raise SettingError(f"{name}={value!r}; a number above {least:g}{bound} works")
        for name, count in (("window", window), ("least_heard", least_heard)):
            check_whole(name, count, 2, "2 or more rows work")
        check_whole("most_sources", most_sources, 1, "1 or more sources work")
        self.weight, self.rate, self.norm, self.margin, self.z = weight, rate, norm, margin, z
        self.window, self.least_heard, self.most_sources = window, least_heard, most_sources
        self._register = SourceRegister()
        self._window = SourceWindow(rate, window)
        self._centre = RunningCentre(norm, window, least_heard)
        self._agreement = Agreement(self._register, window, least_heard, margin, z, most_sources)

    def admit(
        self,
        x: Tensor | Sequence[Tensor],
        sources: str | Sequence[str],
        errors: Tensor | Sequence[float] | None = None,
        weights: Tensor | Sequence[float] | None = None,
    ) -> Admission:
        """Judge the rows of a call and take note of them; for a plain training loop.

        Args:
            x: (N, ...) inputs; floating ones are judged by their norm.
            sources: of all rows, or of each.
            errors: (N,) in [0, 1], how wrong the answers to them were before they are learned,
                such as `model(x).argmax(1) != y`.
            weights: (N,) that they would have.

        Raises:
            DataError: not as many sources as rows, one that is no text, or features of another
                width than before; nothing is changed.
        """
        found = self.judge(x, sources, weights)
        if errors is not None:
            if len(errors) != found.num_rows:
                raise DataError(
                    f"{len(errors)} errors for {found.num_rows} rows; give one for each"
                )
            if self._note_errors(self._find_numbers(found), errors, False):
                found = self.judge(x, sources, weights)
        self.note(found)
        return found

    def judge(
        self,
        x: Tensor | Sequence[Tensor],
        sources: str | Sequence[str],
        weights: Tensor | Sequence[float] | None = None,
        *,
        is_new: bool = True,
    ) -> Admission:
        """As `admit`, but nothing is noted; rows that were learned before have no rate."""
        inputs = (x,) if isinstance(x, Tensor) else x
        num_rows = len(inputs[0])
        numbers = self._register.find(sources, num_rows)
        named: str | tuple[str, ...]
        if numbers is None:
            named = tuple(read_sources(sources, num_rows))
        else:
            named = sources if isinstance(sources, str) else tuple(sources)
        x_ND = flatten_inputs(inputs)
        distances = self._centre.measure(x_ND)
        given = None
        if weights is not None:
            given = torch.as_tensor(weights, dtype=torch.float32, device="cpu")
            if len(given) != num_rows:
                raise DataError(f"{len(given)} weights for {num_rows} rows; give one for each")
        held: dict[int, str] = {}
        events: tuple[Held, ...] = ()
        if not (
            numbers
            and (not self._agreement.at_odds or self._agreement.at_odds.isdisjoint(numbers))
            and self._centre.has_none_far(distances)
            and (not is_new or self._window.has_room(numbers))
        ):
            names = [named] * num_rows if isinstance(named, str) else named
            held = self._find_held(names, distances, is_new)
            events = self._tell((names[row], rule) for row, rule in sorted(held.items()))
        edition = self._register.edition
        return Admission(
            num_rows, self.weight, given, held, events, named, numbers, edition, x_ND, distances
        )

    def _find_held(
        self, names: Sequence[str], distances: Sequence[float], is_new: bool
    ) -> dict[int, str]:
        """Row -> rule by which it is held."""
        held = dict.fromkeys(self._centre.list_far(distances), "norm")
        if self._agreement.at_odds:
            for row, source in enumerate(names):
                if self.is_at_odds(source):
                    held.setdefault(row, "agreement")
        if is_new:
            left = [row for row in range(len(names)) if row not in held]
            left_names = [names[row] for row in left]
            numbers = self._register.find(left_names, len(left))
            if numbers is None or (numbers and not self._window.has_room(numbers)):
                surplus = self._window.find_surplus(left_names, self._register.numbers)
                held |= {row: "rate" for row, is_one in zip(left, surplus, strict=True) if is_one}
        return held

    def note(self, found: Admission) -> None:
        """Take note of the rows that were learned: who they are of, and where they lie."""
        numbers = self._find_numbers(found)
        places = None
        if found.held:
            places = found.places
            numbers = [numbers[row] for row in places]
        self._window.enter(numbers)
        self._centre.note(found.x, found.distances, places)

    def _find_numbers(self, found: Admission) -> list[int]:
        """The number of the source of each row; those that are new are entered."""
        if found.numbers is None or found.edition != self._register.edition:
            found.numbers = self._enter(found.sources)
            found.edition = self._register.edition
        return found.numbers

    def _enter(self, names: Iterable[str]) -> list[int]:
        """Numbers of sources; some that nothing is known of any more are forgotten first."""
        register, agreement = self._register, self._agreement
        most = self.most_sources + 2 * (self.window + ROWS_TOGETHER)
        if len(register.names) > most:
            last = self._window.list_last()
            moved = register.keep([*last, *agreement.list_numbers()])
            agreement.renumber(moved)
            self._window.load([moved[number] for number in last], len(register.names))
        numbers = register.enter(names)
        self._window.grow(len(register.names))
        return numbers

    def note_errors(
        self,
        sources: str | Sequence[str],
        errors: Tensor | Sequence[float],
        *,
        are_residuals: bool = False,
    ) -> None:
        """Take note of how wrong the answers to rows were before those were learned.

        Args:
            sources: of all rows, or of each.
            errors: (N,) in [0, 1]; or residuals >= 0.
            are_residuals: a residual counts as wrong from 3 times the median on.
        """
        numbers = self._register.find(sources, len(errors))
        if numbers is None:
            numbers = self._enter(read_sources(sources, len(errors)))
        self._note_errors(numbers, errors, are_residuals)

    def _note_errors(
        self, numbers: Sequence[int], errors: Tensor | Sequence[float], are_residuals: bool
    ) -> bool:
        values = errors.tolist() if isinstance(errors, Tensor) else [float(e) for e in errors]
        return self._agreement.note_errors(numbers, values, are_residuals)

    def note_answers(
        self, found: Admission, output: Tensor, target: Tensor, *, are_held: bool = False
    ) -> None:
        """Take note of what was answered to the rows of a call before those were learned.

        Args:
            found: what `judge` gave.
            output: of the rows that may be learned; or of those that are held by agreement.
            target: of the same rows; see `measure_row_errors` for the forms of both.
            are_held: which of the two.

        Raises:
            DataError: not as many answers as such rows; nothing is changed.
        """
        numbers = self._find_numbers(found)
        if are_held or found.held:
            places = found.at_odds.tolist() if are_held else found.places
            numbers = [numbers[row] for row in places]
        if not output.shape[0] == target.shape[0] == len(numbers):
            raise DataError(
                f"{output.shape[0]} answers and {target.shape[0]} targets for {len(numbers)} rows; "
                "give those of the rows that may be learned, or with are_held=True of those at odds"
            )
        self._agreement.note_answers(numbers, output, target)

    def is_at_odds(self, source: str) -> bool:
        """Whether a source's rows are held because they contradict the answers."""
        return self._register.numbers.get(source) in self._agreement.at_odds

    def state_dict(self) -> dict[str, Any]:
        """All that the next judgement depends on; tensors are copies."""
        return {
            "settings": {name: getattr(self, name) for name in _SETTINGS},
            "last": [self._register.names[number] for number in self._window.list_last()],
            **self._centre.state_dict(),
            **self._agreement.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            MismatchedParameters: of a guard with other settings; nothing is changed.
        """
        if missing := sorted(self.state_dict().keys() - state.keys()):
            raise MismatchedParameters(f"the state of the source guard lacks {missing[0]!r}")
        own = {name: getattr(self, name) for name in _SETTINGS}
        if dict(state["settings"]) != own:
            raise MismatchedParameters(
                f"the state is of a SourceGuard with {state['settings']}, this one has {own}"
            )
        self._register.keep([])
        last = self._register.enter(state["last"])
        self._agreement.load_state_dict(state)
        self._window.load(last, len(self._register.names))
        self._centre.load_state_dict(state)

    def _tell(self, held: Iterable[tuple[str, str]]) -> tuple[Held, ...]:
        return tuple(
            Held(source, rule, num, f"source {source!r}: {num} rows held; {self._explain(*key)}")
            for key, num in Counter(held).items()
            for source, rule in [key]
        )

    def _explain(self, source: str, rule: str) -> str:
        if rule == "norm":
            return (
                f"farther from the centre than norm={self.norm:g} x the median distance "
                f"{self._centre.median:.3g}"
            )
        number = self._register.numbers.get(source, NOBODY)
        if rule == "rate":
            last = self._window.list_last()
            return (
                f"it has {last.count(number)} of the last {len(last)} rows learned, "
                f"rate={self.rate:g} of {self.window} and twice an even share allow no more"
            )
        errors, expected, num = self._agreement.read_tally(number)
        return (
            f"answers were wrong for {errors / num:.0%} of its last {num:.0f} rows, for "
            f"{expected / num:.0%} of the others' meanwhile (margin={self.margin:g})"
        )
