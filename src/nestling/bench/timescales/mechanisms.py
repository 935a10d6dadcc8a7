"""The mechanisms by name: what each adds to plain SGD, what may be tuned, and its control.

Every mechanism comes in two families: alone ("plain"), and with a reservoir of 200 examples ("er").
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nestling.bench.rivals.competitors import Competitor
from nestling.bench.rivals.protections_by_name import PARTS
from nestling.bench.rivals.tunable import CAPACITY, Range, Settings, Setup
from nestling.bench.timescales.chain_network import make_chain_network
from nestling.bench.timescales.nested_loop import LIVE, NestedLoop
from nestling.levels import Copy, Level, Plan, beakers, lookahead, outer_nesterov
from nestling.levels.outer_rules import OuterRule
from nestling.optim import OptimizerSpec, adam, m3, muon, sgd
from nestling.protect import CLSER, Retention

PLAIN = "plain"

Build = Callable[[Setup, Settings, Sequence[Retention]], Competitor]
_Rule = Callable[[float], OptimizerSpec]

# Up to 3, since a trunk that moves by means of 16 steps needs 16 times the rate.
_LR = Range(0.003, 3.0, 0.05)
_ADAM_LR = Range(1e-4, 0.1, 3e-3)
_MUON_LR = Range(1e-3, 1.0, 0.03)
_MEMORY = Range(10.0, 1000.0, 100.0)  # steps that a moving average remembers
# No alarm about large steps: the search tries rates that are too high.
_BAND = (0.0, 1e9)
LOOKAHEAD_PERIOD, OUTER_PERIOD, M3_PERIOD = 6, 16, 16
NUM_BEAKERS, LONGEST = 3, 1000.0


@dataclass(frozen=True)
class Mechanism:
    """One way to have several timescales.

    Attributes:
        name: in tables, and in the names of figures.
        about: what it is, in words.
        build: (setup, settings, protecting methods) -> a competitor that knows nothing yet.
        space: what is tuned, by name.
        control: the mechanism that differs from it in one thing only; None: plain training.
        needs_replay: whether it is of the family "er" only.
        is_control: whether it stands here to be compared with, and is no timescale of its own.
    """

    name: str
    about: str
    build: Build
    space: Mapping[str, Range] = field(default_factory=dict)
    control: str | None = None
    needs_replay: bool = False
    is_control: bool = False


def _level(
    name: str,
    match: str,
    optimizer: OptimizerSpec,
    *,
    period: int = 1,
    reduce: Literal["mean", "sum"] = "mean",
    between: Literal["accumulate", "skip"] = "accumulate",
) -> Level:
    return Level(
        name,
        (match,),
        period=period,
        optimizer=optimizer,
        reduce=reduce,
        between=between,
        band=_BAND,
    )


def _one_level(optimizer: OptimizerSpec) -> Plan:
    return Plan(_level("all", "*", optimizer))


def _by_plan(make_plan: Callable[[Settings], Plan], readout: Sequence[str] = (LIVE,)) -> Build:
    def build(setup: Setup, settings: Settings, methods: Sequence[Retention]) -> Competitor:
        plan = make_plan(settings)
        return NestedLoop(setup.make_model(), plan, methods, readout=readout, seed=setup.seed)

    return build


def _in_chain(make_plan: Callable[[Settings], Plan]) -> Build:
    def build(setup: Setup, settings: Settings, methods: Sequence[Retention]) -> Competitor:
        model = make_chain_network(
            setup.num_inputs, setup.widths[0], setup.num_classes, seed=setup.seed
        )
        return NestedLoop(model, make_plan(settings), methods, seed=setup.seed)

    return build


def _plan_rates(factor: float, settings: Settings) -> Plan:
    lr = settings["lr"]
    return Plan(_level("head", "head.*", sgd(lr)), _level("trunk", "*", sgd(factor * lr)))


def _plan_periods(
    settings: Settings,
    period: int,
    reduce: Literal["mean", "sum"] = "mean",
    between: Literal["accumulate", "skip"] = "accumulate",
) -> Plan:
    rule = sgd(settings["lr"])
    trunk = _level("trunk", "*", rule, period=period, reduce=reduce, between=between)
    return Plan(_level("head", "head.*", rule), trunk)


def _plan_copies(settings: Settings, shares: Mapping[str, float]) -> Plan:
    """One level, and a moving average for each share of the memory, in steps."""
    copies = [
        Copy(name, of=("all",), decay=1.0 - 1.0 / max(2.0, share * settings["memory"]))
        for name, share in shares.items()
    ]
    return Plan(_level("all", "*", sgd(settings["lr"])), *copies)


def _plan_rule(settings: Settings, rule: OuterRule, period: int) -> Plan:
    """One level, and slow weights from which it goes on after every period."""
    level = _level("all", "*", sgd(settings["lr"]))
    return Plan(level, Copy("slow", of=("all",), period=period, rule=rule))


def _plan_layers(settings: Settings, periods: bool) -> Plan:
    """Adam; the first layer moves every 6 steps, the second every 3, or at so much lower rates."""
    lr = settings["lr"]
    levels = [
        _level(name, match, adam(lr), period=slowness, reduce="sum")
        if periods
        else _level(name, match, adam(lr / slowness))
        for name, match, slowness in (
            ("head", "head.*", 1),
            ("first", "trunk.0.*", 6),
            ("second", "*", 3),
        )
    ]
    return Plan(*levels)


def _plan_cms(settings: Settings) -> Plan:
    """The chain's blocks, fastest first: periods 1, 4 and 16, with sums [NL eqs. 70-71]."""
    rule = sgd(settings["lr"])
    return Plan(
        _level("slow", "blocks.2.*", rule, period=16, reduce="sum"),
        _level("middle", "blocks.1.*", rule, period=4, reduce="sum"),
        _level("fast", "*", rule),
    )


