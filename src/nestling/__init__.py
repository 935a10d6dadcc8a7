"""Nested learning for PyTorch: parts of one model learn at different speeds.

>>> import nestling as nl
>>> nl.Plan(nl.Level("all", match=["*"]))
Plan(gradient 'all'; read-out live)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestling.consolidate import Verdict
    from nestling.core.errors import MissingExtra, NestlingError
    from nestling.learn import Learner
    from nestling.learn.adapters.estimators import NestedClassifier, NestedRegressor
    from nestling.levels import (
        AgreementGate,
        Copy,
        Freeze,
        ImportanceGate,
        Level,
        LevelAlarm,
        Memory,
        NestedOptimizer,
        ParentGate,
        Plan,
        ScheduleGate,
        SurpriseGate,
        adapters,
        assign_levels,
        by_depth,
        mix,
        spine_and_head,
    )
    from nestling.memory import MemoryBank, RandomFeatures, RidgeMemory
    from nestling.optim import adam, adamw, sgd

__version__ = "0.1.0"

# Where each public name lives. Names are looked up when they are first used, so that
# `nestling --help` does not wait for torch, nor `import nestling` for scikit-learn.
_HOMES = {
    "nestling.consolidate": ("Verdict",),
    "nestling.core.errors": (
        "MissingExtra",
        "NestlingError",
    ),
    "nestling.learn": ("Learner",),
    "nestling.learn.adapters.estimators": (
        "NestedClassifier",
        "NestedRegressor",
    ),
    "nestling.levels": (
        "AgreementGate",
        "Copy",
        "Freeze",
        "ImportanceGate",
        "Level",
        "LevelAlarm",
        "Memory",
        "NestedOptimizer",
        "ParentGate",
        "Plan",
        "ScheduleGate",
        "SurpriseGate",
        "adapters",
        "assign_levels",
        "by_depth",
        "mix",
        "spine_and_head",
    ),
    "nestling.memory": (
        "MemoryBank",
        "RandomFeatures",
        "RidgeMemory",
    ),
    "nestling.optim": (
        "adam",
        "adamw",
        "sgd",
    ),
}

__all__ = [
    "AgreementGate",
    "Copy",
    "Freeze",
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
    "NestlingError",
    "ParentGate",
    "Plan",
    "RandomFeatures",
    "RidgeMemory",
    "ScheduleGate",
    "SurpriseGate",
    "Verdict",
    "__version__",
    "adam",
    "adamw",
    "adapters",
    "assign_levels",
    "by_depth",
    "mix",
    "sgd",
    "spine_and_head",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'nestling' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
