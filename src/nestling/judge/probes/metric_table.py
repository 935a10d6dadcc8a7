"""Metrics of probes by the names that contracts use, with what each needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from nestling.core.errors import DataError, SettingError, suggest
from nestling.judge.contract.probe_spec import ProbeSpec
from nestling.judge.probes import behaviour_metrics as behaviour
from nestling.judge.probes import group_metrics as groups
from nestling.judge.probes import row_metrics as rows
from nestling.judge.probes.metric_request import MetricFigure, MetricRequest, MetricSettings
from nestling.judge.probes.probe_answers import AnsweredRows
from nestling.judge.probes.probe_data import ProbeData
from nestling.judge.probes.probe_result import Direction

Measure = Callable[[AnsweredRows, MetricRequest], MetricFigure]


@dataclass(frozen=True)
class ProbeMetric:
    """A built-in metric: its function, and what it needs of data, answers and settings.

    Attributes:
        measure: rows and request -> figure.
        better: which figures are better.
        settings: that it has beside `slice`.
        targets: "classes", "values", classes or none ("optional"), or "any".
        answers: "probabilities", "values", or "either".
        needs: "groups" to compare, "slices", the data's "changed" rows, or answers of the version
            "before"; empty for none of these.
    """

    measure: Measure
    better: Direction = "higher"
    settings: tuple[str, ...] = ()
    targets: Literal["classes", "values", "optional", "any"] = "classes"
    answers: Literal["probabilities", "values", "either"] = "probabilities"
    needs: Literal["", "groups", "slices", "changed", "before"] = ""


_BINS = ("bins", "resamples")
# Every built-in metric of probes by its name.
METRICS: Mapping[str, ProbeMetric] = {
    "accuracy": ProbeMetric(rows.judge_accuracy),
    "error": ProbeMetric(rows.judge_error, "lower"),
    "log_loss": ProbeMetric(rows.judge_log_loss, "lower"),
    "brier": ProbeMetric(rows.judge_brier, "lower"),
    "calibration_error": ProbeMetric(rows.judge_calibration_error, "lower", _BINS),
    "recall": ProbeMetric(rows.judge_recall, "higher", ("positive",)),
    "precision": ProbeMetric(rows.judge_precision, "higher", ("positive",)),
    "false_negative_rate": ProbeMetric(rows.judge_false_negative_rate, "lower", ("positive",)),
    "positive_rate": ProbeMetric(rows.judge_positive_rate, "higher", ("positive",), "optional"),
    "r_squared": ProbeMetric(
        rows.judge_r_squared, settings=("resamples",), targets="values", answers="values"
    ),
    "mean_absolute_error": ProbeMetric(
        rows.judge_mean_absolute_error, "lower", targets="values", answers="values"
    ),
    "worst_slice_accuracy": ProbeMetric(rows.judge_accuracy, needs="slices"),
    "demographic_parity_difference": ProbeMetric(
        groups.judge_demographic_parity, "lower", ("positive",), "optional", needs="groups"
    ),
    "equalized_odds_difference": ProbeMetric(
        groups.judge_equalized_odds, "lower", ("positive",), needs="groups"
    ),
    "false_negative_gap": ProbeMetric(
        groups.judge_false_negative_gap, "lower", ("positive",), needs="groups"
    ),
    "false_positive_gap": ProbeMetric(
        groups.judge_false_positive_gap, "lower", ("positive",), needs="groups"
    ),
    "accuracy_gap": ProbeMetric(groups.judge_accuracy_gap, "lower", needs="groups"),
    "worst_group_accuracy": ProbeMetric(groups.judge_worst_group, needs="groups"),
    "calibration_gap": ProbeMetric(groups.judge_calibration_gap, "lower", _BINS, needs="groups"),
    "canary_pass_rate": ProbeMetric(behaviour.judge_canaries, targets="optional"),
    "invariance": ProbeMetric(
        behaviour.judge_invariance,
        settings=("tolerance",),
        targets="any",
        answers="either",
        needs="changed",
    ),
    "monotonicity": ProbeMetric(
        behaviour.judge_monotonicity,
        settings=("positive", "direction", "tolerance"),
        targets="any",
        answers="either",
        needs="changed",
    ),
    "negative_flip_rate": ProbeMetric(behaviour.judge_negative_flips, "lower", needs="before"),
}


def find_metric(name: str) -> ProbeMetric:
    """The built-in metric of a name; SettingError with the nearest one if there is none."""
    if name not in METRICS:
        raise SettingError(
            f"no metric {name!r}; {suggest(name, METRICS)}; a metric of your own is written "
            "'module:function'"
        )
    return METRICS[name]


def read_settings(spec: ProbeSpec, known: tuple[str, ...]) -> MetricSettings:
    """Settings of a metric, those of a specification over the defaults.

    Args:
        spec: of the probe.
        known: settings that the metric has beside `slice` and, where groups are named, `crossed`.

    Raises:
        SettingError: one that the metric does not have, or cannot bear; a slice that is none.
    """
    known = (*known, "slice", *(("crossed",) if spec.groups else ()))
    for name in spec.settings:
        if name not in known:
            raise SettingError(f"{spec.metric} has no setting {name!r}; {suggest(name, known)}")
    given: dict[str, str | float | int | bool] = dict(spec.settings)
    settings = MetricSettings(**given)  # type: ignore[arg-type]  # pydantic checks each
    if settings.slice and settings.slice not in spec.slices:
        raise SettingError(
            f"slice = {settings.slice!r} is no slice of the probe; "
            + suggest(settings.slice, spec.slices)
        )
    return settings


def check_needs(metric: ProbeMetric, spec: ProbeSpec, data: ProbeData) -> None:
    """Check that a probe has the targets, groups, slices and changed rows that its metric needs.

    Raises:
        SettingError: groups or slices that are not named, or a tolerance.
        DataError: the data do not have what it takes.
    """
    name = spec.metric
    if metric.targets == "classes" and not data.has_classes:
        kind = "none" if data.y is None else f"values, {data.y.dtype}"
        raise DataError(f"{name} needs classes, the targets are {kind}; give y as whole numbers")
    if metric.targets == "optional" and data.y is not None and not data.has_classes:
        raise DataError(f"{name} takes classes or no targets, not values; give y as whole numbers")
    if metric.targets == "values" and (data.y is None or data.has_classes):
        kind = "none" if data.y is None else "classes"
        raise DataError(f"{name} needs values, the targets are {kind}; give y.float()")
    if metric.needs == "groups":
        if not spec.groups:
            known = f"of {sorted(data.columns)}" if data.columns else "that the data must have"
            raise SettingError(f"{name} compares groups; give groups, columns {known}")
        for column in spec.groups:
            if len(values := set(data.read_column(column))) < 2:
                raise DataError(f"column {column!r} has one group, {values}; a gap needs 2 or more")
    if metric.needs == "slices" and not spec.slices:
        raise SettingError(f"{name} needs slices; give slices = {{name: {{column: text}}}}")
    if metric.needs == "changed":
        if data.x_changed is None:
            raise DataError(f"{name} needs the rows changed; give ProbeData(..., x_changed=...)")
        is_of_values = data.y is not None and not data.has_classes
        if name == "invariance" and is_of_values and "tolerance" not in spec.settings:
            raise SettingError("invariance of values needs a tolerance; give tolerance = 0.1")
    if name == "canary_pass_rate":
        behaviour.check_canaries(data)
