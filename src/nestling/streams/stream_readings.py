"""What a stream learner tells of itself, as plain records: its concepts, and what happened."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ConceptReading:
    """One concept that a level keeps.

    Attributes:
        level: "concepts" (slots of a memory) or "trees".
        concept: its number in the level.
        probability: that it is in force now.
        in_force: whether it is the most probable one, which learns.
        last_in_force: label at which it learned last, counted from 0.
        num_examples: learned in it; None where it is not counted.
    """

    level: str
    concept: int
    probability: float
    in_force: bool
    last_in_force: int
    num_examples: int | None = None


@dataclass(frozen=True)
class StreamEvent:
    """Something that happened to a level of a stream learner besides learning.

    Attributes:
        level: its name.
        kind: "new concept", or "restart" of a tree whose errors rose (drift).
        event: events learned by then.
    """

    level: str
    kind: str
    event: int
