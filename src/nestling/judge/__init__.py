"""Measures of continual learning: accuracy matrix, forgetting, adaptation, intervals."""

from nestling.judge.curves import (
    negative_flip_rate,
    retention_half_life,
    steps_to_fraction,
    worst_case_accuracy,
)
from nestling.judge.intervals import Estimate, LevelCompute, compare_paired, estimate_mean
from nestling.judge.matrix import FORMULAS, AccuracyMatrix, formula
from nestling.judge.scores import measure_accuracy, measure_r_squared

__all__ = [
    "FORMULAS",
    "AccuracyMatrix",
    "Estimate",
    "LevelCompute",
    "compare_paired",
    "estimate_mean",
    "formula",
    "measure_accuracy",
    "measure_r_squared",
    "negative_flip_rate",
    "retention_half_life",
    "steps_to_fraction",
    "worst_case_accuracy",
]
