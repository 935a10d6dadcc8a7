"""Plan suggestion: measurements on your own model and data, each choice with its reason."""

from nestling.jobs.suggest.choosing import Reason, Suggestion, suggest_plan, suggest_token_plan
from nestling.jobs.suggest.examples import read_examples
from nestling.jobs.suggest.linearity import Linearity
from nestling.jobs.suggest.signals import GroupMeasurement, Measurements, measure_model
from nestling.jobs.suggest.stacked_blocks import (
    StackedBlock,
    StackingAdvice,
    find_mlp_outputs,
    suggest_stacking,
)

__all__ = [
    "GroupMeasurement",
    "Linearity",
    "Measurements",
    "Reason",
    "StackedBlock",
    "StackingAdvice",
    "Suggestion",
    "find_mlp_outputs",
    "measure_model",
    "read_examples",
    "suggest_plan",
    "suggest_stacking",
    "suggest_token_plan",
]
