"""Part `own-levels`: persons on a shared learner, each with fast levels of her own."""

import copy
import statistics
from collections.abc import Sequence

from nestling.bench.personal.following import follow, score_given
from nestling.bench.personal.person_looks import PERSON, list_newcomers
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows
from nestling.learn import Learner


def measure_own_levels(seeds: Sequence[int], _: CellFolders) -> tuple[Figures, Rows]:
    """`learner.personal(name)` for the nine persons of `writers` and `kinds`, without old data.

    Returns: `person_own_levels` after the last look, `person_own_levels_lost` on the others in
        points under the given model, mean of all looks, and the worst; a row for each person.
    """
    rows: Rows = []
    lost: list[float] = []
    own: list[float] = []
    for seed in seeds:
        for person, model in list_newcomers(seed):
            learner = Learner(copy.deepcopy(model), pretrained=True, seed=seed).personal("her")
            found = follow(person, learner.learn, learner.predict_proba, PERSON)
            given, given_others = score_given(person, model)
            row: dict[str, object] = {"person": person.name, "seed": seed, "given": given}
            for look, mine, others in zip(PERSON.looks, found.own, found.others, strict=True):
                row |= {f"at {look}": mine, f"at {look} others": others}
                lost.append(100.0 * (given_others - others))
            own.append(found.own[-1])
            rows.append(row)
    figures = {
        "person_own_levels": statistics.mean(own),
        "person_own_levels_lost": statistics.mean(lost),
        "person_own_levels_lost_worst": max(lost),
    }
    return figures, rows
