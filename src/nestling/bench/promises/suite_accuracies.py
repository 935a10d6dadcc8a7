"""Accuracy and forgetting of the default on a suite, over the first orders of its experiences."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from nestling.bench.rivals.competitors import Competitor, DefaultLearner
from nestling.bench.rivals.methods_by_name import find_method
from nestling.bench.rivals.tunable import Setup, make_setup
from nestling.bench.suites.encoding import encode_suite
from nestling.bench.suites.measuring import measure, summarize
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows
from nestling.data.suites import Suite, make_suite
from nestling.learn import Learner
from nestling.learn.default import make_default_plan
from nestling.levels import Plan

Size = Literal["default", "large"]

SEEDS = (0, 1)


def measure_pixels(
    name: str, place: CellFolders, *, size: Size = "default", label: str = ""
) -> tuple[Figures, Rows]:
    """`acc_...` and `forgetting_...` of `nl.Learner(model)` on a suite's raw inputs, in per cent.

    By the suite's protocol on the network that all its methods get, nothing stored, no boundary
    told; means over SEEDS. Accuracy is over all classes and test images at the end, forgetting as
    on the suite's page.

    Args:
        name: of the suite.
        place: where data lie.
        size: of the memory.
        label: in the figures' names; without it the suite's name, after `large_` if it is large.
    """

    def build(setup: Setup) -> Competitor:
        return DefaultLearner(make_learner(setup, size))

    prefix = "" if size == "default" else f"{size}_"
    return _measure(name, place, lambda suite: suite, build, label or prefix + name)


def measure_encoded(name: str, place: CellFolders, *, label: str = "") -> tuple[Figures, Rows]:
    """As `measure_pixels`, of `nl.Learner(model, pretrained=True)` on the suite's encoder."""

    def encode(suite: Suite) -> Suite:
        return encode_suite(suite, place.data, offline=place.offline)

    def build(setup: Setup) -> Competitor:
        return find_method("default").build(setup, {})

    return _measure(name, place, encode, build, label or name)


def make_learner(setup: Setup, size: Size) -> Learner:
    """The default learner with a memory of this size."""
    model = setup.make_model()
    if size == "default":
        return Learner(model, seed=setup.seed)
    plan = make_default_plan(model, pretrained=False, replay=0)
    levels = [replace(one, size=size) if one in plan.memories else one for one in plan.levels]
    return Learner(model, Plan(*levels, readout=plan.readout), seed=setup.seed)


def _measure(
    name: str,
    place: CellFolders,
    prepare: Callable[[Suite], Suite],
    build: Callable[[Setup], Competitor],
    label: str,
) -> tuple[Figures, Rows]:
    rows: Rows = []
    for seed in SEEDS:
        suite = prepare(make_suite(name, seed, folder=place.data, offline=place.offline))
        competitor = build(make_setup(suite, seed))
        found = measure(competitor, suite, seed=seed, num_looks=0)
        judged = summarize(found)
        sizes = [len(one.test[1]) for one in suite.experiences]
        # Experiences of unequal size: all test images count alike.
        right = sum(a * size for a, size in zip(found.matrix[-1], sizes, strict=True))
        rows.append(
            {
                "suite": name,
                "seed": seed,
                "acc": 100.0 * right / sum(sizes),
                "acc_by_experience": 100.0 * (judged["acc"] or 0.0),
                "forgetting": 100.0 * (judged["forgetting"] or 0.0),
                "bytes": found.num_bytes,
                "cpu_seconds": found.seconds,
            }
        )
    label = label.replace("-", "_")
    figures = {
        f"{figure}_{label}": statistics.mean(float(str(row[figure])) for row in rows)
        for figure in ("acc", "forgetting")
    }
    return figures, rows
