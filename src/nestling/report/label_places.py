"""Names beside the points of a plot, each where it covers no other name and no point."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

# Where a name may begin, as shares of its own size, and how far from its point, in points.
_SIDES = ((0, 0), (-1, 0), (0, -1), (-1, -1), (-0.5, 0), (-0.5, -1), (0, -0.5), (-1, -0.5))
_DISTANCES = (5, 10, 18, 28, 40, 54, 70, 88, 110, 140, 180)
_FAR = 8  # points from which on a line shows what a name belongs to
_GAP = 1.5  # pixels between two boxes


def place_labels(
    axes: "Axes",
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    *,
    radius: float,
    is_bold: Sequence[bool],
    size: float = 8.0,
) -> None:
    """Write a name beside each point, moved off until it covers nothing, with a line if far.

    What is already drawn must be final: the layout is settled here, and kept.

    Args:
        axes: with all its points.
        points: P pairs (x, y), in the plot's own units.
        names: P.
        radius: of the markers, in points.
        is_bold: P.
        size: of the letters, in points.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    scale = figure.dpi / 72
    inside = axes.get_window_extent(renderer)
    places = [axes.transData.transform(point) for point in points]
    taken = [_surround(x, y, radius * scale) for x, y in places]
    # From the top: names of the crowded middle move into what is left.
    for index in sorted(range(len(points)), key=lambda i: (-places[i][1], places[i][0])):
        weight = "bold" if is_bold[index] else "normal"
        text = axes.annotate(
            names[index],
            points[index],
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=size,
            fontweight=weight,
            annotation_clip=False,
        )
        box = text.get_window_extent(renderer)
        x, y = places[index]
        dx, dy = _find_place(box.width, box.height, x, y, taken, inside, scale)
        text.set_position((dx / scale, dy / scale))
        taken.append(text.get_window_extent(renderer).padded(_GAP))
        near = (min(max(0.0, dx), dx + box.width), min(max(0.0, dy), dy + box.height))
        if math.hypot(*near) > _FAR * scale:
            axes.annotate(
                "",
                points[index],
                xytext=(near[0] / scale, near[1] / scale),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#999999"},
                annotation_clip=False,
                zorder=0.5,
            )


def drop_overlapping(axes: "Axes", texts: "Sequence[Text]") -> None:
    """Take texts away that would cover one before them, or are wider than the plot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()
    kept: list[Bbox] = []
    for text in texts:
        box = text.get_window_extent(renderer).padded(_GAP)
        if any(_cover(box, other) > 0.0 for other in kept):
            text.remove()
        else:
            kept.append(box)


def _find_place(
    width: float,
    height: float,
    x: float,
    y: float,
    taken: "Sequence[Bbox]",
    inside: "Bbox",
    scale: float,
) -> tuple[float, float]:
    """The nearest offset in pixels at which a box covers nothing; else that which covers least."""
    from matplotlib.transforms import Bbox

    best, least = (0.0, 0.0), math.inf
    for distance in _DISTANCES:
        for share_x, share_y in _SIDES:
            # Away from the point: to the right of it where the name begins there, and so on.
            dx = share_x * width + distance * scale * (2 * share_x + 1 if share_x != -0.5 else 0)
            dy = share_y * height + distance * scale * (2 * share_y + 1 if share_y != -0.5 else 0)
            box = Bbox.from_bounds(x + dx, y + dy, width, height)
            lost = width * height - _cover(box, inside)
            covered = lost + sum(_cover(box.padded(_GAP), other) for other in taken)
            if covered <= 0.0:
                return dx, dy
            if covered < least:
                best, least = (dx, dy), covered
    return best


def _cover(one: "Bbox", other: "Bbox") -> float:
    """How much of their areas two boxes share."""
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(max(0.0, wide) * max(0.0, high))


def _surround(x: float, y: float, radius: float) -> "Bbox":
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
