"""Measures of continual learning, probes of behaviour, and the change contract that they judge."""

from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import (
    EvaluationProtocol,
    FixedBehaviour,
    Interface,
    LevelRole,
    MayChange,
    MustChange,
    Review,
    Risk,
    StaysFixed,
)
from nestling.judge.contract.findings import Finding, GovernanceEvent
from nestling.judge.contract.probe_spec import ProbeSpec
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
from nestling.judge.verdicts.judging import Duty, is_kept, judge_contract, list_duties

__all__ = [
    "ADWIN",
    "FORMULAS",
    "KSWIN",
    "AccuracyMatrix",
    "Contract",
    "Drift",
    "DriftDetector",
    "Duty",
    "Estimate",
    "EvaluationProtocol",
    "Finding",
    "FixedBehaviour",
    "GovernanceEvent",
    "GroupCounts",
    "HDDMAverage",
    "HDDMWeighted",
    "Interface",
    "LevelCompute",
    "LevelRole",
    "MayChange",
    "MustChange",
    "PageHinkley",
    "ProbeData",
    "ProbePart",
    "ProbeResult",
    "ProbeSpec",
    "Recovery",
    "Review",
    "Risk",
    "StaysFixed",
    "StreamScores",
    "ValueScores",
    "compare_paired",
    "compare_visits",
    "count_excess_errors",
    "estimate_mean",
    "formula",
    "is_kept",
    "judge_contract",
    "list_duties",
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
