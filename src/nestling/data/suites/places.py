"""Suites whose domains are places and years: tables."""

from collections.abc import Callable

import torch

from nestling.core.seeds import make_generator
from nestling.data.experiences import Experience, list_classes
from nestling.data.sources.table_archives import encode_census, read_census, read_heart
from nestling.data.suites.suite import Request, Suite, cut_rows, shuffle_domains

CENSUS_TRAIN, CENSUS_TEST = 20_000, 10_000


def make_heart(request: Request) -> Suite:
    """Heart disease: one hospital after another."""
    table = read_heart(*request.obtain("heart"))
    hospitals = sorted(set(table.groups))
    made = []
    for place in shuffle_domains(len(hospitals), request, "heart"):
        inside = torch.tensor(
            [group == hospitals[place] for group in table.groups], dtype=torch.bool, device="cpu"
        )
        x, y = table.x[inside], table.y[inside]
        train, validation, test = cut_rows(len(x), round(0.6 * len(x)), round(0.15 * len(x)))
        rows = request.choose(validation, test)
        pair, held_out = (x[train], y[train]), (x[rows], y[rows])
        made.append(Experience(hospitals[place], pair, held_out, list_classes(y)))
    return make_domains(
        "heart-4-hospitals",
        made,
        epochs=5,
        note=(
            "Heart disease of 918 patients (UCI; Detrano 1989), any degree against none: "
            "Cleveland, Hungary, Switzerland and VA Long Beach in an order drawn by the seed. "
            "Per hospital 60 % to train, 15 % to validate, 25 % to test, cut once; 30 columns, "
            "scaled by fixed numbers, missing values told by columns of their own; batch 10, "
            "5 passes. Few test patients (31 to 76 each): read it with its intervals. "
            "Switzerland has hardly a healthy patient. There are 24 orders, so seeds may share one."
        ),
    )


def make_census(request: Request) -> Suite:
    """Incomes of 1994, then of 1995."""
    (path,) = request.obtain("census")
    census = read_census(path)
    pool, held_out, _ = cut_rows(
        len(census.train), round(0.8 * len(census.train)), len(census.train)
    )
    train = [census.train[row] for row in pool.tolist()]
    validation = [census.train[row] for row in held_out.tolist()]
    tested = list(census.test) if request.split == "test" else validation
    generator = make_generator(request.stream_seed, "census")
    made = []
    for year in ("94", "95"):
        pairs = []
        for lines, count in ((train, CENSUS_TRAIN), (tested, CENSUS_TEST)):
            inside = [line for line in lines if line.rsplit(", ", 2)[1] == year]
            drawn = torch.randperm(len(inside), generator=generator, device="cpu")[:count]
            table = encode_census([inside[row] for row in drawn.tolist()], census.words)
            pairs.append((table.x, table.y))
        made.append(Experience(f"19{year}", pairs[0], pairs[1], list_classes(pairs[0][1])))
    return make_domains(
        "census-94-95",
        made,
        epochs=1,
        note=(
            "Census-Income (KDD; UCI), income above $50,000, which 6 % have: compare with always "
            "saying no. 1994, then 1995; 20,000 people of each drawn by the seed from a fixed "
            "80 % of the training file, 10,000 to test from the test file, or to validate from "
            "the other 20 %. 508 columns: words as one column each, known ahead; money "
            "log(1 + x)/10; no weight and no year; batch 10, one pass. Of the test rows, 9 % equal "
            "some training row: other people with the same answers."
        ),
    )


def make_domains(
    name: str, made: list[Experience], *, num_classes: int = 2, epochs: int, note: str
) -> Suite:
    """A domain-incremental suite of vectors in batches of 10, nobody being told the domain."""
    return Suite(
        name=name,
        kind="domain-incremental",
        experiences=made,
        num_classes=num_classes,
        batch_size=10,
        epochs=epochs,
        known_task_at_training=False,
        known_task_at_test=False,
        features="vectors",
        note=note,
    )


BUILDERS: dict[str, Callable[[Request], Suite]] = {
    "heart-4-hospitals": make_heart,
    "census-94-95": make_census,
}

# What each builder obtains.
SOURCES: dict[str, tuple[str, ...]] = {
    "heart-4-hospitals": ("heart",),
    "census-94-95": ("census",),
}
