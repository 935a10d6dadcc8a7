"""An assistant that learns one person's habits and forgets nobody else's; see README.md.

    python examples/assistant/assistant.py [--json FILE] [--data FOLDER] [--offline] [--seed N]

Letters: N requests, D = 384 features of a sentence, K intents.
"""

import argparse
import copy
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from people import KINDS, Data, Pair, Person, find_others, load, make_person
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

import nestling as nl

LOOKS = (0, 20, 50, 100, 300)
# Asked of the assistant with the meaning that the words have for everybody.
USUAL = (
    *("todo_list", "todo_list_update", "shopping_list_update", "make_call", "recipe", "directions"),
    *("weather", "traffic", "smart_home", "change_volume"),
)
# What she says -> what she means by it.
HABITS = {
    "reminder": "todo_list_update",  # "remind me to" puts it on her list
    "order": "shopping_list_update",  # she orders nothing, she goes to the shop
    "text": "make_call",  # she never writes, she calls
    "meal_suggestion": "recipe",  # "what shall I cook" wants the recipe at once
    "uber": "directions",  # she drives herself
    "alarm": "timer",  # the wrong way round, both of them
    "timer": "alarm",
}
# Intents of her own, which the common model has no output for: those of her bank's application.
OWN = ("apple_pay_or_google_pay", "exchange_via_app", "getting_virtual_card", "top_up_limits")
# Ben has no habits, only few interests.
BENS = ("play_music", "next_song", "what_song", "tell_joke", "translate", "definition")
# Of fine-tuning; the one that turns out best on her is taken at each look.
RATES = {
    "SGD": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "AdamW": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}
NUM_EPOCHS, NUM_HIDDEN = 20, 256


# --- models


def make_model(num_features: int, num_intents: int) -> nn.Module:
    """What stands on the encoder: two layers."""
    return nn.Sequential(
        nn.Linear(num_features, NUM_HIDDEN), nn.ReLU(), nn.Linear(NUM_HIDDEN, num_intents)
    )


def train_model(data: Data, seed: int, num_epochs: int) -> nn.Module:
    """The common model, by a plain training loop on everybody's requests."""
    torch.manual_seed(seed)
    x, y = data.train
    model = make_model(x.shape[1], len(data.intents))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(num_epochs):
        for rows in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model


