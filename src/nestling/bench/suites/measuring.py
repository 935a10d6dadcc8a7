"""One competitor on one stream: what it answers while it learns, and what that cost.

Axis letters: N examples, K classes, T experiences.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestling.bench.rivals.competitors import Competitor, Pair
from nestling.data.suites import Suite
from nestling.jobs.scoring import accuracy_among, list_batches
from nestling.judge import AccuracyMatrix, steps_to_fraction, worst_case_accuracy

NUM_LOOKS = 16  # within an experience; dense at its start, where adaptation happens
# Memories of many features are solved at each look; with more, looking would cost most of the time.
NUM_LOOKS_ENCODED = 6


@dataclass(frozen=True)
class Evaluation:
    """Accuracies at one moment.

    Attributes:
        during: experience that is being learned.
        num_examples: learned since that experience began.
        accuracies: on each experience met so far, among all classes met so far.
    """

    during: int
    num_examples: int
    accuracies: list[float]


@dataclass
class Measurement:
    """What one competitor did on one stream.

    Attributes:
        matrix: T x T, R[i][j] as in `nestling.judge.AccuracyMatrix`.
        looks: in order; before, within and after each experience.
        prequential: share of examples that were right before they were learned; None where
            the suite is no ordered stream.
        num_bytes: kept at the end beside the model.
        seconds: of CPU, spent learning.
        seconds_answering: of CPU, spent on looks; some methods do there what they put off.
        num_seen: examples learned, repeats counted.
    """

    matrix: list[list[float]] = field(default_factory=list)
    looks: list[Evaluation] = field(default_factory=list)
    prequential: float | None = None
    num_bytes: int = 0
    seconds: float = 0.0
    seconds_answering: float = 0.0
    num_seen: int = 0


class Replayable:
    """The examples of an experience, batch by batch; it can be read again and again."""

    def __init__(self, x: Tensor, y: Tensor, batch_size: int) -> None:
        self.pairs = list(zip(x.split(batch_size), y.split(batch_size), strict=True))

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)


def choose_evaluation_points(num_batches: int, num_looks: int) -> set[int]:
    """After which batches of an experience to look, besides the last: n (i / m)^2, rounded up.

    >>> sorted(choose_evaluation_points(100, 5))
    [4, 16, 36, 64]
    """
    found = {-(-num_batches * i * i // num_looks**2) for i in range(1, num_looks)}
    return {number for number in found if number < num_batches}


def measure(
    competitor: Competitor, suite: Suite, *, seed: int, num_looks: int = NUM_LOOKS
) -> Measurement:
    """Let a competitor learn a suite's stream, and look at it all the while.

    Args:
        competitor: knows nothing yet.
        suite: its experiences in order; shuffled by the seed unless the suite is ordered.
        seed: of the order of batches; the same for all competitors, so that seeds are paired.
        num_looks: within an experience; 0 to look only at its end.

    Raises:
        NestlingError: the competitor refuses the data.
    """
    found = Measurement()
    num_right = 0
    scorer = _Scorer(competitor, suite, found)
    for index, one in enumerate(suite.experiences):
        x, y = one.train
        batches = list(_list_rows(suite, index, seed))
        marks = choose_evaluation_points(len(batches), num_looks)
        num_fresh = math.ceil(len(x) / suite.batch_size)
        start = found.num_seen
        if index and num_looks:
            scorer.look(index, 0)
        for number, rows in enumerate(batches, start=1):
            if suite.is_ordered and found.num_seen:
                classes = _list_classes(suite, index)
                num_right += _count_right(competitor, x[rows], y[rows], classes)
            started = time.process_time()
            competitor.learn(x[rows], y[rows], is_new=number <= num_fresh)
            found.seconds += time.process_time() - started
            found.num_seen += len(rows)
            if number in marks:
                scorer.look(index, found.num_seen - start)
        loader = Replayable(x, y, suite.batch_size)
        started = time.process_time()
        competitor.end_experience(loader)
        found.seconds += time.process_time() - started
        everything = scorer.score(index, len(suite.experiences))
        found.matrix.append(everything)
        found.looks.append(Evaluation(index, found.num_seen - start, everything[: index + 1]))
    found.num_bytes = competitor.count_bytes()
    if suite.is_ordered:
        found.prequential = num_right / found.num_seen
    return found


def summarize(found: Measurement) -> dict[str, float | None]:
    """The figures of a measurement, accuracies in [0, 1].

    Returns: acc and bwt [Lopez-Paz 2017], forgetting [Chaudhry 2018], worst (WC-ACC, with the
        stability gap) [De Lange 2023], stability_gap: mean over experiences of the deepest
        fall of older ones within it, learning_accuracy, steps_to_90 in examples, prequential,
        bytes, seconds, seconds_per_look.
    """
    judged = AccuracyMatrix(found.matrix)
    num_experiences = judged.num_experiences
    earlier = [
        [look.accuracies[j] for look in found.looks if look.during > j]
        for j in range(num_experiences - 1)
    ]
    steps = [count_steps(found, index) for index in range(1, num_experiences)]
    gaps = [_find_gap(found, index) for index in range(1, num_experiences)]
    return {
        "acc": judged.acc(),
        "forgetting": judged.forgetting() if num_experiences > 1 else 0.0,
        "bwt": judged.bwt() if num_experiences > 1 else 0.0,
        "worst": worst_case_accuracy(judged.values[-1][-1], earlier),
        "stability_gap": sum(gaps) / len(gaps) if gaps else 0.0,
        "learning_accuracy": judged.learning_accuracy(),
        "steps_to_90": sum(steps) / len(steps) if steps else None,
        "prequential": found.prequential,
        "bytes": float(found.num_bytes),
        "seconds": found.seconds,
        "seconds_per_look": found.seconds_answering / len(found.looks),
    }


def count_steps(found: Measurement, index: int) -> float:
    """Examples until 90 % of a competitor's own best on the new experience, within it.

    Who gets nothing right within the experience is charged all of it.
    """
    curve = [look for look in found.looks if look.during == index]
    seen = [look.num_examples for look in curve]
    reached = steps_to_fraction(seen, [look.accuracies[index] for look in curve])
    return float(seen[-1] if reached is None else reached)


def _find_gap(found: Measurement, index: int) -> float:
    """How far accuracy on the older experiences fell at its lowest within experience `index`."""
    before = found.matrix[index - 1][:index]
    curve = [look.accuracies[:index] for look in found.looks if look.during == index]
    falls = [before[j] - min(look[j] for look in curve) for j in range(index)]
    return sum(falls) / len(falls)


def _list_rows(suite: Suite, index: int, seed: int) -> Iterator[Tensor]:
    num_examples = len(suite.experiences[index].train[0])
    if suite.is_ordered:
        yield from torch.arange(num_examples, device="cpu").split(suite.batch_size)
        return
    yield from list_batches(
        num_examples, epochs=suite.epochs, batch_size=suite.batch_size, seed=seed, index=index
    )


def _list_classes(suite: Suite, index: int) -> list[int]:
    """All classes met by the end of an experience; labels may be answered among them."""
    met = suite.experiences[: index + 1]
    return sorted({label for one in met for label in one.classes})


def _count_right(competitor: Competitor, x: Tensor, y: Tensor, classes: Sequence[int]) -> int:
    return round(accuracy_among(competitor.compute_scores(x), y, classes) * len(y))


@dataclass(frozen=True)
class _Scorer:
    """Asks a competitor, and adds up what asking costs."""

    competitor: Competitor
    suite: Suite
    found: Measurement

    def look(self, index: int, num_examples: int) -> None:
        """Score what was met so far."""
        self.found.looks.append(Evaluation(index, num_examples, self.score(index, index + 1)))

    def score(self, index: int, num_scored: int) -> list[float]:
        """Accuracy on the first `num_scored` experiences; asked at once, which is fast."""
        asked = self.suite.experiences[:num_scored]
        classes = _list_classes(self.suite, index)
        x = torch.cat([one.test[0] for one in asked])
        started = time.process_time()
        scores = self.competitor.compute_scores(x)
        self.found.seconds_answering += time.process_time() - started
        parts = scores.float().split([len(one.test[0]) for one in asked])
        return [
            accuracy_among(
                part.nan_to_num(-math.inf),
                one.test[1],
                one.classes if self.suite.known_task_at_test else classes,
            )
            for part, one in zip(parts, asked, strict=True)
        ]
