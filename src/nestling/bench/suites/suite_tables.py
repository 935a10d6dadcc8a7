"""What a suite found, for people: one table in Markdown, with all that is needed to doubt it."""

from collections.abc import Sequence

from nestling.bench.rivals.methods_by_name import find_method
from nestling.bench.suites.compare import PairedComparison
from nestling.bench.suites.search import SEEDS
from nestling.bench.suites.suite_figures import DEFAULTS, Row, SuiteMeasurements, compare_kind
from nestling.bench.table import format_markdown, format_value
from nestling.core.machine import fingerprint
from nestling.judge import FORMULAS, estimate_mean

_KINDS = {
    "no_replay": "nothing stored",
    "replay200": "200 examples stored",
    "closed_form": "closed form, nothing stored",
    "reference": "reference, not compared",
}


def build_summary(measured: SuiteMeasurements) -> list[Row]:
    """One row per method: means over the seeds; accuracies and differences in per cent."""
    compared = {
        one.theirs: one
        for kind, default in DEFAULTS
        if default in measured.settings
        for one in compare_kind(measured, kind, default)
    }
    return [_summarize(measured, name, compared.get(name)) for name in measured.list_methods()]


def format_report(measured: SuiteMeasurements, figures: dict[str, float]) -> str:
    """The whole page in Markdown: protocol, table, figures, how it was measured, machine."""
    suite = measured.suite
    machine = ", ".join(f"{name} {value}" for name, value in fingerprint().items() if value != "")
    tuned = [
        {"method": name, **{key: format_value(value) for key, value in chosen.items()}}
        for name, chosen in measured.settings.items()
        if chosen
    ]
    sections = [
        f"# {suite.name}: a continual-learning benchmark",
        f"{suite.note} {suite.about_features} Kind: {suite.kind}. Batches of "
        f"{suite.batch_size}, {suite.epochs} pass"
        f"{'' if suite.epochs == 1 else 'es'}; seeds {_list_seeds(measured.seeds)}.",
        format_markdown([_embolden(row) for row in build_summary(measured)]),
        _explain(measured),
        "## Figures",
        format_markdown([{"figure": name, "value": value} for name, value in figures.items()]),
    ]
    if tuned:
        sections += ["## Settings that the search chose", format_markdown(tuned)]
    failures = [
        f"- {one.cell.method}, seed {one.cell.seed}: {one.failure}"
        for one in measured.outcomes
        if one.failure
    ]
    if failures:
        sections += ["## Methods that failed", "\n".join(failures)]
    sections += ["## Machine and code", f"{machine}.\n\n{_list_codes(measured)}"]
    return "\n\n".join(sections) + "\n"


def _summarize(measured: SuiteMeasurements, name: str, compared: PairedComparison | None) -> Row:
    method = find_method(name)
    row: Row = {
        "method": name,
        "kind": _KINDS[method.kind] + (", told boundaries" if method.needs_boundary else ""),
    }
    if measured.measure == "prequential":
        row["prequential %"] = _format_interval(measured.list_values(name, "prequential"))
    row |= {
        "ACC %": _format_interval(measured.list_values(name, "acc")),
        "examples to 90 %": _round(measured.average(name, "steps_to_90")),
        "forgetting": _percent(measured.average(name, "forgetting")),
        "BWT": _percent(measured.average(name, "bwt")),
        "worst %": _percent(measured.average(name, "worst")),
        "stability gap": _percent(measured.average(name, "stability_gap")),
        "kB kept": _round(measured.average(name, "bytes"), 1e-3),
        "time x finetune": measured.ratios.get(name),
        "ms per look": _round(measured.average(name, "seconds_per_look"), 1e3),
        "default minus it": None if compared is None else _format_difference(compared),
        "p (Holm)": None if compared is None else f"{compared.p_corrected:.2g}",
    }
    return row


def _explain(measured: SuiteMeasurements) -> str:
    """What the columns mean and what was equal for all."""
    judged = "prequential accuracy" if measured.measure == "prequential" else "ACC"
    subset = ""
    if measured.budget == "small":
        subset = (
            "Budget small: a named subset of the methods, those of this table; "
            "`--budget full` runs all. "
        )
    rivals = "; ".join(
        f"{default} against " + (", ".join(one.theirs for one in compared) or "nobody")
        for kind, default in DEFAULTS
        if default in measured.settings
        for compared in [compare_kind(measured, kind, default)]
    )
    return (
        f"{subset}Every method had the same network, first weights, batches and order; each but "
        f"nestling's defaults (bold), which have nothing to tune, was tuned by {judged} with "
        f"{measured.num_trials} random trials on the validation streams of seeds "
        f"{', '.join(map(str, SEEDS))}, which no row uses.\n\n"
        f"{FORMULAS['acc']}; {FORMULAS['forgetting chaudhry']}; {FORMULAS['bwt lopez-paz']}; "
        "worst = WC-ACC, with the lowest accuracy since each experience was learned "
        "[De Lange 2023]; stability gap = deepest fall of older experiences within a new one. "
        "Examples to 90 %: until the accuracy on the new experience, among all classes seen so "
        "far, reaches 90 % of the method's own best within it; without ACC beside it, it says "
        "nothing. kB kept: beside the network. Time: CPU seconds of learning over those of "
        f"finetune, both in turns in one process; answering is not in it, see ms per look. "
        f"+- is a 95 % t-interval over {len(measured.seeds)} seeds; differences are paired over "
        f"seeds, in points of {judged}, with p of a paired t test after Holm's correction "
        f"({rivals}).\n\n"
        "No figure of the literature stands here: the published ones have another network, "
        "resolution or number of examples."
    )


def _format_interval(values: Sequence[float]) -> str | None:
    if not values:
        return None
    found = estimate_mean([100.0 * value for value in values])
    if len(values) == 1:
        return f"{found.mean:.1f}"
    return f"{found.mean:.1f} +- {found.half_width:.1f}"


def _format_difference(compared: PairedComparison) -> str:
    width = 100.0 * compared.difference.half_width
    shown = f"{100.0 * compared.difference.mean:+.1f}"
    return shown if width == float("inf") else f"{shown} +- {width:.1f}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100.0 * value:.1f}"


def _round(value: float | None, factor: float = 1.0) -> int | None:
    return None if value is None else round(factor * value)


def _embolden(row: Row) -> Row:
    name = str(row["method"])
    return row | {"method": f"**{name}**"} if find_method(name).is_default else row


def _list_codes(measured: SuiteMeasurements) -> str:
    """Which code measured what: cells of an older one are kept until they are deleted."""
    by_code: dict[str, set[str]] = {}
    for one in measured.outcomes:
        by_code.setdefault(one.code, set()).add(one.cell.method)
    shown = [f"{code} ({', '.join(sorted(names))})" for code, names in by_code.items()]
    return f"Measured by the package's code {'; '.join(shown)}."


def _list_seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))
