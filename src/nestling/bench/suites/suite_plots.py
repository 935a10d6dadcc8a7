"""Pictures of a suite: accuracy against adaptation, and every experience over time."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nestling.bench.rivals.methods_by_name import find_method
from nestling.bench.rivals.tunable import Kind
from nestling.bench.suites.measuring import Measurement
from nestling.bench.suites.suite_figures import SuiteMeasurements
from nestling.core.errors import MissingExtra
from nestling.report.label_places import place_labels
from nestling.report.plots import add_legend, draw_curve, end_at_hundred, save_png, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKS: dict[Kind, tuple[str, str, str]] = {
    "no_replay": ("o", "#0072b2", "nothing stored"),
    "replay200": ("s", "#d55e00", "200 examples stored"),
    "closed_form": ("^", "#009e73", "closed form"),
    "reference": ("x", "#777777", "reference"),
}
_RADIUS = 5.0  # of the largest mark, in points
_MAX_PANELS = 6
_NUM_POINTS = 16  # per experience


def draw_scatter(measured: SuiteMeasurements) -> "Figure":
    """Accuracy at the end against examples until 90 %: up and left is better.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure = _make_figure(7.5, 5.0)
    axes = figure.subplots()
    shown: set[Kind] = set()
    points: list[tuple[float, float]] = []
    names: list[str] = []
    for name in measured.list_whole():
        steps = measured.average(name, "steps_to_90")
        accuracy = measured.average(name, measured.measure)
        if steps is None or accuracy is None:
            continue
        method = find_method(name)
        mark, colour, label = _MARKS[method.kind]
        axes.scatter(
            [steps],
            [100.0 * accuracy],
            s=130 if method.is_default else 45,
            marker=mark,
            color=colour,
            label=None if method.kind in shown else label,
            clip_on=False,
            zorder=2,
        )
        shown.add(method.kind)
        points.append((steps, 100.0 * accuracy))
        names.append(name)
    axes.margins(0.08)
    end_at_hundred(axes)
    axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))
    axes.set_xlabel("examples until 90 % of its own best on the new experience")
    axes.set_ylabel("prequential accuracy, %" if measured.measure == "prequential" else "ACC, %")
    axes.set_title(measured.suite.name, loc="left")
    if shown:
        add_legend(figure, axes)
    is_bold = [find_method(name).is_default for name in names]
    place_labels(axes, points, names, radius=_RADIUS, is_bold=is_bold)
    return figure


def draw_curves(measured: SuiteMeasurements, methods: Sequence[str]) -> "Figure":
    """Accuracy on each experience over the whole stream, mean over the seeds, a panel a method.

    Dips right after a boundary (dashed) are the stability gap.

    Args:
        measured: with looks within experiences.
        methods: which of those that went through.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure = _make_figure(9.0, 2.4 * max(1, len(methods)))
    panels = figure.subplots(max(1, len(methods)), 1, squeeze=False, sharex=True, sharey=True)
    for axes, method in zip(panels.flat, methods, strict=False):
        found = [
            one.measurement
            for one in measured.outcomes
            if one.cell.method == method and one.measurement is not None
        ]
        _draw_method(axes, found, measured)
        axes.set_title(method, loc="left", fontsize=9)
        axes.set_ylim(0, 100)
        axes.set_ylabel("accuracy, %", fontsize=8)
    panels.flat[-1].set_xlabel("share of the stream, in experiences")
    add_legend(figure, panels.flat[0])
    return figure


def write_plots(measured: SuiteMeasurements, folder: Path) -> list[Path]:
    """Write scatter.png and curves.png into a folder; an older picture is replaced.

    Curves are drawn of the defaults and of the best others by the suite's measure.
    """
    whole = measured.list_whole()
    defaults = [name for name in whole if find_method(name).is_default]
    others = sorted(
        (name for name in whole if name not in defaults),
        key=lambda name: -(measured.average(name, measured.measure) or 0.0),
    )
    paths = [folder / "scatter.png", folder / "curves.png"]
    save_png(draw_scatter(measured), paths[0])
    save_png(draw_curves(measured, [*defaults, *others][:_MAX_PANELS]), paths[1])
    return paths


def average_curve(found: Sequence[Measurement], index: int) -> tuple[list[float], list[float]]:
    """Accuracy on one experience over the stream since it began, mean over the seeds.

    Seeds differ in the lengths of experiences, so each is read at the same shares of them.

    Args:
        found: one per seed.
        index: of the experience.

    Returns: positions, in experiences; and accuracies in per cent.
    """
    num_experiences = len(found[0].matrix)
    grid, means = [], []
    for during in range(index, num_experiences):
        # Dense where looks are; nothing was asked before the very first example.
        shares = [(i / _NUM_POINTS) ** 2 for i in range(0 if during else 1, _NUM_POINTS + 1)]
        curves = [_read_curve(one, index, during, shares) for one in found]
        grid += [during + share for share in shares]
        means += [100.0 * statistics.mean(values) for values in zip(*curves, strict=True)]
    return grid, means


def _read_curve(
    found: Measurement, index: int, during: int, shares: Sequence[float]
) -> list[float]:
    import numpy as np

    looks = [look for look in found.looks if look.during == during]
    length = max(1, looks[-1].num_examples)
    seen = [look.num_examples / length for look in looks]
    return [float(v) for v in np.interp(shares, seen, [look.accuracies[index] for look in looks])]


def _draw_method(axes: "Axes", found: Sequence[Measurement], measured: SuiteMeasurements) -> None:
    num_experiences = len(measured.suite.experiences)
    if not found:
        return
    for index in range(num_experiences):
        curve = list(zip(*average_curve(found, index), strict=True))
        name = measured.suite.experiences[index].name
        draw_curve(axes, curve, shade(index, num_experiences), name)
    axes.set_xlim(0, num_experiences)
    for boundary in range(1, num_experiences):
        axes.axvline(boundary, color="#999999", linewidth=0.6, linestyle="--")


def _make_figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("plots need matplotlib: pip install 'nestling[report]'") from None
    return Figure(figsize=(width, height), layout="constrained")
