"""The report: whole, self-contained, true to the records, and graceful with few of them."""

import math
import re

import pytest

from nestling.core.errors import DataError
from nestling.report import RunWriter, plots, read_run, write_demo_picture, write_report
from nestling.report.line_styles import COLOURS, assign_styles
from nestling.report.reading import list_boundaries, list_experiences
from nestling.report.retention import compare_seeds, find_half_life
from nestling.report.summary import describe_outcome, digest_method
from nestling.report.tables import tabulate_differences

NAMES = ["base", "new <classes>"]


def write_run(folder, methods=("finetune", "nestling"), seeds=(0, 1), extra=()):
    writer = RunWriter(folder, {"suite": "demo", "machine": {"cpu": "a cpu", "torch": "2"}})
    for index, name in enumerate(NAMES):
        writer.write("experience", {"index": index, "name": name, "num_examples": 100})
    for method in methods:
        for seed in seeds:
            kept = 0.9 if method == "nestling" else 0.2
            for during, step, after, found in (
                (0, 50, None, {NAMES[0]: 0.5}),
                (0, 100, 0, {NAMES[0]: 0.95}),
                (1, 100, None, {NAMES[0]: 0.95, NAMES[1]: 0.0}),
                (1, 150, None, {NAMES[0]: kept, NAMES[1]: 0.85 + 0.02 * seed}),
                (1, 200, 1, {NAMES[0]: kept, NAMES[1]: 0.9}),
            ):
                signed = {"method": method, "seed": seed}
                place = {"during": during, "step": step, "after": after}
                writer.write("evaluation", signed | place | {"accuracies": found})
                level = {"step": step, "level": "all", "num_updates": step, "gate": 1.0}
                writer.write("level", signed | level | {"relative_change": 0.01})
            figures = {"acc": (kept + 0.9) / 2, "forgetting": 0.95 - kept, "bwt": kept - 0.95}
            times = {"steps_to_adapt": 50.0, "seconds_per_example": 0.001}
            writer.write("summary", signed | figures | times)
            cost = {"num_steps": 20, "num_updates": 20, "share_backward_skipped": 0.5}
            writer.write("compute", signed | cost | {"level": "all", "seconds": 0.1})
    for kind, record in extra:
        writer.write(kind, record)
    writer.close()
    return folder


def test_the_page_needs_nothing_else_and_escapes_names(tmp_path):
    page = write_report(write_run(tmp_path)).read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "new &lt;classes&gt;" in page
    assert "new <classes>" not in page
    assert page.count("<img") == 5
    assert page.count("alt=") == 5
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_captions_wrap_on_narrow_windows(tmp_path):
    """Nothing that is text is wider than its window: long names break, too."""
    page = write_report(write_run(tmp_path)).read_text()
    style = page[page.index("<style>") : page.index("</style>")]
    rules = dict(re.findall(r"([^{}]+?) \{([^{}]*)\}", style))
    for selector in ("p, li, figcaption", "h1, h2, caption"):
        (found,) = [body for names, body in rules.items() if names.strip() == selector]
        assert "overflow-wrap: anywhere" in found
    (found,) = [body for names, body in rules.items() if names.strip() == "figure, figcaption"]
    assert "white-space: normal" in found
    assert "width=device-width" in page
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == page.count("<figure>") == 5


def test_words_and_figures_are_those_of_the_records(tmp_path):
    run = read_run(write_run(tmp_path))
    names = list_experiences(run)
    assert list_boundaries(run) == [100.0, 200.0]
    kept = describe_outcome(digest_method(run, "nestling"), names)
    lost = describe_outcome(digest_method(run, "finetune"), names)
    assert kept[0] == "Kept: 'base', 95.0% when it was learned, 90.0% now."
    assert lost[0] == "Lost: 'base' fell from 95.0% when it was learned to 20.0%."
    assert lost[-1] == "On all experiences together 55.0% are right at the end."
    digest = digest_method(run, "nestling")
    assert digest.seeds == [0, 1]
    assert digest.adaptation == {NAMES[1]: 50.0}
    assert digest.curves[NAMES[1]][1] == (150.0, pytest.approx(0.86))
    assert digest.figures["acc"].mean == pytest.approx(0.9)


