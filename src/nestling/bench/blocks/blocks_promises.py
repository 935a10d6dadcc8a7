"""Suite `blocks`, part by part: what memories and deep optimizers cost, and what they can learn.

Each part's figures are written as soon as they are there, so that an interrupted run goes on.
All of it with one thread.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

from nestling.bench.blocks.cms_speed import measure_cms_speed
from nestling.bench.blocks.cms_starts import measure_learned_starts
from nestling.bench.blocks.delta_speed import measure_delta_speed
from nestling.bench.blocks.formal_languages import run_formal_languages
from nestling.bench.blocks.optimizer_steps import measure_optimizer_steps
from nestling.bench.promises.kept_parts import Measure, measure_parts
from nestling.bench.result import SuiteResult
from nestling.bench.suites.parallel_cells import CellFolders, Progress
from nestling.bench.timing import Figures, Rows

NUM_SEEDS = 3
REFLECTING = "delta rule, eta to 2"  # the only one that the formal languages should let through

Measured = tuple[Figures, Rows]


def measure_formal_languages(seeds: Sequence[int]) -> Measured:
    """Train memories and a Transformer on formal languages; about three minutes with 3 seeds.

    Args:
        seeds: one run of each model on each language.

    Returns: figures `formal_delta_min` and `formal_rivals_max`: the least and the greatest share of
        strings of length 256 that are right at every letter, over languages and seeds, of the delta
        rule with eta to 2 and of all others; `formal_seconds_max`, of the slowest run of the delta
        rule; a row for each run.
    """
    found = run_formal_languages(seeds=tuple(seeds))
    ours = [row for row in found.rows if row["model"] == REFLECTING]
    others = [row for row in found.rows if row["model"] != REFLECTING]
    figures = {
        "formal_delta_min": min(_read_column(ours, "whole_strings")),
        "formal_rivals_max": max(_read_column(others, "whole_strings")),
        "formal_seconds_max": max(_read_column(ours, "seconds")),
    }
    return figures, [dict(row) for row in found.rows]


def measure_starts(seeds: Sequence[int]) -> Measured:
    """Train a CMS with its initial states learned and frozen.

    Args:
        seeds: one run of each side.

    Returns: figures `starts_learned_minus_frozen`, the greatest difference of the two losses over
        the seeds, and `starts_whole_minus_frozen`, the same where all else is trained too; the mean
        loss of each side as `starts_loss_...`; a row for each side and seed.
    """
    found = measure_learned_starts(seeds=tuple(seeds))
    loss = {(row["side"], row["seed"]): float(str(row["loss"])) for row in found.rows}
    pairs = {"learned": ("trained", "frozen"), "whole": ("whole_trained", "whole_frozen")}
    figures = {
        f"starts_{name}_minus_frozen": max(loss[ours, seed] - loss[base, seed] for seed in seeds)
        for name, (ours, base) in pairs.items()
    }
    figures |= {f"starts_{name}": value for name, value in found.figures.items()}
    return figures, _drop_part(found)


def _read_column(rows: Sequence[Mapping[str, object]], name: str) -> list[float]:
    return [float(str(row[name])) for row in rows]


def _drop_part(found: SuiteResult) -> Rows:
    """Rows that get the name of the suite's part instead of their own."""
    return [{name: row[name] for name in row if name != "part"} for row in found.rows]


def _measure_delta(_: CellFolders) -> Measured:
    found = measure_delta_speed()
    return dict(found.figures), _drop_part(found)


def _measure_cms(_: CellFolders) -> Measured:
    found = measure_cms_speed()
    return dict(found.figures), _drop_part(found)


def _measure_steps(_: CellFolders) -> Measured:
    return measure_optimizer_steps(), []


# Costs, which no seed changes: rounds are repeated instead.
SPEED_PARTS: dict[str, Measure] = {
    "delta-speed": _measure_delta,
    "cms-speed": _measure_cms,
    "optimizer-steps": _measure_steps,
}
SEEDED_PARTS: dict[str, Callable[[Sequence[int]], Measured]] = {
    "formal-languages": measure_formal_languages,
    "learned-starts": measure_starts,
}


def list_parts(num_seeds: int) -> dict[str, Measure]:
    """Every part by name, those with seeds made for the first `num_seeds`.

    >>> list(list_parts(1))[:2]
    ['delta-speed', 'cms-speed']
    """
    seeds = range(num_seeds)

    def bind(measure: Callable[[Sequence[int]], Measured], _: CellFolders) -> Measured:
        return measure(seeds)

    seeded = {name: functools.partial(bind, measure) for name, measure in SEEDED_PARTS.items()}
    return {**SPEED_PARTS, **seeded}


def run(
    place: CellFolders,
    names: Sequence[str] = (),
    *,
    num_seeds: int = NUM_SEEDS,
    progress: Progress | None = None,
) -> SuiteResult:
    """Measure parts, each once by the same code on the same machine with as many seeds.

    Args:
        place: parts are kept in its folder, in `parts/`.
        names: of parts; none for all.
        num_seeds: of weights and data, where there are any.
        progress: told what is measured next, and the share that is done.

    Returns: the figures of these parts, with a row per side or run.

    Raises:
        SettingError: no such part.
        JobError: a part's file is damaged.
    """
    figures, rows = measure_parts(
        list_parts(num_seeds), place, names, settings={"num_seeds": num_seeds}, progress=progress
    )
    return SuiteResult("blocks", figures, rows, num_threads=1)
