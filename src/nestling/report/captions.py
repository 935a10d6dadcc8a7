"""Captions of plots: which seeds, how often it was measured, how to read it."""

import itertools
from collections.abc import Sequence

from nestling.report.reading import group_by_seed, read_float, read_int
from nestling.report.run_folder import Run
from nestling.report.summary import MethodDigest


def say_seeds(digests: Sequence[MethodDigest]) -> str:
    """Whether one seed is shown or a mean, and of how many."""
    counts = sorted({len(digest.seeds) for digest in digests})
    if counts == [1]:
        seeds = sorted({digest.seeds[0] for digest in digests})
        return f"One seed ({', '.join(map(str, seeds))}), no mean."
    if len(counts) == 1:
        return f"Mean of {counts[0]} seeds."
    listed = ", ".join(f"{digest.name} {len(digest.seeds)}" for digest in digests)
    return f"Mean over seeds, of which the methods have different numbers: {listed}."


def say_first_seed(digest: MethodDigest) -> str:
    """That only the first seed of a method is shown."""
    num_seeds = len(digest.seeds)
    if num_seeds == 1:
        return f"The only seed ({digest.seeds[0]})."
    return f"Only the first seed ({digest.seeds[0]}) of {num_seeds}, no mean."


def say_granularity(run: Run) -> str:
    """How many examples lie between two evaluations."""
    gaps: set[int] = set()
    for method in dict.fromkeys(str(record["method"]) for record in run.select("evaluation")):
        for records in group_by_seed(run, method).values():
            for one, other in itertools.pairwise(records):
                # Between experiences nothing is learned.
                if read_int(one["during"]) == read_int(other["during"]):
                    gaps.add(round(read_float(other["step"]) - read_float(one["step"])))
    gaps.discard(0)
    if not gaps:
        return "Measured at the ends of experiences only."
    least, most = min(gaps), max(gaps)
    every = f"{least}" if least == most else f"{least} to {most}"
    return (
        f"Measured every {every} examples (repeats counted), and at the end of each experience; "
        "what happened between two measurements is not seen."
    )
