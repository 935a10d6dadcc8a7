"""What can be read off a level while it learns: state of its clock, cost, alarms, changes."""

from dataclasses import dataclass, field


class LevelAlarm(UserWarning):
    """A level is dead, or moves outside of its band."""


@dataclass(frozen=True)
class Alarm:
    """One alarm of one level.

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


@dataclass
class Change:
    """One turn of a knob on a live level.

    Attributes:
        level: its name.
        knobs: knob -> new value, JSON-ready.
        reason: why, in the words of whoever turned it.
        asked_at: optimizer step at which it was asked for.
        applied_at: step of the boundary at which it took effect; None while it waits.
    """

    level: str
    knobs: dict[str, object]
    reason: str
    asked_at: int
    applied_at: int | None = None


@dataclass(frozen=True)
class LevelReading:
    """How one level stands.

    Attributes:
        level: its name.
        kind: "gradient" or "copy".
        num_parameters: scalars that it owns or copies.
        share: of the model's trainable scalars, in [0, 1].
        period: optimizer steps between two updates.
        age: steps since its last boundary.
        num_steps: optimizer steps that it has seen.
        num_updates: times that its parameters changed.
        num_refused: updates that were undone because the judge refused them.
        relative_change: mean ||change|| / ||weights|| per update since the last reading.
        factor: last value of its gates, in [0, 1].
        lr: its optimizer's rate; None for a copy.
        share_backward_skipped: steps without a backward pass through it, in [0, 1].
        seconds: spent in its updates.
    """

    level: str
    kind: str
    num_parameters: int
    share: float
    period: int
    age: int
    num_steps: int
    num_updates: int
    num_refused: int = 0
    relative_change: float = 0.0
    factor: float = 1.0
    lr: float | None = None
    share_backward_skipped: float = 0.0
    seconds: float = field(default=0.0, compare=False)
