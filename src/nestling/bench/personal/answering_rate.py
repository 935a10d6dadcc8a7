"""Answers per second of a learner's view while another thread learns, over its rate alone."""

import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from nestling.bench.promises.default_costs import iterate_batches, make_network, read_shuffled
from nestling.bench.rivals.competitors import Pair
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows
from nestling.learn import Learner


class GivesAnswers(Protocol):
    """What `learner.answerer()` gives."""

    def predict_proba(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, K)."""


class GivesView(Protocol):
    """A learner that answers for other threads."""

    def learn(self, x: Tensor, y: Tensor) -> object:
        """Learn one batch."""

    def answerer(self) -> GivesAnswers:
        """A view that answers without the learner's lock."""


@dataclass(frozen=True)
class AnswerAmounts:
    """How long it is answered.

    Args:
        warm: examples learned before.
        learn_batch: examples per batch that the other thread learns.
        batch_sizes: rows per answer.
        seconds: per round and side.
        rounds: that count.
    """

    warm: int = 3_000
    learn_batch: int = 10
    batch_sizes: tuple[int, ...] = (32, 256)
    seconds: float = 2.0
    rounds: int = 5


def measure_answers(
    place: CellFolders, *, amounts: AnswerAmounts | None = None
) -> tuple[Figures, Rows]:
    """`answerer_rate`: answers per second of `learner.answerer()` with another thread learning all
    the time, over its rate alone.

    The default for a 784-400-400-10 network; after 3,000 examples of MNIST in batches of 10 a
    view answers for 2 s alone, then for 2 s while another thread learns further batches of 10 as
    fast as it can. Each side takes its view anew. Torch has one thread for each of the two, so it
    takes a machine with two free cores. The figure is the median of 5 rounds, for answers of 32
    and of 256 rows; without a suffix, the smaller.

    Args:
        place: where MNIST lies.
        amounts: None for the usual ones.
    """
    chosen = amounts or AnswerAmounts()
    pair = read_shuffled(place)
    batches = iterate_batches(pair, chosen.learn_batch)
    # The learner as those see it who answer for others.
    learner = Learner(make_network())
    for _ in range(-(-chosen.warm // chosen.learn_batch)):
        learner.learn(*next(batches))
    return compare_rates(learner, batches, pair[0], chosen)


def compare_rates(
    learner: GivesView, batches: Iterator[Pair], x: Tensor, amounts: AnswerAmounts
) -> tuple[Figures, Rows]:
    """The figures of `measure_answers`, of any learner that has learned something.

    Args:
        learner: goes on learning.
        batches: without end.
        x: (N, D) inputs to answer for; the first rows are taken.
        amounts: of answers and rounds.
    """
    figures: Figures = {}
    rows: Rows = []
    for num_rows in amounts.batch_sizes:
        asked = x[:num_rows]
        for number in range(amounts.rounds + 1):
            taken: dict[str, float] = {}
            # By turns first: a machine that slows down favours neither.
            for side in ("alone", "beside")[:: 1 if number % 2 else -1]:
                if side == "alone":
                    taken[side] = count_answers(learner.answerer(), asked, amounts.seconds)
                    continue
                with LearningThread(learner.learn, batches) as thread:
                    taken[side] = count_answers(learner.answerer(), asked, amounts.seconds)
                taken["learned"] = thread.num_learned
            if number:
                rows.append(
                    {
                        "rows": num_rows,
                        "round": number,
                        "answers per second alone": taken["alone"],
                        "answers per second": taken["beside"],
                        "batches learned": taken["learned"],
                        "ratio": taken["beside"] / taken["alone"],
                    }
                )
        figures[f"answerer_rate_b{num_rows}"] = statistics.median(
            float(str(row["ratio"])) for row in rows if row["rows"] == num_rows
        )
    figures["answerer_rate"] = min(figures.values())
    return figures, rows


def count_answers(view: GivesAnswers, x: Tensor, seconds: float) -> float:
    """Answers per second of wall clock, all for the same rows."""
    gc.collect()
    count, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds:
        view.predict_proba(x)
        count += 1
    return count / taken


class LearningThread:
    """Another thread that learns all the time, for a block of code.

    Args:
        learn: a batch.
        batches: without end; nobody else reads them meanwhile.

    Attributes:
        num_learned: batches that were learned.

    Raises:
        Exception: what the thread raised, at the end of the block.
    """

    def __init__(self, learn: Callable[[Tensor, Tensor], object], batches: Iterator[Pair]) -> None:
        self.num_learned = 0
        self._learn = learn
        self._batches = batches
        self._stop = threading.Event()
        self._failed: list[Exception] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "LearningThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failed:
            raise self._failed[0]

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._learn(*next(self._batches))
                self.num_learned += 1
        except Exception as error:
            self._failed.append(error)
