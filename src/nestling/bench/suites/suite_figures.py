"""The figures of a suite by their fixed names, from the outcomes of all cells."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nestling.bench.rivals.methods_by_name import find_method
from nestling.bench.rivals.tunable import Kind, Settings
from nestling.bench.suites.cell_files import Outcome
from nestling.bench.suites.compare import PairedComparison, compare_all
from nestling.data.suites import Suite

Row = dict[str, object]

DEFAULTS: tuple[tuple[Kind, str], ...] = (
    ("no_replay", "default"),
    ("replay200", "default-replay200"),
)


@dataclass(frozen=True)
class SuiteMeasurements:
    """All that was measured for one suite.

    Args:
        suite: its first test stream, for its name and protocol.
        seeds: of the test streams.
        outcomes: of the test cells.
        settings: method -> what the search chose; empty where there is nothing to tune.
        ratios: method -> CPU seconds over fine-tuning's; None where unknown.
        num_trials: of the search, the same for every method that was tuned.
        budget: what the user asked for: "small", "full" or a number of trials.
    """

    suite: Suite
    seeds: Sequence[int]
    outcomes: Sequence[Outcome]
    settings: Mapping[str, Settings]
    ratios: Mapping[str, float | None] = field(default_factory=dict)
    num_trials: int = 0
    budget: str = ""

    @property
    def measure(self) -> str:
        """What methods are judged by: "prequential" for ordered streams, else "acc"."""
        return "prequential" if self.suite.is_ordered else "acc"

    def list_methods(self) -> list[str]:
        """In the order of the table."""
        return list(self.settings)

    def list_whole(self) -> list[str]:
        """Methods that went through with every seed."""
        failed = {one.cell.method for one in self.outcomes if one.failure}
        return [name for name in self.settings if name not in failed]

    def list_values(self, method: str, name: str) -> list[float]:
        """A figure of a method that went through, seed by seed; none where it has no such."""
        by_seed = {
            one.cell.seed: one.summarize().get(name)
            for one in self.outcomes
            if one.cell.method == method
        }
        values = [by_seed.get(seed) for seed in self.seeds]
        return [value for value in values if value is not None]

    def average(self, method: str, name: str) -> float | None:
        """The mean of a figure over the seeds; None if there is none."""
        values = self.list_values(method, name)
        return statistics.mean(values) if values else None


def list_rivals(measured: SuiteMeasurements, kind: Kind) -> list[str]:
    """Whom a default is compared with: methods of its kind, and what stores no example.

    Closed forms store no raw example, so they are rivals without replay, and only there.
    """
    kinds = {"no_replay": ("no_replay", "closed_form"), "replay200": ("replay200",)}.get(kind, ())
    return [
        name
        for name in measured.list_whole()
        if (method := find_method(name)).kind in kinds and not method.is_default
    ]


def compare_kind(measured: SuiteMeasurements, kind: Kind, default: str) -> list[PairedComparison]:
    """A default against every rival of its kind; none if it did not go through."""
    rivals = list_rivals(measured, kind)
    if default not in measured.list_whole():
        return []
    values = {name: measured.list_values(name, measured.measure) for name in (default, *rivals)}
    return compare_all(default, values, rivals)


def build_figures(measured: SuiteMeasurements) -> dict[str, float]:
    """The figures by name; what was not measured is left out.

    For kind no_replay and replay200: `<kind>_default_acc`, `_default_forgetting`,
    `_default_worst`, `_default_bytes`, `_default_seconds_over_finetune`,
    `_default_steps_to_90` (examples), `_er200_steps_to_90`, `_best_gradient_acc`,
    `_best_closed_form_acc`, `_difference` (points, default minus the best rival), `_p_value`
    (Holm). The best rival is the best on the test streams themselves, which favours it. For
    ordered streams difference and p are of prequential accuracy, which then also has figures.
    """
    found: dict[str, float | None] = {}
    for kind, default in DEFAULTS:
        if default in measured.settings:
            found |= {f"{kind}_{name}": v for name, v in _build_kind(measured, kind, default)}
    return {name: value for name, value in found.items() if value is not None}


def build_rows(measured: SuiteMeasurements) -> list[Row]:
    """One flat row per method and seed."""
    rows: list[Row] = []
    for one in measured.outcomes:
        figures = one.summarize()
        row: Row = {
            "suite": measured.suite.name,
            "scenario": measured.suite.kind,
            "method": one.cell.method,
            "kind": find_method(one.cell.method).kind,
            "seed": one.cell.seed,
            "ACC": figures.get("acc"),
            "steps_to_90": figures.get("steps_to_90"),
            "forgetting": figures.get("forgetting"),
            "BWT": figures.get("bwt"),
        }
        names = ("worst", "stability_gap", "learning_accuracy", "prequential", "bytes")
        row |= {name: figures.get(name) for name in (*names, "seconds", "seconds_per_look")}
        row["seconds_over_finetune"] = measured.ratios.get(one.cell.method)
        row["failure"] = one.failure
        rows.append(row)
    return rows


def _build_kind(
    measured: SuiteMeasurements, kind: Kind, default: str
) -> list[tuple[str, float | None]]:
    compared = compare_kind(measured, kind, default)
    closest = min(compared, key=lambda one: one.difference.mean, default=None)
    names = ["acc", "forgetting", "worst", "bytes", "steps_to_90"]
    if measured.measure == "prequential":
        names.append("prequential")
    found = [(f"default_{name}", measured.average(default, name)) for name in names]
    found += [
        ("default_seconds_over_finetune", measured.ratios.get(default)),
        ("er200_steps_to_90", measured.average("er", "steps_to_90")),
        ("best_gradient_acc", _find_best(measured, kind, "acc")),
        ("best_closed_form_acc", _find_best(measured, "closed_form", "acc")),
        ("difference", None if closest is None else 100.0 * closest.difference.mean),
        ("p_value", None if closest is None else closest.p_corrected),
    ]
    if measured.measure == "prequential":
        best = _find_best(measured, kind, "prequential")
        found.append(("best_gradient_prequential", best))
    return found


def _find_best(measured: SuiteMeasurements, kind: Kind, name: str) -> float | None:
    """The highest mean of a figure among the rivals of a kind."""
    means = [
        mean
        for method in measured.list_whole()
        if (found := find_method(method)).kind == kind and not found.is_default
        if (mean := measured.average(method, name)) is not None
    ]
    return max(means, default=None)
