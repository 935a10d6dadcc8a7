"""Card fraud, learned from chargebacks that come weeks late, in money; see docs/fraud.md.

    python examples/fraud/fraud.py [--full] [--seed N] [--json FILE] [--picture FILE]

The payments are made up (`nestling.data.events.make_payments`): it is known what is fraud.
"""

import argparse
import heapq
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from reviewing import NUM_FIRST, RULES, Book, LearnedFactor, average
from rich.console import Console
from rich.table import Table

import nestling as nl
from nestling.data.events import Payment, find_schemes, make_payments

OURS, FOREST, LOGISTIC = "nestling", "River ARF(10)", "River logistic"
NUM_SHORT, NUM_FULL, SEEDS_FULL = 20_000, 50_000, (0, 1, 2)
# A month of payments waits for labels, and a chargeback takes days more.
MAX_WAITING = 20_000
# A fraud counts as five examples for us; logistic regression saves less so, and gets 1.
FRAUD_WEIGHT = 5.0


# --- systems


class System(Protocol):
    """What foresees fraud: asked of a payment by its number, told of it later."""

    def ask(self, number: int, payment: Payment) -> float:
        """Probability of fraud; nothing is known of the payment but what is asked."""

    def tell(self, number: int, *, is_fraud: bool) -> None:
        """The payment's label has come."""


class Nestling:
    """The stream learner: it keeps what waits for its label itself, by id."""

    def __init__(self, seed: int) -> None:
        self.learner = nl.StreamClassifier(seed=seed, max_waiting=MAX_WAITING)

    def ask(self, number: int, payment: Payment) -> float:
        return self.learner.predict_proba_one(payment.x, id=number).get(True, 0.0)

    def tell(self, number: int, *, is_fraud: bool) -> None:
        self.learner.learn_one(id=number, y=is_fraud, weight=FRAUD_WEIGHT if is_fraud else 1.0)


class River:
    """A model of River's; payments that wait are kept beside it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.waiting: dict[int, dict[str, Any]] = {}

    def ask(self, number: int, payment: Payment) -> float:
        if payment.told_after is not None:
            self.waiting[number] = payment.x
        probability: float = self.model.predict_proba_one(payment.x).get(True, 0.0)
        return probability

    def tell(self, number: int, *, is_fraud: bool) -> None:
        self.model.learn_one(self.waiting.pop(number), is_fraud)


def make_forest(seed: int) -> System:
    """River's adaptive random forest of 10 trees."""
    from river import forest

    return River(forest.ARFClassifier(n_models=10, seed=seed))


def make_logistic(_: int) -> System:
    """River's logistic regression on standardised numbers and one-hot words."""
    from river import compose, linear_model, optim, preprocessing

    numbers: Any = compose.SelectType(int, float) | preprocessing.StandardScaler()
    words: Any = compose.SelectType(str) | preprocessing.OneHotEncoder()
    return River((numbers + words) | linear_model.LogisticRegression(optim.SGD(0.01)))


SYSTEMS: dict[str, Callable[[int], System]] = {
    OURS: Nestling,
    FOREST: make_forest,
    LOGISTIC: make_logistic,
}


# --- measuring


def follow(system: System, payments: Sequence[Payment]) -> Book:
    """Ask of every payment, and tell what has become known by then."""
    rule, book = LearnedFactor(), Book()
    due: list[tuple[int, int]] = []  # when a label comes, of which payment
    num_frauds, start = 0, time.process_time()
    for now, payment in enumerate(payments):
        while due and due[0][0] <= now:
            _, number = heapq.heappop(due)
            told = payments[number]
            rule.hear(book.probability[number], told.amount, is_fraud=told.is_fraud)
            system.tell(number, is_fraud=told.is_fraud)
            num_frauds += told.is_fraud
        if book.start is None and num_frauds >= NUM_FIRST:
            book.start = now
        probability = system.ask(now, payment)
        if payment.told_after is not None:
            heapq.heappush(due, (now + payment.told_after, now))
        book.probability.append(probability)
        book.factor.append(rule.factor)
        book.is_fraud.append(payment.is_fraud)
        book.amount.append(payment.amount)
    book.cpu_seconds = time.process_time() - start
    return book


def run(
    num_payments: int, seeds: Sequence[int], say: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Any], dict[str, list[Book]]]:
    """The figures of all systems on the same payments, labels and rule, and their books."""
    books: dict[str, list[Book]] = {name: [] for name in SYSTEMS}
    delays: list[int] = []
    for seed in seeds:
        payments = list(make_payments(num_payments, seed=seed))
        delays += [one.told_after for one in payments if one.told_after is not None]
        for name, make in SYSTEMS.items():
            books[name].append(follow(make(seed), payments))
            say(f"seed {seed}: {name}, {books[name][-1].cpu_seconds:.0f} s")
    rows = {name: [book.to_figures() for book in found] for name, found in books.items()}
    means = {name: average(found) for name, found in rows.items()}
    found = {
        "payments": num_payments,
        "seeds": list(seeds),
        "median_delay": float(np.median(delays)),
        "drifts": [start for start, _ in find_schemes(num_payments)[1:]],
        "means": means,
        "better_rule": {name: find_better_rule(one) for name, one in means.items()},
        "by_scheme": {
            name: split_by_scheme(found, find_better_rule(means[name]))
            for name, found in books.items()
        },
        "by_seed": rows,
    }
    return found, books


def find_better_rule(means: Mapping[str, float]) -> str:
    """Which of the two rules saved more with a system: every system is shown at its better one."""
    return RULES[means["saved_learned"] > means["saved"]]


