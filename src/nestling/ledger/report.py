"""The report of a run: one page that needs nothing else."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestling.core.errors import DataError, MissingExtra, NestlingError
from nestling.judge import Estimate, formula
from nestling.ledger import plots
from nestling.ledger.digest import (
    MethodDigest,
    Record,
    describe_outcome,
    digest_method,
    list_boundaries,
    list_experiences,
    list_methods,
    read_float,
)
from nestling.ledger.run import Run, read_run

HEADS = {
    "acc": "ACC",
    "forgetting": "forgetting",
    "bwt": "backward transfer",
    "steps_to_adapt": "steps to adapt",
    "seconds_per_example": "ms per example",
}


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
    """Write report.html of a run folder from its records.

    Args:
        folder: that `RunWriter` wrote.

    Returns: the page: self-contained, for screen (light and dark) and print.

    Raises:
        DataError: there is no run in the folder.
        MissingExtra: matplotlib or jinja2 is not installed.
        NestlingError: the page cannot be written; an older one stays.
    """
    run = read_run(folder)
    page = run.folder / "report.html"
    draft = run.folder / ".report.html"
    try:
        draft.write_text(render_report(run), encoding="utf-8")
        draft.replace(page)
    except OSError as error:
        raise NestlingError(f"cannot write '{page}': {error}") from None
    return page


def write_demo_picture(folder: Path | str, path: Path) -> None:
    """The picture of the first page: old and new experiences over time, a line per method."""
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
    names = list_experiences(run)
    is_whole = bool(digests) and bool(names)
    subject = next((d for d in digests if d.name == plots.SUBJECT), digests[0] if digests else None)
    used = [key for key in HEADS if any(key in digest.figures for digest in digests)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    return environment.get_template("report.html.j2").render(
        title=f"Nestling: {run.config.get('suite', 'run')} report",
        subtitle=_describe_run(run, names, digests),
        note=run.note,
        digests=digests,
        words=describe_outcome(subject, names) if subject is not None and names else [],
        subject=subject.name if subject else "",
        num_seeds=max((digest.num_seeds for digest in digests), default=0),
        heads=[HEADS[key] for key in used],
        table=[[d.name, *(_show(key, d.figures.get(key)) for key in used)] for d in digests],
        formulas=[formula("acc"), formula("forgetting chaudhry"), formula("bwt lopez-paz")],
        plots=_make_plots(run, digests, names) if is_whole else [],
        compute=[_show_compute(record) for record in _first_seed(run.select("compute"))],
        alarms=[f"Alarm: {record.get('message')}" for record in run.select("alarm")],
        changes=[_show_change(record) for record in run.select("change")],
        config=json.dumps(run.config, indent=2, ensure_ascii=False),
    )


def _make_plots(run: Run, digests: Sequence[MethodDigest], names: Sequence[str]) -> list[Plot]:
    ends = list_boundaries(run)
    made = [
        Plot(
            "Accuracy over time",
            plots.encode_svg(plots.plot_accuracy(digests, names, ends)),
            "Accuracy on every experience against examples seen, one panel per method.",
            "Scored among all classes met so far. Dashed lines: an experience ends.",
        ),
        Plot(
            "Accuracy after each experience",
            plots.encode_svg(plots.plot_matrices(digests, names)),
            "Heat map per method: accuracy on each experience after learning each experience.",
            "Read down a column: what happens to one experience while others are learned.",
        ),
    ]
    if any(digest.adaptation for digest in digests):
        made.append(
            Plot(
                "Adaptation after each change",
                plots.encode_svg(plots.plot_adaptation(digests)),
                "Bars: examples until 90 percent of a method's own best, per experience.",
                "Lower is faster. A method that never gets good reaches 90 % of little soon: "
                "read it beside the accuracy.",
            )
        )
    made += [
        Plot(
            f"Levels of {digest.name}",
            plots.encode_svg(plots.plot_levels(digest)),
            "Number of updates and relative change per update of each level over time.",
            "Each level on its own clock; first seed.",
        )
        for digest in digests
        if digest.level_curves
    ]
    return made


def _describe_run(run: Run, names: Sequence[str], digests: Sequence[MethodDigest]) -> str:
    machine = run.config.get("machine")
    where = ""
    if isinstance(machine, dict):
        where = f" Measured on {machine.get('cpu')}, torch {machine.get('torch')}."
    listed = ", then ".join(names) if names else "none finished"
    methods = ", ".join(digest.name for digest in digests) or "none"
    return f"Experiences: {listed}. Methods: {methods}.{where}"


def _show(figure: str, value: Estimate | None) -> str:
    if value is None:
        return "-"
    scale, digits = {"steps_to_adapt": (1.0, 0), "seconds_per_example": (1e3, 2)}.get(
        figure, (100.0, 1)
    )
    unit = " %" if figure in ("acc",) else ""
    text = f"{value.mean * scale:.{digits}f}"
    if math.isfinite(value.half_width):
        text += f" ± {value.half_width * scale:.{digits}f}"
    return text + unit


def _show_compute(record: Record) -> list[str]:
    return [
        f"{record['method']}, {record['level']}",
        f"{read_float(record['num_steps']):.0f}",
        f"{read_float(record['num_updates']):.0f}",
        f"{read_float(record['share_backward_skipped']):.0%}",
        f"{read_float(record['seconds']):.2f}",
    ]


def _show_change(record: Record) -> str:
    knobs = record.get("knobs")
    what = ", ".join(f"{k} = {v}" for k, v in knobs.items()) if isinstance(knobs, dict) else ""
    return f"Changed '{record.get('level')}': {what}. Reason: {record.get('reason')}"


def _first_seed(records: Sequence[Record]) -> list[Record]:
    first: dict[object, object] = {}
    for record in records:
        first.setdefault(record["method"], record["seed"])
    return [record for record in records if record["seed"] == first[record["method"]]]