def widen_head(model: nn.Module, num_more: int) -> nn.Sequential:
    """A copy of the model with outputs for intents of hers, which it does not expect yet."""
    assert isinstance(model, nn.Sequential)
    wide = copy.deepcopy(model)
    head = wide[-1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        rows = torch.zeros(num_more, head.in_features)
        head.weight = nn.Parameter(torch.cat((head.weight, rows)))
        head.bias = nn.Parameter(torch.cat((head.bias, torch.full((num_more,), -10.0))))
    head.out_features += num_more
    return wide


# --- measuring


def measure(answers: Tensor, y: Tensor) -> float:
    """Accuracy of (N, K) answers, in [0, 1]."""
    return float((answers.argmax(dim=1) == y).double().mean())


def follow(
    person: Person,
    others: Pair,
    learn: Callable[[Tensor, Tensor], object],
    predict: Callable[[Tensor], Tensor],
    looks: Sequence[int],
) -> Iterator[dict[str, float]]:
    """Teach the stream, one request after another; at each look, how right the answers are."""
    x, y = person.stream
    done, seconds = 0, 0.0
    for look in looks:
        started = time.perf_counter()
        for row in range(done, look):
            learn(x[row : row + 1], y[row : row + 1])
        seconds += time.perf_counter() - started
        done = look
        answers = predict(person.further[0])
        yield {
            "requests": look,
            "person": measure(answers, person.further[1]),
            "others": measure(predict(others[0]), others[1]),
            "ms_to_learn": 1e3 * seconds / look if look else 0.0,
            **{
                kind: measure(
                    answers[person.kinds == place], person.further[1][person.kinds == place]
                )
                for place, kind in enumerate(KINDS)
                if bool((person.kinds == place).any())
            },
        }


def fine_tune(
    model: nn.Module, rule: str, rate: float, person: Person, others: Pair, looks: Sequence[int]
) -> list[dict[str, float]]:
    """The head alone, a step for each request."""
    tuned = widen_head(model, len(OWN))
    weights = tuned[-1].parameters()
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(weights, rate) if rule == "SGD" else torch.optim.AdamW(weights, rate)
    )

    def learn(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        functional.cross_entropy(tuned(x), y).backward()
        optimizer.step()

    def predict(x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = tuned(x)
        return found

    return list(follow(person, others, learn, predict, looks))


def search_rates(
    model: nn.Module, person: Person, others: Pair, looks: Sequence[int]
) -> list[dict[str, Any]]:
    """At each look the fine-tuning that turns out best on her further requests."""
    tried = [
        (f"{rule} {rate:g}", fine_tune(model, rule, rate, person, others, looks))
        for rule, rates in RATES.items()
        for rate in rates
    ]
    return [
        max(({**rows[place], "rate": name} for name, rows in tried), key=lambda row: row["person"])
        for place in range(len(looks))
    ]


def time_answers(person: nl.PersonalLearner, x: Tensor, num_times: int = 100) -> float:
    """Milliseconds to answer one request."""
    person.predict(x[:1])
    started = time.perf_counter()
    for row in range(num_times):
        person.predict(x[row % len(x)][None])
    return 1e3 * (time.perf_counter() - started) / num_times


# --- a person's levels are moved, merged, deleted


def answer_elsewhere(folder: Path, num_intents: int, x: Any) -> Any:
    """In another process: the common learner and anna's levels from their files; what she hears.

    Args:
        folder: of both snapshots.
        num_intents: K of the model.
        x: (N, D) as an array.
    """
    torch.set_num_threads(1)
    learner = nl.Learner(make_model(x.shape[1], num_intents), pretrained=True)
    learner.restore(folder / "common")
    anna = learner.personal("anna")
    anna.restore(folder / "anna")
    return anna.predict_proba(torch.from_numpy(x)).numpy()


def move(learner: nl.Learner, anna: nl.PersonalLearner, num_intents: int, x: Tensor) -> Tensor:
    """Save both, and let another process answer (N, D) requests: (N, K)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        learner.snapshot(folder / "common")
        anna.snapshot(folder / "anna")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(answer_elsewhere, (folder, num_intents, x.numpy()))
    return torch.from_numpy(found)


def is_memory_equal(one: nl.Learner, other: nl.Learner) -> bool:
    """Whether the common memories have the same sums, bit for bit."""
    mine, theirs = (
        {
            name: value
            for name, value in learner.levels["memory"].tensors().items()
            if name.startswith(("memories", "pending"))
        }
        for learner in (one, other)
    )
    return mine.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in mine.items()
    )


# --- all of it


def run(
    data: Data, *, looks: Sequence[int] = LOOKS, seed: int = 0, num_epochs: int = NUM_EPOCHS
) -> dict[str, Any]:
    """Everything that is shown, as plain figures."""
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    herself = make_person(data, USUAL, HABITS, OWN, generator)
    bens = make_person(data, BENS, {}, (), generator)
    others, asked = find_others(data, HABITS), data.test[0]
    model = train_model(data, seed, num_epochs)

    learner = nl.Learner(copy.deepcopy(model), pretrained=True)
    common_before = learner.predict_proba(asked)
    ben = learner.personal("ben")
    for row in range(min(50, len(bens.stream[1]))):
        ben.learn(bens.stream[0][row : row + 1], bens.stream[1][row : row + 1])
    ben_before = ben.predict_proba(asked)

    anna = learner.personal("anna", shares=True)
    followed = list(follow(herself, others, anna.learn, anna.predict_proba, looks))
    ms_to_answer = time_answers(anna, herself.further[0])
    num_waiting = anna.num_waiting
    anna_after = anna.predict_proba(asked)
    same = {
        "everybody's answers, after anna has learned": torch.equal(
            learner.predict_proba(asked), common_before
        ),
        "ben's answers, after anna has learned": torch.equal(ben.predict_proba(asked), ben_before),
        "anna's answers, in another process": torch.equal(
            move(learner, anna, len(data.intents), asked), anna_after
        ),
    }

    # Merging: another learner that was taught the same requests itself has the same memory.
    merged, taught = learner.copy(), learner.copy()
    num_merged = merged.merge("anna")
    for row in range(max(looks)):
        taught.learn(herself.stream[0][row : row + 1], herself.stream[1][row : row + 1])
    same["common memory, after merging and after learning the same"] = is_memory_equal(
        merged, taught
    )
    after_merging = {
        "person": measure(merged.predict_proba(herself.further[0]), herself.further[1]),
        "others": measure(merged.predict_proba(others[0]), others[1]),
    }

    anna.shares = False  # what waited to be merged is forgotten
    num_bytes = anna.num_bytes
    learner.forget_person("anna")
    same["a new anna's and everybody's answers, after she was deleted"] = torch.equal(
        learner.personal("anna").predict_proba(asked), common_before
    )
    return {
        "seed": seed,
        "intents_of_hers": {"usual": list(USUAL), "habits": HABITS, "own": list(OWN)},
        "everybody_accuracy": measure(common_before, data.test[1]),
        "person": followed,
        "fine_tuning": search_rates(model, herself, others, looks),
        "ms_to_answer": ms_to_answer,
        "bytes": num_bytes,
        "num_waiting": num_waiting,
        "num_merged": num_merged,
        "after_merging": after_merging,
        "same_bits": same,
        "seconds": time.perf_counter() - started,
    }


def show(found: Mapping[str, Any], console: Console) -> None:
    """The figures as tables."""
    table = Table(title="Anna's requests, learned one by one; % right")
    both = ("nestling: hers", "others'", "fine-tuned head: hers", "others'")
    for title in ("requests", *both, "best rate"):
        table.add_column(title, justify="right")
    for mine, theirs in zip(found["person"], found["fine_tuning"], strict=True):
        shown = [row[key] for row in (mine, theirs) for key in ("person", "others")]
        rate = theirs["rate"] if mine["requests"] else "-"
        table.add_row(str(mine["requests"]), *(f"{100 * one:.1f}" for one in shown), rate)
    console.print(table)
    kinds = Table(title=f"After {found['person'][-1]['requests']} requests; % right")
    for title in ("her further requests", "as given", "nestling", "fine-tuned head"):
        kinds.add_column(title, justify="left" if title.startswith("her") else "right")
    for kind in KINDS:
        rows = (found["person"][0], found["person"][-1], found["fine_tuning"][-1])
        kinds.add_row(kind, *(f"{100 * row[kind]:.1f}" for row in rows))
    console.print(kinds)
    costs = Table(title="What it costs, and what stays", show_header=False)
    last, tuned = found["person"][-1], found["fine_tuning"][-1]
    costs.add_row(
        "ms to learn a request, nestling / fine-tuned head",
        f"{last['ms_to_learn']:.1f} / {tuned['ms_to_learn']:.1f}",
    )
    costs.add_row("ms to answer one", f"{found['ms_to_answer']:.1f}")
    costs.add_row("bytes of her levels", f"{found['bytes']:,}")
    for what, holds in found["same_bits"].items():
        costs.add_row(what, "the same bits" if holds else "DIFFERENT")
    costs.add_row("requests merged with her consent", str(found["num_merged"]))
    after = found["after_merging"]
    costs.add_row(
        "% right for everybody after that: her requests / others'",
        f"{100 * after['person']:.1f} / {100 * after['others']:.1f}",
    )
    console.print(costs)
    console.print(
        f"Everybody's accuracy on the 150 intents: {100 * found['everybody_accuracy']:.1f} %; "
        f"all of this took {found['seconds']:.0f} s."
    )


class _OneLine(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"assistant.py: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; what cannot be done is said in one line."""
    parser = _OneLine(description="An assistant learns one person's habits.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the data lie")
    parser.add_argument("--offline", action="store_true", help="fetch nothing")
    parser.add_argument("--seed", type=int, default=0, help="of the order and the first weights")
    given = parser.parse_args(arguments)
    if given.json is not None and given.json.is_dir():
        parser.error(f"--json {given.json} is a folder; give a file")
    if given.json is not None and not given.json.absolute().parent.is_dir():
        parser.error(f"--json {given.json}: no folder '{given.json.parent}'")
    if given.seed < 0:
        parser.error(f"--seed {given.seed}; 0 or more works")
    torch.set_num_threads(1)
    try:
        found = run(load(given.data, offline=given.offline), seed=given.seed)
        if given.json is not None:
            given.json.write_text(json.dumps(found, indent=1) + "\n")
    except (nl.NestlingError, OSError) as error:
        parser.exit(1, f"assistant.py: {error}\n")
    console = Console()
    show(found, console if console.is_terminal else Console(width=120))


if __name__ == "__main__":
    main()
