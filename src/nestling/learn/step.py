"""What a learner says of a step, and of an experience."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Attributes:
        loss: of this batch, before the update; NaN if there was nothing to learn from.
        num_examples: in the batch.
        refused: why the step was refused; empty if it was taken.
    """

    loss: float
    num_examples: int
    refused: str = ""


@dataclass(frozen=True)
class FitReport:
    """What one call of `fit` did.

    Attributes:
        num_examples: seen, repeats by further epochs included.
        num_steps: optimizer steps taken.
        num_refused: steps refused because something was not finite.
        loss: mean over the last epoch.
        seconds: of wall time.
    """

    num_examples: int
    num_steps: int
    num_refused: int
    loss: float
    seconds: float
