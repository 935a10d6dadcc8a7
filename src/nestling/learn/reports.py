"""What a learner says of a step and of an experience, and to whoever takes metrics by name."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from nestling.levels import Event, LevelReading


@dataclass(frozen=True)
class StepReport:
    """Result of one training step: loss, refusal, and events of the levels.

    Attributes:
        loss: of this batch, before the update; NaN if there was nothing to learn from.
        num_examples: in the batch.
        refused: why the step was refused; empty if it was taken.
        events: alarms of levels, refused updates and steps, knobs that came into force, drifts.
    """

    loss: float
    num_examples: int
    refused: str = ""
    events: tuple[Event, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class FitReport:
    """Result of one call of `fit`: examples, steps, loss, seconds and events.

    Attributes:
        num_examples: seen, repeats by further epochs included.
        num_steps: optimizer steps taken.
        num_refused: steps refused because something was not finite.
        loss: mean over the last epoch.
        seconds: of wall time.
        events: of all steps, oldest first.
    """

    num_examples: int
    num_steps: int
    num_refused: int
    loss: float
    seconds: float
    events: tuple[Event, ...] = field(default=(), compare=False)

    @classmethod
    def sum_up(cls, epochs: Sequence[Sequence[StepReport]], seconds: float) -> "FitReport":
        """All steps of all epochs as one report."""
        steps = [report for reports in epochs for report in reports]
        losses = [report.loss for report in epochs[-1] if report.num_examples]
        return cls(
            num_examples=sum(report.num_examples for report in steps),
            num_steps=sum(not report.refused for report in steps),
            num_refused=sum(bool(report.refused) for report in steps),
            loss=sum(losses) / len(losses) if losses else float("nan"),
            seconds=seconds,
            events=tuple(event for report in steps for event in report.events),
        )


@dataclass
class Counts:
    """Counters of a learner: examples, refused steps, experiences and seconds so far.

    Attributes:
        num_examples: learned, repeats by further epochs included.
        num_refused: steps that were refused.
        num_experiences: that were ended.
        seconds: spent in `learn`.
    """

    num_examples: int = 0
    num_refused: int = 0
    num_experiences: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name in asdict(self):
            setattr(self, name, state[name])


class Writer(Protocol):
    """Takes one number at a time, as `torch.utils.tensorboard.SummaryWriter` does."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Note a number under a name, after so many examples."""


def write_reading(writer: Writer, reading: LevelReading, num_examples: int) -> None:
    """A level's clock and movement, to whoever takes metrics by name."""
    for name, value in (
        ("num_updates", reading.num_updates),
        ("relative_change", reading.relative_change),
        ("gate", reading.factor),
    ):
        writer.add_scalar(f"{reading.level}/{name}", value, num_examples)
