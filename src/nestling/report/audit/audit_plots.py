"""Plots of an audit, as small SVG pictures for light and for dark screens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nestling.core.errors import MissingExtra
from nestling.report.audit.group_effects import GroupCurve
from nestling.report.audit.spine_drift import DriftCurve
from nestling.report.audit.wording import say_time
from nestling.report.line_styles import DASHES, MARKERS
from nestling.report.plots import encode_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LABELS = 10  # version ids that fit below a small plot
_DAY = 86_400.0
# Seconds between two ticks.
_STEPS = (
    *(1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0),
    *(3600.0, 7200.0, 10_800.0, 21_600.0, 43_200.0, _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY),
    *(28 * _DAY, 91 * _DAY, 182 * _DAY, 365 * _DAY),
)
_SIZE = (5.2, 3.0)  # inches: readable on a telephone, where the picture shrinks to 4 inches


@dataclass(frozen=True)
class Theme:
    """Colours on one kind of paper.

    Attributes:
        ink: of text and axes.
        faint: of marks that stand behind.
        limit: of a budget that must not be crossed.
        lines: of curves, told apart by colour-blind readers too.
    """

    ink: str
    faint: str
    limit: str
    lines: tuple[str, ...]


LIGHT = Theme(
    "#333333", "#999999", "#a33b00", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8a6d00")
)
DARK = Theme(
    "#d5dbe0", "#77828c", "#ffab7a", ("#56B4E9", "#ff9d5c", "#3fcf9f", "#e6a6c8", "#F0E442")
)


@dataclass(frozen=True)
class ThemedPicture:
    """A plot for light and for dark screens.

    Attributes:
        light, dark: data URIs.
        alt: what it shows, for who cannot see it.
        caption: how to read it.
    """

    light: str
    dark: str
    alt: str
    caption: str


def picture_drift(curve: DriftCurve) -> ThemedPicture:
    """Draw the drift of one level against its budget; validations are marked."""
    light, dark = (_encode(_plot_drift(curve, theme)) for theme in (LIGHT, DARK))
    bound = f"; its budget is {curve.limit}" if curve.clause else "; no budget is set for it"
    return ThemedPicture(
        light,
        dark,
        f"Drift of level {curve.level} since its last validation over time: now {curve.now}{bound}."
        f" Validations: {len(curve.validations)}.",
        f"Level '{curve.level}': relative change of its weights since a person last validated it, "
        "a step at every version. Dotted: a validation, from which it counts anew"
        f"{'. Dashed: the budget' if curve.clause else ''}.",
    )


def picture_groups(
    title: str,
    curves: Sequence[GroupCurve],
    versions: Sequence[str],
    committed: Sequence[int],
    span: tuple[float, float],
) -> ThemedPicture:
    """Draw the figures of every group over versions; committed changes are marked.

    Args:
        title: of the view.
        curves: a line per group.
        versions: ids along the axis.
        committed: places among them that a committed change made.
        span: lowest and highest figure, the same for every view, so that views compare.
    """
    light, dark = (
        _encode(_plot_groups(title, curves, versions, committed, span, theme))
        for theme in (LIGHT, DARK)
    )
    last = [
        f"{curve.group} {curve.points[-1][1]:.3f}"
        for curve in curves
        if curve.points and math.isfinite(curve.points[-1][1])
    ]
    return ThemedPicture(
        light,
        dark,
        f"Figures by group, {title}, over {len(versions)} versions. Last: {', '.join(last)}.",
        f"{title[0].upper()}{title[1:]}: a line per group with its interval. Dotted: a committed "
        "change. A gap: too few rows to judge.",
    )


def pick_ticks(first: float, last: float) -> tuple[list[tuple[float, str]], str]:
    """Whole hours, days and so on between two times, at most five, and the name of their axis.

    Args:
        first, last: seconds since 1970, UTC.

    >>> pick_ticks(1_795_000_000.0, 1_795_000_090.0)
    ([(1795000020.0, '11:07:00'), ..., (1795000080.0, '11:08:00')], 'time, UTC, on 2026-11-18')
    """
    step = next((one for one in _STEPS if (last - first) / one <= 4.0), _STEPS[-1])
    while (last - first) / step > 4.0:
        step *= 2.0
    start = math.ceil(first / step)
    places = [place * step for place in range(start, math.floor(last / step) + 1)] or [first]
    if step >= _DAY:
        return [(at, say_time(at)[:10]) for at in places], "day, UTC"
    days = dict.fromkeys((say_time(first)[:10], say_time(last)[:10]))
    digits = slice(11, 16) if step >= 60.0 else slice(11, 19)
    return [(at, say_time(at)[digits]) for at in places], f"time, UTC, on {' to '.join(days)}"


def _plot_drift(curve: DriftCurve, theme: Theme) -> "Figure":
    figure, axes = _make_axes(theme)
    times = [at for at, _ in curve.points]
    values = [100.0 * value for _, value in curve.points]
    axes.plot(
        times,
        values,
        color=theme.lines[0],
        drawstyle="steps-post",
        marker="o",
        markersize=3.5,
        linewidth=1.8,
        label=_plain(f"drift of '{curve.level}'"),
        markevery=max(1, len(values) // 12),
    )
    if math.isfinite(curve.budget):
        label = f"budget {curve.limit}".replace("\N{NO-BREAK SPACE}", " ")
        axes.axhline(100.0 * curve.budget, color=theme.limit, linestyle="--", label=label)
    for index, (at, _) in enumerate(curve.validations):
        label = "" if index else "validation by a person"
        axes.axvline(at, color=theme.faint, linestyle=":", linewidth=1.2, label=label)
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("relative change, %")
    moments = [*times, *(at for at, _ in curve.validations)]
    ticks, unit = pick_ticks(min(moments), max(moments))
    room = 0.03 * (max(moments) - min(moments)) or 1.0
    axes.set_xlim(min(moments) - room, max(moments) + room)
    axes.set_xticks([at for at, _ in ticks], [label for _, label in ticks])
    axes.set_xlabel(unit)
    _add_legend(figure, axes, theme)
    return figure


def _plot_groups(
    title: str,
    curves: Sequence[GroupCurve],
    versions: Sequence[str],
    committed: Sequence[int],
    span: tuple[float, float],
    theme: Theme,
) -> "Figure":
    figure, axes = _make_axes(theme)
    for place in committed:
        axes.axvline(place, color=theme.faint, linestyle=":", linewidth=1.2, zorder=0)
    for index, curve in enumerate(curves):
        # Side by side, so that intervals of groups do not cover each other.
        shift = 0.06 * (index - (len(curves) - 1) / 2)
        known = [point for point in curve.points if math.isfinite(point[1])]
        if not known:
            continue
        axes.errorbar(
            [place + shift for place, *_ in known],
            [value for _, value, _, _ in known],
            yerr=[
                [_span(value, low) for _, value, low, _ in known],
                [_span(high, value) for _, value, _, high in known],
            ],
            color=theme.lines[index % len(theme.lines)],
            linestyle=DASHES[index % len(DASHES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4.5,
            linewidth=1.5,
            capsize=2.5,
            label=_plain(curve.group),
        )
    room = 0.06 * (span[1] - span[0]) or 0.05
    axes.set_ylim(span[0] - room, span[1] + room)
    step = -(-len(versions) // MOST_LABELS)
    places = range(0, len(versions), step)
    axes.set_xticks(list(places), [versions[place] or "?" for place in places])
    axes.set_xlim(-0.5, max(0.5, len(versions) - 0.5))
    axes.set_xlabel("version")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=theme.ink)
    _add_legend(figure, axes, theme)
    return figure


def _span(high: float, low: float) -> float:
    """Half of an interval; 0 where there is none."""
    return max(0.0, high - low) if math.isfinite(high - low) else 0.0


def _make_axes(theme: Theme) -> "tuple[Figure, Axes]":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("reports need matplotlib: pip install 'nestling[report]'") from None
    figure = Figure(figsize=_SIZE, layout="constrained", facecolor="none")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)
    axes.tick_params(colors=theme.ink, labelsize=9)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    return figure, axes


def _add_legend(figure: "Figure", axes: "Axes", theme: Theme) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        widest = max(map(len, labels)) + 6
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=max(1, min(3, len(labels), 62 // widest)),
            frameon=False,
            fontsize=9,
            labelcolor=theme.ink,
        )


def _plain(text: str) -> str:
    """A text in which no dollar begins a formula."""
    return text.replace("$", r"\$")


def _encode(figure: "Figure") -> str:
    """As a data URI; letters stay letters, which are sharper and a tenth of the size."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        return encode_svg(figure)
