"""Events of levels: alarms, refused updates, bounds that bit, brakes, held rows, drifts."""

from dataclasses import dataclass


class LevelAlarm(UserWarning):
    """Warning of a level that is never updated, or whose updates are too large or too small."""


@dataclass(frozen=True)
class Alarm:
    """Alarm of a level: no updates for long, or updates that are too large or too small.

    Attributes:
        level: its name.
        kind: "dead" (no update over many periods), "runaway" or "sluggish" (relative change
            per update above or below its band), "drift budget" (80 % of its bound since the last
            validation is used).
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


@dataclass(frozen=True)
class Bounded:
    """Event of a bound that bit: an update was scaled, or the weights were pulled back.

    Noted once a day for each kind; the level's budget counts all of them.

    Attributes:
        level: its name.
        kind: "per update", "per day" or "since validation".
        step: optimizer steps so far.
        message: what was done, with its figures.
    """

    level: str
    kind: str
    step: int
    message: str


@dataclass(frozen=True)
class Braked:
    """Event of a level that was put back to its last good state, and no other level.

    Attributes:
        level: its name.
        step: optimizer steps so far.
        reason: an update that exploded, or weights that were not finite.
    """

    level: str
    step: int
    reason: str


@dataclass(frozen=True)
class Held:
    """Event of rows of one source that were not learned: too many, too far, or at odds.

    Attributes:
        source: whose rows.
        rule: "rate", "norm" or "agreement".
        num_rows: that were held in this call.
        message: why, with its figures.
    """

    source: str
    rule: str
    num_rows: int
    message: str


# What happens to levels besides learning: an alarm, a refused update, a changed hyperparameter,
# a bound that bit, a brake, rows that were held, a drift.
Event = Alarm | Refusal | Change | Bounded | Braked | Held | DriftAlarm
