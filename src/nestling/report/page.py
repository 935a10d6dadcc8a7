"""The HTML report of a run: one page that needs no other file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestling.core.errors import DataError, MissingExtra, NestlingError
from nestling.judge import formula
from nestling.report import plots, tables
from nestling.report.audit.audit_records import read_audit_versions
from nestling.report.captions import say_first_seed, say_granularity, say_seeds
from nestling.report.fields import FIELDS
from nestling.report.line_styles import SUBJECT, assign_styles
from nestling.report.reading import (
    Record,
    find_one_test,
    list_boundaries,
    list_experiences,
    list_methods,
)
from nestling.report.run_folder import Run, read_run
from nestling.report.summary import MethodDigest, describe_outcome, digest_method
from nestling.report.validated_change import tabulate_validated
from nestling.store import write_whole

FORMULAS = (
    formula("acc"),
    formula("forgetting chaudhry"),
    formula("bwt lopez-paz"),
    "WC-ACC = A_T / T + (1 - 1/T) mean_{j<T} min_n A_j(n)   [De Lange 2023]",
    "stability gap = mean_{i>1} mean_{j<i} (R[i-1,j] - min_n A_j(n) within i)",
)


@dataclass(frozen=True)
class Plot:
    """A picture on the page.

    Attributes:
        title: heading.
        image: data URI.
        alt: what it shows, for who cannot see it.
        caption: how to read it.
    """

    title: str
    image: str
    alt: str
    caption: str


def write_report(folder: Path | str) -> Path:
    """Write the HTML report of a run folder from its records.

    Args:
        folder: that `RunWriter` wrote.

    Returns: the page: self-contained, for screen (light and dark) and print.

    Raises:
        DataError: there is no run in the folder, or its records are damaged.
        MissingExtra: matplotlib or jinja2 is not installed.
        NestlingError: the page cannot be written; an older one stays.
    """
    run = read_run(folder)
    for kind in FIELDS:
        run.select(kind)  # so that a damaged record is said, whether it would be shown or not
    page = run.folder / "report.html"
    try:
        write_whole(page, render_report(run))
    except OSError as error:
        raise NestlingError(f"cannot write '{page}': {error}") from None
    return page


def write_demo_picture(folder: Path | str, path: Path) -> None:
    """Plot the accuracy on old and new experiences over time, a line per method (the demo)."""
    run = read_run(folder)
    names, ends = list_experiences(run), list_boundaries(run)
    digests = [digest_method(run, method) for method in list_methods(run)]
    if not digests or len(ends) < len(names):
        raise DataError(f"the run in '{run.folder}' is not finished; draw it when it is")
    figure = plots.plot_story(digests, names, ends)
    plots.save_png(figure, path)


def render_report(run: Run) -> str:
    """The page as text; arguments and errors of `write_report`."""
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("reports need jinja2: pip install 'nestling[report]'") from None
    digests = [digest_method(run, method) for method in list_methods(run)]
    names, test = list_experiences(run), find_one_test(run)
    is_whole = bool(digests) and bool(names)
    subject = next((d for d in digests if d.name == SUBJECT), digests[0] if digests else None)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    return environment.get_template("page.html.j2").render(
        title=f"Nestling: {run.config.get('suite', 'run')} report",
        subtitle=_describe_run(run, names, digests, test),
        note=run.note,
        digests=digests,
        words=describe_outcome(subject, names, test) if subject is not None and names else [],
        subject=subject.name if subject else "",
        seeds=say_seeds(digests) if digests else "",
        has_intervals=any(len(digest.seeds) > 1 for digest in digests),
        heads=[tables.HEADS[key] for key in tables.list_used(digests)],
        table=tables.tabulate_figures(digests),
        formulas=FORMULAS,
        retention=tables.tabulate_retention(digests),
        granularity=say_granularity(run),
        differences=tables.tabulate_differences(subject, digests) if subject else [],
        difference_heads=tables.head_differences(digests),
        plots=_make_plots(run, digests, names, test) if is_whole else [],
        compute=tables.tabulate_compute(run.select("compute")),
        validated=tabulate_validated(read_audit_versions(run.folder)),
        alarms=[
            f"{kind.capitalize()}: {record.get('message')}"
            for kind in ("alarm", "drift")
            for record in run.select(kind)
        ],
        changes=[_show_change(record) for record in run.select("change")],
        config=json.dumps(run.config, indent=2, ensure_ascii=False),
    )


def _make_plots(
    run: Run, digests: Sequence[MethodDigest], names: Sequence[str], test: str
) -> list[Plot]:
    ends, seeds, granularity = list_boundaries(run), say_seeds(digests), say_granularity(run)
    looks = assign_styles([digest.name for digest in digests])
    made = [
        Plot(
            "Accuracy over time",
            plots.encode_svg(plots.plot_accuracy(digests, [test] if test else names, ends)),
            "Accuracy on every experience against examples seen, one panel per method.",
            f"{seeds} {'One line' if test else 'A line per experience'}, scored among all classes "
            f"met so far; vertical dashes: an experience ends. {granularity}",
        )
    ]
    if not test:
        made.append(
            Plot(
                "Accuracy after each experience",
                plots.encode_svg(plots.plot_matrices(digests, names)),
                "Heat map per method: accuracy on each experience after learning each experience.",
                f"{seeds} Measured at the ends of experiences only, so dips in between do not "
                "show. Read down a column: what happens to one experience while others are "
                "learned.",
            )
        )
    if any(digest.adaptation for digest in digests):
        made.append(
            Plot(
                "Adaptation after each change",
                plots.encode_svg(plots.plot_adaptation(digests)),
                "Bars: examples until 90 percent of a method's own best, per experience.",
                f"{seeds} Lower is faster; 0: there before it learned the experience. A method "
                "that never gets good reaches 90 % of little soon: read it beside the accuracy. "
                f"{granularity}",
            )
        )
    made += [
        Plot(
            f"Levels of {digest.name}",
            plots.encode_svg(plots.plot_levels(digest, looks[digest.name])),
            "Number of updates and relative change per update of each level over time.",
            f"{say_first_seed(digest)} Each level on its own clock, read at every evaluation. "
            "Right: the size of an update over the size of what it changes; left out where a "
            "level has none (solved in closed form, or not yet updated).",
        )
        for digest in digests
        if digest.level_curves
    ]
    return made


def _describe_run(
    run: Run, names: Sequence[str], digests: Sequence[MethodDigest], test: str
) -> str:
    machine = run.config.get("machine")
    where = ""
    if isinstance(machine, dict):
        where = f" Measured on {machine.get('cpu')}, torch {machine.get('torch')}."
    listed = ", then ".join(names) if names else "none finished"
    methods = ", ".join(digest.name for digest in digests) or "none"
    if test:
        where = (
            f" All experiences are tested on the same examples ('{test}'), so there is one "
            "accuracy, and what is lost of each experience cannot be told; one test file each "
            f"tells it.{where}"
        )
    return f"Experiences: {listed}. Methods: {methods}.{where}"


def _show_change(record: Record) -> str:
    knobs = record.get("knobs")
    what = ", ".join(f"{k} = {v}" for k, v in knobs.items()) if isinstance(knobs, dict) else ""
    return f"Changed '{record.get('level')}': {what}. Reason: {record.get('reason')}"