def test_one_method_and_seed(tmp_path):
    page = write_report(write_run(tmp_path, methods=("mine",), seeds=(3,))).read_text()
    assert "About mine" in page
    assert "±" not in page


def test_alarms_and_changes_are_told(tmp_path):
    extra = (
        # As `asdict` of an alarm gives it, with a kind of its own.
        ("alarm", {"level": "all", "kind": "dead", "message": "level 'all' is dead"}),
        ("drift", {"level": "shift", "message": "watch 'shift': the error rose"}),
        ("change", {"level": "all", "knobs": {"period": 4}, "reason": "slower"}),
    )
    page = write_report(write_run(tmp_path, extra=extra)).read_text()
    assert "level &#39;all&#39; is dead" in page
    assert "Drift: watch &#39;shift&#39;: the error rose" in page
    assert "period = 4. Reason: slower" in page


def test_a_run_without_evaluations_says_so(tmp_path):
    RunWriter(tmp_path, {"job": {}}).close()
    assert "holds no evaluation yet" in write_report(tmp_path).read_text()


def test_a_run_that_stopped_in_its_first_experience(tmp_path):
    writer = RunWriter(tmp_path, {})
    record = {"method": "m", "seed": 0, "during": 0, "step": 5, "after": None}
    writer.write("evaluation", record | {"accuracies": {"base": 0.5}})
    writer.close()
    assert "Methods: m" in write_report(tmp_path).read_text()


def test_no_run_no_report(tmp_path):
    with pytest.raises(DataError, match="no run in"):
        write_report(tmp_path)


def test_the_picture(tmp_path):
    write_demo_picture(write_run(tmp_path), tmp_path / "docs" / "demo.png")
    assert (tmp_path / "docs" / "demo.png").read_bytes()[:4] == b"\x89PNG"


def test_captions_say_which_seeds_and_how_often(tmp_path):
    page = write_report(write_run(tmp_path / "two")).read_text()
    assert page.count("Only the first seed (0) of 2") == 2
    assert page.count("Mean of 2 seeds. A line per experience") == 1
    assert "Measured every 50 examples" in page
    page = write_report(write_run(tmp_path / "one", methods=("m",), seeds=(3,))).read_text()
    assert "One seed (3), no mean. A line per experience" in page
    assert "The only seed (3)." in page
    assert "Differences between methods" not in page


def test_the_worst_moment_counts_even_if_it_was_made_good_again(tmp_path):
    writer = RunWriter(tmp_path, {})
    for index, name in enumerate(NAMES):
        writer.write("experience", {"index": index, "name": name})
    for during, step, after, old, new in (
        (0, 100, 0, 0.8, None),
        (1, 100, None, 0.8, 0.0),
        (1, 150, None, 0.1, 0.5),
        (1, 200, 1, 0.9, 0.6),
    ):
        place = {"method": "m", "seed": 0, "during": during, "step": step, "after": after}
        writer.write("evaluation", place | {"accuracies": {NAMES[0]: old, NAMES[1]: new}})
    writer.close()
    digest = digest_method(read_run(tmp_path), "m")
    (kept,) = digest.retention
    assert (kept.learned, kept.worst, kept.last) == (0.8, 0.1, 0.9)
    assert kept.half_life == pytest.approx(50 * 0.4 / 0.7)
    assert digest.figures["stability_gap"].mean == pytest.approx(0.7)
    assert digest.figures["worst"].mean == pytest.approx(0.6 / 2 + 0.1 / 2)
    page = write_report(tmp_path).read_text()
    assert ">70.0</td>" in page
    assert ">29</td>" in page


