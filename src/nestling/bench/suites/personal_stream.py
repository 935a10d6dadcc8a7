"""One person's stream on top of what was learned from others: errors removed, and what it costs.

For every person: a model of all others learns, and is frozen for comparison; then it learns the
person's first minute, once. Both answer the person's other recordings, and the others'.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nestling.bench.rivals.competitors import Competitor, Pair
from nestling.bench.rivals.methods_by_name import find_method
from nestling.bench.rivals.tunable import Settings, Setup
from nestling.bench.suites.parallel_cells import CellFolders, Progress, run_all
from nestling.bench.table import format_markdown
from nestling.core.errors import JobError
from nestling.data.suites.people import PersonStream, Split, make_person_streams
from nestling.data.suites.suite import Request
from nestling.jobs.scoring import list_batches
from nestling.store import write_whole

SUITE = "watch-users"
NUM_SECONDS = 60.0
BATCH_SIZE, EPOCHS = 10, 5
SPLITS: tuple[Split, ...] = ("recordings", "halves")


@dataclass(frozen=True)
class PersonTrial:
    """A method, with what the search chose for it, on one seed and split of the people."""

    method: str
    seed: int
    split: Split
    settings: Mapping[str, float]

    def find_path(self, folder: Path) -> Path:
        """Where its counts lie."""
        return folder / "personal" / f"{self.method}-{self.split}-seed{self.seed}.json"


@dataclass(frozen=True)
class PersonCounts:
    """Wrong answers, added up over people.

    Attributes:
        num_own: the people's own test examples.
        own_before: wrong among them, by the frozen model of the others.
        own_after: by the model that learned a minute of the person.
        num_base: test examples of the others.
        base_before: wrong among them before.
        base_after: and after.
    """

    num_own: int = 0
    own_before: int = 0
    own_after: int = 0
    num_base: int = 0
    base_before: int = 0
    base_after: int = 0

    def __add__(self, other: "PersonCounts") -> "PersonCounts":
        theirs = asdict(other)
        return PersonCounts(**{name: value + theirs[name] for name, value in asdict(self).items()})

    @property
    def errors_removed(self) -> float:
        """The share of the frozen model's errors on the person that is gone."""
        return 1.0 - self.own_after / max(1, self.own_before)

    @property
    def lost_on_others(self) -> float:
        """Points of accuracy on the others that learning the person cost."""
        return 100.0 * (self.base_after - self.base_before) / max(1, self.num_base)


