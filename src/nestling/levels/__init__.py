"""Levels: which parameters learn how fast, on their own clocks."""

from nestling.levels.assign import assign_levels
from nestling.levels.gates import (
    AgreementGate,
    Gate,
    ImportanceGate,
    ParentGate,
    ScheduleGate,
    SurpriseGate,
)
from nestling.levels.optimizer import NestedOptimizer
from nestling.levels.plan import Plan
from nestling.levels.presets import adapters, by_depth, spine_and_head
from nestling.levels.readings import Alarm, Change, LevelAlarm, LevelReading
from nestling.levels.spec import Copy, Freeze, Level, Memory, Mix, mix

__all__ = [
    "AgreementGate",
    "Alarm",
    "Change",
    "Copy",
    "Freeze",
    "Gate",
    "ImportanceGate",
    "Level",
    "LevelAlarm",
    "LevelReading",
    "Memory",
    "Mix",
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
]
