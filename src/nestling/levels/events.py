"""Events of levels: alarms, refused updates, changed hyperparameters, drifts."""

from dataclasses import dataclass


class LevelAlarm(UserWarning):
    """Warning of a level that is never updated, or whose updates are too large or too small."""


@dataclass(frozen=True)
class Alarm:
    """Alarm of a level: no updates for long, or updates that are too large or too small.

    Attributes:
        level: its name.
        kind: "dead" (no update over many periods), "runaway" or "sluggish" (relative change
            per update above or below its band).
        step: optimizer steps so far.
        message: what happened, the value, and what would help.
    """

    level: str
    kind: str
    step: int
    message: str


@dataclass(frozen=True)
class Refusal:
    """Refused update: one that was undone, or a training step that was not taken.

    Attributes:
        level: whose update it was; None if the whole step was refused.
        step: optimizer steps so far.
        reason: who refused it, or what was not finite.
    """

    level: str | None
    step: int
    reason: str


@dataclass
class Change:
    """Record of a hyperparameter change on a live level: what, why and from when.

    Attributes:
        level: its name.
        knobs: knob -> new value, JSON-ready.
        reason: why, in the words of whoever turned it.
        asked_at: tick of the level's clock at which it was asked for.
        applied_at: tick of the boundary at which it took effect; None while it waits.
    """

    level: str
    knobs: dict[str, object]
    reason: str
    asked_at: int
    applied_at: int | None = None


@dataclass(frozen=True)
class DriftAlarm:
    """Alarm of a watch: errors or losses have changed, and an event was said.

    Attributes:
        level: name of the watch.
        event: what was said.
        at: values that the watch had heard, the last one included.
        is_rise: whether they went up: it got worse.
        message: what happened, in words.
    """

    level: str
    event: str
    at: int
    is_rise: bool
    message: str


# What happens to levels besides learning: an alarm, a refused update, a changed hyperparameter,
# a drift.
Event = Alarm | Refusal | Change | DriftAlarm
