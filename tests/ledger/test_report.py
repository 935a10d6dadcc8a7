"""The report: whole, self-contained, true to the records, and graceful with few of them."""

import re

import pytest

from nestling.core.errors import DataError
from nestling.ledger import RunWriter, read_run, write_demo_picture, write_report
from nestling.ledger.digest import (
    describe_outcome,
    digest_method,
    list_boundaries,
    list_experiences,
)

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
    assert digest.num_seeds == 2
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
        ("change", {"level": "all", "knobs": {"period": 4}, "reason": "slower"}),
    )
    page = write_report(write_run(tmp_path, extra=extra)).read_text()
    assert "level &#39;all&#39; is dead" in page
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
