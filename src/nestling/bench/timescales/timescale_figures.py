"""What each mechanism adds: paired differences to base, base at equal compute, and control."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nestling.bench.suites.cell_files import Outcome
from nestling.bench.suites.compare import correct_holm, run_paired_test
from nestling.bench.suites.search import Choice
from nestling.bench.table import format_value
from nestling.bench.timescales.compute_count import choose_ratio
from nestling.bench.timescales.mechanisms import MECHANISMS, PLAIN
from nestling.bench.timescales.step_costs import StepCost
from nestling.bench.timescales.timescale_cells import (
    BASES,
    REPLAY,
    draw_evenly,
    join_name,
    name_rival,
)
from nestling.judge import compare_paired, estimate_mean

Row = dict[str, object]

# What a mechanism is compared with: its base, the base at equal compute, its control.
_KINDS = ("base", "equal", "control")


@dataclass(frozen=True)
class Entry:
    """One line of the table: a mechanism in a family.

    Attributes:
        base: "plain" or "er".
        mechanism: its name; "plain" with the base "er" is replay itself, compared with plain.
    """

    base: str
    mechanism: str

    @property
    def method(self) -> str:
        """The name of its method."""
        return join_name(self.base, self.mechanism)

    @property
    def compared_with(self) -> str:
        """The base that it is compared with: replay itself is compared with plain training."""
        return PLAIN if self.mechanism == PLAIN else self.base

    @property
    def control(self) -> str | None:
        """The method that differs from it in one thing only; None where that is the base."""
        control = MECHANISMS[self.mechanism].control
        return None if control is None else join_name(self.base, control)

    def choose_rival(self, costs: Mapping[str, StepCost]) -> str:
        """The base with about the compute of this mechanism."""
        own, other = costs[self.method].compute, costs[self.compared_with].compute
        return name_rival(self.compared_with, choose_ratio(own / other))


@dataclass(frozen=True)
class SuiteOutcomes:
    """All that was measured on one suite.

    Args:
        label: in the names of figures, e.g. "split".
        seeds: of the test streams.
        choices: method -> what the search chose.
        outcomes: of the test cells.
    """

    label: str
    seeds: Sequence[int]
    choices: Mapping[str, Choice]
    outcomes: Sequence[Outcome]

    def list_values(self, method: str, name: str) -> list[float]:
        """A figure of a method in %, seed by seed; none if it failed with any seed."""
        by_seed = {
            one.cell.seed: one.summarize().get(name)
            for one in self.outcomes
            if one.cell.method == method
        }
        values = [by_seed.get(seed) for seed in self.seeds]
        found = [100.0 * value for value in values if value is not None]
        return found if len(found) == len(self.seeds) else []

    def find_failure(self, method: str) -> str | None:
        """Why a method failed, if it did."""
        found = [one.failure for one in self.outcomes if one.cell.method == method and one.failure]
        return found[0] if found else None


def build_rows(
    measured: SuiteOutcomes, entries: Sequence[Entry], costs: Mapping[str, StepCost]
) -> list[Row]:
    """One row per mechanism and family, then one per method and seed.

    Differences are in points of ACC, paired over seeds, each with half of its 95 % t-interval and
    the p of a paired t test; Holm's correction is over all that are compared with one base.
    """
    rows = [_describe(measured, one, costs) for one in entries]
    for base in BASES:
        for kind in _KINDS:
            tested = [
                row
                for row in rows
                if row["compared_with"] == base and row.get(f"p_{kind}") is not None
            ]
            corrected = correct_holm([float(str(row[f"p_{kind}"])) for row in tested])
            for row, value in zip(tested, corrected, strict=True):
                row[f"p_{kind}_holm"] = value
    return rows + _list_seeds(measured)


def build_figures(rows: Sequence[Row]) -> dict[str, float]:
    """The figures by name, from the rows of all suites; what was not measured is left out.

    For a suite S and a mechanism M (in "_" for "-"): `M_over_plain_S`, `M_over_er_S`: points of
    ACC that it adds to plain training and to replay, all on the same examples; `..._equal_S`: the
    same against the base with about as much compute; `M_over_C_S` and `er_M_over_er_C_S`: over its
    control C; `plain_acc_S`, `er_acc_S` in %; `M_compute` and `M_seconds`: of a training step,
    over plain SGD's; with replay `er_M_compute`, `er_M_seconds`.
    """
    found: dict[str, object] = {}
    for row in (one for one in rows if one["row"] == "method"):
        suite, method = row["suite"], str(row["method"])
        if method in BASES:
            found[f"{method}_acc_{suite}"] = row["ACC"]
        name = method.replace("+", "_")
        found[f"{name}_compute"] = row["compute"]
        found[f"{name}_seconds"] = row["seconds"]
        against = row["compared_with"]
        added = REPLAY if method == REPLAY else row["mechanism"]
        found[f"{added}_over_{against}_{suite}"] = row.get("over_base")
        found[f"{added}_over_{against}_equal_{suite}"] = row.get("over_equal")
        if row.get("control") is not None:
            control = str(row["control"]).replace("+", "_")
            found[f"{name}_over_{control}_{suite}"] = row.get("over_control")
    return {
        name.replace("-", "_"): value for name, value in found.items() if isinstance(value, float)
    }


def _describe(measured: SuiteOutcomes, entry: Entry, costs: Mapping[str, StepCost]) -> Row:
    method, cost = entry.method, costs[entry.method]
    values = measured.list_values(method, "acc")
    choice = measured.choices[method]
    row: Row = {
        "row": "method",
        "suite": measured.label,
        "base": entry.base,
        "mechanism": entry.mechanism,
        "method": method,
        "about": MECHANISMS[entry.mechanism].about,
        "is_control": MECHANISMS[entry.mechanism].is_control,
        "num_seeds": len(measured.seeds),
        "ACC": None,
        "forgetting": _average(measured.list_values(method, "forgetting")),
        "newest": _average(measured.list_values(method, "learning_accuracy")),
        "compute": cost.compute,
        "seconds": cost.seconds,
        "compared_with": entry.compared_with,
        "settings": ", ".join(f"{k} {format_value(v)}" for k, v in choice.settings.items()),
        "at_edge": _lies_at_edge(entry.mechanism, choice),
        "failure": measured.find_failure(method),
    }
    if values:
        mean = estimate_mean(values)
        row |= {"ACC": mean.mean, "ACC_half": mean.half_width}
    if method == PLAIN:
        return row
    row["rival"] = entry.choose_rival(costs)
    row["control"] = entry.control
    compare = _make_comparison(measured, values)
    row |= compare("base", entry.compared_with)
    row |= compare("equal", entry.choose_rival(costs))
    return row if entry.control is None else row | compare("control", entry.control)


def _make_comparison(measured: SuiteOutcomes, values: Sequence[float]) -> Callable[[str, str], Row]:
    def compare(kind: str, other: str) -> Row:
        theirs = measured.list_values(other, "acc")
        if not values or not theirs:
            return {}
        found = compare_paired(values, theirs)
        return {
            f"over_{kind}": found.mean,
            f"over_{kind}_half": found.half_width,
            f"p_{kind}": run_paired_test(values, theirs),
        }

    return compare


def _lies_at_edge(mechanism: str, choice: Choice) -> bool:
    """Whether the search chose the least or the greatest learning rate that it tried."""
    rates = [draw_evenly(MECHANISMS[mechanism], t)["lr"] for t in range(len(choice.scores))]
    return len(rates) > 1 and choice.settings["lr"] in (min(rates), max(rates))


def _list_seeds(measured: SuiteOutcomes) -> list[Row]:
    return [
        {
            "row": "seed",
            "suite": measured.label,
            "method": one.cell.method,
            "seed": one.cell.seed,
            "ACC": _percent(one, "acc"),
            "forgetting": _percent(one, "forgetting"),
            "newest": _percent(one, "learning_accuracy"),
            "failure": one.failure,
        }
        for one in measured.outcomes
    ]


def _percent(outcome: Outcome, name: str) -> float | None:
    value = outcome.summarize().get(name)
    return None if value is None else 100.0 * value


def _average(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None
