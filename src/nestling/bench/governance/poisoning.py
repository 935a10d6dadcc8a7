"""Poison by a few busy sources: what each guard keeps out of the spine and of the whole.

The toy of a security review on a real table: 5 of 50 sources send 36 % of the rows, with flipped
labels; quietly, or loudly with inputs times 6. Letters: N rows, D inputs.

The settings below were chosen on seeds 0 and 1. The suite measures seeds 10 to 14, which had no
part in that.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nestling.bench.governance.two_parts import BLOCK, TwoPartNet, learn_part, make_plan
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows
from nestling.core.errors import ProposalError
from nestling.core.seeds import make_generator
from nestling.data.groups import GroupedRows, balance_labels, load_census
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import (
    FixedBehaviour,
    LevelRole,
    MayChange,
    StaysFixed,
    View,
)
from nestling.judge.contract.probe_spec import ProbeSpec
from nestling.judge.probes import ProbeData
from nestling.learn import Learner
from nestling.levels import Held
from nestling.optim import sgd
from nestling.oversight import Governed, govern
from nestling.protect.influence import SourceGuard

# "uneven" is no attack: the same few sources send as much, and are honest.
Attack = Literal["clean", "uneven", "quiet", "loud"]
ATTACKS: tuple[Attack, ...] = ("clean", "uneven", "quiet", "loud")

NUM_SOURCES, NUM_ATTACKERS, SHARE = 50, 5, 0.36
LOUDNESS = 6.0
# Rows: that the spine learned beforehand, that canaries are of, that come, that are tested on.
NUM_TRUSTED, NUM_CANARIES, NUM_ROWS = 500, 500, 8_000
PERIOD = 8  # blocks between two proposals of a slow update
FAST_LR, SPINE_LR, DECAY = 0.1, 0.15, 0.02
CLIP, TRUST, FALL, MARGIN = 0.5, 0.1, 0.03, 0.2
NUM_EPOCHS = 8


@dataclass(frozen=True)
class Guards:
    """Which guards are on.

    Attributes:
        clip: the norm of the fast level's gradient.
        norm: of a row's distance from the centre, in medians of those that came before.
        rate: rows of one source among the last thousand, as a share.
        agreement: whether sources are held whose labels contradict the answers.
        trust: largest relative change of an update of the fast level, and of a proposal.
        views: in which canaries gate a proposal.
    """

    clip: float | None = None
    norm: float | None = None
    rate: float | None = None
    agreement: bool = False
    trust: float | None = None
    views: tuple[View, ...] = ()


NORM, RATE = 4.0, 0.05
OFF = 1e9  # times the median: no row is as far out
BOTH: tuple[View, ...] = ("spine", "whole")
CASES: dict[str, Guards] = {
    "none": Guards(),
    "clip": Guards(clip=CLIP),
    "norm and clip": Guards(clip=CLIP, norm=NORM),
    "rate and clip": Guards(clip=CLIP, rate=RATE),
    "agreement and clip": Guards(clip=CLIP, agreement=True),
    "trust region and clip": Guards(clip=CLIP, trust=TRUST),
    "canaries on the whole and clip": Guards(clip=CLIP, views=("whole",)),
    "canaries on both and clip": Guards(clip=CLIP, views=BOTH),
    "all": Guards(CLIP, NORM, RATE, True, TRUST, BOTH),
}


@dataclass(frozen=True)
class Traffic:
    """Rows as they come, with who sent them.

    Attributes:
        x: (N, D).
        y: (N,) labels.
        sources: N names.
    """

    x: Tensor
    y: Tensor
    sources: tuple[str, ...]


@dataclass(frozen=True)
class PoisonOutcome:
    """What became of a model: accuracies on rows that nobody learned, and what was refused.

    Attributes:
        spine, whole: accuracies in [0, 1].
        rows_refused: share of the rows that were not learned.
        proposals_refused: share of the slow updates.
    """

    spine: float
    whole: float
    rows_refused: float
    proposals_refused: float


class ClippedSGD(torch.optim.SGD):
    """Stochastic gradient descent whose gradient, all parameters together, has a bounded norm."""

    def step(self, closure: Any = None) -> Any:
        """Clip, then step."""
        for group in self.param_groups:
            nn.utils.clip_grad_norm_(group["params"], CLIP)
        return super().step(closure)


def make_clipped(params: list[Tensor]) -> ClippedSGD:
    """The fast level's rule where gradients are clipped."""
    return ClippedSGD(params, lr=FAST_LR, weight_decay=DECAY)


