"""Nested learning for PyTorch: parts of one model learn at different speeds.

>>> import nestling as nl
>>> nl.Plan(nl.Level("all", match=["*"]))
Plan(gradient 'all'; read-out live)
>>> nl.protect.EWC.__name__
'EWC'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestling import answer as answer
    from nestling import bench as bench
    from nestling import consolidate as consolidate
    from nestling import data as data
    from nestling import doctor as doctor
    from nestling import jobs as jobs
    from nestling import judge as judge
    from nestling import learn as learn
    from nestling import ledger as ledger
    from nestling import levels as levels
    from nestling import memory as memory
    from nestling import models as models
    from nestling import optim as optim
    from nestling import oversight as oversight
    from nestling import protect as protect
    from nestling import report as report
    from nestling import store as store
    from nestling import streams as streams
    from nestling.consolidate import Verdict
    from nestling.core.errors import MissingExtra, NestlingError
    from nestling.doctor import examine
    from nestling.judge.contract.change_contract import Contract
    from nestling.learn import Learner, PersonalLearner
    from nestling.learn.adapters.estimators import NestedClassifier, NestedRegressor
    from nestling.levels import (
        AgreementGate,
        Concepts,
        Copy,
        DriftGate,
        DriftWatch,
        Freeze,
        ImportanceGate,
        Level,
        LevelAlarm,
        Memory,
        NestedOptimizer,
        ParentGate,
        Plan,
        ScheduleGate,
        Sleep,
        SurpriseGate,
        adapters,
        assign_levels,
        beakers,
        by_depth,
        lookahead,
        mix,
        outer_nesterov,
        spine_and_head,
    )
    from nestling.memory import MemoryBank, RandomFeatures, RidgeMemory
    from nestling.models import stack_levels
    from nestling.optim import adam, adamw, sgd
    from nestling.oversight import Governed, govern
    from nestling.streams import StreamClassifier, StreamRegressor
    from nestling.streams.adapters.river_estimators import (
        RiverStreamClassifier,
        RiverStreamRegressor,
    )
    from nestling.streams.adapters.stream_estimators import (
        NestedStreamClassifier,
        NestedStreamRegressor,
    )

__version__ = "0.1.0"

# Where each public name lives. Names are looked up when they are first used, so that
# `nestling --help` does not wait for torch, nor `import nestling` for scikit-learn.
_HOMES = {
    "nestling.consolidate": ("Verdict",),
    "nestling.core.errors": (
        "MissingExtra",
        "NestlingError",
    ),
    "nestling.doctor": ("examine",),
    "nestling.judge.contract.change_contract": ("Contract",),
    "nestling.learn": ("Learner", "PersonalLearner"),
    "nestling.learn.adapters.estimators": (
        "NestedClassifier",
        "NestedRegressor",
    ),
    "nestling.levels": (
        "AgreementGate",
        "Concepts",
        "Copy",
        "DriftGate",
        "DriftWatch",
        "Freeze",
        "ImportanceGate",
        "Level",
        "LevelAlarm",
        "Memory",
        "NestedOptimizer",
        "ParentGate",
        "Plan",
        "ScheduleGate",
        "Sleep",
        "SurpriseGate",
        "adapters",
        "assign_levels",
        "beakers",
        "by_depth",
        "lookahead",
        "mix",
        "outer_nesterov",
        "spine_and_head",
    ),
    "nestling.memory": (
        "MemoryBank",
        "RandomFeatures",
        "RidgeMemory",
    ),
    "nestling.models": ("stack_levels",),
    "nestling.optim": (
        "adam",
        "adamw",
        "sgd",
    ),
    "nestling.oversight": ("Governed", "govern"),
    "nestling.streams": ("StreamClassifier", "StreamRegressor"),
    "nestling.streams.adapters.river_estimators": (
        "RiverStreamClassifier",
        "RiverStreamRegressor",
    ),
    "nestling.streams.adapters.stream_estimators": (
        "NestedStreamClassifier",
        "NestedStreamRegressor",
    ),
}

# Rooms that can be reached as `nl.NAME`. They stand beside `__all__`, not in it: a star import
# would import all of them.
_ROOMS = (
    "answer",
    "bench",
    "consolidate",
    "data",
    "doctor",
    "jobs",
    "judge",
    "learn",
    "ledger",
    "levels",
    "memory",
    "models",
    "optim",
    "oversight",
    "protect",
    "report",
    "store",
    "streams",
)

__all__ = [
    "AgreementGate",
    "Concepts",
    "Contract",
    "Copy",
    "DriftGate",
    "DriftWatch",
    "Freeze",
    "Governed",
    "ImportanceGate",
    "Learner",
    "Level",
    "LevelAlarm",
    "Memory",
    "MemoryBank",
    "MissingExtra",
    "NestedClassifier",
    "NestedOptimizer",
    "NestedRegressor",
    "NestedStreamClassifier",
    "NestedStreamRegressor",
    "NestlingError",
    "ParentGate",
    "PersonalLearner",
    "Plan",
    "RandomFeatures",
    "RidgeMemory",
    "RiverStreamClassifier",
    "RiverStreamRegressor",
    "ScheduleGate",
    "Sleep",
    "StreamClassifier",
    "StreamRegressor",
    "SurpriseGate",
    "Verdict",
    "__version__",
    "adam",
    "adamw",
    "adapters",
    "assign_levels",
    "beakers",
    "by_depth",
    "examine",
    "govern",
    "lookahead",
    "mix",
    "outer_nesterov",
    "sgd",
    "spine_and_head",
    "stack_levels",
]


if not TYPE_CHECKING:  # a type checker shall know a name that is not there

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return import_module(f"nestling.{name}")
        for home, names in _HOMES.items():
            if name in names:
                value = getattr(import_module(home), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module 'nestling' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
