"""What several timescales add, in Markdown, from the rows of the benchmark's JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from nestling.bench.table import Row, format_markdown
from nestling.bench.timescales.timescale_cells import BASES, TUNING_SEEDS
from nestling.core.errors import JobError

_LEVEL = 0.05
_BASE_NAMES = {"plain": "plain training", "er": "replay of 200 examples (ER)"}


def format_page(rows: Sequence[Row]) -> str:
    """The whole page: protocol, the summary, and a table per suite and family.

    Args:
        rows: of the benchmark's result, as `build_rows` makes them.
    """
    methods = [row for row in rows if row.get("row") == "method"]
    suites = list(dict.fromkeys(str(row["suite"]) for row in methods))
    sections = ["# What slow and fast weights add", _explain(methods), format_summary(rows)]
    for suite in suites:
        for base in BASES:
            chosen = [row for row in methods if (row["suite"], row["base"]) == (suite, base)]
            if chosen:
                title = f"## {suite}, over {_BASE_NAMES[base]}"
                sections += [title, format_markdown([_detail(row) for row in chosen])]
    failures = [
        f"- {row['method']} on {row['suite']}: {row['failure']}"
        for row in methods
        if row.get("failure")
    ]
    if failures:
        sections += ["## Methods that failed", "\n".join(failures)]
    return "\n\n".join(sections)


def format_summary(rows: Sequence[Row]) -> str:
    """The table for *what helps when*: points of ACC that each mechanism adds, suite by suite.

    Args:
        rows: as in `format_page`.

    Returns: for each family a Markdown table of the mechanisms, controls left out: compute over
        plain training, then "over the base / at equal compute / over its control" for each suite;
        * where p < 0.05 after Holm's correction.
    """
    return "\n\n".join(format_markdown(lines) for lines in list_summaries(rows).values())


def list_summaries(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The lines of `format_summary` by the title of their table."""
    methods = [row for row in rows if row.get("row") == "method"]
    tables: dict[str, list[Row]] = {}
    for base in BASES:
        lines: dict[str, dict[str, object]] = {}
        for row in methods:
            if row["base"] != base or row.get("over_base") is None or row.get("is_control"):
                continue
            name = "ER itself, over plain" if row["mechanism"] == "plain" else row["mechanism"]
            line = lines.setdefault(
                str(row["mechanism"]), {"over " + base: name, "compute": _times(row["compute"])}
            )
            line[str(row["suite"])] = " / ".join(
                _mark(row, kind) for kind in ("base", "equal", "control")
            )
        if lines:
            tables[f"over {_BASE_NAMES[base]}"] = list(lines.values())
    return tables


def read_rows(path: Path) -> list[Row]:
    """The rows of a written result of this benchmark.

    Raises:
        JobError: the file is no such result.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["suite"] != "timescales":
            raise ValueError("another suite")
        return [dict(row) for row in data["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"'{path}' is no result of `nestling bench timescales` ({type(error).__name__}); "
            "make one with --json"
        ) from None


def _detail(row: Row) -> dict[str, object]:
    mark = " (at the edge of the rates)" if row.get("at_edge") else ""
    return {
        "mechanism": row["method"],
        "what": row["about"],
        "compute": _times(row["compute"]),
        "seconds": _times(row["seconds"]),
        "ACC %": _interval(row.get("ACC"), row.get("ACC_half"), signed=False),
        "forgetting": _round(row.get("forgetting")),
        "newest %": _round(row.get("newest")),
        "over": _difference(row, "base", row["compared_with"]),
        "at equal compute": _difference(row, "equal", row.get("rival")),
        "over its control": _difference(row, "control", row.get("control")),
        "settings": f"{row['settings']}{mark}",
    }


def _explain(methods: Sequence[Row]) -> str:
    num_seeds = max((int(str(row["num_seeds"])) for row in methods), default=0)
    return (
        "Small split, permuted and rotated MNIST (14 x 14, networks of 128 units, batch 10, one "
        f"pass), {num_seeds} test streams each. Every method had the same trials of the search on "
        f"validation streams of seeds {', '.join(map(str, TUNING_SEEDS))}, which no figure uses; "
        "all of one optimizer the same learning rates. Compute: multiply-adds of products and "
        "element-wise operations of a training step (forward, backward, update), counted, over "
        "those of plain SGD; seconds: of CPU in one process, where at this size most is Python. "
        "Answering is in neither.\n\n"
        "Differences are in points of ACC, paired over seeds, +- half of a 95 % t-interval, with "
        "p of a paired t test after Holm's correction over all of one base. *Over*: on "
        "the same examples, one step per batch. *At equal compute*: the base takes more or fewer "
        "steps per batch (x in its name, at most 3.81) and is tuned for that. *Control*: what "
        "differs in one thing: for periods of a mean the same trunk at rate / period; for skip the "
        "period without skipping; for sums plain training itself; for M3 Muon; for Adam's periods "
        "its rates; for continuum-memory blocks the same chain on one clock. *Newest*: accuracy "
        "on each experience right after it. In the summary: over the base / at equal compute / "
        "over its control; * where the corrected p is below 0.05."
    )


def _mark(row: Mapping[str, object], kind: str) -> str:
    value, p = row.get(f"over_{kind}"), row.get(f"p_{kind}_holm")
    if not isinstance(value, float):
        return "-"
    star = "*" if isinstance(p, float) and p < _LEVEL else ""
    return f"{value:+.1f}{star}"


def _difference(row: Mapping[str, object], kind: str, other: object = None) -> str | None:
    shown = _interval(row.get(f"over_{kind}"), row.get(f"over_{kind}_half"), signed=True)
    if shown is None:
        return None
    p = row.get(f"p_{kind}_holm")
    notes = [] if other is None else [str(other)]
    if isinstance(p, float) and "+-" in shown:
        notes.append(f"p {p:.2g}")
    return f"{shown} ({', '.join(notes)})" if notes else shown


def _interval(mean: object, half: object, *, signed: bool) -> str | None:
    if not isinstance(mean, float):
        return None
    shown = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    if isinstance(half, float) and math.isfinite(half):
        return f"{shown} +- {half:.1f}"
    return shown


def _round(value: object) -> str | None:
    return f"{value:.1f}" if isinstance(value, float) else None


def _times(value: object) -> str | None:
    return f"{value:.2f}" if isinstance(value, float) else None
