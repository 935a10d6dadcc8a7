"""The plots of a report, as SVG: readable in print, without colour, and on any screen."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nestling.core.errors import MissingExtra
from nestling.report.label_places import drop_overlapping
from nestling.report.line_styles import DASHES, MARKERS, SUBJECT, LineStyle, assign_styles
from nestling.report.summary import MethodDigest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#333333", "#BBBBBB"
# Experiences are shades from dark to light, so that hues stay free for methods.
SHADES = ("viridis", 0.0, 0.75)
LINE_LENGTH = 100  # characters that fit side by side below a plot
NUM_MARKERS = 8  # on a line, about


def plot_accuracy(
    digests: Sequence[MethodDigest], names: Sequence[str], ends: Sequence[float]
) -> "Figure":
    """Accuracy of every experience over time, a panel per method; dashes mark boundaries."""
    looks = assign_styles([digest.name for digest in digests])
    figure, panels = _make_panels(len(digests), height=2.7)
    for axes, digest in zip(panels, digests, strict=True):
        _mark_boundaries(axes, ends)
        for index, name in enumerate(names):
            draw_curve(axes, digest.curves[name], shade(index, len(names)), name)
        _finish_accuracy(axes, digest.name, looks[digest.name].colour)
    add_legend(figure, panels[0])
    return figure


def plot_matrices(digests: Sequence[MethodDigest], names: Sequence[str]) -> "Figure":
    """The accuracy matrix of every method as a heat map with its numbers."""
    looks = assign_styles([digest.name for digest in digests])
    figure, panels = _make_panels(len(digests), height=1.5 + 0.45 * len(names))
    for axes, digest in zip(panels, digests, strict=True):
        axes.imshow(digest.matrix, cmap="cividis", vmin=0.0, vmax=1.0, aspect="auto")
        for i, row in enumerate(digest.matrix):
            for j, value in enumerate(row):
                text = "" if math.isnan(value) else f"{100 * value:.0f}"
                tint = "white" if value < 0.55 else "black"
                axes.text(j, i, text, ha="center", va="center", color=tint)
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_xlabel("accuracy on, %")
        axes.set_ylabel("after learning")
        _set_title(axes, digest.name, looks[digest.name].colour)
    return figure


def plot_adaptation(digests: Sequence[MethodDigest]) -> "Figure":
    """Examples until 90 % of a method's own best, after each change."""
    figure, (axes,) = _make_panels(1, height=2.6)
    looks = assign_styles([digest.name for digest in digests])
    names = list(digests[0].adaptation)
    width = 0.8 / len(digests)
    for index, digest in enumerate(digests):
        places = [place + (index - (len(digests) - 1) / 2) * width for place in range(len(names))]
        values = [digest.adaptation.get(name, math.nan) for name in names]
        heights = [0.0 if math.isnan(value) else value for value in values]
        look = looks[digest.name]
        bars = axes.bar(
            places,
            heights,
            width,
            color=look.colour,
            hatch=look.hatch,
            edgecolor="white",
            label=digest.name,
        )
        labels = ["never" if math.isnan(value) else f"{value:.0f}" for value in values]
        # Side by side, numbers need about a twentieth of the width each.
        is_crowded = len(digests) * len(names) > 20
        rotation, size = (90, 6) if is_crowded else (0, 8)
        axes.bar_label(bars, labels, fontsize=size, rotation=rotation, padding=2)
    if sum(map(len, names)) > LINE_LENGTH:
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    else:
        axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("examples to 90 %")
    axes.margins(y=0.15)
    add_legend(figure, axes)
    return figure


def plot_levels(digest: MethodDigest, look: LineStyle) -> "Figure":
    """Updates and relative change per update of every level; in its method's colour."""
    figure, (updates, change) = _make_panels(2, height=2.6)
    for index, (level, rows) in enumerate(digest.level_curves.items()):
        own = LineStyle(look.colour, DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)], "")
        draw_curve(updates, [(step, count) for step, count, _ in rows], own, level)
        moved = [(step, value) for step, _, value in rows if value > 0]
        draw_curve(change, moved, own, level)
    updates.set_ylabel("updates so far")
    change.set_ylabel("relative change per update")
    if any(value > 0 for rows in digest.level_curves.values() for _, _, value in rows):
        change.set_yscale("log")
        _thin_log_labels(change)
    for axes in (updates, change):
        axes.set_xlabel("examples seen")
    add_legend(figure, updates)
    return figure


