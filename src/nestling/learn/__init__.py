"""The learner: learn as data arrive, answer at any time, save, restore and export."""

from nestling.learn.default import make_default_plan
from nestling.learn.learner import Learner
from nestling.learn.parts import read_level
from nestling.learn.personal import PersonalLearner
from nestling.learn.reports import Counts, FitReport, StepReport

__all__ = [
    "Counts",
    "FitReport",
    "Learner",
    "PersonalLearner",
    "StepReport",
    "make_default_plan",
    "read_level",
]
