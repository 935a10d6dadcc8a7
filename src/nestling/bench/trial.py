"""One method, one seed: a stream of experiences learned, with measurements in between."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nestling.bench.baselines import Batch, Rival
from nestling.data import Experience
from nestling.jobs.scoring import accuracy_among, describe_level, list_batches, summarize
from nestling.levels import LevelReading

NUM_LOOKS = 12  # evaluations within an experience

Record = dict[str, object]


@dataclass
class Trial:
    """What one method did with one seed.

    Attributes:
        method: its name.
        seed: of weights, data and order.
        evaluations: accuracy on every experience met, again and again.
        levels: records of its levels, if it has any.
        readings: the last of them.
        num_seen: examples learned, repeats counted.
        seconds: spent learning.
    """

    method: str
    seed: int
    evaluations: list[Record] = field(default_factory=list)
    levels: list[Record] = field(default_factory=list)
    readings: Sequence[LevelReading] = ()
    num_seen: int = 0
    seconds: float = 0.0

    def summarize(self, names: Sequence[str]) -> Record:
        """The trial's figures in one record."""
        per_example = {"seconds_per_example": self.seconds / max(1, self.num_seen)}
        signed = {"method": self.method, "seed": self.seed}
        return signed | summarize(self.evaluations, names) | per_example

    def read_accuracy(self, index: int) -> float:
        """Accuracy on experience `index` at the end of that experience."""
        for record in self.evaluations:
            found = record["accuracies"]
            if record["after"] == index and isinstance(found, Mapping):
                return float(list(found.values())[index])
        raise KeyError(index)


class WatchedLoader:
    """A loader of one experience that looks at the rival between batches.

    Each pass draws a new order; what passes while the rival holds a batch counts as learning.
    """

    def __init__(
        self,
        rival: Rival,
        trial: Trial,
        experiences: Sequence[Experience],
        index: int,
        epochs: int,
        batch_size: int,
    ) -> None:
        self.rival = rival
        self.trial = trial
        self.experiences = experiences
        self.index = index
        x, _ = experiences[index].train
        self.batches = list_batches(
            len(x), epochs=epochs, batch_size=batch_size, seed=trial.seed, index=index
        )
        self.num_per_pass = -(-len(x) // batch_size)
        self.num_batches = epochs * self.num_per_pass
        self.look_every = max(1, self.num_batches // NUM_LOOKS)
        self.number = 0

    def __iter__(self) -> Iterator[Batch]:
        x, y = self.experiences[self.index].train
        for rows in itertools.islice(self.batches, self.num_per_pass):
            batch = x[rows], y[rows]
            started = time.perf_counter()
            yield batch
            self.trial.seconds += time.perf_counter() - started
            self.trial.num_seen += len(rows)
            self.number += 1
            if self.number % self.look_every == 0 and self.number < self.num_batches:
                self.look()

    def look(self, is_last: bool = False) -> None:
        """Score every experience met so far, among all classes met so far."""
        met = self.experiences[: self.index + 1]
        classes = sorted({label for one in met for label in one.classes})
        signed: Record = {"method": self.trial.method, "seed": self.trial.seed}
        accuracies = {
            one.name: accuracy_among(self.rival.scores(one.test[0]), one.test[1], classes)
            for one in met
        }
        self.trial.evaluations.append(
            signed
            | {
                "after": self.index if is_last else None,
                "during": self.index,
                "step": self.trial.num_seen,
                "accuracies": accuracies,
            }
        )
        if readings := self.rival.read_levels():
            self.trial.readings = readings
            self.trial.levels += [
                signed | describe_level(one, self.trial.num_seen) for one in readings
            ]


def run_rival(
    rival: Rival,
    method: str,
    seed: int,
    experiences: Sequence[Experience],
    epochs: int,
    batch_size: int,
) -> Trial:
    """Let a rival learn the experiences in order, and look at it all the while."""
    trial = Trial(method, seed)
    for index in range(len(experiences)):
        watched = WatchedLoader(rival, trial, experiences, index, epochs, batch_size)
        if index:  # before the first experience nothing can answer yet
            watched.look()
        rival.fit(watched, epochs)
        watched.look(is_last=True)
    return trial
