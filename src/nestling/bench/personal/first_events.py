"""The first events of a person: does the learner ever know less than the model it was given?"""

from collections.abc import Iterator, Sequence

from torch import nn

from nestling.bench.personal.following import Stream, describe_looks, follow_learner, score_given
from nestling.bench.personal.given_models import give, make_convnet, make_plain, train
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows
from nestling.data import sources
from nestling.data.groups.census_groups import make_groups, read_adult
from nestling.data.persons import KINDS, Person, make_kinds, make_writers

EVENTS = Stream(1, (0, 1, 5, 20, 50, 100, 300))
CONV_EPOCHS, MLP_EPOCHS, TABLE_EPOCHS = 15, 40, 10
MLP_SIZES, TABLE_HIDDEN = (64, 128, 64, 10), (64, 32)

Case = tuple[str, Person, nn.Module]


def measure_first_events(seeds: Sequence[int], place: CellFolders) -> tuple[Figures, Rows]:
    """`first_events_worst`: points that any look lies under the given model, at the most.

    Six writers come to a conv net of digits, three kinds of person to an MLP of digits, and two
    groups of people to an MLP of census rows (numbers with mean 0 and deviation 1, words
    one-hot). No old data is at hand. Events come one by one; it is looked after 0, 1, 5, 20, 50,
    100 and 300, on further examples of the person and on others.

    Args:
        seeds: of data, weights and orders.
        place: where the census lies.

    Returns: the figure, `first_events_worst_digits` of both networks of digits and
        `first_events_worst_census`, with a row per person and seed.
    """
    (path,) = sources.obtain("adult", place.data, offline=place.offline)
    table = read_adult(path)
    rows: Rows = []
    for seed in seeds:
        for cases in (list_digits(seed), list_census(make_groups(table, seed), seed)):
            rows += [measure_case(case, seed) for case in cases]
    return build_first_figures(rows), rows


def list_digits(seed: int) -> Iterator[Case]:
    """Writers with the conv net of the other writers, kinds with the MLP of plain digits."""
    model: nn.Module | None = None
    for person in make_writers(seed):
        model = model or train(make_convnet(seed), person.trained, seed, CONV_EPOCHS)
        yield "digits, conv net", person, model
    model = None
    for person in make_kinds(seed, KINDS):
        model = model or train(make_plain(MLP_SIZES, seed), person.trained, seed, MLP_EPOCHS)
        yield "digits, MLP", person, model


def list_census(groups: Iterator[Person], seed: int) -> Iterator[Case]:
    """Groups of people, each with a model of everybody else."""
    for person in groups:
        sizes = (person.trained[0].shape[1], *TABLE_HIDDEN, 2)
        yield (
            "census, MLP",
            person,
            train(make_plain(sizes, seed), person.trained, seed, TABLE_EPOCHS),
        )


def measure_case(case: Case, seed: int) -> dict[str, object]:
    """One row: accuracies at every look, and the most that one lies under the given model's."""
    name, person, model = case
    found = follow_learner(person, give(model, seed), EVENTS, seed)
    # Of the plain model: at 0 events the learner must not be under it either.
    given = score_given(person, model)
    falls = [given[0] - one for one in found.own] + [given[1] - one for one in found.others]
    return {
        "case": name,
        "person": person.name,
        "seed": seed,
        "given": given[0],
        "given others": given[1],
        **describe_looks(EVENTS, found),
        "worst": 100.0 * max(falls),
    }


def build_first_figures(rows: Rows) -> Figures:
    """The figures of `measure_first_events` from its rows."""
    worst = {str(row["case"]): [0.0] for row in rows}
    for row in rows:
        worst[str(row["case"])].append(float(str(row["worst"])))
    figures: Figures = {"first_events_worst": max(max(found) for found in worst.values())}
    for kind in ("digits", "census"):
        found = [one for case, values in worst.items() if case.startswith(kind) for one in values]
        figures[f"first_events_worst_{kind}"] = max(found, default=0.0)
    return figures