def measure_poison(seeds: Sequence[int], place: CellFolders) -> tuple[Figures, Rows]:
    """`poison_..._gap`: points of accuracy that poison costs spine and whole with all guards on.

    People of Adult, as many over 50K as not. A spine that learned 500 trusted rows, and a fast
    level, learn 8,000 rows of 50 sources in blocks of 32; every eighth block a slow update is
    proposed that learned these blocks. In an attack 5 of the sources send 36 % of the rows, with
    flipped labels; "quiet" as they are, "loud" with inputs times 6; "uneven" is as much from these
    five, with right labels. A gap is the accuracy on 4,000 other rows of the same model without
    poison and without any guard, less that under poison with all guards; means over the seeds.

    Args:
        seeds: of rows, sources and attacks.
        place: where the census lies.

    Returns: the gaps; `clean_refused`, the larger share of rows and of proposals that all guards
        refuse though nobody attacks; `uneven_refused`, the same where honest sources send
        unevenly; a row per case with each guard by itself.
    """
    everyone = load_census(place.data, offline=place.offline)
    census = [balance_labels(everyone, seed) for seed in seeds]
    rows: Rows = []
    for name, guards in CASES.items():
        for attack in ATTACKS:
            found = [
                run_case(people, seed, attack, guards)
                for seed, people in zip(seeds, census, strict=True)
            ]
            rows.append({"guards": name, "attack": attack, **average(found)})
    return build_figures(rows), rows


def average(found: Sequence[PoisonOutcome]) -> dict[str, object]:
    """Means over seeds."""
    names = ("spine", "whole", "rows_refused", "proposals_refused")
    return {name: statistics.fmean(getattr(one, name) for one in found) for name in names}


def build_figures(rows: Rows) -> Figures:
    """The figures of `measure_poison` from its rows."""
    by_case = {(row["guards"], row["attack"]): row for row in rows}
    clean = by_case["none", "clean"]
    figures: Figures = {}
    for attack in ("quiet", "loud"):
        for view in ("spine", "whole"):
            lost = float(str(clean[view])) - float(str(by_case["all", attack][view]))
            figures[f"poison_{attack}_{view}_gap"] = 100.0 * lost
    for name in ("clean", "uneven"):
        found = by_case["all", name]
        refused = [float(str(found[what])) for what in ("rows_refused", "proposals_refused")]
        figures[f"{name}_refused"] = max(refused)
    return figures


def make_traffic(rows: GroupedRows, seed: int, attack: Attack) -> Traffic:
    """Rows with their sources: 36 % are of five of them, which an attack makes poison."""
    generator = make_generator(seed, "traffic")
    count = len(rows)
    sender_N = torch.randint(NUM_SOURCES, (count,), generator=generator, device="cpu")
    x, y = rows.x.clone(), rows.y.clone()
    if attack != "clean":
        draws_N = torch.rand(count, generator=generator, dtype=torch.float32, device="cpu")
        honest_N = NUM_ATTACKERS + sender_N % (NUM_SOURCES - NUM_ATTACKERS)
        is_busy = draws_N < SHARE
        sender_N = torch.where(is_busy, sender_N % NUM_ATTACKERS, honest_N)
        if attack != "uneven":
            y[is_busy] = 1 - y[is_busy]
        if attack == "loud":
            x[is_busy] *= LOUDNESS
    return Traffic(x, y, tuple(f"source {number}" for number in sender_N.tolist()))


def make_names(count: int, seed: int) -> tuple[str, ...]:
    """Honest sources, by chance."""
    generator = make_generator(seed, "trusted rows")
    numbers = torch.randint(NUM_SOURCES, (count,), generator=generator, device="cpu")
    return tuple(f"source {number}" for number in numbers.tolist())


