"""A person's first minute of watch-users: errors removed by the default, on both splits."""

from collections.abc import Sequence

from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.suites.personal_stream import SPLITS, PersonTrial, count_people
from nestling.bench.timing import Figures, Rows


def measure_watch(seeds: Sequence[int], place: CellFolders) -> tuple[Figures, Rows]:
    """`watch_removed_...` of each split, and `watch_lost` of the one that loses more.

    The protocol of `nestling bench watch-users`: a default learner learns nine people, 5 passes,
    then the first 60 s of the tenth. Errors removed are a share of those of the model of nine
    people, added up over people 4-10 and seeds; lost is in points of accuracy on the others.

    Args:
        seeds: draw the recordings.
        place: where the recordings lie.
    """
    figures: Figures = {}
    rows: Rows = []
    for split in SPLITS:
        trials = [PersonTrial("default", seed, split, {}) for seed in seeds]
        found = [count_people(trial, place) for trial in trials]
        total = found[0]
        for one in found[1:]:
            total += one
        figures[f"watch_removed_{split}"] = total.errors_removed
        figures["watch_lost"] = max(total.lost_on_others, figures.get("watch_lost", -100.0))
        rows += [
            {
                "split": split,
                "seed": seed,
                "errors removed": one.errors_removed,
                "lost on others": one.lost_on_others,
                "own tested": one.num_own,
                "wrong before": one.own_before,
                "wrong after": one.own_after,
            }
            for seed, one in zip(seeds, found, strict=True)
        ]
    return figures, rows
