"""Curves of streams: accuracy over time of ours and of rivals, with the known drifts marked."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nestling.bench.streams.stream_cells import StreamOutcome
from nestling.core.errors import MissingExtra
from nestling.data.events import open_events
from nestling.report.line_styles import assign_styles
from nestling.report.plots import add_legend, draw_curve, save_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUM_POINTS = 40  # of a curve, about
_LEAST_WIDTH = 50  # events of a point: fewer are too noisy to look at
_PANELS_IN_A_ROW = 3
_SHOWN = ("nestling", "arf", "logistic", "network-sgd", "network-replay")


def draw_streams(outcomes: Sequence[StreamOutcome]) -> "Figure":
    """A panel per stream, a line per system (mean over the seeds), drifts dashed.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("curves need matplotlib: pip install 'nestling[report]'") from None
    names = list(dict.fromkeys(one.cell.stream for one in outcomes if one.num_events))
    found = {one.cell.system for one in outcomes}
    systems = [name for name in _SHOWN if name in found] + sorted(
        name for name in found if ":" in name
    )
    looks = assign_styles(systems)
    num_rows = max(1, -(-len(names) // _PANELS_IN_A_ROW))
    figure = Figure(figsize=(4.2 * _PANELS_IN_A_ROW, 2.4 * num_rows + 0.5), layout="constrained")
    panels = list(figure.subplots(num_rows, _PANELS_IN_A_ROW, squeeze=False).flat)
    for axes, name in zip(panels, names, strict=False):
        for rank, system in enumerate(systems):
            curve = smooth_curve(
                [one for one in outcomes if (one.cell.stream, one.cell.system) == (name, system)]
            )
            if curve:
                draw_curve(axes, curve, looks[system], system)
                axes.lines[-1].set_zorder(3.0 - 0.1 * rank)  # the first, ours, on top
        for drift in open_events(name).drifts:
            axes.axvline(drift, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.set_title(name, loc="left", fontsize=9)
        axes.set_ylabel("accuracy, %", fontsize=8)
        axes.set_xlabel("events", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for unused in panels[len(names) :]:
        unused.remove()
    add_legend(figure, *panels[: len(names)])
    return figure


def smooth_curve(outcomes: Sequence[StreamOutcome]) -> list[tuple[float, float]]:
    """Events seen, and accuracy in per cent over about a fortieth of the stream, mean of seeds."""
    found = [one.read_right() for one in outcomes if one.num_events]
    if not found:
        return []
    length = min(len(right) for right in found)
    width = max(_LEAST_WIDTH, length // _NUM_POINTS)
    return [
        (
            start + 0.5 * width,
            100.0 * statistics.mean(float(right[start : start + width].mean()) for right in found),
        )
        for start in range(0, length - width + 1, width)
    ]


def write_curves(outcomes: Sequence[StreamOutcome], folder: Path) -> Path:
    """Write curves.png into a folder; an older picture is replaced."""
    path = folder / "curves.png"
    save_png(draw_streams(outcomes), path)
    return path
