"""The Pareto front: plans that none beats in both retention and adaptation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from nestling.core.errors import MissingExtra
from nestling.report.plots import add_legend, end_at_hundred

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Preference = Literal["balance", "retention", "adaptation"]
# Preferences by which a plan is chosen from the Pareto front.
PREFERENCES: tuple[str, ...] = get_args(Preference)


@dataclass(frozen=True)
class Point:
    """Scores of one plan: retention, adaptation and final accuracy; higher is better.

    Args:
        retention: accuracy at the end on all experiences but the last, mean.
        adaptation: accuracy on each new experience while it is learned, mean over looks.
        acc: accuracy at the end on all experiences, mean.
    """

    retention: float
    adaptation: float
    acc: float


def find_front(points: Sequence[Point]) -> list[int]:
    """Pareto front: indices of the points that no other dominates, by ascending adaptation.

    a dominates b if it is no worse in retention and adaptation and better in one.

    >>> find_front([Point(0.9, 0.5, 0.7), Point(0.5, 0.9, 0.7), Point(0.4, 0.8, 0.6)])
    [0, 1]
    """
    front: list[int] = []
    best = float("-inf")
    order = sorted(
        range(len(points)), key=lambda i: (-points[i].adaptation, -points[i].retention, i)
    )
    for index in order:
        one = points[index]
        twin = front and _is_same(points[front[-1]], one)
        if one.retention > best or twin:
            front.append(index)
            best = one.retention
    return front[::-1]


def choose_point(points: Sequence[Point], front: Sequence[int], prefer: Preference) -> int:
    """Choose a point of the Pareto front by final accuracy, retention or adaptation.

    >>> points = [Point(0.9, 0.5, 0.7), Point(0.5, 0.9, 0.8)]
    >>> choose_point(points, find_front(points), "balance")
    1
    """
    measure = "acc" if prefer == "balance" else prefer
    return max(front, key=lambda index: (getattr(points[index], measure), -index))


def draw_front(points: Sequence[Point], front: Sequence[int], start: int, chosen: int) -> "Figure":
    """Plot the Pareto front of retention against adaptation, with all plans that were tried.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("pictures need matplotlib: pip install 'nestling[report]'") from None
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    axes = figure.subplots()
    others = [one for index, one in enumerate(points) if index not in front]
    axes.scatter(*_spread(others), color="#bbbbbb", s=25, label="tried", clip_on=False)
    best = [points[index] for index in front]
    axes.plot(
        *_spread(best),
        color="#0072b2",
        marker="o",
        label="front: none better in both",
        clip_on=False,
    )
    axes.scatter(
        *_spread([points[start]]),
        marker="x",
        s=90,
        color="black",
        label="the job's plan",
        zorder=3,
        clip_on=False,
    )
    axes.scatter(
        *_spread([points[chosen]]),
        marker="o",
        s=220,
        facecolors="none",
        edgecolors="#d55e00",
        linewidths=2,
        label="chosen",
        clip_on=False,
        zorder=3,
    )
    end_at_hundred(axes, is_x=True)
    axes.set_xlabel("adaptation: accuracy on what is new while it is learned, %")
    axes.set_ylabel("retention: accuracy at the end on what came before, %")
    add_legend(figure, axes)
    return figure


def _is_same(one: Point, other: Point) -> bool:
    return (one.retention, one.adaptation) == (other.retention, other.adaptation)


def _spread(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [100 * one.adaptation for one in points], [100 * one.retention for one in points]
