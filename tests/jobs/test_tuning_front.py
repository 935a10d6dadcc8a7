import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.jobs.tune import Point, choose_point, find_front

UNIT = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
POINTS = st.lists(st.builds(Point, UNIT, UNIT, UNIT), min_size=1, max_size=12)


def dominates(one: Point, other: Point) -> bool:
    no_worse = one.retention >= other.retention and one.adaptation >= other.adaptation
    return no_worse and (one.retention, one.adaptation) != (other.retention, other.adaptation)


@given(POINTS)
def test_the_front_is_what_nobody_dominates(points: list[Point]) -> None:
    front = find_front(points)
    undominated = {
        index for index, one in enumerate(points) if not any(dominates(two, one) for two in points)
    }
    assert set(front) == undominated
    assert len(front) == len(undominated)
    adaptations = [points[index].adaptation for index in front]
    assert adaptations == sorted(adaptations)


@given(POINTS)
def test_the_choice_is_the_best_of_the_front(points: list[Point]) -> None:
    front = find_front(points)
    assert points[choose_point(points, front, "retention")].retention == max(
        one.retention for one in points
    )
    assert points[choose_point(points, front, "adaptation")].adaptation == max(
        one.adaptation for one in points
    )
    chosen = choose_point(points, front, "balance")
    assert points[chosen].acc == max(points[index].acc for index in front)


def test_the_picture_has_everything(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from nestling.jobs.tune import draw_front

    points = [Point(0.9, 0.5, 0.7), Point(0.5, 0.9, 0.8), Point(0.4, 0.4, 0.4)]
    figure = draw_front(points, find_front(points), start=2, chosen=1)
    (axes,), (legend,) = figure.axes, figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["tried", "front: none better in both", "the job's plan", "chosen"]
    line = axes.lines[0].get_xydata()
    assert line.tolist() == [[50.0, 90.0], [90.0, 50.0]]
