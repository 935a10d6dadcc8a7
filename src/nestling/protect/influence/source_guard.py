"""Guard that bounds what one source of data can do to a learner.

Axis letters: N rows, D features.
"""

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from nestling.core.arguments import check_whole
from nestling.core.errors import DataError, MismatchedParameters, SettingError
from nestling.levels import Held
from nestling.protect.influence.admission import Admission, read_sources
from nestling.protect.influence.influence_rules import (
    find_disagreement,
    find_far_rows,
    find_surplus,
    measure_distances,
    move_centre,
)

# Rows of one source, and of all, that a share of errors remembers.
_MEMORY = 200.0
# Once a window is full, the centre is moved by the rows of every fourth call only.
_CALLS_PER_LOOK = 4
# A residual is wrong from this many times the median on.
_WRONG_RESIDUAL = 3.0
_SETTINGS = ("weight", "rate", "window", "norm", "least_heard", "margin", "z", "most_sources")


class SourceGuard:
    """Bounded influence of one source: rate, norm, weight, and agreement with the answers.

    Rows are held, which means that they are not learned:

    - norm: those farther from the running robust centre than `norm` times the median distance;
    - agreement: those of a source whose labels contradict the answers that stood before far more
      than those of the others did at the same time, as flipped labels do that are of normal size;
    - rate: those that are more than `rate` of the last `window` rows that were learned.

    The first `least_heard` rows are trusted, and a source is judged by agreement from as many on.
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
        self._last: deque[str] = deque(maxlen=window)  # sources of the rows learned last
        self._counts: Counter[str] = Counter()
        self._centre: Tensor | None = None  # (D,)
        # Distances of the rows learned last, in a ring, and their median.
        self._distances_W = torch.zeros(window, dtype=torch.float32, device="cpu")
        self._median = 0.0
        self._num_heard = self._num_calls = 0
        # source -> [errors, errors expected, rows], who was heard last at the end.
        self._tallies: OrderedDict[str, list[float]] = OrderedDict()
        self._share = [0.0, 0.0]  # errors and rows of all that are not held
        self._residuals: deque[float] = deque(maxlen=window)
        self._at_odds: set[str] = set()

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
        names = read_sources(sources, len(x if isinstance(x, Tensor) else x[0]))
        if errors is not None and len(errors) != len(names):
            raise DataError(f"{len(errors)} errors for {len(names)} rows; give one for each")
        found = self.judge(x, names, weights)
        if errors is not None:
            self.note_errors(names, errors)
            found = self.judge(x, names, weights)
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
        inputs = [x] if isinstance(x, Tensor) else list(x)
        names = read_sources(sources, len(inputs[0]))
        x_ND = _flatten(inputs)
        held: dict[int, str] = {}
        distance_N = None
        if x_ND is not None and self._centre is not None:
            if x_ND.shape[1] != len(self._centre):
                raise DataError(
                    f"rows of {x_ND.shape[1]} features where those before had {len(self._centre)}; "
                    "make a SourceGuard of their own for them"
                )
            distance_N = measure_distances(x_ND, self._centre)
            if self._num_heard >= self.least_heard:
                far = find_far_rows(distance_N, self._median, self.norm)
                held |= {row: "norm" for row, is_far in enumerate(far) if is_far}
        for row, source in enumerate(names if self._at_odds else ()):
            if source in self._at_odds:
                held.setdefault(row, "agreement")
        if is_new:
            left = [row for row in range(len(names)) if row not in held]
            left_names = [names[row] for row in left] if held else names
            surplus = find_surplus(left_names, self._last, self._counts, self.rate, self.window)
            if any(surplus):
                held |= {row: "rate" for row, is_one in zip(left, surplus, strict=True) if is_one}
        rows = _list_rows(row for row in range(len(names)) if row not in held)
        at_odds = _list_rows(row for row, rule in held.items() if rule == "agreement")
        weights_N = torch.ones(len(names), dtype=torch.float32, device="cpu")
        if weights is not None:
            weights_N = torch.as_tensor(weights, dtype=torch.float32, device="cpu")
        kept = (weights_N[rows] if held else weights_N).clamp(max=self.weight)
        events = self._tell((names[row], rule) for row, rule in sorted(held.items()))
        return Admission(rows, kept, events, at_odds, tuple(names), x_ND, distance_N)

    def note(self, found: Admission) -> None:
        """Take note of the rows that were learned: who they are of, and where they lie."""
        last, counts = self._last, self._counts
        for row in found.rows.tolist():
            if len(last) == self.window:
                oldest = last.popleft()
                counts[oldest] -= 1
                if not counts[oldest]:
                    del counts[oldest]
            source = found.sources[row]
            last.append(source)
            counts[source] = counts.get(source, 0) + 1
        num_rows = len(found.rows)
        self._num_calls += 1
        is_due = self._num_heard < self.window or self._num_calls % _CALLS_PER_LOOK == 0
        if found.x is None or not num_rows or not is_due:
            return
        is_whole = num_rows == len(found.x)
        x_KD = found.x if is_whole else found.x[found.rows]
        if self._centre is None or found.distances is None:
            self._centre = x_KD.median(dim=0).values
            distance_K = measure_distances(x_KD, self._centre)
        else:
            distance_K = found.distances if is_whole else found.distances[found.rows]
        usual = self._median
        self._remember_distances(distance_K)
        rate = max(num_rows / self._num_heard, min(1.0, num_rows / self.window))
        self._centre = move_centre(self._centre, x_KD, distance_K, usual, rate)

    def _remember_distances(self, distance_K: Tensor) -> None:
        start = self._num_heard % self.window
        if start + len(distance_K) <= self.window:
            self._distances_W[start : start + len(distance_K)] = distance_K
        else:
            latest = distance_K[-self.window :]
            first = self._num_heard + len(distance_K) - len(latest)
            places = torch.arange(len(latest), device="cpu") + first
            self._distances_W[places % self.window] = latest
        self._num_heard += len(distance_K)
        self._find_median()

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
        values = errors.tolist() if isinstance(errors, Tensor) else [float(e) for e in errors]
        names = read_sources(sources, len(values))
        if are_residuals:
            usual = median(self._residuals) if self._residuals else math.inf
            self._residuals.extend(values)
            values = [float(value > _WRONG_RESIDUAL * usual) for value in values]
        share = self._share[0] / self._share[1] if self._share[1] else None
        tallies, at_odds, known = self._tallies, self._at_odds, self._share
        for source, error in zip(names, values, strict=True):
            if not error <= math.inf:
                continue
            if source not in at_odds:
                known[0] += error
                known[1] += 1.0
            if share is None:
                continue  # nobody to be compared with yet
            tally = tallies.get(source)
            if tally is None:
                tallies[source] = tally = [0.0, 0.0, 0.0]
            tally[0] += error
            tally[1] += share
            tally[2] += 1.0
            if tally[2] > _MEMORY:
                tally[:] = [value * _MEMORY / tally[2] for value in tally]
            tallies.move_to_end(source)
        if self._share[1] > _MEMORY:
            self._share = [value * _MEMORY / self._share[1] for value in self._share]
        while len(self._tallies) > self.most_sources:
            forgotten, _ = self._tallies.popitem(last=False)
            self._at_odds.discard(forgotten)
        for source in set(names):
            self._judge_source(source)

    def _judge_source(self, source: str) -> None:
        """By what is known of its errors now."""
        errors, expected, num = self._tallies.get(source, (0.0, 0.0, 0.0))
        if errors <= expected:
            self._at_odds.discard(source)
        elif find_disagreement(errors, expected, num, self.least_heard, self.margin, self.z):
            self._at_odds.add(source)
        else:
            self._at_odds.discard(source)

    def is_at_odds(self, source: str) -> bool:
        """Whether a source's rows are held because they contradict the answers."""
        return source in self._at_odds

    def state_dict(self) -> dict[str, Any]:
        """All that the next judgement depends on; tensors are copies."""
        return {
            "settings": {name: getattr(self, name) for name in _SETTINGS},
            "last": list(self._last),
            "centre": [] if self._centre is None else [self._centre.clone()],
            "distances": self._distances_W[: self._num_heard].clone(),
            "num_heard": self._num_heard,
            "num_calls": self._num_calls,
            "tallies": [[source, *values] for source, values in self._tallies.items()],
            "share": list(self._share),
            "residuals": list(self._residuals),
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
        self._last = deque(state["last"], maxlen=self.window)
        self._counts = Counter(self._last)
        self._centre = state["centre"][0].clone() if state["centre"] else None
        self._num_heard, self._num_calls = state["num_heard"], state["num_calls"]
        self._distances_W[: self._num_heard] = state["distances"]
        self._find_median()
        self._tallies = OrderedDict((source, list(rest)) for source, *rest in state["tallies"])
        self._share = list(state["share"])
        self._residuals = deque(state["residuals"], maxlen=self.window)
        self._at_odds.clear()
        for source in self._tallies:
            self._judge_source(source)

    def _find_median(self) -> None:
        """Of the distances of rows that were learned; 0 before the first."""
        known = self._distances_W[: self._num_heard]
        self._median = float(known.median()) if self._num_heard else 0.0

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
                f"{self._median:.3g}"
            )
        if rule == "rate":
            return (
                f"it has {self._counts[source]} of the last {len(self._last)} rows learned, "
                f"rate={self.rate:g} of {self.window} and twice an even share allow no more"
            )
        errors, expected, num = self._tallies[source]
        return (
            f"answers were wrong for {errors / num:.0%} of its last {num:.0f} rows, for "
            f"{expected / num:.0%} of the others' meanwhile (margin={self.margin:g})"
        )


def _list_rows(rows: Iterable[int]) -> Tensor:
    return torch.tensor(list(rows), dtype=torch.int64, device="cpu")


def _flatten(inputs: Sequence[Tensor]) -> Tensor | None:
    """Floating inputs as rows (N, D) on the CPU; None if there are none."""
    rows = [
        one.detach().reshape(len(one), -1).to("cpu", torch.float32)
        for one in inputs
        if one.is_floating_point() and one.ndim and one.numel()
    ]
    if not rows:
        return None
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
