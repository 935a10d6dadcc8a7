"""The learner: the step, the loop, saving and export."""

from nestling.learn.default import make_default_plan
from nestling.learn.learner import Learner
from nestling.learn.step import FitReport, StepReport

__all__ = ["FitReport", "Learner", "StepReport", "make_default_plan"]
