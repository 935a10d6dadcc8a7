"""Metrics of groups: how far apart the rates of groups lie, and how the worst group fares.

Groups are the values of each column by itself, or with `crossed` the combinations of all columns.
"""

import math
from collections.abc import Mapping, Sequence

from nestling.judge.probes.group_counts import GroupCount, GroupCounts
from nestling.judge.probes.group_gaps import (
    Proportion,
    count_false_negatives,
    count_false_positives,
    count_positive_answers,
    count_right,
    count_true_positives,
    expected_calibration_error,
)
from nestling.judge.probes.metric_request import (
    MetricFigure,
    MetricRequest,
    judge_proportion,
    refuse_few,
)
from nestling.judge.probes.probe_answers import AnsweredRows, read_target
from nestling.judge.probes.probe_result import ProbePart
from nestling.judge.probes.row_metrics import calibration_interval
from nestling.judge.probes.score_intervals import newcombe_interval

# Name of a rate, what it is a share of, and its proportion.
Rate = tuple[str, str, Proportion]
_POSITIVE_ANSWERS: Rate = ("positive rate", "rows", count_positive_answers)
_TRUE_POSITIVES: Rate = ("true positive rate", "positives", count_true_positives)
_FALSE_NEGATIVES: Rate = ("false negative rate", "positives", count_false_negatives)
_FALSE_POSITIVES: Rate = ("false positive rate", "negatives", count_false_positives)
_ACCURACY: Rate = ("accuracy", "rows with a target", count_right)


