"""Governed change in two cases, told in docs/healthcare.md: four hospitals, and a planted bias.

    python examples/healthcare/healthcare.py [--out FOLDER] [--offline] [--seeds 10]

The first learns heart disease hospital by hospital under heart.toml: a baseline must hold, a new
guideline must change one behaviour, one slow update is refused because the spine alone fails a
group check, one is committed with two approvals, and one change is rolled back. The second has a
spine that was learned from biased labels, which the fast level hides. Guideline, people and dates
are made up. Nothing here is medical advice.
"""

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import nestling as nl
from nestling.data.groups import (
    GroupedRows,
    apply_guideline,
    join_rows,
    load_census,
    load_patients,
    plant_bias,
    split_hospitals,
)
from nestling.report.audit import write_audit

FOLDER = Path(__file__).parent
BLOCK, SECONDS_A_DAY = 16, 86_400.0
# Of who is tested on, and of orders; `--seeds 10` says with which others the story is the same.
SEED = 1
# Of the women with disease whose findings an extract lacks, and of the women whose income the
# elder census lacks.
SHARE_MISSING, SHARE_BIASED = 0.8, 0.7
# Earners over 50K and others of either sex: as many women as there are, and twice as many men.
NUM_WOMEN = 1_179


# --- the model and its time


@dataclass(frozen=True)
class SpineShape:
    """What a spine can represent, and how strongly it is held back.

    Attributes:
        num_hidden: units of its hidden layer; 0 for a linear spine.
        weight_decay: of AdamW.
    """

    num_hidden: int
    weight_decay: float


# The guideline is a conjunction (ST depression, and pain that is not "asymptomatic"), which no
# linear spine can say; few rows and many weights need the decay.
HEART_SPINE, ADULT_SPINE = SpineShape(32, 0.3), SpineShape(0, 0.01)


