"""Probes: named measurements of a model's behaviour on data that has a digest."""

from nestling.judge.probes.group_counts import GroupCount, GroupCounts
from nestling.judge.probes.group_gaps import (
    accuracy_gap,
    calibration_gap,
    demographic_parity_difference,
    demographic_parity_ratio,
    equalized_odds_difference,
    expected_calibration_error,
    false_negative_gap,
    false_positive_gap,
    worst_group_accuracy,
)
from nestling.judge.probes.measured_probe import make_probe, measure_probes
from nestling.judge.probes.metric_table import METRICS
from nestling.judge.probes.probe_data import ProbeData, load_probe_data
from nestling.judge.probes.probe_result import Answering, Probe, ProbePart, ProbeResult
from nestling.judge.probes.score_intervals import (
    bootstrap_interval,
    mean_interval,
    newcombe_interval,
    wilson_interval,
)

__all__ = [
    "METRICS",
    "Answering",
    "GroupCount",
    "GroupCounts",
    "Probe",
    "ProbeData",
    "ProbePart",
    "ProbeResult",
    "accuracy_gap",
    "bootstrap_interval",
    "calibration_gap",
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equalized_odds_difference",
    "expected_calibration_error",
    "false_negative_gap",
    "false_positive_gap",
    "load_probe_data",
    "make_probe",
    "mean_interval",
    "measure_probes",
    "newcombe_interval",
    "wilson_interval",
    "worst_group_accuracy",
]
