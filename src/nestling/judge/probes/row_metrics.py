"""Metrics of rows: accuracy, error, losses, calibration, rates of one class, errors of values.

Axis letters: N rows, K classes, M values. A failed answer, one that is not finite, is a wrong one.
"""

import torch
from torch import Tensor

from nestling.core.errors import ShapeMismatch
from nestling.judge.probes.group_counts import GroupCounts, bin_confidences
from nestling.judge.probes.group_gaps import expected_calibration_error
from nestling.judge.probes.metric_request import (
    MetricFigure,
    MetricRequest,
    judge_proportion,
    refuse,
    refuse_few,
)
from nestling.judge.probes.probe_answers import AnsweredRows, predict_classes, read_target
from nestling.judge.probes.score_intervals import bootstrap_interval, mean_interval
from nestling.judge.scores import measure_r_squared

# Of the target, in the log loss, as in the scores of streams.
LEAST_PROBABILITY = 1e-6


def judge_accuracy(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Accuracy: share of right answers among rows with a target."""
    labelled, right = _find_right(rows)
    return judge_proportion(
        int((right & labelled).sum()), int(labelled.sum()), "rows with a target", request
    )


def judge_error(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Error: share of wrong answers among rows with a target."""
    labelled, right = _find_right(rows)
    return judge_proportion(
        int((~right & labelled).sum()), int(labelled.sum()), "rows with a target", request
    )


def judge_log_loss(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Log loss: mean of -ln p(target) in nats, p at least LEAST_PROBABILITY."""
    p_N, _, _ = _read_target_probabilities(rows)
    return _judge_mean(-p_N.clamp(min=LEAST_PROBABILITY).log(), request)


def judge_brier(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Brier score: mean of sum_k (p_k - [k is the target])^2, in [0, 2]  [Brier 1950]."""
    p_N, answers_NK, failed_N = _read_target_probabilities(rows)
    # (p - 1)^2 of the target, and p^2 of all others.
    score_N = answers_NK.square().sum(dim=1) - p_N.square() + (p_N - 1.0).square()
    return _judge_mean(torch.where(failed_N, 2.0, score_N), request)


def judge_calibration_error(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Expected calibration error of the answers' confidence; its interval by the bootstrap."""
    labelled = rows.select(_find_labelled(rows))
    count = labelled.num_rows
    if count < request.least:
        return refuse_few(count, "rows with a target", request)
    bins = request.settings.bins
    counts = GroupCounts(num_bins=bins)
    counts.update(labelled.answers, labelled.target, ["all"] * count)
    value = expected_calibration_error(counts.counts.values())
    low, high = calibration_interval(labelled, request, request.make_generator())
    return MetricFigure(value, max(0.0, min(low, value)), min(1.0, max(high, value)), count)


def judge_recall(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Recall: share of the rows of class `positive` that are answered with it."""
    positive, answered = _find_positive(rows, request)
    return judge_proportion(
        int((positive & answered).sum()), int(positive.sum()), "positives", request
    )


def judge_false_negative_rate(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """False-negative rate: share of the rows of class `positive` that are missed."""
    positive, answered = _find_positive(rows, request)
    return judge_proportion(
        int((positive & ~answered).sum()), int(positive.sum()), "positives", request
    )


def judge_precision(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Precision: share of the answers `positive` that are right."""
    positive, answered = _find_positive(rows, request)
    answered = answered & _mark_labelled(rows)
    return judge_proportion(
        int((positive & answered).sum()), int(answered.sum()), "positive answers", request
    )


def judge_positive_rate(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Rate of positive answers: share of all rows that are answered with class `positive`."""
    counts = GroupCounts(request.settings.positive)
    counts.update(rows.answers, rows.target, ["all"] * rows.num_rows)
    return judge_proportion(
        counts.counts["all"].num_answered_positive, rows.num_rows, "rows", request
    )


def judge_r_squared(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """R squared of values; its interval by the bootstrap."""
    answers, target = _read_values(rows)
    if rows.num_rows < request.least:
        return refuse_few(rows.num_rows, "rows", request)
    if failed := int((~answers.isfinite().all(dim=1)).sum()):
        return refuse(rows.num_rows, f"{failed} of {rows.num_rows} answers are not finite")
    count = rows.num_rows
    # Of the centred targets: R squared does not change, and squares do not lose their digits.
    centred = target - target.mean(dim=0)
    error_N, square_N = (answers - target).square().sum(dim=1), centred.square().sum(dim=1)
    terms = torch.cat([error_N[:, None], square_N[:, None], centred], dim=1)

    def figure(sums: Tensor) -> Tensor:
        return 1.0 - sums[:, 0] / (sums[:, 1] - sums[:, 2:].square().sum(dim=1) / count)

    low, high = bootstrap_interval(
        figure,
        terms.sum(dim=0),
        terms.T @ terms,
        count,
        request.make_generator(),
        request.confidence,
        request.settings.resamples,
    )
    return MetricFigure(measure_r_squared(answers, target), low, min(1.0, high), count)


def judge_mean_absolute_error(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Mean absolute error of values, in their unit; mean over several values of a row."""
    answers, target = _read_values(rows)
    if failed := int((~answers.isfinite().all(dim=1)).sum()):
        return refuse(rows.num_rows, f"{failed} of {rows.num_rows} answers are not finite")
    return _judge_mean((answers - target).abs().mean(dim=1), request)


def calibration_interval(
    rows: AnsweredRows, request: MetricRequest, generator: torch.Generator
) -> tuple[float, float]:
    """Confidence interval of the calibration error of rows that all have a target."""
    bins, count = request.settings.bins, rows.num_rows
    where, confidence, right = bin_confidences(rows.answers, read_target(rows), bins)
    excess = confidence - right.double()
    empty = torch.zeros(bins, dtype=torch.float64, device="cpu")
    return bootstrap_interval(
        lambda sums: sums.abs().sum(dim=1) / count,
        empty.index_add(0, where, excess),
        # A row is in one bin: the products of two bins are 0.
        torch.diag(empty.index_add(0, where, excess.square())),
        count,
        generator,
        request.confidence,
        request.settings.resamples,
    )


def _judge_mean(values: Tensor, request: MetricRequest) -> MetricFigure:
    count = values.numel()
    if count < request.least:
        return refuse_few(count, "rows with a target", request)
    low, high = mean_interval(values, request.confidence)
    return MetricFigure(float(values.mean()), low, high, count)


def _mark_labelled(rows: AnsweredRows) -> Tensor:
    return read_target(rows) >= 0


def _find_labelled(rows: AnsweredRows) -> Tensor:
    return _mark_labelled(rows).nonzero()[:, 0]


def _find_right(rows: AnsweredRows) -> tuple[Tensor, Tensor]:
    return _mark_labelled(rows), predict_classes(rows.answers).eq(read_target(rows))


def _find_positive(rows: AnsweredRows, request: MetricRequest) -> tuple[Tensor, Tensor]:
    """Whether each row is of the class, and whether it is answered with it."""
    chosen = request.settings.positive
    positive, answer = read_target(rows).eq(chosen), predict_classes(rows.answers)
    # A failed answer is the wrong one: it misses positives and takes others for them.
    return positive, torch.where(answer < 0, ~positive, answer.eq(chosen))


def _read_target_probabilities(rows: AnsweredRows) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows with a target: its probability (N,), all of them (N, K), whether it failed (N,)."""
    labelled = rows.select(_find_labelled(rows))
    target = read_target(labelled)
    failed = ~labelled.answers.isfinite().all(dim=1)
    answers = torch.where(failed[:, None], 0.0, labelled.answers)
    # A class that the answers do not have yet has probability 0.
    known = target < answers.shape[1]
    place = target.where(known, 0)
    p = answers.gather(1, place[:, None])[:, 0]
    return torch.where(known, p, 0.0), answers, failed


def _read_values(rows: AnsweredRows) -> tuple[Tensor, Tensor]:
    target = read_target(rows)
    if target.numel() != rows.answers.numel():
        raise ShapeMismatch(
            f"answers of shape {tuple(rows.answers.shape)} for values of shape "
            f"{tuple(target.shape)}; give one value per output"
        )
    return rows.answers, target.to("cpu", torch.float64).reshape(rows.answers.shape)
