"""`nestling bench reproduce`: the papers' figures beside ours, cell by cell, resumable."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from nestling.bench.result import SuiteResult
from nestling.bench.suites.cell_files import Cell, Outcome
from nestling.bench.suites.parallel_cells import CellFolders, Progress, run_cells
from nestling.core.errors import JobError, suggest
from nestling.data.suites.paper_protocols import PROTOCOLS

NUM_SEEDS = 10
# Where a paper gives no standard deviation, so many points count as the same.
NEAR = 2.0

_METHODS = "nestling.bench.reproduction.paper_methods"
_TITLES = {
    "smnist": "S-MNIST, class-incremental",
    "hsu_class": "split MNIST of Hsu, class-incremental",
    "hsu_domain": "split MNIST of Hsu, domain-incremental",
    "hsu_task": "split MNIST of Hsu, task-incremental",
}


@dataclass(frozen=True)
class Target:
    """A published figure.

    Args:
        protocol: "smnist", "hsu_class", "hsu_domain" or "hsu_task".
        method: as in `methods`.
        value: ACC in %.
        spread: its standard deviation in points; None if the paper gives none.
    """

    protocol: str
    method: str
    value: float
    spread: float | None = None

    @property
    def name(self) -> str:
        """Of the figure, e.g. "smnist_er200_class"."""
        if self.protocol == "smnist":
            return f"smnist_{self.method}_class"
        dataset, scenario = self.protocol.split("_")
        return f"{dataset}_{self.method}_{scenario}"

    @property
    def margin(self) -> float:
        """Points within which ours counts as the same: two standard deviations."""
        return NEAR if self.spread is None else 2.0 * self.spread


# ER, DER++: Buzzega 2020; CLS-ER: Arani 2022, table 1; the rest: Hsu 2018, table 2.
TARGETS = (
    Target("smnist", "er200", 80.43, 1.89),
    Target("smnist", "derpp200", 85.61, 1.40),
    Target("smnist", "clser200", 89.54, 0.21),
    Target("smnist", "clser200_plan", 89.54, 0.21),
    Target("smnist", "er500", 86.12),
    Target("smnist", "derpp500", 91.00),
    Target("smnist", "clser500", 92.05),
    Target("smnist", "clser500_plan", 92.05),
    Target("hsu_class", "adam", 19.71, 0.08),
    Target("hsu_class", "rehearsal1100", 90.78, 0.85),
    Target("hsu_class", "rehearsal4400", 95.59, 0.49),
    Target("hsu_class", "ewc", 19.80),
    Target("hsu_class", "online_ewc", 19.77),
    Target("hsu_class", "si", 19.67),
    Target("hsu_class", "mas", 19.52),
    Target("hsu_class", "lwf", 24.17),
    Target("hsu_domain", "adam", 55.16, 1.38),
    Target("hsu_domain", "rehearsal1100", 95.16, 0.49),
    Target("hsu_domain", "rehearsal4400", 97.11, 0.34),
    Target("hsu_domain", "ewc", 58.85),
    Target("hsu_domain", "online_ewc", 57.33),
    Target("hsu_domain", "si", 64.76),
    Target("hsu_domain", "mas", 68.57),
    Target("hsu_domain", "lwf", 71.02),
    Target("hsu_task", "adam", 93.46, 2.01),
    Target("hsu_task", "rehearsal1100", 99.40),
    Target("hsu_task", "rehearsal4400", 99.57),
    Target("hsu_task", "ewc", 97.70),
    Target("hsu_task", "online_ewc", 98.04),
    Target("hsu_task", "si", 98.56),
    Target("hsu_task", "mas", 99.22),
    Target("hsu_task", "lwf", 99.60),
)


def choose_targets(names: Sequence[str]) -> list[Target]:
    """Targets whose figure, protocol or method is named; all without names.

    Raises:
        JobError: nothing has such a name; says the nearest.

    >>> [target.name for target in choose_targets(["smnist_er200_class"])]
    ['smnist_er200_class']
    """
    if not names:
        return list(TARGETS)
    known = {part for one in TARGETS for part in (one.name, one.protocol, one.method)}
    for name in names:
        if name not in known:
            raise JobError(f"nothing to reproduce is named {name!r}; {suggest(name, known)}")
    asked = set(names)
    return [one for one in TARGETS if asked & {one.name, one.protocol, one.method}]


def reproduce(
    targets: Sequence[Target],
    place: CellFolders,
    *,
    num_seeds: int = NUM_SEEDS,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> SuiteResult:
    """Measure each target with paired seeds; what the run folder holds is not measured again.

    Args:
        targets: see `choose_targets`.
        place: run folder, and where the images lie; a folder per protocol is made in it.
        num_seeds: from seed 0 on.
        num_workers: processes; None for one per core.
        progress: told the last cell and the share that is done.

    Returns: figures in % by name; rows with the paper's value beside ours.

    Raises:
        DataError: the images cannot be had.
        JobError: damaged files in the run folder.
    """
    figures: dict[str, float] = {}
    rows: list[dict[str, object]] = []
    protocols = [name for name in PROTOCOLS if any(one.protocol == name for one in targets)]
    for number, protocol in enumerate(protocols):
        chosen = [one for one in targets if one.protocol == protocol]
        cells = [
            Cell(protocol, "test", f"{_METHODS}:make_{target.method}", seed)
            for seed in range(num_seeds)
            for target in chosen
        ]
        outcomes = run_cells(
            cells,
            CellFolders(place.folder / protocol, place.data, place.offline),
            num_workers=num_workers,
            progress=_share_progress(progress, number, len(protocols)),
        )
        for target in chosen:
            row = _build_row(target, outcomes)
            figures[target.name] = float(str(row["ours"]))
            rows.append(row)
    return SuiteResult("reproduce", figures, rows)


def _share_progress(progress: Progress | None, number: int, num_parts: int) -> Progress | None:
    if progress is None:
        return None
    return lambda text, done: progress(text, (number + done) / num_parts)


def _build_row(target: Target, outcomes: Sequence[Outcome]) -> dict[str, object]:
    own = [one for one in outcomes if one.cell.method.endswith(f":make_{target.method}")]
    failed = [one.failure for one in own if one.failure]
    if failed:
        raise JobError(f"{target.name} failed: {failed[0]}")
    values = [100.0 * float(one.summarize()["acc"] or 0.0) for one in own]
    mean = statistics.mean(values)
    return {
        "figure": target.name,
        "protocol": _TITLES[target.protocol],
        "paper": target.value,
        "paper_spread": target.spread,
        "ours": round(mean, 3),
        "our_spread": round(statistics.stdev(values), 3) if len(values) > 1 else None,
        "num_seeds": len(values),
        "is_same": abs(mean - target.value) <= target.margin,
    }
