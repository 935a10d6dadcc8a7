"""Nested learning for PyTorch: parts of one model learn at different speeds."""

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
    assign_levels,
    mix,
)
from nestling.optim import adam, adamw, sgd

__version__ = "0.1.0"

__all__ = [
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
    "__version__",
    "adam",
    "adamw",
    "assign_levels",
    "mix",
    "sgd",
]
