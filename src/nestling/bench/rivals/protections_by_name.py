"""Protecting methods by the names that the benchmark combines, and closed forms by theirs.

`strength`, `decay` and so on are what the search draws; what is not drawn is the paper's value.
"""

from collections.abc import Callable

from nestling.bench.rivals.competitors import Solver
from nestling.bench.rivals.tunable import CAPACITY, Settings, Setup
from nestling.memory import RandomFeatures
from nestling.memory.closed import (
    NearestClassMean,
    RandomProjectionRidge,
    RecursiveRidge,
    StreamingLDA,
)
from nestling.protect import Retention
from nestling.protect.penalties import EWC, L2SP, MAS, SI, LwF, MaskAbsent, OnlineEWC
from nestling.protect.replay import (
    AGEM,
    CLSER,
    DER,
    ER,
    ERACE,
    GEM,
    DERpp,
    EMAReader,
    GDumb,
    MeanER,
)

Part = Callable[[Setup, Settings], Retention]

PARTS: dict[str, Part] = {
    "mask": lambda _, __: MaskAbsent("experience"),
    "ewc": lambda setup, drawn: EWC(drawn["strength"], seed=setup.seed),
    "online-ewc": lambda setup, drawn: OnlineEWC(
        drawn["strength"], drawn["decay"], seed=setup.seed
    ),
    "si": lambda _, drawn: SI(drawn["strength"]),
    "mas": lambda _, drawn: MAS(drawn["strength"]),
    "l2sp": lambda _, drawn: L2SP(drawn["strength"], 0.0, head=""),
    "lwf": lambda _, drawn: LwF(drawn["strength"]),
    "ema": lambda _, drawn: EMAReader(drawn["decay"]),
    "er": lambda setup, _: ER(CAPACITY, setup.batch_size, joint=True, seed=setup.seed),
    "er-ace": lambda setup, _: ERACE(CAPACITY, setup.batch_size, seed=setup.seed),
    "der": lambda setup, drawn: DER(CAPACITY, drawn["alpha"], setup.batch_size, seed=setup.seed),
    "derpp": lambda setup, drawn: DERpp(
        CAPACITY, drawn["alpha"], drawn["beta"], setup.batch_size, seed=setup.seed
    ),
    "derpp500": lambda setup, drawn: DERpp(
        500, drawn["alpha"], drawn["beta"], setup.batch_size, seed=setup.seed
    ),
    "a-gem": lambda setup, _: AGEM(CAPACITY, seed=setup.seed),
    "gem": lambda setup, drawn: GEM(
        max(1, CAPACITY // setup.num_experiences), drawn["margin"], seed=setup.seed
    ),
    "gdumb": lambda setup, drawn: GDumb(CAPACITY, rate=drawn["rate"], seed=setup.seed),
    "mean-er": lambda setup, drawn: MeanER(
        CAPACITY, setup.batch_size, drawn["decay"], joint=True, seed=setup.seed
    ),
    "cls-er": lambda setup, drawn: CLSER(
        CAPACITY,
        setup.batch_size,
        weight=drawn["weight"],
        stable_decay=drawn["stable_decay"],
        seed=setup.seed,
    ),
}

NUM_FEATURES = 1000  # of the closed forms that make their own

SOLVERS: dict[str, Callable[[Setup, Settings], Solver]] = {
    "ncm": lambda setup, _: NearestClassMean(setup.num_inputs),
    "slda": lambda setup, drawn: StreamingLDA(setup.num_inputs, shrinkage=drawn["shrinkage"]),
    "ranpac": lambda setup, _: RandomProjectionRidge(
        setup.num_inputs, NUM_FEATURES, seed=setup.seed
    ),
    "ridge": lambda setup, drawn: RecursiveRidge(
        setup.num_inputs,
        features=RandomFeatures(setup.num_inputs, NUM_FEATURES, seed=setup.seed),
        strength=drawn["strength"],
    ),
}
