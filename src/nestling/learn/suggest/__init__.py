"""A plan from measurements on the user's own model and data, each choice with its reason."""

from nestling.learn.suggest.choosing import Reason, Suggestion, suggest_plan
from nestling.learn.suggest.examples import read_examples
from nestling.learn.suggest.linearity import Linearity
from nestling.learn.suggest.measuring import GroupMeasurement, Measurements, measure_model

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
