"""What is left of a level's bounds: per update, per day, and since its last validation.

After an update the weights are projected onto a ball around where they were before it, onto one
around the validated weights, and onto one around those that the day began with. A ball is measured
only where the update could have left it (triangle inequality), so that an update well within its
bounds costs one norm.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import ClockError
from nestling.core.params import are_finite, keep_rows, sum_dtype, widen_half
from nestling.levels.bounds import ChangeBounds, measure_distance, measure_norm, pull_within
from nestling.levels.braking import NUM_RECENT, find_explosion
from nestling.levels.step_bounds import FiniteLook, Rates, measure_roughly
from nestling.levels.validation import clone_tree, place_tensors

SECONDS_PER_DAY = 86_400.0
# From this share of the bound since the last validation on, an alarm is raised.
DRIFT_ALARM = 0.8
# At most so many updates are made without a look.
MOST_FREE = 64
KINDS = ("per update", "per day", "since validation")
# A norm in float32 may be off by so much, so that what it seems to prove holds.
_ROUGH = 1.001
# What goes on by itself; what is known of norms and distances is measured anew.
_COURSE = ("seen", "day_start", "is_validated", "day_is_newer", "has_rung", "num_good")


class ChangeBudget:
    """What is left of a gradient level's bounds: anchors, days, and what was held back.

    Args:
        bounds: on its relative change; without any it only brakes.
        now: seconds since 1970 (UTC); it may not go back.
        good_every: updates after which a good state is kept anew.
        explode: relative change of one update from which the level may be braked.
    """

    def __init__(
        self,
        bounds: ChangeBounds,
        now: Callable[[], float],
        *,
        good_every: int = 100,
        explode: float = 1.0,
    ) -> None:
        self.bounds = bounds
        self.now = now
        self.good_every = good_every
        self.explode = explode
        self.seen: float | None = None  # by the clock, at the last step
        self.day_start: float | None = None
        self.day: list[Tensor] = []
        self.since: list[Tensor] = []
        self.is_validated = False
        self.day_is_newer = True  # than the validation
        self.radii = dict.fromkeys(KINDS[1:], math.inf)
        self.reach = dict.fromkeys(KINDS[1:], math.inf)  # no anchor is farther away
        self.counts = dict.fromkeys(KINDS, 0)
        self.told: list[str] = []  # kinds that were noted today
        self.recent: deque[float] = deque(maxlen=NUM_RECENT)
        self.has_rung = False
        self.num_good = 0  # updates since a good state was kept
        self.good: dict[str, Any] = {}
        self.came_with_state = False  # and was not asked for here
        self.moving: list[int] | None = None  # places of parameters that are not held; None: all
        self.notes: list[tuple[str, str]] = []  # (kind, what was held back)
        self._time = -math.inf
        self.size, self.slack = 0.0, math.inf  # ||weights|| as measured, moved since at most
        self._certain: tuple[float, float] | None = None  # the update at most
        self._flat: Tensor | None = None
        self._size = torch.zeros((), dtype=torch.float32, device="cpu")  # squared, before
        self._views: list[Tensor] = []
        self._versions: list[int] | None = []  # None: moved by updates that needed no look
        self.look = FiniteLook()
        self.num_free, self._fixed = 0, 0.0  # updates that need no look, and their norm at most
        self._rates: Rates | None = None
        self._next_rates: Rates | None = None

    def check_clock(self, level: str) -> None:
        """Read the clock for a step; ClockError, with nothing changed, if it went back."""
        time = float(self.now())
        if not math.isfinite(time) or (self.seen is not None and time < self.seen):
            raise ClockError(
                f"the clock of level {level!r} says {time:.17g} after it said {self.seen}; its "
                "bounds count by it, so set it right, or bind the level with now=time.time"
            )
        self._time = time

    def note_time(self) -> None:
        """A step is taken: the clock may not go back behind it."""
        self.seen = self._time

    def validate(self, anchor: Sequence[Tensor]) -> None:
        """Count the change since the last validation from these weights on."""
        self.day_is_newer = self.has_rung = False
        self.attach(anchor)

    def attach(self, anchor: Sequence[Tensor]) -> None:
        """As `validate`, of a validation that had been heard of."""
        self.is_validated = True
        self._count_from(anchor)

    def _count_from(self, anchor: Sequence[Tensor]) -> None:
        """Only where that change is bounded, are they kept."""
        bound = self.bounds.since_validation
        self.since = [] if bound is None else list(anchor)
        self._measure_radii()

    def take_over(self, old: "ChangeBudget", params: Sequence[Tensor]) -> None:
        """Go on with what another budget of the same level has counted, under new bounds."""
        for name in (*_COURSE, "day", "since", "counts", "told", "recent", "good", "moving"):
            setattr(self, name, getattr(old, name))
        if self.bounds.per_day is not None and not self.day:
            self.day_start = None  # the day begins with the next update
        if not self.since:
            self._count_from([param.detach().clone() for param in params])
        self._measure_radii()

    def restart(self, params: Sequence[Tensor]) -> None:
        """The weights were put in from elsewhere: the day begins anew with them."""
        self.day_start, self.day, self.told = None, [], []
        self.recent.clear()
        self.good = {}
        if not self.is_validated:
            self._count_from([param.detach().clone() for param in params])
        self.forget()

    def begin(
        self, params: Sequence[Tensor], most: tuple[float, float], rates: Rates | None
    ) -> None:
        """Before an update: note where the weights are, and whether a day begins.

        Args:
            params: all of the level, any shapes.
            most: a and b with ||update|| <= a + b ||weights||, see `bound_step`.
            rates: that these depend on; None if on the gradients, too.
        """
        self._next_rates = rates
        versions = [param._version for param in params]
        if self._versions is not None and self._versions != versions:  # moved from outside
            self.forget()
        if self.day_start is None or self._time >= self.day_start + SECONDS_PER_DAY:
            self.day_start, self.told, self.day_is_newer = self._time, [], True
            if self.bounds.per_day is not None:
                self.day = [param.detach().clone() for param in params]
            self._measure_radii()
        self._certain = self._bound_change(params, most)
        if self._certain is not None:
            return
        moving = self._pick(params)
        torch._foreach_copy_(self._make_views(moving), moving)
        assert self._flat is not None
        self._size = torch.dot(self._flat, self._flat)  # not waited for

    def is_free(self, rates: Rates | None) -> bool:
        """Whether the next update needs no look, since so many of its size are within all bounds.

        Args:
            rates: of the optimizer; its gradients are finite.
        """
        is_new_day = self.day_start is None or self._time >= self.day_start + SECONDS_PER_DAY
        if not self.num_free or rates is None or rates != self._rates or is_new_day:
            self.num_free = 0
            return False
        self.num_free -= 1
        self.recent.append(self._fixed)
        self.num_good += 1
        self._versions = None
        return True

    def _find_free(self, fixed: float, total: float, rates: Rates | None) -> None:
        """Count updates like the last one that are within all bounds, and take them as made."""
        self.num_free, self._rates, self._fixed = 0, rates, fixed
        if rates is None or total <= 0.0:
            return
        bound = min(self.bounds.per_update or math.inf, self.explode)
        # total <= bound (size - slack) must hold before each of them.
        room = [(self.size / _ROUGH - self.slack - total / bound) / total]
        for kind, anchor in (("per day", self.day), ("since validation", self.since)):
            if anchor:
                room.append((self._find_threshold(kind) - self.reach[kind]) / total)
        num = min([*room, MOST_FREE])
        if num >= 1.0:
            self.num_free = int(num)
            ahead = self.num_free * total
            self.slack += ahead
            for kind in self.reach:
                self.reach[kind] += ahead

    def _bound_change(
        self, params: Sequence[Tensor], most: tuple[float, float]
    ) -> tuple[float, float] | None:
        """The norm of the update at most, without and with decay, if its own bound allows it."""
        fixed, share = (value * _ROUGH for value in most)
        if not math.isfinite(fixed + share):
            return None
        bound = min(self.bounds.per_update or math.inf, self.explode)
        for is_fresh in (False, True):
            if is_fresh:
                self.size, self.slack = measure_roughly([p.detach() for p in params]), 0.0
            total = fixed + share * (self.size + self.slack) * _ROUGH
            if total <= bound * (self.size / _ROUGH - self.slack):
                return fixed, total
            if self.slack == 0.0:
                return None
        return None

    def _find_threshold(self, kind: str) -> float:
        """The distance from an anchor from which on it is measured."""
        watches = kind == "since validation" and not self.has_rung
        return self.radii[kind] * (DRIFT_ALARM if watches else 1.0)

    def finish(self, params: Sequence[Tensor]) -> str:
        """After an update: hold the bounds; what bit is in `notes`.

        Args:
            params: as for `begin`.

        Returns: why the level has to be braked; empty if it need not be.
        """
        moving = self._pick(params)
        if self._certain is not None:
            fixed, total = self._certain
            self.recent.append(fixed)
            self.slack += total
            self._hold_both(params, moving, total)
            self._find_free(fixed, total, self._next_rates)
            return ""
        views = self._make_views(moving)
        assert self._flat is not None
        torch._foreach_sub_(views, moving)  # before - after
        squares = torch.stack([torch.dot(self._flat, self._flat), self._size]).tolist()
        moved, least = math.sqrt(squares[0]), math.sqrt(squares[1])  # held weights come on top
        if not math.isfinite(moved):
            if not are_finite(moving):
                return "its weights were not finite after the update"
            moved = measure_norm(views)
        bound, size = self.bounds.per_update or math.inf, 0.0
        if moved * _ROUGH > min(bound, self.explode) * least:  # look closely
            before = torch._foreach_add(views, [widen_half(p.detach()) for p in moving])
            rest = measure_norm(params) ** 2 - measure_norm(moving) ** 2  # of those that are held
            size = math.sqrt(measure_norm(before) ** 2 + max(rest, 0.0))
            change = moved / size if size > 0.0 else math.inf
            if reason := find_explosion(change, moved, self.recent, self.explode):
                return reason
        self.recent.append(moved)
        self.size, self.slack = least, moved * _ROUGH
        if size > 0.0 and moved * _ROUGH > bound * size:
            earlier = [b.to(p.dtype) for b, p in zip(before, moving, strict=True)]
            left, is_pulled = pull_within(moving, earlier, bound * size)
            if is_pulled:
                self.note("per update", f"an update of {moved / size:.3g} was scaled to {bound:g}")
                moved = left
        self._hold_both(params, moving, moved * _ROUGH)
        return ""

    def _hold_both(self, params: Sequence[Tensor], moving: list[Tensor], moved: float) -> None:
        kinds = ("since validation", "per day")
        # The later anchor lies in the ball of the earlier one; pulled to it last, both hold.
        for kind in kinds if self.day_is_newer else reversed(kinds):
            self._hold(kind, moving, moved)
        self._versions = [param._version for param in params]
        self.num_good += 1

    def _hold(self, kind: str, moving: Sequence[Tensor], moved: float) -> None:
        anchor = self._pick(self.day if kind == "per day" else self.since)
        if not anchor:
            return
        radius, watches = self.radii[kind], kind == "since validation" and not self.has_rung
        self.reach[kind] += moved
        if self.reach[kind] <= self._find_threshold(kind):
            return
        views = self._make_views(moving)  # a rough look first
        torch._foreach_copy_(views, list(moving))
        torch._foreach_sub_(views, anchor)
        assert self._flat is not None
        self.reach[kind] = math.sqrt(float(torch.dot(self._flat, self._flat))) * _ROUGH
        if self.reach[kind] <= self._find_threshold(kind):
            return
        bound = self.bounds.per_day if kind == "per day" else self.bounds.since_validation
        assert bound is not None
        self.reach[kind], is_pulled = pull_within(moving, anchor, radius)
        if is_pulled:
            self.slack = math.inf
            self.note(kind, f"it was pulled back to a relative change of {bound:g}")
        if watches and self.reach[kind] >= DRIFT_ALARM * radius:
            self.has_rung = True
            share = self.reach[kind] / radius if radius else 1.0
            self.notes.append(
                (
                    "drift budget",
                    f"has used {share:.0%} of its bound {bound:g} since the last validation; "
                    "look at it and call mark_validated(by=...), or lower its lr",
                )
            )

    def measure_last(self, params: Sequence[Tensor]) -> float | None:
        """Relative change of the last update; None before the first."""
        size = measure_norm(params)
        return self.recent[-1] / size if self.recent and size > 0.0 else None

    def measure_day(self, params: Sequence[Tensor]) -> float | None:
        """Relative change since the day began; None where it is not bounded, or began with none."""
        size = measure_norm(self.day)
        return measure_distance(params, self.day) / size if size > 0.0 else None

    def note(self, kind: str, text: str) -> None:
        """Count a bound that bit; it is told once a day."""
        self.counts[kind] += 1
        if kind not in self.told:
            self.told.append(kind)
            self.notes.append((kind, text))

    def _measure_radii(self) -> None:
        self.num_free = 0
        for kind, anchor, bound in (
            ("per day", self.day, self.bounds.per_day),
            ("since validation", self.since, self.bounds.since_validation),
        ):
            self.reach[kind] = math.inf
            self.radii[kind] = math.inf if bound is None else bound * measure_norm(anchor)

    def forget(self) -> None:
        """What was known of distances holds no more."""
        self._versions, self.slack = [], math.inf
        self._measure_radii()

    def _pick(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Those of the parameters that move."""
        if self.moving is None or not values:
            return list(values)
        return [values[index] for index in self.moving]

    def _make_views(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Room for one copy of the weights, in one piece: a norm of it is one call."""
        if [view.shape for view in self._views] != [param.shape for param in params]:
            dtype = torch.float32
            for param in params:
                dtype = torch.promote_types(dtype, sum_dtype(param.dtype))
            sizes = [param.numel() for param in params]
            device = params[0].device
            self._flat = torch.zeros(sum(sizes), dtype=dtype, device=device)
            pieces = self._flat.split(sizes)
            self._views = [v.view(p.shape) for v, p in zip(pieces, params, strict=True)]
        return self._views

    def swap(self, index: int, param: Tensor) -> None:
        """Follow a parameter that got other rows; new ones have not moved."""
        for anchor in (self.day, self.since):
            if anchor:
                anchor[index] = keep_rows(anchor[index], param)
        self.forget()

    def state_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """What the next update depends on; `names` are those of the parameters.

        Validated weights are kept by whoever keeps those of all levels.
        """
        since = [] if self.is_validated else self.since
        return {
            "bounds": asdict(self.bounds),
            "good_every": self.good_every,
            "explode": self.explode,
            "course": {name: getattr(self, name) for name in _COURSE},
            "counts": dict(self.counts),
            "told": list(self.told),
            "recent": list(self.recent),
            "day": {n: v.clone() for n, v in zip(names, self.day, strict=False)},
            "since": {n: v.clone() for n, v in zip(names, since, strict=False)},
            "good": clone_tree(self.good),
        }

    def load_state_dict(
        self, state: Mapping[str, Any], names: Sequence[str], params: Sequence[Tensor]
    ) -> None:
        """Take over what `state_dict` gave, but for bounds and clock, each anchor beside its
        parameter; a later validation still counts."""
        was_validated = self.is_validated
        for name in _COURSE:
            setattr(self, name, state["course"][name])
        self.counts, self.told = dict(state["counts"]), list(state["told"])
        self.recent = deque(state["recent"], maxlen=NUM_RECENT)
        self.good = clone_tree(state["good"])
        self.day = place_tensors(state["day"], names, params)
        if was_validated:
            self.is_validated = True
        elif state["since"]:
            self.since = place_tensors(state["since"], names, params)
        if self.bounds.per_day is not None and not self.day:
            self.day_start = None
        self.forget()