def judge_demographic_parity(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Demographic parity difference: largest gap of the rates of positive answers."""
    return _judge_gap(rows, request, [_POSITIVE_ANSWERS])


def judge_equalized_odds(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Equalised odds difference: the larger gap of true and of false positive rates."""
    return _judge_gap(rows, request, [_TRUE_POSITIVES, _FALSE_POSITIVES])


def judge_false_negative_gap(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """False-negative gap: largest gap of the shares of missed positives."""
    return _judge_gap(rows, request, [_FALSE_NEGATIVES])


def judge_false_positive_gap(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """False-positive gap: largest gap of the shares of negatives taken for positives."""
    return _judge_gap(rows, request, [_FALSE_POSITIVES])


def judge_accuracy_gap(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Accuracy gap: accuracy of the best group minus that of the worst."""
    return _judge_gap(rows, request, [_ACCURACY])


def judge_worst_group(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Worst-group accuracy, with the interval of that group."""
    judged = [
        judge_counts(counts, [_ACCURACY], request)
        for counts in count_columns(rows, request).values()
    ]
    parts = tuple(part for found, _ in judged for part in found)
    too_few = tuple(words for _, said in judged for words in said)
    known = [part for part in parts if not math.isnan(part.value)]
    if not known:
        return MetricFigure(math.nan, math.nan, math.nan, rows.num_rows, parts, too_few)
    worst = min(known, key=lambda part: part.value)
    return MetricFigure(worst.value, worst.low, worst.high, rows.num_rows, parts, too_few)


def judge_calibration_gap(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Calibration gap: largest gap of the groups' calibration errors, by the bootstrap."""
    figures = [_judge_calibration(rows, names, request) for names in name_groups(request)]
    parts = tuple(part for figure in figures for part in figure.parts)
    too_few = tuple(words for figure in figures for words in figure.too_few)
    widest = max(figures, key=lambda one: -1.0 if math.isnan(one.value) else one.value)
    return MetricFigure(widest.value, widest.low, widest.high, rows.num_rows, parts, too_few)


def name_groups(request: MetricRequest) -> list[tuple[str, ...]]:
    """The columns that are combined: each by itself, or all of them crossed."""
    if request.settings.crossed:
        return [tuple(request.groups)]
    return [(column,) for column in request.groups]


def label_rows(texts: Mapping[str, Sequence[str]], columns: Sequence[str]) -> list[str]:
    """The group of each row, such as "sex=female" or "sex=female, age=old"."""
    named = [[f"{column}={text}" for text in texts[column]] for column in columns]
    return [", ".join(parts) for parts in zip(*named, strict=True)]


def count_columns(
    rows: AnsweredRows, request: MetricRequest
) -> dict[tuple[str, ...], Mapping[str, GroupCount]]:
    """Counts of the groups of each column, or of all columns crossed."""
    found: dict[tuple[str, ...], Mapping[str, GroupCount]] = {}
    for columns in name_groups(request):
        counts = GroupCounts(request.settings.positive, request.settings.bins)
        counts.update(rows.answers, rows.target, label_rows(rows.columns, columns))
        found[columns] = {group: counts.counts[group] for group in sorted(counts.counts)}
    return found


def judge_counts(
    counts: Mapping[str, GroupCount], rates: Sequence[Rate], request: MetricRequest
) -> tuple[list[ProbePart], list[str]]:
    """Rates of each group with their intervals, and which have too few rows to be judged."""
    parts, too_few = [], []
    for name, of_what, proportion in rates:
        for group, count in counts.items():
            figure = judge_proportion(*proportion(count), of_what, request)
            label = group if len(rates) == 1 else f"{group}: {name}"
            parts.append(
                ProbePart(label, figure.value, figure.low, figure.high, figure.num_examples)
            )
            too_few += [f"{group}: {words}" for words in figure.too_few]
    return parts, too_few


def _judge_gap(rows: AnsweredRows, request: MetricRequest, rates: Sequence[Rate]) -> MetricFigure:
    parts: list[ProbePart] = []
    too_few: list[str] = []
    # Gaps of every column and rate, of the groups that have enough rows: the largest counts.
    gaps: list[tuple[float, float, float]] = []
    for columns, counts in count_columns(rows, request).items():
        found, said = judge_counts(counts, rates, request)
        parts += found
        too_few += said
        for _, of_what, proportion in rates:
            pairs = [pair for one in counts.values() if (pair := proportion(one))[1] > 0]
            enough = sorted(
                (pair for pair in pairs if pair[1] >= request.least),
                key=lambda pair: pair[0] / pair[1],
            )
            if len(enough) > 1:
                gaps.append(_measure_gap(enough[-1], enough[0], request.confidence))
            else:
                names = " and ".join(columns)
                too_few.append(
                    f"{names}: {len(enough)} groups with {request.least} or more {of_what}, "
                    "a gap needs 2"
                )
    value, low, high = max(gaps, default=(math.nan, math.nan, math.nan))
    return MetricFigure(value, low, high, rows.num_rows, tuple(parts), tuple(too_few))


def _measure_gap(
    most: tuple[int, int], least: tuple[int, int], confidence: float
) -> tuple[float, float, float]:
    """Gap with the interval of these two groups, as if they had been named beforehand."""
    low, high = newcombe_interval(most, least, confidence)
    return most[0] / most[1] - least[0] / least[1], max(0.0, low), high


def _judge_calibration(
    rows: AnsweredRows, columns: Sequence[str], request: MetricRequest
) -> MetricFigure:
    """Gap of the calibration errors of the groups of one column, or of several crossed."""
    bins, labels = request.settings.bins, label_rows(rows.columns, columns)
    counts = GroupCounts(request.settings.positive, bins)
    counts.update(rows.answers, rows.target, labels)
    labelled: list[int] = (read_target(rows) >= 0).nonzero()[:, 0].tolist()
    generator = request.make_generator()
    parts, too_few, errors = [], [], {}
    for group in sorted(counts.counts):
        count = counts.counts[group].num_labelled
        if count < request.least:
            said = refuse_few(count, "rows with a target", request)
            too_few.append(f"{group}: {said.too_few[0]}")
            parts.append(ProbePart(group, math.nan, math.nan, math.nan, count))
            continue
        inside = [row for row in labelled if labels[row] == group]
        value = expected_calibration_error([counts.counts[group]])
        low, high = calibration_interval(rows.select(inside), request, generator)
        errors[group] = (value, value - low)
        parts.append(ProbePart(group, value, max(0.0, low), min(1.0, high), count))
    if len(errors) < 2:
        names = " and ".join(columns)
        too_few.append(f"{names}: {len(errors)} groups with enough rows, a gap needs 2")
        return MetricFigure(
            math.nan, math.nan, math.nan, rows.num_rows, tuple(parts), tuple(too_few)
        )
    (worst, half_1), (best, half_2) = max(errors.values()), min(errors.values())
    # The groups hold different rows, so that their errors are independent.
    half = math.hypot(half_1, half_2)
    gap = worst - best
    return MetricFigure(
        gap,
        max(0.0, gap - half),
        min(1.0, gap + half),
        rows.num_rows,
        tuple(parts),
        tuple(too_few),
    )
