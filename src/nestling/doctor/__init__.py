"""Examination of nested models: periods without effect, leaks, dead write rules, impure eval()."""

from nestling.doctor.check_results import Check, Examination, LevelRow
from nestling.doctor.examine import examine
from nestling.doctor.example_inputs import guess_inputs, make_inputs
from nestling.doctor.period_checks import is_period

__all__ = [
    "Check",
    "Examination",
    "LevelRow",
    "examine",
    "guess_inputs",
    "is_period",
    "make_inputs",
]
