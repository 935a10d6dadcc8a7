"""Read which concept is in force in a stream, and what happened to its concepts and trees."""

from nestling.streams.experts.expert_arrays import NUM_SLOTS, TREES
from nestling.streams.experts.expert_pool import ExpertPool
from nestling.streams.stream_readings import ConceptReading, StreamEvent
from nestling.streams.trees.concept_trees import read_concepts


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
