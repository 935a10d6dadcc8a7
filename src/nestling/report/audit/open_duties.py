"""Duties of the contract on a day: which are open, which were met, which have expired."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from nestling.report.audit.audit_records import AuditRecords
from nestling.report.audit.clause_states import ClauseState
from nestling.report.audit.wording import say_days, say_limits, say_time


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


def list_duties(records: AuditRecords, states: Sequence[ClauseState], today: date) -> list[DutyRow]:
    """Duties on a day: expired ones first, then open ones by date, then those that were met.

    Args:
        records: of the run.
        states: of the clauses, as `state_clauses` gave them.
        today: the UTC day.
    """
    known = {state.id: state for state in states}
    rows = []
    for clause in records.contract.must_change_by:
        state = known[clause.id]
        days = (clause.by - today).days
        is_met = state.status == "passed"
        said = [
            one for one in records.events if one.happening == "duty" and one.clause == clause.id
        ]
        rows.append(
            DutyRow(
                id=clause.id,
                state="met" if is_met else "expired" if days < 0 else "open",
                harm=clause.harm,
                probe=clause.probe,
                target=say_limits(clause.least, clause.most),
                level=clause.level,
                by=clause.by.isoformat(),
                left=say_days(days),
                days=days,
                now=tuple(
                    f"{view.view or 'all views'}: {view.figure} ({view.status})"
                    for view in state.views
                ),
                said=f"{said[-1].message} ({say_time(said[-1].at)})" if said else "",
            )
        )
    order = {"expired": 0, "open": 1, "met": 2}
    return sorted(rows, key=lambda row: (order[row.state], row.days))
