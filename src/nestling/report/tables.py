"""The tables of a report: figures, what happened on the way, differences, compute."""

import math
from collections.abc import Sequence

from nestling.judge import Estimate
from nestling.report.reading import Record, read_float
from nestling.report.retention import compare_seeds
from nestling.report.summary import MethodDigest

# Figure -> heading with its unit. "points" are per cent of accuracy.
HEADS = {
    "acc": "ACC, %",
    "forgetting": "forgetting, points",
    "bwt": "backward transfer, points",
    "worst": "WC-ACC, %",
    "stability_gap": "stability gap, points",
    "steps_to_adapt": "steps to adapt",
    "seconds_per_example": "ms per example",
}
COMPARED = ("acc", "forgetting", "worst", "stability_gap", "steps_to_adapt")
_SCALES = {"steps_to_adapt": (1.0, 0), "seconds_per_example": (1e3, 2)}  # others: per cent
_TIE = "\N{NO-BREAK SPACE}"  # on a narrow page a cell may break before an interval, not in it

Rows = list[list[str]]


def list_used(digests: Sequence[MethodDigest]) -> list[str]:
    """Figures that at least one method has."""
    return [key for key in HEADS if any(key in digest.figures for digest in digests)]


def tabulate_figures(digests: Sequence[MethodDigest]) -> Rows:
    """A row per method: its name, then the figures of `list_used`."""
    used = list_used(digests)
    return [[d.name, *(_show(key, d.figures.get(key)) for key in used)] for d in digests]


def tabulate_retention(digests: Sequence[MethodDigest]) -> Rows:
    """A row per method and experience: when learned, at worst, deepest fall, last, half-life."""
    return [
        [
            f"{digest.name}, {one.name}",
            f"{100 * one.learned:.1f}",
            f"{100 * one.worst:.1f}",
            f"{100 * (one.learned - one.worst):.1f}",
            f"{100 * one.last:.1f}",
            f"{one.half_life:.0f}" if math.isfinite(one.half_life) else "not reached",
        ]
        for digest in digests
        for one in digest.retention
    ]


def tabulate_differences(subject: MethodDigest, digests: Sequence[MethodDigest]) -> Rows:
    """A row per other method: the subject minus it, over the seeds that both have."""
    used = [key for key in COMPARED if key in list_used(digests)]
    rows = []
    for digest in digests:
        if digest.name == subject.name or not used:
            continue
        found = [compare_seeds(subject.seed_figures, digest.seed_figures, key) for key in used]
        rows.append(
            [
                f"minus {digest.name}",
                *(_show_difference(key, value) for key, value in zip(used, found, strict=True)),
                str(max((value.num_seeds for value in found if value is not None), default=0)),
            ]
        )
    return rows


def head_differences(digests: Sequence[MethodDigest]) -> list[str]:
    """Headings of `tabulate_differences` after the first."""
    used = list_used(digests)
    heads = [HEADS[key].replace(", %", ", points") for key in COMPARED if key in used]
    return [*heads, "seeds"]


def tabulate_compute(records: Sequence[Record]) -> Rows:
    """A row per level of a method's first seed: its steps, updates, share skipped, seconds."""
    first: dict[object, object] = {}
    for record in records:
        first.setdefault(record["method"], record["seed"])
    return [
        [
            f"{record['method']}, {record['level']}",
            f"{read_float(record['num_steps']):.0f}",
            f"{read_float(record['num_updates']):.0f}",
            f"{read_float(record['share_backward_skipped']):.0%}",
            f"{read_float(record['seconds']):.2f}",
        ]
        for record in records
        if record["seed"] == first[record["method"]]
    ]


def _show(figure: str, value: Estimate | None) -> str:
    if value is None:
        return "-"
    scale, digits = _SCALES.get(figure, (100.0, 1))
    text = _round(value.mean * scale, digits)
    if math.isfinite(value.half_width):
        text += f"{_TIE}±{_TIE}{value.half_width * scale:.{digits}f}"
    return text


def _show_difference(figure: str, value: Estimate | None) -> str:
    """Mean and interval; the mean alone for one seed, which allows no interval."""
    if value is None:
        return "-"
    scale, digits = _SCALES.get(figure, (100.0, 1))
    text = _round(value.mean * scale, digits, sign="+")
    if math.isfinite(value.half_width):
        low, high = value.mean - value.half_width, value.mean + value.half_width
        text += f" [{_round(low * scale, digits)},{_TIE}{_round(high * scale, digits)}]"
    return text


def _round(value: float, digits: int, sign: str = "") -> str:
    """A number without a minus before zero."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"