def _build_clser(setup: Setup, settings: Settings, _: Sequence[Retention]) -> Competitor:
    memory = settings["memory"]
    method = CLSER(
        CAPACITY,
        setup.batch_size,
        plastic_decay=1.0 - 1.0 / max(2.0, 0.1 * memory),
        stable_decay=1.0 - 1.0 / memory,
        weight=settings["weight"],
        seed=setup.seed,
    )
    plan = _one_level(sgd(settings["lr"]))
    return NestedLoop(setup.make_model(), plan, [method], seed=setup.seed)


_MECHANISMS = (
    Mechanism(PLAIN, "one level, SGD", _by_plan(lambda s: _one_level(sgd(s["lr"]))), {"lr": _LR}),
    Mechanism(
        "rates",
        "the trunk learns at a share of the head's rate, which is tuned",
        _by_plan(lambda s: _plan_rates(s["factor"], s)),
        {"lr": _LR, "factor": Range(0.01, 1.0, 0.1)},
    ),
    Mechanism(
        "rates4",
        "the trunk at 1/4 of the rate",
        _by_plan(lambda s: _plan_rates(1 / 4, s)),
        {"lr": _LR},
        is_control=True,
    ),
    Mechanism(
        "periods4",
        "the trunk moves every 4 steps by the mean gradient",
        _by_plan(lambda s: _plan_periods(s, 4)),
        {"lr": _LR},
        control="rates4",
    ),
    Mechanism(
        "rates16",
        "the trunk at 1/16 of the rate",
        _by_plan(lambda s: _plan_rates(1 / 16, s)),
        {"lr": _LR},
        is_control=True,
    ),
    Mechanism(
        "periods16",
        "the trunk moves every 16 steps by the mean gradient",
        _by_plan(lambda s: _plan_periods(s, 16)),
        {"lr": _LR},
        control="rates16",
    ),
    Mechanism(
        "sums16",
        "the trunk moves every 16 steps by the sum of the gradients",
        _by_plan(lambda s: _plan_periods(s, 16, "sum")),
        {"lr": _LR},
    ),
    Mechanism(
        "skip16",
        "the trunk moves every 16 steps by the last gradient; none is computed before",
        _by_plan(lambda s: _plan_periods(s, 16, "mean", "skip")),
        {"lr": _LR},
        control="periods16",
    ),
    Mechanism(
        "copy",
        "a moving average of the weights answers",
        _by_plan(lambda s: _plan_copies(s, {"slow": 1.0}), ("slow",)),
        {"lr": _LR, "memory": _MEMORY},
    ),
    Mechanism(
        "copies",
        "the live weights and two averages, one ten times slower, answer together",
        _by_plan(lambda s: _plan_copies(s, {"fast": 0.1, "slow": 1.0}), (LIVE, "fast", "slow")),
        {"lr": _LR, "memory": _MEMORY},
        control="copy",
    ),
    Mechanism(
        "clser",
        "CLS-ER: two averages teach what is replayed, the slow one answers",
        _build_clser,
        {"lr": _LR, "memory": _MEMORY, "weight": Range(0.03, 3.0, 0.15)},
        control="copy",
        needs_replay=True,
    ),
    Mechanism(
        "beakers",
        f"Benna-Fusi chain of {NUM_BEAKERS} variables behind every weight, to {LONGEST:g} steps",
        _by_plan(
            lambda s: _plan_rule(
                s, beakers(NUM_BEAKERS, shortest=s["shortest"], longest=LONGEST), 1
            )
        ),
        {"lr": _LR, "shortest": Range(3.0, 300.0, 30.0)},
    ),
    Mechanism(
        "lookahead",
        f"Lookahead: every {LOOKAHEAD_PERIOD} steps a part of the way",
        _by_plan(lambda s: _plan_rule(s, lookahead(s["step_size"]), LOOKAHEAD_PERIOD), ("slow",)),
        {"lr": _LR, "step_size": Range(0.1, 0.9, 0.5)},
    ),
    Mechanism(
        "outer",
        f"SNOO: outer Nesterov momentum every {OUTER_PERIOD} steps, step 0.7",
        _by_plan(
            lambda s: _plan_rule(s, outer_nesterov(0.7, s["momentum"]), OUTER_PERIOD), ("slow",)
        ),
        {"lr": _LR, "momentum": Range(0.1, 0.9, 0.5)},
        control="lookahead",
    ),
    Mechanism(
        "muon",
        "Muon",
        _by_plan(lambda s: _one_level(muon(s["lr"]))),
        {"lr": _MUON_LR},
        is_control=True,
    ),
    Mechanism(
        "m3",
        f"M3, normalized, slow momentum every {M3_PERIOD} steps",
        _by_plan(lambda s: _one_level(m3(s["lr"], alpha=s["alpha"], period=M3_PERIOD))),
        {"lr": _MUON_LR, "alpha": Range(0.05, 5.0, 0.5)},
        control="muon",
    ),
    Mechanism(
        "adam",
        "Adam",
        _by_plan(lambda s: _one_level(adam(s["lr"]))),
        {"lr": _ADAM_LR},
        None,
        is_control=True,
    ),
    Mechanism(
        "adam-rates",
        "Adam, layers at 1/6, 1/3 and all of the rate",
        _by_plan(lambda s: _plan_layers(s, periods=False)),
        {"lr": _ADAM_LR},
        control="adam",
        is_control=True,
    ),
    Mechanism(
        "adam-periods",
        "Adam, layers move every 6, 3 and 1 steps by sums (continuum memory, first layer slowest)",
        _by_plan(lambda s: _plan_layers(s, periods=True)),
        {"lr": _ADAM_LR},
        control="adam-rates",
    ),
    Mechanism(
        "blocks",
        "a chain of three residual MLP blocks, one level, SGD",
        _in_chain(lambda s: _one_level(sgd(s["lr"]))),
        {"lr": _LR},
        is_control=True,
    ),
    Mechanism(
        "cms",
        "continuum memory: the chain's blocks move every 1, 4 and 16 steps by sums",
        _in_chain(_plan_cms),
        {"lr": _LR},
        control="blocks",
    ),
)

MECHANISMS: dict[str, Mechanism] = {one.name: one for one in _MECHANISMS}


def make_replay(setup: Setup, settings: Settings) -> list[Retention]:
    """What the family "er" has beside a mechanism: replay of 200 examples."""
    return [PARTS["er"](setup, settings)]
