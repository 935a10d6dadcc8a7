"""A person against fine-tuning with hindsight, where old data were learned before and where not."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import nn

from nestling.bench.personal.first_events import CONV_EPOCHS, MLP_EPOCHS, MLP_SIZES
from nestling.bench.personal.following import (
    Stream,
    describe_looks,
    follow_learner,
    score_given,
    tune_in_hindsight,
)
from nestling.bench.personal.given_models import give, make_convnet, make_plain, train
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows
from nestling.data.persons import KINDS, Person, Style, make_kinds, make_writers
from nestling.data.suites.grey_images import read_mnist
from nestling.data.suites.shifts import make_shifts
from nestling.data.suites.suite import Request
from nestling.learn.default import drop_early, make_default_plan

PERSON = Stream(5, (50, 100, 300))
SHIFT = Stream(10, (50, 100, 300, 600))
SHIFT_SIZES, SHIFT_EPOCHS = (196, 128, 128, 10), 8
# Of the base of the shifts: Adam at 1e-3 in batches of 10, as the suites' streams are.
SHIFT_BATCH = 10


def measure_writers(seeds: Sequence[int], _: CellFolders) -> tuple[Figures, Rows]:
    """Six writers who come to a conv net of digits, each with old data learned before and not.

    See `build_person_figures` for what the rows say together.
    """
    rows: Rows = []
    for seed in seeds:
        rows += compare_all(make_writers(seed), _train_convnet, PERSON, seed)
    return {}, rows


def measure_kinds(
    kinds: Mapping[str, Style], seeds: Sequence[int], _: CellFolders
) -> tuple[Figures, Rows]:
    """The same of other kinds of person, who come to an MLP of digits."""
    rows: Rows = []
    for seed in seeds:
        rows += compare_all(make_kinds(seed, kinds), _train_mlp, PERSON, seed)
    return {}, rows


def measure_shifts(seeds: Sequence[int], place: CellFolders) -> tuple[Figures, Rows]:
    """The same of three shifts of MNIST: the protocol `person`.

    A base 196-128-128-10 is trained 8 epochs on 5,000 digits (Adam at 1e-3, batches of 10); then
    600 examples of the stream come once, in batches of 10.
    """
    split = read_mnist(Request(0, "test", place.data, place.offline))
    rows: Rows = []
    for seed in seeds:
        rows += compare_all(make_shifts(split, seed), _train_base, SHIFT, seed)
    return {}, rows


def list_newcomers(seed: int) -> Iterator[tuple[Person, nn.Module]]:
    """The persons of `writers` and `kinds`, each with the model that was trained on others."""
    for persons, make_model in (
        (make_writers(seed), _train_convnet),
        (make_kinds(seed, KINDS), _train_mlp),
    ):
        model: nn.Module | None = None
        for person in persons:
            model = model or make_model(person, seed)
            yield person, model


def compare_all(
    persons: Iterator[Person], make: Callable[[Person, int], nn.Module], stream: Stream, seed: int
) -> Rows:
    """Two rows per person: with old data learned before, and without.

    Args:
        persons: with the same old data.
        make: trains the model that all of them come to.
        stream: batches and looks.
        seed: of weights and orders.
    """
    rows: Rows = []
    model: nn.Module | None = None
    for person in persons:
        if model is None:
            model = make(person, seed)
            informed = give(model, seed, old=person.trained)
        given, given_others = score_given(person, model)
        tuned = tune_in_hindsight(person, model, stream, seed)
        last_only = Stream(stream.batch_size, stream.looks[-1:])
        plan = drop_early(make_default_plan(model, pretrained=True, replay=0))
        narrow = follow_learner(person, give(model, seed, plan=plan), last_only, seed)
        for has_old in (True, False):
            learner = informed.copy() if has_old else give(model, seed)
            found = follow_learner(person, learner, stream, seed)
            row = {
                "person": person.name,
                "seed": seed,
                "old": has_old,
                "given": given,
                "given others": given_others,
                **describe_looks(stream, found, tuned),
            }
            rows.append(row if has_old else row | {"last only": narrow.own[-1]})
    return rows


def build_person_figures(rows: Rows, looks: Sequence[int], prefix: str) -> Figures:
    """What the rows of `compare_all` say together; nothing without rows.

    Args:
        rows: of any persons and seeds.
        looks: that they hold.
        prefix: of the figures' names.

    Returns: over all looks, persons and seeds, in points but for accuracies: `_accuracy` on the
        person at the last look; `_over_finetune`, how far that is above the best of fine-tuning,
        mean; `_over_finetune_least`, of the person and look where its mean over seeds is least;
        `_lost` on the others under the given model, mean; `_lost_worst`, of any person, look and
        seed; each also with `_old`, of learners that had learned old data, and `_new`. Besides,
        `_finetune_lost` at the last look, and `_last_only_accuracy` of a memory that reads no
        early activation (without old data).
    """
    figures: Figures = {}
    if not rows:
        return figures
    chosen = {"": rows}
    chosen["_old"] = [row for row in rows if row["old"]]
    chosen["_new"] = [row for row in rows if not row["old"]]
    for suffix, some in chosen.items():
        over: dict[tuple[str, int, bool], list[float]] = defaultdict(list)
        lost: list[float] = []
        for row in some:
            for look in looks:
                key = (str(row["person"]), look, bool(row["old"]))
                over[key].append(_subtract(row, f"at {look}", f"finetune {look}"))
                lost.append(_subtract(row, "given others", f"at {look} others"))
        figures |= {
            f"{prefix}_accuracy{suffix}": statistics.mean(
                _read(row, f"at {looks[-1]}") for row in some
            ),
            f"{prefix}_over_finetune{suffix}": statistics.mean(
                one for found in over.values() for one in found
            ),
            f"{prefix}_over_finetune_least{suffix}": min(map(statistics.mean, over.values())),
            f"{prefix}_lost{suffix}": statistics.mean(lost),
            f"{prefix}_lost_worst{suffix}": max(lost),
        }
    last = looks[-1]
    figures[f"{prefix}_finetune_lost"] = statistics.mean(
        _subtract(row, "given others", f"finetune {last} others") for row in rows
    )
    figures[f"{prefix}_last_only_accuracy"] = statistics.mean(
        _read(row, "last only") for row in chosen["_new"]
    )
    return figures


def _subtract(row: Mapping[str, object], name: str, other: str) -> float:
    return 100.0 * (_read(row, name) - _read(row, other))


def _read(row: Mapping[str, object], name: str) -> float:
    return float(str(row[name]))


def _train_convnet(person: Person, seed: int) -> nn.Module:
    return train(make_convnet(seed), person.trained, seed, CONV_EPOCHS)


def _train_mlp(person: Person, seed: int) -> nn.Module:
    return train(make_plain(MLP_SIZES, seed), person.trained, seed, MLP_EPOCHS)


def _train_base(person: Person, seed: int) -> nn.Module:
    model = make_plain(SHIFT_SIZES, seed)
    return train(model, person.trained, seed, SHIFT_EPOCHS, batch_size=SHIFT_BATCH)
