"""Plain words of an audit: times, shares, figures with their intervals, views and bounds."""

import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from nestling.judge.probes.probe_result import ProbePart, ProbeResult

NOTHING = "\N{EN DASH}"
_TIE = "\N{NO-BREAK SPACE}"  # no line breaks between a number and its unit
# Figures that are relative changes, said in per cent.
_SHARES = (*("relative_change", "since_validation", "per_day", "per_update"), "change", "budget")
VIEWS: Mapping[str, str] = {
    "spine": "spine alone",
    "whole": "spine with fast levels",
    "cohorts": "each cohort's own fast levels",
}
ORIGINS: Mapping[str, str] = {
    "began": "the record began",
    "learned": "learned by itself",
    "committed": "a proposal was committed",
    "validated": "validated by a person",
    "rolled back": "rolled back",
}


def say_time(at: float) -> str:
    """Seconds since 1970 as a UTC time.

    >>> say_time(1_795_000_000.0)
    '2026-11-18T11:06:40Z'
    """
    return datetime.fromtimestamp(int(at), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def find_day(at: float) -> date:
    """The UTC day of a time."""
    return datetime.fromtimestamp(at, tz=UTC).date()


def say_share(value: float) -> str:
    """A relative change in per cent, three digits of it.

    >>> say_share(0.00417).replace("\\xa0", " ")
    '0.417 %'
    """
    if math.isinf(value):
        return "beyond any bound"
    if math.isnan(value):
        return NOTHING
    percent = 100.0 * value
    text = f"{percent:,.0f}" if abs(percent) >= 1000.0 else f"{percent:.3g}"
    return f"{text}{_TIE}%"


def say_figure(value: float) -> str:
    """A figure of a probe: three decimals, fewer if it is large.

    >>> say_figure(0.81249), say_figure(1234.5), say_figure(0.00002)
    ('0.812', '1,234', '2e-05')
    """
    if not math.isfinite(value):
        return NOTHING
    if value != 0.0 and abs(value) < 0.0005:
        return f"{value:.2g}"
    text = f"{value + 0.0:.3f}" if abs(value) < 100.0 else f"{value:,.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def say_difference(value: float) -> str:
    """A difference with its sign.

    >>> say_difference(0.05), say_difference(0.0)
    ('+0.050', '0.000')
    """
    if not math.isfinite(value):
        return NOTHING
    sign = "" if abs(value) < 0.0005 else "+" if value > 0.0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(value):.3f}"


def say_interval(low: float, high: float) -> str:
    """Both ends of an interval; a dash if there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    return f"{say_figure(low)} to {say_figure(high)}"


def say_reading(part: ProbePart | ProbeResult | None) -> str:
    """A figure with its interval and its rows, or that there are too few rows."""
    if part is None:
        return "not measured"
    rows = f"{part.num_examples:,}{_TIE}row{'' if part.num_examples == 1 else 's'}"
    if not math.isfinite(part.value):
        return f"not judged ({rows})"
    if not (math.isfinite(part.low) and math.isfinite(part.high)):
        return f"{say_figure(part.value)} ({rows})"
    return f"{say_figure(part.value)} [{say_interval(part.low, part.high)}], {rows}"


def say_view(view: str) -> str:
    """A view in words.

    >>> say_view("spine"), say_view("cohorts/ward7")
    ('spine alone', "each cohort's own fast levels: ward7")
    """
    kind, _, name = view.partition("/")
    return f"{VIEWS.get(kind, kind)}: {name}" if name else VIEWS.get(view, view)


def say_limits(least: float | None, most: float | None, fall: float | None = None) -> str:
    """The limits of a probe in words.

    >>> say_limits(0.75, None, 0.02)
    'at least 0.750; at most 0.020 worse than at the last validation'
    """
    said = []
    if least is not None:
        said.append(f"at least {say_figure(least)}")
    if most is not None:
        said.append(f"at most {say_figure(most)}")
    if fall is not None:
        said.append(f"at most {say_figure(fall)} worse than at the last validation")
    return "; ".join(said)


def say_days(days: int) -> str:
    """Days left, or by how many days a date has passed.

    >>> say_days(1), say_days(0), say_days(-3)
    ('1 day left', 'today is the last day', '3 days ago')
    """
    if days == 0:
        return "today is the last day"
    unit = "day" if abs(days) == 1 else "days"
    return f"{days} {unit} left" if days > 0 else f"{-days} {unit} ago"


def say_hours(hours: float) -> str:
    """Hours, or days if they are whole ones.

    >>> say_hours(48.0), say_hours(1.5)
    ('2 days', '1.5 hours')
    """
    if hours >= 24.0 and hours % 24.0 == 0.0:
        days = int(hours // 24)
        return f"{days} day{'' if days == 1 else 's'}"
    return f"{hours:g} hour{'' if hours == 1 else 's'}"


def join_words(words: Sequence[str]) -> str:
    """Words as a list in a sentence.

    >>> join_words(["a", "b", "c"])
    'a, b and c'
    """
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def count_words(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count_words(1, "clause"), count_words(2, "duty")
    ('1 clause', '2 duties')
    """
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def say_figures(figures: Mapping[str, float]) -> str:
    """Figures by name; a probe's with its interval and rows.

    >>> say_figures({"value": 0.81, "low": 0.79, "high": 0.83, "limit": 0.75})
    '0.810 [0.790 to 0.830], limit 0.750'
    >>> say_figures({"per_day": 0.01, "bound": 0.05}).replace("\\xa0", " ")
    'per day 1 %, budget 5 %'
    """
    rest = dict(figures)
    if "bound" in rest and any(name in rest for name in _SHARES):
        rest["budget"] = rest.pop("bound")
    said = []
    if "value" in rest:
        said.append(say_figure(rest.pop("value")))
        if "low" in rest and "high" in rest:
            said[0] += f" [{say_interval(rest.pop('low'), rest.pop('high'))}]"
    if "num_examples" in rest:
        said.append(f"{rest.pop('num_examples'):,.0f}{_TIE}rows")
    hours = "hours" in rest
    for name, value in rest.items():
        if name == "met":
            continue  # said by the verdict
        text = say_figure(value)
        if hours or name == "days_left" or name.startswith("num_"):
            text = f"{value:,.4g}"
        elif name in _SHARES or name.startswith("change of "):
            text = say_share(value)
        said.append(f"{name.replace('_', ' ')} {text}")
    return ", ".join(said)


def end_sentence(text: str) -> str:
    """A text that ends as a sentence does."""
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."


def write_rollback(folder: Path, level: str, version: str) -> str:
    """The command that puts one level back to a version.

    >>> write_rollback(Path("runs/ward"), "spine", "v0001")
    'nestling rollback runs/ward spine --to v0001'
    """
    where = shlex.quote(folder.as_posix())
    return f"nestling rollback {where} {shlex.quote(level)} --to {shlex.quote(version)}"
