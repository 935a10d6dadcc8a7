"""What is drawn can be told apart, ends at 100 %, and no text covers another."""

import itertools

import pytest

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nestling.report import plots
from nestling.report.label_places import place_labels
from nestling.report.line_styles import assign_styles
from nestling.report.summary import MethodDigest

NAMES = [f"experience {index}" for index in range(9)]
ENDS = [100.0 * (index + 1) for index in range(9)]


def make_digest(name: str) -> MethodDigest:
    curves = {
        one: [(100.0 * index + 20 * step, step / 5) for step in range(1, 6)]
        for index, one in enumerate(NAMES)
    }
    levels = {
        f"level {index}": [(step, step / (index + 1), 0.1) for step in range(20)]
        for index in range(7)
    }
    adaptation = dict.fromkeys(NAMES[1:], 50.0)
    return MethodDigest(name, [0], curves, [], adaptation, {}, {}, [], levels)


DIGESTS = [make_digest(f"method {index}") for index in range(9)]


def list_looks(figure: Figure) -> list[list[tuple[object, ...]]]:
    """Colour, dash and marker of every named line, per panel."""
    return [
        [
            (line.get_color(), line.get_linestyle(), line.get_marker())
            for line in axes.lines
            if not str(line.get_label()).startswith("_")
        ]
        for axes in figure.axes
    ]


def find_overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other, as they are drawn."""
    figure.canvas = FigureCanvasAgg(figure)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    texts += [axes.title for axes in figure.axes]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    return [
        (name, other)
        for (name, box), (other, beside) in itertools.combinations(boxes, 2)
        if name and other and box.overlaps(beside)
    ]


@pytest.mark.parametrize("kind", ["accuracy", "story", "levels"])
def test_more_than_five_lines_are_told_apart_and_named(kind: str) -> None:
    figure = {
        "accuracy": lambda: plots.plot_accuracy(DIGESTS[:2], NAMES, ENDS),
        "story": lambda: plots.plot_story(DIGESTS, NAMES, ENDS),
        "levels": lambda: plots.plot_levels(DIGESTS[0], assign_styles(["a"])["a"]),
    }[kind]()
    for looks in list_looks(figure):
        assert len(looks) > 5
        assert len(set(looks)) == len(looks)
        # Without colour, too: neighbours differ, and no pair of dash and marker comes twice.
        assert len({look[1:] for look in looks}) == len(looks)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(list_looks(figure)[0])


def test_axes_of_accuracies_end_at_0_and_100_percent() -> None:
    for figure in (
        plots.plot_accuracy(DIGESTS[:2], NAMES, ENDS),
        plots.plot_story(DIGESTS, NAMES, ENDS),
    ):
        for axes in figure.axes:
            assert axes.get_ylim() == (0.0, 1.0)
            # A line along the edge is drawn whole.
            assert not any(line.get_clip_on() for line in axes.lines if line.get_marker() != "None")


def test_names_of_experiences_do_not_cover_each_other() -> None:
    figure = plots.plot_story(DIGESTS, NAMES, ENDS)
    assert find_overlaps(figure) == []
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert NAMES[0] in shown
    assert len(shown) > 2


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0])
def test_labels_of_crowded_points_do_not_cover_each_other(spread: float) -> None:
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = figure.subplots()
    points = [(50 + spread * (i % 5), 80 + spread * (i // 5)) for i in range(20)]
    points += [(0.0, 0.0), (100.0, 100.0)]
    names = [f"a method {i}" for i in range(22)]
    axes.scatter(*zip(*points, strict=True))
    place_labels(axes, points, names, radius=4.0, is_bold=[i == 0 for i in range(22)])
    assert find_overlaps(figure) == []
    renderer = FigureCanvasAgg(figure).get_renderer()
    inside = axes.get_window_extent(renderer).padded(1.0)
    texts = [text for text in axes.texts if text.get_text()]
    assert sorted(text.get_text() for text in texts) == sorted(names)
    for text in texts:
        box = text.get_window_extent(renderer)
        assert inside.x0 <= box.x0
        assert box.x1 <= inside.x1
        assert inside.y0 <= box.y0
        assert box.y1 <= inside.y1
        for place in axes.transData.transform(points):
            assert not box.contains(*place), "a name covers a point"