def plot_story(
    digests: Sequence[MethodDigest], names: Sequence[str], ends: Sequence[float]
) -> "Figure":
    """Accuracy on the first experience and on the newest one over time, a line per method."""
    figure, (old, new) = _make_panels(2, height=3.2)
    order = sorted(digests, key=lambda digest: digest.name == SUBJECT)
    looks = assign_styles([digest.name for digest in digests])
    for digest in order:
        look = looks[digest.name]
        draw_curve(old, digest.curves[names[0]], look, digest.name)
        newest: list[tuple[float, float]] = []
        for number, name in enumerate(names):
            start = ends[number - 1] if number else 0.0
            inside = [p for p in digest.curves[name] if start - 1 <= p[0] <= ends[number] + 1]
            newest += [*inside, (inside[-1][0] if inside else start, math.nan)]
        draw_curve(new, newest, look, digest.name)
    for axes, title in ((old, f"what was learned first: {names[0]}"), (new, "what is new")):
        _mark_boundaries(axes, ends)
        _finish_accuracy(axes, title)
    add_legend(figure, old)
    for axes in (old, new):
        _name_experiences(axes, names, ends)
    return figure


def encode_svg(figure: "Figure") -> str:
    """A figure as a data URI, so that a page needs no other file."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nestling"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue().encode()).decode()


def save_png(figure: "Figure", path: Path, dpi: int = 110) -> None:
    """A figure as a PNG file on white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")


def _make_panels(num_panels: int, height: float) -> "tuple[Figure, list[Axes]]":
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise MissingExtra("reports need matplotlib: pip install 'nestling[report]'") from None
    columns = min(2, num_panels)
    rows = -(-num_panels // columns)
    # Space between rows, so that a title is nearer to its panel than to the one above.
    layout = ConstrainedLayoutEngine(hspace=0.08)
    figure = Figure(figsize=(9.0, height * rows + 0.4), layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False)
    panels = list(grid.flat)
    for unused in panels[num_panels:]:
        unused.remove()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels[:num_panels]


def shade(index: int, num_experiences: int) -> LineStyle:
    """The look of an experience's line: the later it came, the lighter."""
    import matplotlib
    from matplotlib.colors import to_hex

    name, darkest, lightest = SHADES
    share = index / max(1, num_experiences - 1)
    colour = to_hex(matplotlib.colormaps[name](darkest + (lightest - darkest) * share))
    return LineStyle(colour, DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)], "")


def draw_curve(
    axes: "Axes", curve: Sequence[tuple[float, float]], look: LineStyle, label: str
) -> None:
    """A line through (x, y), told apart by colour, dash and marker; not cut off at the edge."""
    axes.plot(
        [step for step, _ in curve],
        [value for _, value in curve],
        look.dash,
        color=look.colour,
        label=label,
        marker=look.marker,
        markersize=3.5,
        markevery=max(1, len(curve) // NUM_MARKERS),
        clip_on=False,
        # Dots alone are faint.
        linewidth=2.6 if label == SUBJECT else 2.0 if look.dash == ":" else 1.5,
    )


def _mark_boundaries(axes: "Axes", ends: Sequence[float]) -> None:
    for end in ends[:-1]:
        axes.axvline(end, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)


def _name_experiences(axes: "Axes", names: Sequence[str], ends: Sequence[float]) -> None:
    """Names above a plot, each over its experience, as far as there is room for them."""
    starts = [0.0, *ends]
    texts = [
        axes.text((start + end) / 2, 1.04, name, ha="center", va="bottom", fontsize=7, color=INK)
        for name, start, end in zip(names, starts, ends, strict=False)
    ]
    drop_overlapping(axes, texts)


def _thin_log_labels(axes: "Axes") -> None:
    """Plain numbers at 1, 2 and 5 of each decade: the default crowds a short axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _set_title(axes: "Axes", title: str, colour: str, pad: float = 6.0) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=pad, color=colour)


def _finish_accuracy(axes: "Axes", title: str, colour: str = INK) -> None:
    axes.set_ylim(0.0, 1.0)
    axes.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100"])
    axes.set_ylabel("accuracy, %")
    axes.set_xlabel("examples seen")
    _set_title(axes, title, colour, pad=16.0)


def end_at_hundred(axes: "Axes", *, is_x: bool = False) -> None:
    """Let the axis of a percentage, y or also x, end at 0 and 100 where it would go beyond."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(100.0, high))
    if is_x:
        low, high = axes.get_xlim()
        axes.set_xlim(max(0.0, low), min(100.0, high))


def add_legend(figure: "Figure", *panels: "Axes") -> None:
    """The names of all lines of a plot's panels below it, each once, in as many columns as fit."""
    named = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if named:
        widest = max(map(len, named)) + 8  # the line and the gap beside a name
        columns = max(1, min(5, len(named), LINE_LENGTH // widest))
        figure.legend(
            named.values(),
            named.keys(),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
        )
