"""What holds until a date, on a day: duties, the risk review, reviews of the contract."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date

from nestling.judge.contract.change_contract import Contract
from nestling.judge.verdicts.judging import Duty
from nestling.report.audit.audit_records import AuditRecords
from nestling.report.audit.clause_states import ClauseState
from nestling.report.audit.wording import say_days, say_limits, say_time

_SEVERITIES = ("catastrophic", "critical", "serious", "minor", "negligible")


@dataclass(frozen=True)
class DutyRow:
    """A duty on a day.

    Attributes:
        id: of its clause.
        state: "expired", "open" or "met".
        harm: in words.
        probe: by name.
        target: in words.
        level: that freezes on expiry.
        by: the last day.
        left: days left, in words.
        days: the same as a number; less than 0 after the last day.
        now: the last figures, per view, in words.
        said: what the record last said of it.
    """

    id: str
    state: str
    harm: str
    probe: str
    target: str
    level: str
    by: str
    left: str
    days: int
    now: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class Evidence:
    """What bears on a risk.

    Attributes:
        text: a clause, a probe, or words.
        anchor: place on the page that it points to; empty for words.
    """

    text: str
    anchor: str


@dataclass(frozen=True)
class RiskRow:
    """One hazard of the risk review.

    Attributes:
        id: of its entry.
        hazard, severity, residual, accepted_by: as the contract says.
        evidence: what bears on it.
        until: last day of acceptance; empty for none.
        state: "accepted", "expired" or "not accepted".
        left: in words.
    """

    id: str
    hazard: str
    severity: str
    evidence: tuple[Evidence, ...]
    residual: str
    accepted_by: str
    until: str
    state: str
    left: str


@dataclass(frozen=True)
class ReviewRow:
    """A review of the contract by a person.

    Attributes:
        by, on, until, note: as the contract says.
        state: "holds", "expired" or "not yet begun".
        left: in words.
    """

    by: str
    on: str
    until: str
    note: str
    state: str
    left: str


def tabulate_duties(
    records: AuditRecords, states: Sequence[ClauseState], duties: Sequence[Duty]
) -> list[DutyRow]:
    """Duties on a day: expired ones first, then open ones by date, then those that were met.

    Args:
        records: of the run.
        states: of the clauses, as `state_clauses` gave them.
        duties: how they stand on that day.
    """
    known = {state.id: state for state in states}
    standing = {duty.id: duty for duty in duties}
    rows = []
    for clause in records.contract.must_change_by:
        state = known[clause.id]
        days = standing[clause.id].days_left
        said = [
            one for one in records.events if one.happening == "duty" and one.clause == clause.id
        ]
        rows.append(
            DutyRow(
                id=clause.id,
                state=standing[clause.id].state,
                harm=clause.harm,
                probe=clause.probe,
                target=say_limits(clause.least, clause.most),
                level=clause.level,
                by=clause.by.isoformat(),
                left=say_days(days),
                days=days,
                now=tuple(
                    f"{view.view or 'all views'}: {view.figure} ({view.state})"
                    for view in state.views
                ),
                said=f"{said[-1].message} ({say_time(said[-1].at)})" if said else "",
            )
        )
    order = {"expired": 0, "open": 1, "met": 2}
    return sorted(rows, key=lambda row: (order[row.state], row.days))


def list_risks(contract: Contract, shown: Collection[str], today: date) -> list[RiskRow]:
    """Hazards on a day, the most severe first.

    Args:
        contract: with its risk review.
        shown: ids of the clauses that have a place on the page.
        today: the UTC day.
    """
    clauses = {*shown, *(risk.id for risk in contract.risks)}
    probes = {probe.name for probe in contract.probes}
    rows = []
    for risk in sorted(contract.risks, key=lambda one: _SEVERITIES.index(one.severity)):
        days = None if risk.until is None else (risk.until - today).days
        state = "accepted"
        if not risk.accepted_by:
            state = "not accepted"
        elif days is not None and days < 0:
            state = "expired"
        rows.append(
            RiskRow(
                risk.id,
                risk.hazard,
                risk.severity,
                tuple(_link(text, clauses, probes) for text in risk.evidence),
                risk.residual,
                risk.accepted_by,
                risk.until.isoformat() if risk.until else "",
                state,
                say_days(days) if days is not None else "no end is set",
            )
        )
    return rows


def list_reviews(contract: Contract, today: date) -> list[ReviewRow]:
    """Reviews of the contract on a day, the newest first."""
    rows = []
    for review in sorted(contract.reviews, key=lambda one: one.on, reverse=True):
        state = "holds" if review.on <= today <= review.until else "expired"
        if today < review.on:
            state = "not yet begun"
        left = say_days((review.until - today).days)
        dates = (review.on.isoformat(), review.until.isoformat())
        rows.append(ReviewRow(review.by, *dates, review.note, state, left))
    return rows


def _link(text: str, clauses: Collection[str], probes: Collection[str]) -> Evidence:
    """Evidence that is the id of a clause or the name of a probe points to its place."""
    if text in clauses:
        return Evidence(text, f"clause-{text}")
    return Evidence(text, f"probe-{text}" if text in probes else "")
