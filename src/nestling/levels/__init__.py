"""Levels: groups of parameters that learn at different speeds, copies and memories."""

from nestling.levels.answering import Mix, mix
from nestling.levels.assign import assign_levels
from nestling.levels.bounds import ChangeBounds
from nestling.levels.drift_watch import DriftWatch
from nestling.levels.events import (
    Alarm,
    Bounded,
    Braked,
    Change,
    DriftAlarm,
    Event,
    Held,
    LevelAlarm,
    Refusal,
)
from nestling.levels.gates import (
    AgreementGate,
    DriftGate,
    Gate,
    ImportanceGate,
    ParentGate,
    ScheduleGate,
    SurpriseGate,
)
from nestling.levels.level import Clock, LiveLevel
from nestling.levels.optimizer import NestedOptimizer
from nestling.levels.outer_rules import (
    BeakersRule,
    LookaheadRule,
    OuterNesterovRule,
    beakers,
    lookahead,
    outer_nesterov,
)
from nestling.levels.plan import Plan
from nestling.levels.presets import adapters, by_depth, spine_and_head
from nestling.levels.readings import LevelReading
from nestling.levels.spec import Concepts, Copy, Freeze, Level, Memory, Sleep
from nestling.levels.stack import Levels

__all__ = [
    "AgreementGate",
    "Alarm",
    "BeakersRule",
    "Bounded",
    "Braked",
    "Change",
    "ChangeBounds",
    "Clock",
    "Concepts",
    "Copy",
    "DriftAlarm",
    "DriftGate",
    "DriftWatch",
    "Event",
    "Freeze",
    "Gate",
    "Held",
    "ImportanceGate",
    "Level",
    "LevelAlarm",
    "LevelReading",
    "Levels",
    "LiveLevel",
    "LookaheadRule",
    "Memory",
    "Mix",
    "NestedOptimizer",
    "OuterNesterovRule",
    "ParentGate",
    "Plan",
    "Refusal",
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
]
