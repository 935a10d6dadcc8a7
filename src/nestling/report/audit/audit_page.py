"""The audit page of a governed run: one HTML file that needs no other, and its sections as data."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nestling.core.errors import MissingExtra, NestlingError
from nestling.judge.verdicts.judging import Duty, list_duties
from nestling.report.audit.audit_plots import ThemedPicture, picture_drift, picture_groups
from nestling.report.audit.audit_records import AuditRecords, read_audit_records
from nestling.report.audit.clause_states import ClauseState, state_clauses
from nestling.report.audit.dated_rows import (
    ReviewRow,
    RiskRow,
    list_reviews,
    list_risks,
    tabulate_duties,
)
from nestling.report.audit.group_effects import ProbeEffects, list_effects
from nestling.report.audit.level_changes import list_changes, list_versions
from nestling.report.audit.mapping import DISCLAIMER, MAPPING, MAPPING_DATE, MAPPING_VERSION
from nestling.report.audit.proposal_traces import (
    list_feedback,
    list_refusals,
    list_signals,
    trace_proposals,
)
from nestling.report.audit.record_facts import find_latest, find_validation, judge_records
from nestling.report.audit.spine_drift import follow_drift
from nestling.report.audit.wording import (
    VIEWS,
    count_words,
    find_day,
    join_words,
    say_reading,
    say_time,
    say_view,
)
from nestling.store import write_whole

PAGE = "audit.html"
# Section -> heading, in the order of the page.
SECTIONS: Mapping[str, str] = {
    "head": "At a glance",
    "contract": "The contract, clause by clause",
    "changes": "Every change",
    "groups": "Effect by group",
    "drift": "Drift of the spine against its budget",
    "refusals": "Refused proposals",
    "duties": "Duties: what must change, and by when",
    "feedback": "Feedback held back, brakes and alarms",
    "risks": "Risk review",
    "undo": "Versions, and how to undo each",
    "mapping": "Where rules find their answers",
}


@dataclass(frozen=True)
class ProbeRow:
    """A probe that the contract names, with its last figures.

    Attributes:
        name, metric, groups: as the contract says.
        least_examples: rows that a figure needs.
        digest: the start of its data's digest; empty if none is known.
        now: last figure per view, in words.
    """

    name: str
    metric: str
    groups: tuple[str, ...]
    least_examples: int
    digest: str
    now: tuple[str, ...]


@dataclass(frozen=True)
class ContractStanding:
    """Whether the contract is kept at present.

    Attributes:
        state: "kept", "broken" or "open".
        sentence: the same in words.
        judged: when and by what, in words.
    """

    state: str
    sentence: str
    judged: str


def write_audit(run: Path | str, now: Callable[[], float]) -> Path:
    """Write the audit page of a governed run from its records.

    Args:
        run: folder with `contract.toml` and the records of a governed run.
        now: seconds since 1970, UTC; dates are judged on its day.

    Returns: the page, `audit.html` in the folder: self-contained, for screen and print.

    Raises:
        DataError: the run has no contract.
        SettingError: the contract cannot be read.
        MissingExtra: matplotlib or jinja2 is not installed.
        NestlingError: the page cannot be written; an older one stays.
    """
    records = read_audit_records(run)
    text = render_audit(records, now())
    page = records.folder / PAGE
    try:
        write_whole(page, text)
    except OSError as error:
        raise NestlingError(f"cannot write '{page}': {error}") from None
    return page


def describe_audit(run: Path | str, now: Callable[[], float]) -> dict[str, Any]:
    """The sections of the audit page as JSON-ready data; arguments and errors of `write_audit`."""
    plain = _make_plain(collect_sections(read_audit_records(run), now()))
    assert isinstance(plain, dict)
    return plain


def collect_sections(records: AuditRecords, at: float) -> dict[str, Any]:
    """Section -> its rows, from the records of a run.

    Args:
        records: of the run.
        at: seconds since 1970, UTC, at which the page is made.
    """
    contract, today = records.contract, find_day(at)
    findings = judge_records(records, today)
    standing = list_duties(contract, findings, today)
    clauses = state_clauses(contract, findings, standing)
    traces = trace_proposals(records.events)
    duties = tabulate_duties(records, clauses, standing)
    reviews = list_reviews(contract, today)
    risks = list_risks(contract, [clause.id for clause in clauses], today)
    validation = find_validation(records)
    last_validation = "never"
    if validation is not None:
        when, by, version = validation
        last_validation = f"{say_time(when)} by {by or 'somebody who is not named'}"
        last_validation += f", version {version}" if version else ""
    return {
        "head": {
            "name": contract.name,
            "owner": contract.owner,
            "purpose": contract.purpose,
            "digest": contract.digest,
            "run": records.folder.as_posix(),
            "made": say_time(at),
            "verdict": ContractStanding(
                *judge_whole(clauses, standing, reviews, risks), _say_judged(records)
            ),
            "open_duties": [duty.id for duty in duties if duty.state != "met"],
            "expired_duties": [duty.id for duty in duties if duty.state == "expired"],
            "last_validation": last_validation,
            "damage": records.damage,
            "notes": (*records.notes, *_find_other_contracts(records)),
            "levels": contract.levels,
        },
        "contract": {
            "clauses": clauses,
            "probes": _list_probes(records),
            "protocol": contract.protocol,
        },
        "changes": list_changes(records, traces),
        "groups": list_effects(records),
        "drift": follow_drift(records),
        "refusals": list_refusals(traces, records.probes),
        "duties": duties,
        "feedback": {
            "sources": list_feedback(records.events),
            "signals": list_signals(records.events),
        },
        "risks": {
            "hazards": risks,
            "reviews": reviews,
        },
        "undo": list_versions(records),
        "mapping": {
            "version": MAPPING_VERSION,
            "date": MAPPING_DATE,
            "disclaimer": DISCLAIMER,
            "demands": MAPPING,
        },
    }


def render_audit(records: AuditRecords, at: float) -> str:
    """The page as text.

    Raises:
        MissingExtra: matplotlib or jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("reports need jinja2: pip install 'nestling[report]'") from None
    sections = collect_sections(records, at)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("audit_page.html.j2").render(
        **sections,
        titles=SECTIONS,
        views=VIEWS,
        clause_words={clause.id: clause.says for clause in sections["contract"]["clauses"]},
        drift_pictures=[picture_drift(curve) for curve in sections["drift"] if curve.points],
        group_pictures={effects.probe: _picture_effects(effects) for effects in sections["groups"]},
    )


