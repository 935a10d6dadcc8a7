"""Plan suggestion: measurements on your own model and data, each choice with its reason."""

from nestling.jobs.suggest.choosing import Reason, Suggestion, suggest_plan
from nestling.jobs.suggest.examples import read_examples
from nestling.jobs.suggest.linearity import Linearity
from nestling.jobs.suggest.signals import GroupMeasurement, Measurements, measure_model

__all__ = [
    "GroupMeasurement",
    "Linearity",
    "Measurements",
    "Reason",
    "Suggestion",
    "measure_model",
    "read_examples",
    "suggest_plan",
]