def measure_people(
    settings: Mapping[str, Settings],
    seeds: Sequence[int],
    place: CellFolders,
    *,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> dict[tuple[str, Split], PersonCounts]:
    """Every person of watch-users that is tested on, for every method and seed; resumable.

    Args:
        settings: method -> what the search chose.
        seeds: draw the recordings.
        place: counts are read and written there.
        num_workers: see `run_all`.
        progress: told what is done, and the share.

    Returns: (method, split) -> counts over people and seeds.

    Raises:
        JobError: a file there is damaged.
        DataError: the data are not there.
    """
    trials = [
        PersonTrial(method, seed, split, dict(chosen))
        for method, chosen in settings.items()
        for split in SPLITS
        for seed in seeds
    ]
    missing = [one for one in trials if not one.find_path(place.folder).exists()]
    done = len(trials) - len(missing)
    for one in run_all(functools.partial(run_trial, place=place), missing, num_workers):
        done += 1
        if progress is not None:
            progress(f"people: {one.method}, {one.split}, seed {one.seed}", done / len(trials))
    found: dict[tuple[str, Split], PersonCounts] = {}
    for one in trials:
        key = (one.method, one.split)
        found[key] = found.get(key, PersonCounts()) + _read(one.find_path(place.folder))
    return found


def run_trial(trial: PersonTrial, place: CellFolders) -> None:
    """Measure all people of one trial and write the counts."""
    counts = count_people(trial, place)
    write_whole(trial.find_path(place.folder), json.dumps(asdict(counts)) + "\n")


def count_people(trial: PersonTrial, place: CellFolders) -> PersonCounts:
    """Measure all people of one trial and add up the counts; nothing is written."""
    request = Request(trial.seed, "test", place.data, place.offline)
    streams = make_person_streams(request, split=trial.split, num_seconds=NUM_SECONDS)
    return sum((measure_person(trial, one) for one in streams), PersonCounts())


def measure_person(trial: PersonTrial, person: PersonStream) -> PersonCounts:
    """Learn the others, count, learn the person's minute, count again."""
    x, y = person.base
    setup = Setup(
        num_inputs=x.shape[1],
        num_classes=int(y.max()) + 1,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        num_experiences=2,
        knows_task=False,
        is_encoded=False,
        seed=trial.seed,
    )
    competitor = find_method(trial.method).build(setup, trial.settings)
    batches = list_batches(len(x), epochs=EPOCHS, batch_size=BATCH_SIZE, seed=trial.seed, index=0)
    num_fresh = -(-len(x) // BATCH_SIZE)
    for number, rows in enumerate(batches):
        competitor.learn(x[rows], y[rows], is_new=number < num_fresh)
    competitor.end_experience([(x, y)])
    own_before = _count_wrong(competitor, person.own_test)
    base_before = _count_wrong(competitor, person.base_test)
    for own_x, own_y in zip(*(part.split(BATCH_SIZE) for part in person.stream), strict=True):
        competitor.learn(own_x, own_y, is_new=True)
    return PersonCounts(
        num_own=len(person.own_test[1]),
        own_before=own_before,
        own_after=_count_wrong(competitor, person.own_test),
        num_base=len(person.base_test[1]),
        base_before=base_before,
        base_after=_count_wrong(competitor, person.base_test),
    )


def build_figures(found: Mapping[tuple[str, Split], PersonCounts]) -> dict[str, float]:
    """`errors_removed` and `lost_on_others` of the default; with `_halves`, of the other split."""
    figures = {}
    for split, suffix in zip(SPLITS, ("", "_halves"), strict=True):
        counts = found.get(("default", split))
        if counts is not None:
            figures[f"errors_removed{suffix}"] = counts.errors_removed
            figures[f"lost_on_others{suffix}"] = counts.lost_on_others
    return figures


def format_people(found: Mapping[tuple[str, Split], PersonCounts]) -> str:
    """The section of the suite's page."""
    rows = [
        {
            "method": method,
            "split": split,
            "frozen, own %": _percent(counts.own_before, counts.num_own),
            "after 60 s, own %": _percent(counts.own_after, counts.num_own),
            "errors removed": f"{counts.errors_removed:.2f}",
            "others before %": _percent(counts.base_before, counts.num_base),
            "lost on others, points": f"{counts.lost_on_others:+.2f}",
        }
        for (method, split), counts in found.items()
    ]
    return (
        "## A person who comes to a model of the others\n\n"
        f"{format_markdown(rows)}\n\n"
        "Nine people are learned, 5 passes, and the model is kept as it is for comparison; then it "
        "learns the first 60 s of the tenth, shared equally by what the person may give, in "
        "windows every quarter of a second and mirrored ones, once. Split by recordings: of each "
        "exercise one recording (one arm) is learned from and the other tested on. Halves: the "
        "first half of each recording is learned from, the second tested on; the frozen model "
        "then knows the others' both arms. Added up over people 4-10 and all seeds."
    )


def _percent(num_wrong: int, count: int) -> str:
    return f"{100.0 * (1.0 - num_wrong / max(1, count)):.1f}"


def _count_wrong(competitor: Competitor, pair: Pair) -> int:
    x, y = pair
    with torch.no_grad():
        return int((competitor.compute_scores(x).argmax(1) != y).sum())


def _read(path: Path) -> PersonCounts:
    try:
        return PersonCounts(**{name: int(v) for name, v in json.loads(path.read_text()).items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise JobError(f"'{path}' is damaged ({type(error).__name__}); delete it") from None
