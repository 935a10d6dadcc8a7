"""Pictures of a suite: every method named, every line told apart, per cents that end at 100."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nestling.bench.rivals.methods_by_name import METHODS
from nestling.bench.suites.cell_files import Cell, Outcome
from nestling.bench.suites.measuring import Evaluation, Measurement
from nestling.bench.suites.suite_figures import SuiteMeasurements
from nestling.bench.suites.suite_plots import draw_curves, draw_scatter, write_plots
from nestling.jobs.tune.front import Point, draw_front, find_front
from tiny_suites import make_digits

SUITE = make_digits(0, "test")
NUM = len(SUITE.experiences)


def make_outcome(method: str, acc: float, steps: int) -> Outcome:
    looks = [
        Evaluation(during, seen, [acc] * during + [float(seen > 0)])
        for during in range(NUM)
        for seen in (0, steps, 1000)
    ]
    matrix = [[acc] * during + [1.0] + [0.0] * (NUM - during - 1) for during in range(NUM)]
    return Outcome(Cell("x", "test", method, 0), Measurement(matrix, looks, None, 64, 1.5, 0.1, 9))


@pytest.fixture
def measured() -> SuiteMeasurements:
    """All methods, in three crowds, one of them at 100 %."""
    outcomes = [
        make_outcome(name, (1.0, 0.9, 0.91)[index % 3], (60, 61, 150)[index % 3])
        for index, name in enumerate(METHODS)
    ]
    return SuiteMeasurements(SUITE, [0], outcomes, {name: {} for name in METHODS})


def test_labels_of_the_scatter_do_not_cover_each_other(measured: SuiteMeasurements) -> None:
    figure = draw_scatter(measured)
    (axes,) = figure.axes
    assert axes.get_ylim()[1] == 100.0
    figure.canvas = FigureCanvasAgg(figure)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [text for text in axes.texts if text.get_text()]
    assert {text.get_text() for text in texts} == set(METHODS)
    boxes = [text.get_window_extent(renderer) for text in texts]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
    assert figure.legends


def test_curves_have_a_legend_and_lines_of_their_own(measured: SuiteMeasurements) -> None:
    figure = draw_curves(measured, ["default", "ewc"])
    for axes in figure.axes:
        assert axes.get_ylim() == (0.0, 100.0)
        lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
        looks = {(one.get_color(), one.get_linestyle(), one.get_marker()) for one in lines}
        assert len(lines) == len(looks) == NUM
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [e.name for e in SUITE.experiences]


def test_pictures_are_files(measured: SuiteMeasurements, tmp_path: Path) -> None:
    for path in write_plots(measured, tmp_path):
        assert path.read_bytes()[:4] == b"\x89PNG"


def test_the_front_ends_at_100_percent() -> None:
    points = [Point(1.0, 0.2, 0.5), Point(0.9, 1.0, 0.5), Point(0.5, 0.5, 0.5)]
    (axes,) = draw_front(points, find_front(points), start=2, chosen=0).axes
    assert (axes.get_xlim()[1], axes.get_ylim()[1]) == (100.0, 100.0)
