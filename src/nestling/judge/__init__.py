"""Measures of continual learning: accuracy, forgetting, adaptation, drift, probes, intervals."""

from nestling.judge.curves import (
    negative_flip_rate,
    retention_half_life,
    steps_to_fraction,
    worst_case_accuracy,
)
from nestling.judge.drift import (
    ADWIN,
    KSWIN,
    Drift,
    DriftDetector,
    HDDMAverage,
    HDDMWeighted,
    PageHinkley,
    make_detector,
)
from nestling.judge.intervals import Estimate, LevelCompute, compare_paired, estimate_mean
from nestling.judge.matrix import FORMULAS, AccuracyMatrix, formula
from nestling.judge.probes import (
    GroupCounts,
    ProbeData,
    ProbePart,
    ProbeResult,
    make_probe,
    measure_probes,
)
from nestling.judge.recoveries import (
    Recovery,
    compare_visits,
    count_excess_errors,
    measure_recoveries,
)
from nestling.judge.scores import measure_accuracy, measure_r_squared
from nestling.judge.stream_scores import StreamScores, ValueScores

__all__ = [
    "ADWIN",
    "FORMULAS",
    "KSWIN",
    "AccuracyMatrix",
    "Drift",
    "DriftDetector",
    "Estimate",
    "GroupCounts",
    "HDDMAverage",
    "HDDMWeighted",
    "LevelCompute",
    "PageHinkley",
    "ProbeData",
    "ProbePart",
    "ProbeResult",
    "Recovery",
    "StreamScores",
    "ValueScores",
    "compare_paired",
    "compare_visits",
    "count_excess_errors",
    "estimate_mean",
    "formula",
    "make_detector",
    "make_probe",
    "measure_accuracy",
    "measure_probes",
    "measure_r_squared",
    "measure_recoveries",
    "negative_flip_rate",
    "retention_half_life",
    "steps_to_fraction",
    "worst_case_accuracy",
]
