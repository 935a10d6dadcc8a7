"""Figures and tables of the streams' benchmark, made from cells that were measured."""

import math
import statistics
from collections.abc import Iterable, Sequence

from nestling.bench.streams.stream_cells import OURS, StreamOutcome
from nestling.bench.timing import Figures, Rows
from nestling.data.events import EventStream, open_events
from nestling.judge.recoveries import Recovery, compare_visits, measure_recoveries

# The best of all known systems on each stream, in hindsight: prequential accuracy over the whole
# stream, among River's and MOA's forests, patches and bagging, SAM-kNN, logistic regression, and
# networks by SGD, AdamW and with replay.
BEST: dict[str, float] = {
    "phishing": 0.912,
    "bananas": 0.893,
    "image-segments": 0.912,
    "digits": 0.969,
    "shuttle": 0.999,
    "flights": 0.799,
    "rainfall": 0.784,
    "elec2": 0.903,
    "sea": 0.882,
    "agrawal": 0.963,
    "led": 0.755,
    "hyperplane": 0.933,
    "rbf": 0.734,
}
NEAR = 0.003  # below the best, and still counted as within it
_FOREST = "arf"
_DIGITS_LOOK = "2794"  # events until both halves were learned


def build_accuracy_figures(outcomes: Sequence[StreamOutcome]) -> Figures:
    """`accuracy_...` of ours by stream, and over all 13 of them `mean_accuracy` and the rest.

    `within_best` counts streams within NEAR of BEST, `worst_gap` is the most by which one falls
    short; both, and the mean, only if every stream went through.
    """
    means = {
        name: _average(_find(outcomes, OURS, name), "accuracy") for name in _list_streams(outcomes)
    }
    figures: Figures = {f"accuracy_{_label(name)}": value for name, value in means.items()}
    if all(math.isfinite(means.get(name, math.nan)) for name in BEST):
        figures["mean_accuracy"] = statistics.mean(means[name] for name in BEST)
        gaps = [BEST[name] - means[name] for name in BEST]
        figures["within_best"] = float(sum(gap <= NEAR for gap in gaps))
        figures["worst_gap"] = max(gaps)
    return figures


def build_retention_figures(outcomes: Sequence[StreamOutcome]) -> Figures:
    """`retention_0_4`, `retention_5_9`: held-out digits of both halves after the second."""
    ours = _find(outcomes, OURS, "digits")
    return {
        f"retention_{_label(group)}": statistics.mean(
            one.held_out[_DIGITS_LOOK][group] for one in ours
        )
        for group in ("0-4", "5-9")
        if ours and all(_DIGITS_LOOK in one.held_out for one in ours)
    }


def build_visit_figures(outcomes: Sequence[StreamOutcome]) -> Figures:
    """`second_visit_...` of ours by stream, and `second_visit`, the largest of them."""
    figures: Figures = {}
    for name in _list_streams(outcomes):
        ours = _find(outcomes, OURS, name)
        if ours:
            figures[f"second_visit_{_label(name)}"] = statistics.mean(
                compare_visits(one.read_right(), open_events(name).segments) for one in ours
            )
    if figures:
        found = list(figures.values())
        figures["second_visit"] = max(found) if all(map(math.isfinite, found)) else math.nan
    return figures


def build_recovery_figures(outcomes: Sequence[StreamOutcome]) -> Figures:
    """`recovery_over_arf_abrupt`, `..._return`: excess errors of ours per one of the forest.

    Summed over the streams' drifts to new concepts, and over those to concepts that return; mean
    over the seeds. Below 0 is a system that errs less right after a drift than at the end of the
    segment.
    """
    figures: Figures = {}
    for kind, returns in (("abrupt", False), ("return", True)):
        ours, theirs = (
            _sum_excess(outcomes, system, returns=returns) for system in (OURS, _FOREST)
        )
        if theirs > 0.0 and math.isfinite(ours):
            figures[f"recovery_over_arf_{kind}"] = ours / theirs
    return figures


def build_late_figures(outcomes: Sequence[StreamOutcome]) -> Figures:
    """`delayed_...` of ours by stream: accuracy over the whole stream with labels that come late.

    Ours is told beforehand which classes there are, as the networks always are; what it answers
    before the first label has come counts as all else.
    """
    return {
        f"delayed_{_label(name)}": _average(ours, "accuracy")
        for name in _list_streams(outcomes)
        if (ours := _find(outcomes, OURS, name))
    }


def measure_late(outcome: StreamOutcome) -> float:
    """Accuracy from the first event on that was answered after a label had come."""
    return float(outcome.read_right()[outcome.cell.delay + 1 :].mean())


