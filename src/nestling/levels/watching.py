"""A watch for drift at work: a detector hears of errors or losses, and alarms become events."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Unpack

from torch import Tensor

from nestling.core.errors import MismatchedParameters, SettingError
from nestling.core.params import digest_tensors
from nestling.levels.control import Knobs
from nestling.levels.drift_watch import DriftWatch
from nestling.levels.events import Change, DriftAlarm, Event
from nestling.levels.level import Clock, check_kind
from nestling.levels.readings import LevelReading
from nestling.levels.spec import dump_spec, load_spec

# No detector needs to tell larger errors apart, and none takes them in.
_LARGEST = 1e100


class _Found(Protocol):
    @property
    def is_rise(self) -> bool: ...


class Detecting(Protocol):
    """What a watch asks of its detector; those of `nestling.judge` are made so."""

    num_seen: int

    def update(self, value: float) -> _Found | None:
        """Take in the next value; an alarm, or None."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next alarm depends on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; raises with nothing changed."""


class WatchLevel:
    """One watch of a learner: its detector and the alarms that counted.

    Args:
        spec: what the plan says.
        detector: of the kind and the settings that it says.
    """

    def __init__(self, spec: DriftWatch, detector: Detecting) -> None:
        self.spec = spec
        self.detector = detector
        self.num_alarms = 0
        self.events: list[Event] = []

    def hear(self, values: Iterable[float]) -> bool:
        """Take in values in order; whether an alarm that counts was among them.

        Args:
            values: >= 0; those that are not finite are left out.
        """
        num_before, side = self.num_alarms, self.spec.side
        for value in values:
            found = self.detector.update(min(value, _LARGEST)) if math.isfinite(value) else None
            if found is not None and side in ("both", "rise" if found.is_rise else "fall"):
                self.num_alarms += 1
                self.events.append(self._describe(found.is_rise))
        return self.num_alarms > num_before

    def _describe(self, is_rise: bool) -> DriftAlarm:
        spec, at = self.spec, self.detector.num_seen
        how = "rose" if is_rise else "fell"
        message = f"watch {spec.name!r}: the {spec.of} {how}, by {spec.detector} after {at} values"
        return DriftAlarm(spec.name, spec.event, at, is_rise, message)

    @property
    def clock(self) -> Clock:
        """Values that it heard; its updates are the alarms that counted."""
        unit: Any = "examples" if self.spec.of == "error" else "steps"
        return Clock(unit, num_ticks=self.detector.num_seen, num_updates=self.num_alarms)

    def read(self) -> LevelReading:
        """How it stands."""
        return LevelReading(
            level=self.spec.name,
            kind="watch",
            num_parameters=0,
            share=0.0,
            period=1,
            age=0,
            num_steps=self.detector.num_seen,
            num_updates=self.num_alarms,
        )

    def control(self, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """It has no knob: raises SettingError."""
        raise SettingError(
            f"watch {self.spec.name!r} has nothing to turn, got {', '.join(knobs) or 'none'} "
            f"({reason}); change the plan's nl.DriftWatch"
        )

    def tensors(self) -> dict[str, Tensor]:
        """It has none."""
        return {}

    def digest(self) -> str:
        """The sha256 of no tensors."""
        return digest_tensors({})

    def state_dict(self) -> dict[str, Any]:
        """Its detector's state and its count of alarms."""
        return {
            "spec": dump_spec(self.spec),
            "num_alarms": self.num_alarms,
            "detector": self.detector.state_dict(),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise what `load_state_dict` would raise; nothing is changed."""
        check_kind(state, self.spec, {"num_alarms", "detector"})
        spec = load_spec(state["spec"], self.spec)
        if spec != self.spec:
            raise MismatchedParameters(
                f"watch {self.spec.name!r} was saved as {spec}, this plan has {self.spec}; "
                "restore it with the plan it was saved with"
            )
        before = self.detector.state_dict()
        self.detector.load_state_dict(state["detector"])
        self.detector.load_state_dict(before)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the watch that was saved, in this learner or another of the same plan.

        Raises:
            MismatchedParameters: it is of another plan; nothing is changed.
        """
        self.check_state(state)
        self.detector.load_state_dict(state["detector"])
        self.num_alarms = state["num_alarms"]


def make_watches(
    specs: Iterable[DriftWatch],
    make_detector: Callable[[str, Mapping[str, object]], Detecting],
) -> dict[str, WatchLevel]:
    """The watches of a plan by name; raises SettingError if a detector cannot be made so."""
    made = {}
    for spec in specs:
        try:
            made[spec.name] = WatchLevel(spec, make_detector(spec.detector, spec.settings))
        except SettingError as error:
            raise SettingError(f"watch {spec.name!r}: {error}") from None
    return made


def find_drifts(
    watches: Iterable[WatchLevel], errors: Sequence[float], loss: float | None
) -> list[str]:
    """Let watches hear of a batch that was learned: the events that they say.

    Args:
        watches: of a learner.
        errors: of each answer to the batch, before it was learned.
        loss: of the gradient levels, before the update; None if no step was taken.
    """
    losses = [] if loss is None else [loss]
    return [
        level.spec.event
        for level in watches
        if level.hear(errors if level.spec.of == "error" else losses)
    ]
