"""Nested learning for PyTorch: parts of one model learn at different speeds.

>>> import nestling as nl
>>> nl.Plan(nl.Level("all"))
Plan(gradient 'all'; read-out live)
"""

from typing import TYPE_CHECKING, Any

from nestling.consolidate import Verdict
from nestling.core.errors import MissingExtra, NestlingError
from nestling.learn import Learner
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

if TYPE_CHECKING:
    from nestling.learn.estimators import NestedClassifier, NestedRegressor

__version__ = "0.1.0"

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
    # The estimators stand on scikit-learn, which is an extra and slow to import.
    if name in ("NestedClassifier", "NestedRegressor"):
        from nestling.learn import estimators

        return getattr(estimators, name)
    raise AttributeError(f"module 'nestling' has no attribute {name!r}")