def list_scores(outcomes: Sequence[StreamOutcome]) -> Rows:
    """A row per stream and system: means over the seeds, speed, size, and what failed."""
    rows: Rows = []
    for name in _list_streams(outcomes):
        for system in dict.fromkeys(one.cell.system for one in outcomes):
            cells = [
                one for one in outcomes if (one.cell.stream, one.cell.system) == (name, system)
            ]
            if not cells:
                continue
            row: dict[str, object] = {
                "stream": name,
                "system": system,
                "seeds": len(cells),
                "best": BEST.get(name),
            }
            whole = [one for one in cells if one.failure is None]
            if whole:
                row |= {score: _average(whole, score) for score in whole[0].figures}
                row["events_per_cpu_second"] = statistics.mean(
                    one.num_events / max(one.cpu_seconds, 1e-9) for one in whole
                )
                row["bytes"] = max(one.num_bytes for one in whole)
            notes = [one.failure for one in cells if one.failure is not None]
            notes += [f"stopped after {one.num_events} events" for one in cells if one.is_partial]
            row["note"] = "; ".join(notes)
            rows.append(row)
    return rows


def list_late(outcomes: Sequence[StreamOutcome]) -> Rows:
    """The rows of `list_scores`, with the accuracy after the first label as `after_first`."""
    rows = list_scores(outcomes)
    for row in rows:
        found = _find(outcomes, str(row["system"]), str(row["stream"]))
        if found:
            row["after_first"] = statistics.mean(map(measure_late, found))
    return rows


def list_recoveries(outcomes: Sequence[StreamOutcome]) -> Rows:
    """A row per stream, system and known drift: what it cost, mean over the seeds."""
    rows: Rows = []
    for name in _list_streams(outcomes):
        stream = open_events(name)
        for system in dict.fromkeys(one.cell.system for one in outcomes):
            found = [_recover(one, stream) for one in _find(outcomes, system, name)]
            for drift in zip(*found, strict=True):
                rows.append(
                    {
                        "stream": name,
                        "system": system,
                        "drift_at": drift[0].place,
                        "concept": drift[0].concept,
                        "returns": drift[0].returns,
                        "excess_over_end": statistics.mean(one.over_end for one in drift),
                        "excess_over_before": statistics.mean(one.over_before for one in drift),
                        "steady_accuracy": 1.0 - statistics.mean(one.steady for one in drift),
                    }
                )
    return rows


def list_held_out(outcomes: Sequence[StreamOutcome]) -> Rows:
    """A row per system, place and group of held-out events: accuracy, mean over the seeds."""
    rows: Rows = []
    for system in dict.fromkeys(one.cell.system for one in outcomes):
        cells = [one for one in outcomes if one.cell.system == system and one.held_out]
        for place in cells[0].held_out if cells else ():
            row: dict[str, object] = {"system": system, "after_events": int(place)}
            for group in cells[0].held_out[place]:
                row[group] = statistics.mean(one.held_out[place][group] for one in cells)
            rows.append(row)
    return rows


def list_worth(outcomes: Sequence[StreamOutcome]) -> Rows:
    """A row per expert: what the mean accuracy loses without it, and the stream that loses most.

    Args:
        outcomes: of ours with one seed, whole and without each expert, on the same streams.
    """
    whole = {one.cell.stream: one for one in outcomes if not one.cell.without}
    rows: Rows = []
    for expert in dict.fromkeys(name for one in outcomes for name in one.cell.without):
        lost = {
            one.cell.stream: _read(whole[one.cell.stream], "accuracy") - _read(one, "accuracy")
            for one in outcomes
            if one.cell.without == (expert,) and one.cell.stream in whole
        }
        most = max(lost, key=lost.__getitem__)
        rows.append(
            {
                "without": expert,
                "streams": len(lost),
                "worth": statistics.mean(lost.values()),
                "most_on": most,
                "worth_there": lost[most],
            }
        )
    return sorted(rows, key=lambda row: -float(str(row["worth"])))


def _sum_excess(outcomes: Sequence[StreamOutcome], system: str, *, returns: bool) -> float:
    total = 0.0
    for name in _list_streams(outcomes):
        cells = _find(outcomes, system, name)
        if not cells or any(one.is_partial for one in cells):
            return math.nan
        stream = open_events(name)
        total += statistics.mean(
            sum(drift.over_end for drift in _recover(one, stream) if drift.returns == returns)
            for one in cells
        )
    return total


def _recover(outcome: StreamOutcome, stream: EventStream) -> list[Recovery]:
    if outcome.num_events < stream.num_events:
        return []  # of a part of the stream nothing can be said
    return measure_recoveries(outcome.read_right(), stream.segments)


def _find(outcomes: Iterable[StreamOutcome], system: str, stream: str) -> list[StreamOutcome]:
    """Those of a system on a stream that went through."""
    return [
        one
        for one in outcomes
        if one.cell.system == system and one.cell.stream == stream and one.failure is None
    ]


def _list_streams(outcomes: Iterable[StreamOutcome]) -> list[str]:
    return list(dict.fromkeys(one.cell.stream for one in outcomes))


def _average(outcomes: Sequence[StreamOutcome], score: str) -> float:
    return statistics.mean(_read(one, score) for one in outcomes) if outcomes else math.nan


def _read(outcome: StreamOutcome, score: str) -> float:
    return outcome.figures.get(score, math.nan)


def _label(name: str) -> str:
    return name.replace("-", "_")
