"""One person's stream, followed by a learner or by fine-tuning: accuracies at every look."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.modes import eval_mode
from nestling.data.persons import Pair, Person
from nestling.judge.scores import measure_accuracy
from nestling.learn import Learner

# Of fine-tuning of all weights; the best of all is taken in hindsight.
RATES: dict[str, tuple[float, ...]] = {
    "sgd": (0.01, 0.03, 0.1, 0.3),
    "adamw": (3e-4, 1e-3, 3e-3, 1e-2),
}


@dataclass(frozen=True)
class Stream:
    """How a person's examples are given, and when it is looked.

    Args:
        batch_size: examples learned at once.
        looks: numbers of examples after which to look; each a multiple of the batch size.
    """

    batch_size: int
    looks: tuple[int, ...]


@dataclass(frozen=True)
class PersonAccuracies:
    """Accuracies of one method on one person, in [0, 1].

    Attributes:
        own: on the person's further examples, at each look.
        others: on the others'.
    """

    own: list[float]
    others: list[float]


@dataclass(frozen=True)
class Tuned:
    """Fine-tuning with the rule and rate that are best on the person at one look.

    Attributes:
        own: accuracy on the person.
        others: on the others.
        rate: rule and rate.
    """

    own: float
    others: float
    rate: str


def follow_learner(person: Person, learner: Learner, stream: Stream, seed: int) -> PersonAccuracies:
    """A learner, which goes on learning, on the person's stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        return follow(person, learner.learn, learner.predict_proba, stream)


def tune_in_hindsight(person: Person, model: nn.Module, stream: Stream, seed: int) -> list[Tuned]:
    """For each look the fine-tuning that turns out best on the person there, of all RATES.

    Args:
        person: its further examples choose.
        model: given; stays as it is.
        stream: the looks.
        seed: of what is random in the model.
    """
    tried = {
        f"{rule} {rate:g}": fine_tune(person, model, rule, rate, stream, seed)
        for rule, rates in RATES.items()
        for rate in rates
    }
    best = []
    for place in range(len(stream.looks)):
        name = max(tried, key=lambda one: tried[one].own[place])
        best.append(Tuned(tried[name].own[place], tried[name].others[place], name))
    return best


def fine_tune(
    person: Person, model: nn.Module, rule: str, rate: float, stream: Stream, seed: int
) -> PersonAccuracies:
    """A plain loop over all weights, by SGD or AdamW, on a copy of the model."""
    own = copy.deepcopy(model)
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(own.parameters(), rate)
        if rule == "sgd"
        else torch.optim.AdamW(own.parameters(), rate)
    )

    def learn(x: Tensor, y: Tensor) -> None:
        own.train()
        optimizer.zero_grad()
        functional.cross_entropy(own(x), y).backward()
        optimizer.step()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return follow(person, learn, lambda x: score(own, x), stream)


def follow(
    person: Person,
    learn: Callable[[Tensor, Tensor], object],
    predict: Callable[[Tensor], Tensor],
    stream: Stream,
) -> PersonAccuracies:
    """Give a person's examples once, in order, and look.

    Args:
        person: its stream is learned; its further examples and the others' are looked at.
        learn: a batch (N, D), (N,).
        predict: (N, D) -> (N, K), higher is likelier.
        stream: batches and looks; 0 is before the first example.
    """

    def look(pair: Pair) -> float:
        return measure_accuracy(predict(pair[0]), pair[1])

    found = PersonAccuracies([], [])
    x, y = person.stream
    for start in range(0, max(stream.looks) + 1, stream.batch_size):
        if start in stream.looks:
            found.own.append(look(person.own))
            found.others.append(look(person.others))
        rows = slice(start, start + stream.batch_size)
        if start < max(stream.looks):
            learn(x[rows], y[rows])
    return found


def score(model: nn.Module, x: Tensor) -> Tensor:
    """What a plain model answers, (N, D) -> (N, K), with dropout off."""
    with torch.no_grad(), eval_mode(model):
        found: Tensor = model(x)
        return found


def score_given(person: Person, model: nn.Module) -> tuple[float, float]:
    """Accuracies of a plain model on the person and on the others, in [0, 1]."""
    own, others = (measure_accuracy(score(model, x), y) for x, y in (person.own, person.others))
    return own, others


def describe_looks(
    stream: Stream, ours: PersonAccuracies, tuned: Sequence[Tuned] = ()
) -> dict[str, object]:
    """Columns of a row: `at N`, `at N others`; with a rival `finetune N`, ... and `rate N`."""
    row: dict[str, object] = {}
    for place, look in enumerate(stream.looks):
        row |= {f"at {look}": ours.own[place], f"at {look} others": ours.others[place]}
    for look, one in zip(stream.looks, tuned, strict=False):
        row |= {f"finetune {look}": one.own, f"finetune {look} others": one.others}
        row[f"rate {look}"] = one.rate
    return row
