"""What the default costs on MNIST: learning against a bare loop, and an answer just after it."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.bench.rivals.competitors import Pair
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows, run_backward
from nestling.core.seeds import make_generator
from nestling.learn import Learner
from nestling.models import build_model

SIZES = (784, 400, 400, 10)
LR = 1e-3  # of the bare loop; its time does not depend on it
Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Amounts:
    """How much is learned while it is timed.

    Args:
        warm: examples learned before.
        batches: per round, on each side.
        turn: batches after which the other side has its turn; divides `batches`.
        rounds: that count.
        answers: answers that are timed, after three that are not.
    """

    warm: int
    batches: int = 300
    turn: int = 25
    rounds: int = 5
    answers: int = 30


LEARNING, ANSWERING = Amounts(4_000), Amounts(3_000)


def measure_learning(
    batch_size: int, place: CellFolders, *, amounts: Amounts = LEARNING
) -> tuple[Figures, Rows]:
    """`learn_over_finetune_b...`: CPU seconds of `learner.learn(x, y)` over those of a bare loop.

    Both sides have a 784-400-400-10 ReLU network with the same first weights and learn the same
    batches of MNIST, shuffled once, in the same order: ours is `nl.Learner(model)` as it comes,
    theirs is zero_grad, cross entropy, backward and step of `AdamW(fused=True)`. After 4,000
    examples each, and one answer, a round is 300 batches of each side in turns of 25; what the
    memory does in the background counts for it, since all CPU seconds of other threads do. A
    round is long, so that solving, which comes rarely, is in it. The figure is the median of
    the ratio of 5 rounds, after one that does not count.

    Denormal numbers count as zero for both. Else the moments of AdamW at pixels that are dark in
    most images sink there and stay, and after some thousand steps the bare loop takes twice as
    long: .75 was measured at batch 10 where it is 1.42, and not for what a memory does.

    Args:
        batch_size: examples per batch.
        place: where MNIST lies.
        amounts: of examples and rounds.
    """
    with flush_denormals():
        rows = _time_rounds(iterate_batches(read_shuffled(place), batch_size), amounts)
    ratio = statistics.median(float(str(row["ratio"])) for row in rows)
    return {f"learn_over_finetune_b{batch_size}": ratio}, rows


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Denormal numbers are zero in this thread for a block of code, where the processor can."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _time_rounds(batches: Iterator[Pair], amounts: Amounts) -> Rows:
    learner, bare = Learner(make_network()), make_bare_loop(make_network())

    def learn(x: Tensor, y: Tensor) -> None:
        learner.learn(x, y)

    num_seen = 0
    while num_seen < amounts.warm:
        x, y = next(batches)
        learn(x, y)
        bare(x, y)
        num_seen += len(x)
    learner.predict_proba(x[:1])
    num_turns = amounts.batches // amounts.turn
    rows: Rows = []
    for number in range(amounts.rounds + 1):
        turns = [[next(batches) for _ in range(amounts.turn)] for _ in range(num_turns)]
        ours, theirs = time_turns(learn, bare, turns)
        if number:
            per_step = 1e3 / amounts.batches
            rows.append(
                {
                    "batch": len(x),
                    "round": number,
                    "learn_milliseconds": ours * per_step,
                    "finetune_milliseconds": theirs * per_step,
                    "ratio": ours / theirs,
                }
            )
    return rows


def time_turns(ours: Step, theirs: Step, turns: Sequence[Sequence[Pair]]) -> tuple[float, float]:
    """CPU seconds of two rivals that learn the same batches by turns.

    Args:
        ours: whatever other threads do meanwhile, in its turns or not, is counted for it.
        theirs: works in this thread alone.
        turns: batches of each turn.

    Returns: seconds of each.
    """
    sides, seconds = {"ours": ours, "theirs": theirs}, {"ours": 0.0, "theirs": 0.0}
    gc.collect()
    gc.disable()
    try:
        all_before, own_before = time.process_time(), time.thread_time()
        for number, batches in enumerate(turns):
            # Forwards and backwards by turns: a machine that slows down favours neither end.
            for name in sides if number % 2 else reversed(sides):
                step = sides[name]
                started = time.thread_time()
                for x, y in batches:
                    step(x, y)
                seconds[name] += time.thread_time() - started
        elsewhere = (time.process_time() - all_before) - (time.thread_time() - own_before)
    finally:
        gc.enable()
    return seconds["ours"] + max(0.0, elsewhere), seconds["theirs"]


def measure_answering(
    label: int, place: CellFolders, *, pretrained: bool = False, amounts: Amounts = ANSWERING
) -> tuple[Figures, Rows]:
    """`predict_after_learn_ms_...`: milliseconds for `predict_proba` of one example after `learn`.

    The default for a 784-400-400-10 network, with pretrained=True that for a trained one (its
    memory reads the input and the last hidden layer then: 3,584 features; that the weights are
    random changes nothing here). After 3,000 examples of MNIST in batches of 10, it learns 10
    and answers for one, by turns; the figure is the median of 30 such answers on the clock.

    Args:
        label: features that the memory has, for the figure's name; the row says how many it had.
        place: where MNIST lies.
        pretrained: which default.
        amounts: of examples and answers.
    """
    batches = iterate_batches(read_shuffled(place), 10)
    learner = Learner(make_network(), pretrained=pretrained)
    for _ in range(-(-amounts.warm // 10)):
        learner.learn(*next(batches))
    taken = []
    for _ in range(amounts.answers + 3):
        learner.learn(*next(batches))
        x, _ = next(batches)
        started = time.perf_counter()
        learner.predict_proba(x[:1])
        taken.append(1e3 * (time.perf_counter() - started))
    counted = sorted(taken[3:])
    median = statistics.median(counted)
    row: dict[str, object] = {
        "features": count_features(learner),
        "median_milliseconds": median,
        "fastest_milliseconds": counted[0],
        "slowest_milliseconds": counted[-1],
    }
    return {f"predict_after_learn_ms_{label}": median}, [row]


def count_features(learner: Learner) -> int:
    """Width of what the default's memory solves for, once it has learned something."""
    bank = learner.levels.memories["memory"].bank
    assert bank is not None
    return bank.num_inputs if bank.features is None else bank.features.num_outputs


def make_network() -> nn.Module:
    """784-400-400-10, always with the same weights."""
    return build_model("mlp", {"sizes": SIZES}, seed=0)


def make_bare_loop(model: nn.Module) -> Step:
    """Plain fine-tuning: zero_grad, cross entropy, backward and step of fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), LR, fused=True)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        run_backward(functional.cross_entropy(model(x), y))
        optimizer.step()

    return step


def read_shuffled(place: CellFolders) -> Pair:
    """All of MNIST to learn from, (60000, 784) and (60000,), shuffled once."""
    from nestling.data import load

    x, y, _, _ = load("mnist", place.data, offline=place.offline)
    order = torch.randperm(len(x), generator=make_generator(0, "memory suite"), device="cpu")
    return x[order], y[order]


def iterate_batches(pair: Pair, batch_size: int) -> Iterator[Pair]:
    """Whole batches, again and again."""
    while True:
        for x, y in zip(*(part.split(batch_size) for part in pair), strict=True):
            if len(x) == batch_size:
                yield x, y