def make_contract(guards: Guards) -> Contract:
    """What the guards say as clauses: bounds of both levels, and canaries in some views."""
    canaries = FixedBehaviour("B1", probe="canaries", fall=FALL, views=guards.views or BOTH)
    return Contract(
        "poison",
        levels=[LevelRole("spine", role="spine"), LevelRole("fast", role="fast")],
        may_change=[
            MayChange("M1", level="fast", what="all that comes", per_update=guards.trust),
            MayChange(
                "M2",
                level="spine",
                what="what came lately",
                per_update=guards.trust,
                trigger="proposal",
            ),
        ],
        must_stay_fixed=StaysFixed(behaviour=[canaries] if guards.views else []),
        probes=[ProbeSpec("canaries", metric="accuracy")] if guards.views else [],
    )


def make_source_guard(guards: Guards) -> SourceGuard | None:
    """The guard of sources with these of its rules; None without any."""
    if guards.norm is None and guards.rate is None and not guards.agreement:
        return None
    return SourceGuard(
        rate=guards.rate or 1.0,
        norm=guards.norm or OFF,
        margin=MARGIN if guards.agreement else 1.0,  # no share of errors is higher by 1
    )


def make_learner(trusted: GroupedRows, guards: Guards, seed: int) -> Learner:
    """A learner whose spine has learned trusted rows."""
    model = TwoPartNet(trusted.x.shape[1], seed)
    learn_part(model, trusted, "spine", num_epochs=NUM_EPOCHS, seed=seed)
    plain = sgd(lr=FAST_LR, weight_decay=DECAY)
    plan = make_plan(sgd(lr=SPINE_LR), make_clipped if guards.clip else plain)
    return Learner(model, plan, num_classes=2, sources=make_source_guard(guards), seed=seed)


def run_case(census: GroupedRows, seed: int, attack: Attack, guards: Guards) -> PoisonOutcome:
    """One stream through one model under some guards.

    Args:
        census: as many rows of either label, in the order of the seed.
        seed: of sources, attack and orders.
        attack: of `ATTACKS`.
        guards: that are on.
    """
    trusted, others = census.split(NUM_TRUSTED)
    canaries, others = others.split(NUM_CANARIES)
    stream, tested = others.split(NUM_ROWS)
    traffic = make_traffic(stream, seed, attack)
    learner = make_learner(trusted, guards, seed)
    # One block of trusted rows comes first, so that there are answers of which canaries are judged.
    first = Traffic(trusted.x[:BLOCK], trusted.y[:BLOCK], make_names(BLOCK, seed))
    learn_block(learner, first, guards)
    probes = {"canaries": ProbeData(canaries.x, canaries.y)} if guards.views else {}
    governed = govern(learner, make_contract(guards), probes=probes, now=lambda: 0.0)
    num_held = num_refused = num_proposed = 0
    blocks = list_blocks(traffic)
    for number, block in enumerate(blocks, 1):
        num_held += learn_block(learner, block, guards)
        if number % PERIOD == 0:
            lately = blocks[number - PERIOD : number]
            num_proposed += 1
            num_refused += not propose(governed, lately, guards)
    answers = (governed.restricted_to(["spine"]), learner.predict_proba)
    spine, whole = (
        float((answer(tested.x).argmax(dim=1) == tested.y).float().mean()) for answer in answers
    )
    return PoisonOutcome(spine, whole, num_held / len(traffic.y), num_refused / num_proposed)


def list_blocks(traffic: Traffic) -> list[Traffic]:
    """Blocks of 32 rows, in their order."""
    return [
        Traffic(x, y, traffic.sources[start : start + BLOCK])
        for start, x, y in zip(
            range(0, len(traffic.y), BLOCK),
            traffic.x.split(BLOCK),
            traffic.y.split(BLOCK),
            strict=True,
        )
    ]


def learn_block(learner: Learner, block: Traffic, guards: Guards) -> int:
    """Learn a block; how many of its rows were held."""
    source = block.sources if make_source_guard(guards) is not None else None
    report = learner.learn(block.x, block.y, source=source)
    return sum(event.num_rows for event in report.events if isinstance(event, Held))


def propose(governed: Governed, blocks: Sequence[Traffic], guards: Guards) -> bool:
    """Propose that the spine learns what came lately; whether that was committed.

    The fast level is held meanwhile. Whom the guard holds is held in the trial, too.
    """

    def change(trial: Learner) -> None:
        for block in blocks:
            learn_block(trial, block, guards)

    try:
        proposal = governed.propose("M2", change, by="bench", reason="what came lately")
    except ProposalError:  # all of it was held: nothing is left to be learned
        return True
    return governed.settle(proposal).status == "committed"
