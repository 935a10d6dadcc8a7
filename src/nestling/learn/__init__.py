"""The learner: training steps, snapshots, consolidation and export."""

from nestling.learn.default import make_default_plan
from nestling.learn.learner import Learner
from nestling.learn.reports import Counts, FitReport, StepReport

__all__ = ["Counts", "FitReport", "Learner", "StepReport", "make_default_plan"]