def split_by_scheme(books: Sequence[Book], rule: str) -> list[float]:
    """Money saved of what an oracle saves, in each stretch with a prevailing scheme."""
    starts = [start for start, _ in find_schemes(len(books[0].amount))]
    saved = sum(np.add.reduceat(one.list_saved(one.list_reviewed(rule)), starts) for one in books)
    best = sum(np.add.reduceat(book.list_best(), starts) for book in books)
    shares: list[float] = (np.asarray(saved) / np.asarray(best)).tolist()
    return shares


# --- showing


def show(found: Mapping[str, Any], console: Console) -> None:
    """The figures as tables."""
    means = found["means"]
    ours = means[OURS]
    table = Table(
        title=f"{found['payments']:,} payments, {100 * ours['fraud_rate']:.2f} % fraud worth "
        f"{ours['lost_without']:,.0f} euros, labels {found['median_delay']:,.0f} payments late "
        f"(median), seeds {found['seeds']}"
    )
    money = ("rule", "euros saved", "of the oracle", "caught", "reviews / 1,000")
    for title in ("", *money, "best factor in hindsight", "PR-AUC", "AUC", "CPU s"):
        table.add_column(title, justify="right" if title not in ("", "rule") else "left")
    for name, one in means.items():
        for rule, end in zip(RULES, ("", "_learned"), strict=True):
            is_first = rule == RULES[0]
            table.add_row(
                name if is_first else "",
                rule,
                f"{one['saved' + end]:,.0f}",
                f"{100 * one['of_oracle' + end]:.1f} %",
                f"{100 * one['caught' + end]:.1f} %",
                f"{one['reviews_per_1000' + end]:.1f}",
                f"{100 * one['of_oracle_in_hindsight']:.1f} %" if is_first else "",
                f"{one['pr_auc']:.3f}" if is_first else "",
                f"{one['auc']:.3f}" if is_first else "",
                f"{one['cpu_seconds']:.0f}" if is_first else "",
            )
    table.add_row("oracle", "", f"{ours['oracle']:,.0f}", "100.0 %")
    console.print(table)
    stretches = Table(
        title="Saved of what an oracle saves, while each scheme prevails; the better rule of each"
    )
    stretches.add_column("")
    for start, scheme in find_schemes(found["payments"]):
        stretches.add_column(f"{scheme}, from {start:,}", justify="right")
    for name, shares in found["by_scheme"].items():
        stretches.add_row(name, *(f"{100 * share:.1f} %" for share in shares))
    console.print(stretches)


def draw(books: Mapping[str, Sequence[Book]], rules: Mapping[str, str], path: Path) -> None:
    """Money saved over time, the mean over seeds, with the changes of scheme marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.subplots()
    num_payments = len(books[OURS][0].amount)
    best_N = np.mean([np.cumsum(book.list_best()) for book in books[OURS]], axis=0)
    axes.plot(best_N, color="0.5", linestyle="--", label="oracle")
    for name, found in books.items():
        rows = [np.cumsum(book.list_saved(book.list_reviewed(rules[name]))) for book in found]
        label = f"{name} ({rules[name]})"
        axes.plot(np.mean(rows, axis=0), label=label, linewidth=2.4 if name == OURS else 1.4)
    for start, scheme in find_schemes(num_payments):
        axes.axvline(start, color="0.8", linewidth=0.8, zorder=0)
        axes.annotate(
            scheme,
            (start, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -12),
            textcoords="offset points",
            color="0.4",
            fontsize=8,
        )
    axes.set_xlabel("payments; lines: another scheme of fraud prevails")
    axes.set_ylabel("euros saved, reviews paid")
    axes.set_xlim(0, num_payments)
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.94), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


class _OneLine(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fraud.py: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and draw; what cannot be done is said in one line."""
    parser = _OneLine(description="Card fraud with labels weeks late, in money.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", default=Path("fraud.png"), help="a PNG"
    )
    parser.add_argument("--seed", type=int, default=0, help="of payments and learners")
    parser.add_argument("--payments", type=int, metavar="N", help="how many")
    parser.add_argument("--full", action="store_true", help="50,000 payments, three seeds")
    given = parser.parse_args(arguments)
    for name, path in (("--json", given.json), ("--picture", given.picture)):
        if path is not None and path.is_dir():
            parser.error(f"{name} {path} is a folder; give a file")
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"{name} {path}: no folder '{path.parent}'")
    if given.picture.suffix.lower() != ".png":
        parser.error(f"--picture {given.picture}; a name that ends in .png works")
    if given.seed < 0:
        parser.error(f"--seed {given.seed}; 0 or more works")
    if given.payments is not None and given.payments < 10_000:
        parser.error(f"--payments {given.payments}; 10000 or more work, labels come late")
    torch.set_num_threads(1)
    console = Console()
    console = console if console.is_terminal else Console(width=140)
    seeds = SEEDS_FULL if given.full else (given.seed,)
    num_payments = given.payments or (NUM_FULL if given.full else NUM_SHORT)
    try:
        found, books = run(num_payments, seeds, console.print)
        draw(books, found["better_rule"], given.picture)
        if given.json is not None:
            given.json.write_text(json.dumps(found, indent=1) + "\n")
    except ImportError as error:
        parser.exit(1, f"fraud.py: {error}; pip install 'nestling[streams,compat,report]'\n")
    except (nl.NestlingError, OSError) as error:
        parser.exit(1, f"fraud.py: {error}\n")
    show(found, console)
    console.print(f"Money saved over time: {given.picture}")


if __name__ == "__main__":
    main()
