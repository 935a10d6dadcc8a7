"""Suite `personal`: a trained model, and 300 examples of one person who is not like the others.

No example of what the model was trained on is at hand. Everybody starts from the same trained
weights and sees the person's examples once, five at a time, in the same order.
"""

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.bench.result import SuiteResult
from nestling.core.machine import use_threads
from nestling.core.modes import eval_mode
from nestling.data.persons import FURTHER, KINDS, Person, make_kinds, make_writers
from nestling.learn import Learner
from nestling.learn.default import drop_early, make_default_plan
from nestling.levels import Plan

Progress = Callable[[str, float], None]
Row = dict[str, object]

BATCH_SIZE = 5
LOOKS = (5, 20, 50, 100, 300)  # examples of the person
# Of fine-tuning of all weights; the best of all on the person is taken, in hindsight.
RATES: dict[str, tuple[float, ...]] = {
    "sgd": (0.01, 0.03, 0.1, 0.3),
    "adamw": (3e-4, 1e-3, 3e-3, 1e-2),
}
CONV_EPOCHS, MLP_EPOCHS = 15, 40


@dataclass(frozen=True)
class PersonAccuracies:
    """Accuracies of one method on one person.

    Attributes:
        own: on the person, given and at each look.
        others: on the others.
    """

    own: list[float]
    others: list[float]


def run(
    *, num_seeds: int = 3, num_threads: int = 2, progress: Progress | None = None
) -> SuiteResult:
    """Six writers on a conv net, three other kinds of person on an MLP, and five harder ones.

    Args:
        num_seeds: of images, weights and orders.
        num_threads: torch's threads.
        progress: told what is measured next, and the share that is done.

    Returns: the figures, over the nine persons and all seeds, in points but for accuracies:
        `person_accuracy` after 300 examples, `person_over_finetune` the best rule and rate of each,
        `person_lost` on the others, `person_lost_worst` of one person and seed, and
        `first_events_worst`, the most that any look before the last one lies under the given
        model, on the person or on the others. `further_*` are of the five harder persons, and
        `last_only_accuracy` of a memory that reads no early activation.
    """
    rows: list[Row] = []
    with use_threads(num_threads):
        num_all = num_seeds * (6 + len(KINDS) + len(FURTHER))
        for seed in range(num_seeds):
            for person, model, is_further in list_persons(seed):
                if progress is not None:
                    progress(f"{person.name}, seed {seed}", len(rows) / num_all)
                rows.append(measure_person(person, model, seed, is_further=is_further))
    return SuiteResult("personal", build_figures(rows), rows)


def list_persons(seed: int) -> Iterator[tuple[Person, nn.Module, bool]]:
    """Every person with the model that was trained without it; whether it is a harder one."""
    model: nn.Module | None = None
    for person in make_writers(seed):
        model = model or train(make_convnet(seed), person, seed, CONV_EPOCHS)
        yield person, model, False
    model = None
    for person in make_kinds(seed, KINDS | FURTHER):
        model = model or train(make_mlp(seed), person, seed, MLP_EPOCHS)
        yield person, model, person.name in FURTHER


def make_convnet(seed: int) -> nn.Module:
    """16 and 32 channels, 64 hidden units, batch norm and dropout; the seed draws the weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.25)),
            *(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
        )


def make_mlp(seed: int) -> nn.Module:
    """64-128-64-10; the seed draws the weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )


def train(model: nn.Module, person: Person, seed: int, num_epochs: int) -> nn.Module:
    """Train on what the others gave: Adam, rate 1e-3, batches of 32."""
    x, y = person.trained
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        for _ in range(num_epochs):
            for rows in torch.randperm(len(x), generator=generator, device="cpu").split(32):
                optimizer.zero_grad()
                functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
    return model.eval()


def measure_person(person: Person, model: nn.Module, seed: int, *, is_further: bool) -> Row:
    """One row: the given model, nestling's default at every look, and its rivals at the last."""
    ours = follow_learner(person, model, seed, None)
    plan = make_default_plan(model, pretrained=True, replay=0)
    last_only = follow_learner(person, model, seed, drop_early(plan))
    tuned = {
        (rule, rate): fine_tune(person, model, rule, rate, seed)
        for rule, rates in RATES.items()
        for rate in rates
    }
    rule, rate = max(tuned, key=lambda one: tuned[one].own[-1])
    row: Row = {
        "person": person.name,
        "seed": seed,
        "further": is_further,
        "given": ours.own[0],
        "given others": ours.others[0],
    }
    for place, look in enumerate(LOOKS, 1):
        row |= {f"at {look}": ours.own[place], f"at {look} others": ours.others[place]}
    return row | {
        "last only": last_only.own[-1],
        "finetune": tuned[rule, rate].own[-1],
        "finetune others": tuned[rule, rate].others[-1],
        "rate": f"{rule} {rate:g}",
    }


def follow_learner(
    person: Person, model: nn.Module, seed: int, plan: Plan | None
) -> PersonAccuracies:
    """nestling's default for pre-trained models, or another plan, on the person's stream."""
    learner = Learner(copy.deepcopy(model), plan, pretrained=plan is None, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        return _follow(person, learner.learn, learner.predict_proba)


def fine_tune(
    person: Person, model: nn.Module, rule: str, rate: float, seed: int
) -> PersonAccuracies:
    """A plain loop over all weights, by SGD or AdamW."""
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

    def predict(x: Tensor) -> Tensor:
        with torch.no_grad(), eval_mode(own):
            found: Tensor = own(x)
            return found

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _follow(person, learn, predict)


def _follow(
    person: Person, learn: Callable[[Tensor, Tensor], object], predict: Callable[[Tensor], Tensor]
) -> PersonAccuracies:
    def look(pair: tuple[Tensor, Tensor]) -> float:
        return float((predict(pair[0]).argmax(dim=1) == pair[1]).double().mean())

    found = PersonAccuracies([look(person.own)], [look(person.others)])
    x, y = person.stream
    for start in range(0, len(x), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        learn(x[rows], y[rows])
        if start + BATCH_SIZE in LOOKS:
            found.own.append(look(person.own))
            found.others.append(look(person.others))
    return found


def build_figures(rows: Sequence[Row]) -> dict[str, float]:
    """The figures of `run` from its rows."""
    last, first = LOOKS[-1], LOOKS[:-1]

    def read(row: Row, name: str) -> float:
        return float(str(row[name]))

    def lose(row: Row, look: int, whom: str) -> float:
        return 100.0 * (read(row, f"given{whom}") - read(row, f"at {look}{whom}"))

    figures: dict[str, float] = {}
    for prefix, is_further in (("", False), ("further_", True)):
        chosen = [row for row in rows if row["further"] == is_further]
        if not chosen:
            continue
        over = [100.0 * (read(row, f"at {last}") - read(row, "finetune")) for row in chosen]
        lost = [lose(row, last, " others") for row in chosen]
        early = [lose(row, n, whom) for row in chosen for n in first for whom in ("", " others")]
        figures |= {
            f"{prefix}person_accuracy": statistics.mean(read(r, f"at {last}") for r in chosen),
            f"{prefix}person_over_finetune": statistics.mean(over),
            f"{prefix}person_lost": statistics.mean(lost),
            f"{prefix}person_lost_worst": max(lost),
            f"{prefix}first_events_worst": max(early),
            f"{prefix}finetune_lost": statistics.mean(
                100.0 * (read(r, "given others") - read(r, "finetune others")) for r in chosen
            ),
            f"{prefix}last_only_accuracy": statistics.mean(read(r, "last only") for r in chosen),
        }
    return figures