def judge_whole(
    clauses: Sequence[ClauseState],
    duties: Sequence[Duty],
    reviews: Sequence[ReviewRow],
    risks: Sequence[RiskRow],
) -> tuple[str, str]:
    """Whether the contract is kept at present: "kept", "broken" or "open", and why in a sentence.

    What is not judged has not passed; a duty that is not yet due breaks nothing.
    """
    late = {duty.id: duty.by for duty in duties if duty.state == "expired"}
    # Dates count on the day of the page, not on that of the last check.
    judged = [clause for clause in clauses if clause.id != "reviews"]
    broken = [f"clause {clause.id} fails" for clause in judged if clause.state == "failed"]
    broken += [f"duty {id} was due by {by} and is not met" for id, by in late.items()]
    broken += [
        f"the acceptance of risk {risk.id} has expired" for risk in risks if risk.state == "expired"
    ]
    if reviews and not any(review.state == "holds" for review in reviews):
        broken.append("no review of it holds any more, so that no proposal is committed")
    unsure = [
        f"clause {clause.id} is not judged" for clause in judged if clause.state == "not judged"
    ]
    unsure += [f"nobody accepts risk {risk.id}" for risk in risks if risk.state == "not accepted"]
    if broken:
        return "broken", f"The contract is not kept: {join_words(broken)}."
    if unsure:
        start = "It is open whether the contract is kept. Nothing failed, but"
        return "open", f"{start} {join_words(unsure)}."
    if not clauses:
        return "open", "The contract has no clauses, so there is nothing to keep."
    waiting = [duty.id for duty in duties if duty.state == "open"]
    rest = f" {count_words(len(waiting), 'duty')} not yet due." if waiting else ""
    number = count_words(len(judged) - len(waiting), "clause")
    return "kept", f"The contract is kept: {number} judged, none failed.{rest}"


def _say_judged(records: AuditRecords) -> str:
    """When clauses were judged, and whether something changed since."""
    if records.checked is None:
        return (
            "This run recorded no check, so this page judged what its records allow; what needs "
            "the model itself is not judged."
        )
    last = records.checked.at
    newer = [version.id for version in records.versions if version.at > last]
    since = f"; {count_words(len(newer), 'version')} came after it" if newer else ""
    return f"Judged by the run's last check, {say_time(last)}{since}."


def _find_other_contracts(records: AuditRecords) -> list[str]:
    """That versions were made under another text of the contract."""
    others = [
        version.id
        for version in records.versions
        if version.contract_digest and version.contract_digest != records.contract.digest
    ]
    if not others:
        return []
    shown = others if len(others) <= 6 else [others[0], "...", others[-1]]
    return [
        f"{count_words(len(others), 'version')} ({', '.join(shown)}) came about under another "
        "text of the contract than the one shown here: the digests differ"
    ]


def _list_probes(records: AuditRecords) -> list[ProbeRow]:
    """The contract's probes, then those that were measured without it."""
    contract = records.contract
    specs = {spec.name: spec for spec in contract.probes}
    measured = {reading.result.probe: reading.result for reading in records.probes}
    rows = []
    for name in dict.fromkeys([*specs, *measured]):
        spec, result = specs.get(name), measured.get(name)
        least = spec.least_examples if spec is not None else None
        digest = (spec.digest if spec is not None else "") or (result.data_digest if result else "")
        rows.append(
            ProbeRow(
                name,
                spec.metric if spec is not None else result.metric if result else "",
                tuple(spec.groups) if spec is not None else (),
                least or contract.protocol.least_examples,
                digest[:12],
                tuple(
                    f"{say_view(view)}: {say_reading(reading.result)}"
                    for view, reading in find_latest(records, name).items()
                ),
            )
        )
    return rows


def _picture_effects(effects: ProbeEffects) -> list[ThemedPicture]:
    """A picture per view, all on the same scale; none where nothing was judged."""
    ends = [
        end
        for curves in effects.curves.values()
        for curve in curves
        for _, *figures in curve.points
        for end in figures
        if math.isfinite(end)
    ]
    if not ends:
        return []
    span = (min(ends), max(ends))
    return [
        picture_groups(say_view(view), curves, effects.versions, effects.committed, span)
        for view, curves in effects.curves.items()
    ]


def _make_plain(value: object) -> object:
    """As JSON-ready data; numbers that are not finite become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _make_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_make_plain(entry) for entry in value]
    if hasattr(value, "__dataclass_fields__"):
        return _make_plain(asdict(value))  # type: ignore[call-overload]
    return value
