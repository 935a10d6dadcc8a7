"""Which concept is in force in a stream, and what happened to its concepts and trees."""

from dataclasses import dataclass

from nestling.streams.experts.expert_arrays import NUM_SLOTS
from nestling.streams.experts.expert_parts import TREES
from nestling.streams.experts.expert_pool import ExpertPool
from nestling.streams.trees.concept_trees import read_concepts


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


def list_concepts(pool: ExpertPool) -> list[ConceptReading]:
    """The concepts of all levels that keep any, the most probable of each level first."""
    found: list[ConceptReading] = []
    if "concepts" in pool.names:
        part = pool.parts["concepts"]
        shares, counts = part["shares"][:NUM_SLOTS], part["counts"]
        used = int(part["state"][0])
        best = int(shares[:used].argmax()) if used else -1
        found += [
            ConceptReading(
                "concepts",
                slot,
                float(shares[slot]),
                slot == best,
                int(counts[slot, 2]),
                int(counts[slot, 1]),
            )
            for slot in range(used)
        ]
    for level in TREES[1:]:
        if level in pool.names and pool.classifies:
            rows = read_concepts(pool.parts[level])
            best = max(rows, key=lambda row: row[1])[0]
            found += [
                ConceptReading(level, tree, probability, tree == best, last)
                for tree, probability, _, last in rows
            ]
    order = {level: at for at, level in enumerate(("concepts", *TREES))}
    return sorted(found, key=lambda one: (order[one.level], -one.probability))


def take_changes(pool: ExpertPool) -> list[StreamEvent]:
    """What has happened to concepts and trees since this was asked last."""
    if not pool.changes:
        return []
    changes, pool.changes = pool.changes, []
    return [
        StreamEvent(
            level,
            "restart" if level == "tree" or not pool.classifies else "new concept",
            event,
        )
        for level, event in changes
    ]