def test_what_never_fell_to_half_has_no_half_life():
    assert find_half_life([(0.0, 0.8), (10.0, 0.5)]) == math.inf
    assert find_half_life([(0.0, 0.0), (10.0, 0.0)]) == math.inf


def test_differences_are_paired_by_seed(tmp_path):
    ours = {0: {"acc": 0.9}, 1: {"acc": 0.8}, 2: {"acc": 0.1}}
    theirs = {1: {"acc": 0.7}, 0: {"acc": 0.6}, 5: {"acc": 0.0}, 2: {}}
    found = compare_seeds(ours, theirs, "acc")
    assert found is not None
    assert found.num_seeds == 2
    assert found.mean == pytest.approx(0.2)
    assert compare_seeds(ours, {9: {"acc": 1.0}}, "acc") is None
    # Seed 1 was finished but never adapted: seed 0 alone would flatter.
    adapted = {0: {"acc": 0.9, "steps_to_adapt": 5.0}, 1: {"acc": 0.9}}
    assert compare_seeds(adapted, adapted, "steps_to_adapt") is None
    run = read_run(write_run(tmp_path))
    digests = [digest_method(run, method) for method in ("finetune", "nestling")]
    ((name, acc, *_, num_seeds),) = tabulate_differences(digests[1], digests)
    assert (name, acc, num_seeds) == ("minus finetune", "+35.0 [35.0,\N{NO-BREAK SPACE}35.0]", "2")


def test_a_method_has_one_colour_in_every_plot(tmp_path):
    methods = ("finetune", "replay", "nestling")
    run = read_run(write_run(tmp_path, methods=methods))
    digests = [digest_method(run, method) for method in methods]
    looks = assign_styles(methods)
    wanted = {method: looks[method].colour for method in methods}
    assert len(set(wanted.values())) == 3
    names, ends = list_experiences(run), list_boundaries(run)
    bars = plots.plot_adaptation(digests).axes[0].containers
    assert {bar.get_label(): to_hex(bar[0].get_facecolor()) for bar in bars} == wanted
    lines = plots.plot_story(digests, names, ends).axes[0].get_lines()
    named = {line.get_label(): line.get_color() for line in lines if line.get_label() in methods}
    assert named == wanted
    for figure in (plots.plot_accuracy(digests, names, ends), plots.plot_matrices(digests, names)):
        titles = {axes.get_title("left"): axes for axes in figure.axes}
        assert set(titles) == set(methods)
        for method, axes in titles.items():
            assert axes._left_title.get_color() == wanted[method]
    for digest in digests:
        levels = plots.plot_levels(digest, looks[digest.name]).axes[0].get_lines()
        assert {line.get_color() for line in levels} == {wanted[digest.name]}


def test_long_names_do_not_overlap_below_the_bars(tmp_path):
    names = [f"an experience of a rather long name {number}" for number in range(6)]
    writer = RunWriter(tmp_path, {})
    for index, name in enumerate(names):
        writer.write("experience", {"index": index, "name": name})
        for after in (None, index):
            place = {"method": "m", "seed": 0, "during": index, "step": index, "after": after}
            writer.write("evaluation", place | {"accuracies": dict.fromkeys(names, 0.5)})
    writer.close()
    figure = plots.plot_adaptation([digest_method(read_run(tmp_path), "m")])
    labels = figure.axes[0].get_xticklabels()
    assert all(label.get_rotation() == 35 for label in labels)


def test_more_methods_than_colours_still_differ():
    looks = assign_styles([f"m{number}" for number in range(2 * len(COLOURS))])
    assert len({(look.colour, look.dash) for look in looks.values()}) == len(looks)
    assert len({(look.colour, look.hatch) for look in looks.values()}) == len(looks)


def to_hex(colour):
    from matplotlib.colors import to_hex as convert

    return convert(colour).upper()
