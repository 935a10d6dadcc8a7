"""What a contract costs while a model learns: bounds, holds and guards on, against without."""

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.bench.governance.two_parts import BLOCK
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import (
    Figures,
    Rows,
    Side,
    list_sides,
    median_ratio,
    run_backward,
    time_calls,
    time_rounds,
)
from nestling.data.groups import GroupedRows, load_census
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import MayChange, StaysFixed
from nestling.learn import Learner
from nestling.levels import Level, Levels, NestedOptimizer, Plan
from nestling.models import mlp
from nestling.optim import adamw
from nestling.oversight import govern
from nestling.protect.influence import SourceGuard

HIDDEN = (128, 64)
NUM_STEPS, NUM_ROUNDS = 32, 41
WITHOUT, WITH = "without", "with a contract"
SOURCES = tuple(f"source {number % 8}" for number in range(BLOCK))
Block = tuple[Tensor, Tensor]


def measure_cost(place: CellFolders) -> tuple[Figures, Rows]:
    """`contract_overhead`: seconds of learning in blocks of 32 under a contract, over without.

    An MLP of Adult (hidden layers of 128 and 64) learns by `Learner.learn`, with the default plan
    and with one of two gradient levels, and by a plain loop with `NestedOptimizer`. The contract
    bounds the change of gradient levels per update, per day and since the last validation, and
    fixes one tensor; a learner's rows name their sources, of which a guard bounds rate, norm and
    weight. Both sides take turns of 32 steps; a ratio is the median over 41 rounds of that within
    a round. `contract_overhead` is that of the default learner. The other two, whose whole step
    takes less than half a millisecond, stand beside it: there the same microseconds count more.

    Returns: the figure, `contract_overhead_learner` and `contract_overhead_loop`; rows with the
        median milliseconds per step of every side.
    """
    census = load_census(place.data, offline=place.offline).shuffle(0)
    figures: Figures = {}
    rows: Rows = []
    with TemporaryDirectory() as folder:
        kinds = (
            ("default", functools.partial(make_learners, plan=None)),
            ("learner", functools.partial(make_learners, plan=make_plan())),
            ("loop", make_loops),
        )
        for kind, make_sides in kinds:
            seconds = time_rounds(make_sides(census, Path(folder) / kind), NUM_ROUNDS)
            figures[f"contract_overhead_{kind}"] = median_ratio(seconds, WITH, WITHOUT)
            rows += list_sides(kind, seconds, NUM_STEPS)
    return {"contract_overhead": figures.pop("contract_overhead_default"), **figures}, rows


def make_contract(levels: Levels) -> Contract:
    """Bounds of every kind on all levels that learn by gradient, and one tensor that is held."""
    return Contract(
        "cost",
        may_change=[
            MayChange(
                f"M{number}",
                level=name,
                what="all that comes",
                per_update=0.2 if name in levels.gradient else None,
                per_day=5.0 if name in levels.gradient else None,
                since_validation=10.0 if name in levels.gradient else None,
            )
            for number, name in enumerate(levels, 1)
        ],
        must_stay_fixed=StaysFixed(parameters=["trunk.0.bias"]),
    )


def make_model(num_inputs: int) -> nn.Sequential:
    """The same MLP every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return mlp([num_inputs, *HIDDEN, 2])


def make_plan() -> Plan:
    """A head at every step, everything else at every fourth."""
    return Plan(
        Level("head", match=["head.*"], optimizer=adamw(lr=1e-3)),
        Level("trunk", match=["*"], period=4, optimizer=adamw(lr=1e-3)),
    )


def make_learners(census: GroupedRows, folder: Path, *, plan: Plan | None) -> dict[str, Side]:
    """Two learners of a plan, or of the default one; one of them under the contract."""
    sides: dict[str, Side] = {}
    for name in (WITHOUT, WITH):
        is_governed = name == WITH
        learner = Learner(
            make_model(census.x.shape[1]),
            plan,
            num_classes=2,
            sources=SourceGuard() if is_governed else None,
        )
        if is_governed:
            govern(learner, make_contract(learner.levels), folder=folder)
        step = make_learning(learner, list_blocks(census), SOURCES if is_governed else None)
        sides[name] = functools.partial(time_calls, step, NUM_STEPS)
    return sides


def make_loops(census: GroupedRows, folder: Path) -> dict[str, Side]:
    """Two loops, one of them under the contract."""
    sides: dict[str, Side] = {}
    for name in (WITHOUT, WITH):
        model = make_model(census.x.shape[1])
        optimizer = NestedOptimizer(model, make_plan())
        if name == WITH:
            govern(optimizer, make_contract(optimizer.levels), folder=folder)
        step = make_step(model, optimizer, list_blocks(census))
        sides[name] = functools.partial(time_calls, step, NUM_STEPS)
    return sides


def make_learning(
    learner: Learner, blocks: Iterator[Block], sources: tuple[str, ...] | None
) -> Callable[[], None]:
    """One step of a learner."""

    def step() -> None:
        x, y = next(blocks)
        learner.learn(x, y, source=sources)

    return step


def list_blocks(census: GroupedRows) -> Iterator[Block]:
    """Blocks of 32 rows, over and over."""
    pairs = zip(census.x.split(BLOCK), census.y.split(BLOCK), strict=True)
    return itertools.cycle([(x, y) for x, y in pairs if len(x) == BLOCK])


def make_step(
    model: nn.Module, optimizer: NestedOptimizer, blocks: Iterator[Block]
) -> Callable[[], None]:
    """One step of a plain loop."""

    def step() -> None:
        x, y = next(blocks)
        optimizer.zero_grad()
        run_backward(functional.cross_entropy(model(x), y))
        optimizer.step()

    return step