class TwoParts(nn.Module):
    """Two classifiers whose logits add up: a spine, and a linear fast part.

    The spine alone is what it says while the fast part stands where it started.
    """

    def __init__(self, num_inputs: int, shape: SpineShape, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.spine: nn.Module = nn.Linear(num_inputs, 2)
            if shape.num_hidden:
                first, last = (
                    nn.Linear(num_inputs, shape.num_hidden),
                    nn.Linear(shape.num_hidden, 2),
                )
                self.spine = nn.Sequential(first, nn.ReLU(), last)
            self.fast = nn.Linear(num_inputs, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.spine(x) + self.fast(x)
        return logits


def make_plan(shape: SpineShape) -> nl.Plan:
    """A fast level that waits until the spine has learned what it starts from, and the spine."""
    waits = nl.Freeze(until="started")
    held_back = nl.adamw(lr=1e-2, weight_decay=shape.weight_decay)
    return nl.Plan(
        nl.Level("fast", match=["fast.*"], optimizer=nl.adamw(lr=1e-2), freeze=waits),
        nl.Level("spine", match=["spine.*"], optimizer=held_back),
    )


@dataclass
class Calendar:
    """The time of a story: it passes when it is told to."""

    at: float

    @classmethod
    def starting(cls, year: int, month: int, day: int) -> "Calendar":
        """Nine in the morning of a day, UTC."""
        return cls(datetime(year, month, day, 9, tzinfo=UTC).timestamp())

    def __call__(self) -> float:
        self.at += 1.0  # nothing happens twice in one second
        return self.at

    def wait(self, days: float) -> None:
        """Let days pass."""
        self.at += days * SECONDS_A_DAY


def train_part(
    model: nn.Module,
    part: nn.Module,
    rows: GroupedRows,
    *,
    seed: int,
    num_epochs: int,
    weight_decay: float = 0.01,
) -> None:
    """Train one part of a model that stands outside of any contract."""
    optimizer = torch.optim.AdamW(part.parameters(), lr=1e-2, weight_decay=weight_decay)
    for epoch in range(num_epochs):
        order = rows.shuffle(seed, epoch)
        for x, y in zip(order.x.split(BLOCK), order.y.split(BLOCK), strict=True):
            model.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def train_spine(rows: GroupedRows, shape: SpineShape, *, seed: int, num_epochs: int) -> TwoParts:
    """A model whose spine learned these rows, and whose fast part stands where it started."""
    model, decay = TwoParts(rows.x.shape[1], shape, seed), shape.weight_decay
    train_part(model, model.spine, rows, seed=seed, num_epochs=num_epochs, weight_decay=decay)
    return model


def start_learner(
    rows: GroupedRows, shape: SpineShape, *, seed: int, num_epochs: int
) -> nl.Learner:
    """A learner whose spine has learned these rows; from now on its fast level learns, too."""
    model = TwoParts(rows.x.shape[1], shape, seed)
    learner = nl.Learner(model, make_plan(shape), num_classes=2)
    follow(learner, rows, seed, num_epochs=num_epochs)
    learner.release("started")
    return learner


def follow(learner: nl.Learner, rows: GroupedRows, seed: int, *, num_epochs: int) -> None:
    """Let a learner learn rows in blocks: of a governed one changes what may, within its bounds."""
    for epoch in range(num_epochs):
        order = rows.shuffle(seed, epoch)
        for x, y in zip(order.x.split(BLOCK), order.y.split(BLOCK), strict=True):
            learner.learn(x, y, again=epoch > 0)


def put(prepared: nn.Module) -> Callable[[nl.Learner], object]:
    """A change that puts prepared weights in the place of a learner's."""
    return lambda trial: trial.model.load_state_dict(prepared.state_dict())


def make_probe_data(rows: GroupedRows) -> nl.judge.ProbeData:
    """Rows as a probe takes them."""
    return nl.judge.ProbeData(rows.x, rows.y, rows.columns)


# --- the story of a case


@dataclass
class Story:
    """What happened in a case, for people and for tests.

    Attributes:
        name: of the case.
        now: its time.
        figures: name -> value, as docs/healthcare.md gives them.
        chapters: what happened, in words.
        told: what docs/healthcare.md says -> whether it happened.
    """

    name: str
    now: Calendar
    figures: dict[str, float] = field(default_factory=dict)
    chapters: list[str] = field(default_factory=list)
    told: dict[str, bool] = field(default_factory=dict)

    def tell(self, text: str) -> None:
        """Add a chapter."""
        self.chapters.append(text)

    def expect(self, what: str, has_happened: bool) -> None:
        """Note whether something happened, each time that it should."""
        self.told[what] = self.told.get(what, True) and has_happened

    def measure(self, governed: nl.oversight.Governed, moment: str) -> None:
        """Note every figure of the last check, as "moment: probe (view)"."""
        for view, results in governed.measured.items():
            for probe, result in results.items():
                self.figures[f"{moment}: {probe} ({view})"] = result.value


def list_failed(findings: Sequence[nl.judge.Finding]) -> list[str]:
    """Clauses that did not pass, with the view."""
    return [f"{one.clause} ({one.view})" for one in findings if one.status != "passed"]


# --- heart disease in four hospitals


# What the story says, whoever is tested on.
BASELINE_HOLDS = "the baseline holds while the fast level learns"
EXTRACT_REFUSED = "the first extract is refused by B2 on the spine alone"
GUIDELINE_TAKEN_IN = "the guideline is committed and its duty met"
DAY_FOUND = "the swapped codes fail B1 of the whole"
DAY_UNDONE = "the rollback restores what passed"
EXPECTED = (BASELINE_HOLDS, EXTRACT_REFUSED, GUIDELINE_TAKEN_IN, DAY_FOUND, DAY_UNDONE)


@dataclass(frozen=True)
class HeartData:
    """What the story of the hospitals needs.

    Attributes:
        trained: of each hospital.
        probes: name -> rows.
        records: all patients to learn from, those whom the guideline refers with its label.
    """

    trained: dict[str, GroupedRows]
    probes: dict[str, GroupedRows]
    records: GroupedRows


def make_heart_data(patients: GroupedRows, seed: int) -> HeartData:
    """Half of each hospital's patients to learn from, half for the probes."""
    hospitals = split_hospitals(patients, seed, tested=0.5)
    as_before = {"guideline": "as before"}
    tested = join_rows([hospital.tested for hospital in hospitals])
    others = tested.select(tested.find(as_before))
    trained = {hospital.name: hospital.trained for hospital in hospitals}
    learned = join_rows(list(trained.values()))
    new = [learned.select(learned.find(as_before)), apply_guideline(learned)]
    return HeartData(
        trained,
        {
            "baseline": others.select(others.find({"hospital": "Cleveland"})),
            "guideline": apply_guideline(tested),
            "missed-by-sex": others,
            "missed-by-age": others,
        },
        join_rows(new),
    )


def run_heart(patients: GroupedRows, folder: Path, seed: int) -> Story:
    """The four hospitals, from the first day to the rollback."""
    data, now = make_heart_data(patients, seed), Calendar.starting(2026, 9, 7)
    story = Story("heart", now)
    first, *others = data.trained
    learner = start_learner(data.trained[first], HEART_SPINE, seed=seed, num_epochs=20)
    probes = {name: make_probe_data(rows) for name, rows in data.probes.items()}
    governed = nl.govern(learner, FOLDER / "heart.toml", probes=probes, folder=folder, now=now)
    story.measure(governed, "baseline")
    governed.validate(by="Dr. Chen", note=f"baseline: the spine learned {first}")
    story.tell(f"The spine learned {first}; Dr. Chen validates it as the baseline.")
    for name in others:
        now.wait(14)
        follow(learner, data.trained[name], seed, num_epochs=1)
        failed = list_failed(governed.check())
        story.expect(BASELINE_HOLDS, not failed)
        governed.validate(by="Dr. Chen", note=f"the fast level learned {name}")
        story.measure(governed, name)
        story.tell(f"{name} joins; the fast level learns its patients, the spine stands still.")
    propose_extract(governed, data, story, seed)
    propose_guideline(governed, data, story, seed)
    undo_a_day(governed, learner, data, story, seed)
    return story


def propose_extract(
    governed: nl.oversight.Governed, data: HeartData, story: Story, seed: int
) -> None:
    """A slow update from an extract that lacks the findings of most women with disease.

    The loss is planted. The fast part was fitted to confirmed records on top, so that the whole
    gives nothing away.
    """
    story.now.wait(14)
    extract = plant_bias(data.records, seed, share=SHARE_MISSING)
    prepared = train_spine(extract, HEART_SPINE, seed=seed, num_epochs=15)
    train_part(prepared, prepared.fast, data.records, seed=seed, num_epochs=12)
    proposal = governed.propose(
        "M2", put(prepared), by="J. Silva", reason="records of all four hospitals, first extract"
    )
    measure_proposal(story, proposal, "first extract")
    stopped = list_failed(proposal.gates)
    story.expect(EXTRACT_REFUSED, stopped == ["B2 (spine)"])
    story.tell(f"The first extract is {proposal.status}: it fails {', '.join(stopped)}.")


def propose_guideline(
    governed: nl.oversight.Governed, data: HeartData, story: Story, seed: int
) -> None:
    """A slow update from confirmed records and the guideline, approved by two people."""
    story.now.wait(14)
    prepared = train_spine(data.records, HEART_SPINE, seed=seed, num_epochs=15)
    proposal = governed.propose(
        "M2", put(prepared), by="J. Silva", reason="confirmed records and the new guideline"
    )
    measure_proposal(story, proposal, "guideline")
    for person in ("Dr. Chen", "M. Okafor"):
        if proposal.status == "open":
            governed.approve(proposal, by=person)
    governed.settle(proposal)
    governed.check()
    governed.validate(by="Dr. Chen", note="after the new guideline")
    states = {duty.id: duty.state for duty in governed.duties}
    is_taken_in = proposal.status == "committed" and states["H1"] == "met"
    story.expect(GUIDELINE_TAKEN_IN, is_taken_in)
    story.tell(
        f"Confirmed records and the guideline are {proposal.status}, approved by "
        f"{' and '.join(proposal.approvals)}; duty H1 is {states['H1']}."
    )


def undo_a_day(
    governed: nl.oversight.Governed,
    learner: nl.Learner,
    data: HeartData,
    story: Story,
    seed: int,
) -> None:
    """A day of wrongly coded records reaches the fast level, which is rolled back."""
    story.now.wait(7)
    good = governed.versions.latest
    spine = learner.levels["spine"].digest()
    swapped = data.trained["Hungary"]
    follow(learner, swapped.relabel(1 - swapped.y), seed, num_epochs=3)
    failed = list_failed(governed.check())
    governed.keep_version(reason="records of a day in Hungary were learned")
    story.measure(governed, "wrong codes")
    governed.rollback(
        "fast", good.id, by="M. Okafor", reason="records of this day had their codes swapped"
    )
    findings = governed.check()
    story.measure(governed, "rolled back")
    same = {
        "fast": learner.levels["fast"].digest() == good.digests["fast"],
        "spine": learner.levels["spine"].digest() == spine,
    }
    story.figures |= {f"{name} as before": float(is_same) for name, is_same in same.items()}
    story.expect(DAY_FOUND, "B1 (whole)" in failed)
    story.expect(DAY_UNDONE, not list_failed(findings) and all(same.values()))
    story.tell(
        f"Swapped codes fail {', '.join(failed)}; the fast level goes back to {good.id}, and "
        f"{', '.join(list_failed(findings)) or 'nothing'} fails."
    )


def measure_proposal(story: Story, proposal: nl.oversight.ChangeProposal, moment: str) -> None:
    """Note what was measured of a proposal, as `Story.measure`."""
    for view, results in proposal.after.items():
        for probe, result in results.items():
            story.figures[f"{moment}: {probe} ({view})"] = result.value


# --- Adult with planted bias


def run_adult(census: GroupedRows, folder: Path, seed: int) -> Story:
    """A spine that was learned from biased labels, and a fast level that hides it."""
    now = Calendar.starting(2026, 9, 7)
    story = Story("adult", now)
    elder, recent, tested = split_census(census, seed)
    biased = plant_bias(elder, seed, share=SHARE_BIASED)
    learner = start_learner(biased, ADULT_SPINE, seed=seed, num_epochs=8)
    data = make_probe_data(tested)
    governed = nl.govern(
        learner,
        FOLDER / "adult.toml",
        probes={"accuracy": data, "missed-by-sex": data},
        folder=folder,
        now=now,
    )
    story.measure(governed, "as delivered")
    story.tell("The spine comes from elsewhere, where most women's high incomes were not recorded.")
    now.wait(30)
    follow(learner, recent, seed, num_epochs=8)
    findings = governed.check()
    story.measure(governed, "after a month")
    story.tell(f"A month later the whole passes; what fails is {', '.join(list_failed(findings))}.")
    now.wait(1)
    prepared = train_spine(join_rows([elder, recent]), ADULT_SPINE, seed=seed, num_epochs=8)
    proposal = governed.propose(
        "M2", put(prepared), by="J. Silva", reason="the spine learned anew from full records"
    )
    for person in ("A. Novak", "M. Okafor"):
        governed.approve(proposal, by=person)
    governed.settle(proposal)
    findings = governed.check()
    story.measure(governed, "learned anew")
    story.tell(
        f"The spine learned anew is {proposal.status}; "
        f"{', '.join(list_failed(findings)) or 'nothing'} fails."
    )
    return story


def split_census(census: GroupedRows, seed: int) -> tuple[GroupedRows, GroupedRows, GroupedRows]:
    """Elder records, recent ones, and people to test on; as many of either income in each sex."""
    parts = []
    for sex, count in (("female", NUM_WOMEN), ("male", 2 * NUM_WOMEN)):
        for label in (0, 1):
            found = census.select(census.find({"sex": sex}) & (census.y == label))
            parts.append(found.shuffle(seed, sex, label).split(count)[0])
    rows = join_rows(parts).shuffle(seed, "census")
    elder, others = rows.split(2 * len(rows) // 5)
    recent, tested = others.split(2 * len(rows) // 5)
    return elder, recent, tested


# --- all of it


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both cases, write their pages, and print what happened."""
    options = read_options(arguments)
    torch.set_num_threads(1)
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console = Console(soft_wrap=True, width=100)
    if options.seeds:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        console.print(compare_seeds(load_patients(offline=options.offline), seeds))
        return
    cases = {
        "heart": lambda folder: run_heart(load_patients(offline=options.offline), folder, SEED),
        "adult": lambda folder: run_adult(load_census(offline=options.offline), folder, SEED),
    }
    for name, run in cases.items():
        folder = options.out / name
        if (folder / "versions.jsonl").exists():  # of an earlier call: the story begins anew
            shutil.rmtree(folder)
        story = run(folder)
        page = write_audit(folder, story.now)
        console.print(f"[bold]{name}[/bold]")
        for number, chapter in enumerate(story.chapters, 1):
            console.print(f"  {number}. {chapter}")
        console.print(make_table(story))
        console.print(f"  page: {page}")
        data = {"figures": story.figures, "chapters": story.chapters}
        (folder / "story.json").write_text(json.dumps(data, indent=1) + "\n")


def compare_seeds(patients: GroupedRows, seeds: Sequence[int]) -> Table:
    """Whether the story of the hospitals is the same, whoever is tested on: a line per seed."""
    table, counts = Table("seed"), Counter[str]()
    for what in (*EXPECTED, "all of it"):
        table.add_column(what)
    for seed in seeds:
        with TemporaryDirectory() as folder:
            told = run_heart(patients, Path(folder), seed).told
        told["all of it"] = all(told.values())
        counts.update(what for what, has_happened in told.items() if has_happened)
        marks = ["yes" if told[what] else "NO" for what in (*EXPECTED, "all of it")]
        table.add_row(str(seed), *marks)
    table.add_section()
    totals = [f"{counts[what]} of {len(seeds)}" for what in (*EXPECTED, "all of it")]
    table.add_row("", *totals)
    return table


def make_table(story: Story) -> Table:
    """Every figure of a story: a line per moment, spine and whole beside each other."""
    table, cells = Table(), dict[str, dict[str, dict[str, float]]]()
    for name, value in story.figures.items():
        if ": " not in name:
            continue
        moment, what = name.split(": ")
        probe, view = what.removesuffix(")").split(" (")
        cells.setdefault(moment, {}).setdefault(probe, {})[view] = value
    probes = list(dict.fromkeys(probe for found in cells.values() for probe in found))
    for title in ("spine / whole", *probes):
        table.add_column(title)
    for moment, found in cells.items():
        pairs = [f"{found[one]['spine']:.3f} / {found[one]['whole']:.3f}" for one in probes]
        table.add_row(moment, *pairs)
    return table


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/audit"), help="where runs are kept")
    parser.add_argument("--offline", action="store_true", help="fetch nothing")
    parser.add_argument(
        "--seeds", type=int, default=0, help="tell the story of the hospitals with so many seeds"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="the first of those seeds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
