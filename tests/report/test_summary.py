"""A run brought together: three experiences, seeds that differ, one that never adapts."""

import math
from pathlib import Path

import pytest

from nestling.report import RunWriter, read_run
from nestling.report.summary import MethodDigest, digest_method

NAMES = ("a", "b", "c")


def digest(folder: Path, *, last: dict[int, float], learned: dict[int, float]) -> MethodDigest:
    """Of seeds that reach 90 % of their best on b at step 140 + 10 seed, within its experience.

    Args:
        folder: of the run.
        last: seed -> accuracy on b at the end of c, where it is best of all.
        learned: seed -> accuracy on c at its end.
    """
    writer = RunWriter(folder, {})
    for index, name in enumerate(NAMES):
        writer.write("experience", {"index": index, "name": name, "num_examples": 100})
    for seed, best in last.items():
        reached = 140 + 10 * seed
        for during, step, after, found in (
            (0, 50, None, (0.5,)),
            (0, 100, 0, (0.9,)),
            (1, 100, None, (0.9, 0.0)),
            (1, reached, None, (0.7, 0.5)),
            (1, 200, 1, (0.6, 0.5 + 0.02 * seed)),
            (2, 200, None, (0.6, 0.5, 0.0)),
            (2, 250, None, (0.5, 0.5, 0.5 * learned[seed])),
            (2, 300, 2, (0.4 + 0.2 * seed, best, learned[seed])),
        ):
            writer.write(
                "evaluation",
                {
                    "method": "m",
                    "seed": seed,
                    "during": during,
                    "step": step,
                    "after": after,
                    "accuracies": dict(zip(NAMES, found, strict=False)),
                },
            )
    writer.close()
    return digest_method(read_run(folder), "m")


def test_adaptation_is_within_the_experience_and_a_mean_over_seeds(tmp_path: Path) -> None:
    found = digest(tmp_path, last={0: 1.0, 1: 1.0}, learned={0: 0.8, 1: 0.6})
    # b gets better while c is learned; that is no adaptation to b. The first has none at all.
    assert found.adaptation == {"b": 45.0, "c": 100.0}


def test_a_seed_that_never_adapts_is_not_left_out(tmp_path: Path) -> None:
    found = digest(tmp_path, last={0: 1.0, 1: 1.0}, learned={0: 0.8, 1: 0.0})
    assert found.adaptation["b"] == 45.0
    assert math.isnan(found.adaptation["c"])


def test_matrix_curves_and_figures_are_means_over_seeds_that_differ(tmp_path: Path) -> None:
    found = digest(tmp_path, last={0: 0.3, 1: 0.7}, learned={0: 0.8, 1: 0.6})
    assert found.seeds == [0, 1]
    assert [row[:number] for number, row in enumerate(found.matrix, start=1)] == [
        [pytest.approx(0.9)],
        [pytest.approx(0.6), pytest.approx(0.51)],
        [pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.7)],
    ]
    assert math.isnan(found.matrix[0][1])
    assert found.curves["c"] == [(200.0, 0.0), (250.0, pytest.approx(0.35)), (300.0, 0.7)]
    assert found.curves["b"][1][0] == 145.0
    # Worst: of a .4 and .5, of b .3 and .5, beside .8 and .6 of c.
    worst = [0.8 / 3 + 2 / 3 * (0.4 + 0.3) / 2, 0.6 / 3 + 2 / 3 * (0.5 + 0.5) / 2]
    assert [found.seed_figures[seed]["worst"] for seed in (0, 1)] == pytest.approx(worst)
    assert found.figures["worst"].mean == pytest.approx(sum(worst) / 2)
    gaps = [(0.3 + (0.2 + 0.2) / 2) / 2, (0.3 + (0.1 + 0.02) / 2) / 2]
    assert found.figures["stability_gap"].mean == pytest.approx(sum(gaps) / 2)
    first, second = found.retention
    assert (first.name, first.learned, first.worst) == ("a", 0.9, pytest.approx(0.45))
    assert (second.name, second.last) == ("b", pytest.approx(0.5))
