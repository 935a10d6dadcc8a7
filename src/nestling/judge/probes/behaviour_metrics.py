"""Metrics of behaviour: canaries, invariance, monotonicity, negative flips.

Axis letters: N rows, K classes or values.
"""

import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError, ShapeMismatch
from nestling.judge.curves import negative_flip_rate
from nestling.judge.probes.metric_request import (
    MetricFigure,
    MetricRequest,
    judge_proportion,
    refuse,
    refuse_few,
)
from nestling.judge.probes.probe_answers import AnsweredRows, predict_classes, read_target
from nestling.judge.probes.probe_data import ProbeData
from nestling.judge.probes.score_intervals import wilson_interval

# Columns of canaries: numbers of classes, parted by spaces or commas.
REQUIRED, FORBIDDEN = "required", "forbidden"
_MOST_NAMED = 5


def judge_canaries(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Canary pass rate: share of rows answered as required, and with nothing forbidden."""
    classes = predict_classes(rows.answers).tolist()
    rules = [read_rule(rows, row) for row in range(rows.num_rows)]
    passed = [
        answer >= 0 and (not required or answer in required) and answer not in forbidden
        for answer, (required, forbidden) in zip(classes, rules, strict=True)
    ]
    figure = judge_proportion(sum(passed), len(passed), "canaries", request)
    failed = [row for row, is_right in enumerate(passed) if not is_right]
    if not failed or figure.too_few:
        return figure
    said = ", ".join(
        f"row {row} answered {classes[row] if classes[row] >= 0 else 'not finite'}"
        for row in failed[:_MOST_NAMED]
    )
    more = f" and {len(failed) - _MOST_NAMED} more" if len(failed) > _MOST_NAMED else ""
    notes = (f"canaries failed: {said}{more}",)
    return MetricFigure(figure.value, figure.low, figure.high, figure.num_examples, notes=notes)


def check_canaries(data: ProbeData) -> None:
    """Check that every row of canaries requires or forbids something.

    Raises:
        DataError: a row that does neither, or a class that is no number.
    """
    empty = torch.zeros(data.num_rows, 1, dtype=torch.float64, device="cpu")
    rows = AnsweredRows(empty, data.y, data.columns)
    for row in range(data.num_rows):
        required, forbidden = read_rule(rows, row)
        if not required and not forbidden:
            raise DataError(
                f"canary {row} requires and forbids nothing; give its class in y, or class "
                f"numbers in a column {REQUIRED!r} or {FORBIDDEN!r}"
            )
        if required and required <= forbidden:
            raise DataError(f"canary {row} forbids {sorted(forbidden)}, all that it requires")


def read_rule(rows: AnsweredRows, row: int) -> tuple[set[int], set[int]]:
    """Classes of which a canary requires one, and those that it forbids.

    A column "required" stands before the targets; without one the target is required.
    """
    if REQUIRED in rows.columns:
        required = _read_classes(rows.columns[REQUIRED][row], REQUIRED, row)
    else:
        target = -1 if rows.target is None else int(rows.target[row])
        required = {target} if target >= 0 else set()
    if FORBIDDEN not in rows.columns:
        return required, set()
    return required, _read_classes(rows.columns[FORBIDDEN][row], FORBIDDEN, row)


def judge_invariance(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Invariance: share of rows whose answer stays when the row is changed."""
    changed = _read_changed(rows)
    tolerance = request.settings.tolerance
    if tolerance is None:
        answer = predict_classes(rows.answers)
        stays = (answer >= 0) & (answer == predict_classes(changed))
    else:
        # A difference to what is not finite is NaN or infinite, so above any tolerance.
        stays = ((rows.answers - changed).abs() <= tolerance).all(dim=1)
    return judge_proportion(int(stays.sum()), rows.num_rows, "rows", request)


def judge_monotonicity(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Monotonicity: share of rows whose answer does not go the wrong way when they are changed.

    The answer is its only value, or of several its column `positive`.
    """
    changed = _read_changed(rows)
    width, place = rows.answers.shape[1], request.settings.positive
    if width == 1:
        place = 0
    elif place >= width:
        raise SettingError(f"positive = {place}; the answers have {width} columns, from 0")
    rise = (changed - rows.answers)[:, place]
    if request.settings.direction == "down":
        rise = -rise
    finite = rows.answers.isfinite().all(dim=1) & changed.isfinite().all(dim=1)
    follows = finite & (rise >= -(request.settings.tolerance or 0.0))
    return judge_proportion(int(follows.sum()), rows.num_rows, "rows", request)


def judge_negative_flips(rows: AnsweredRows, request: MetricRequest) -> MetricFigure:
    """Negative flip rate: share of rows that the version before answered rightly, and this not."""
    target = read_target(rows)
    labelled = target >= 0
    count = int(labelled.sum())
    if rows.before is None:
        return refuse(count, "no version before, so no flips; measure with before=...")
    if count < request.least:
        return refuse_few(count, "rows with a target", request)
    right_before, right_now = (
        predict_classes(answers).eq(target)[labelled].tolist()
        for answers in (rows.before, rows.answers)
    )
    value = negative_flip_rate(right_before, right_now)
    low, high = wilson_interval(round(value * count), count, request.confidence)
    return MetricFigure(value, low, high, count)


def _read_changed(rows: AnsweredRows) -> Tensor:
    assert rows.changed is not None  # make_probe refuses data without changed rows
    if rows.changed.shape != rows.answers.shape:
        raise ShapeMismatch(
            f"answers of shape {tuple(rows.answers.shape)}, to the changed rows "
            f"{tuple(rows.changed.shape)}; answer both alike"
        )
    return rows.changed


def _read_classes(text: str, column: str, row: int) -> set[int]:
    words = text.replace(",", " ").split()
    if not all(word.isascii() and word.isdigit() for word in words):
        raise DataError(f"canary {row}: {column} is {text!r}; class numbers work, such as '0 2'")
    return {int(word) for word in words}
