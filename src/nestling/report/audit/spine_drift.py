"""Drift of the spine since its last validation against its budget."""

import math
from dataclasses import dataclass

from nestling.report.audit.audit_records import AuditRecords
from nestling.report.audit.wording import NOTHING, say_share, say_time


@dataclass(frozen=True)
class DriftCurve:
    """How far a level lies from where a person last validated it, over time.

    Attributes:
        level: by name.
        clause: whose budget it is; empty if none.
        budget: largest relative change since the last validation; NaN if none is set.
        points: (seconds since 1970, relative change) at every version.
        validations: (seconds since 1970, by whom).
        now: in words.
        limit: in words.
        used: share of the budget, in words.
        last: the last validation, in words.
        is_over: whether the budget is spent.
    """

    level: str
    clause: str
    budget: float
    points: tuple[tuple[float, float], ...]
    validations: tuple[tuple[float, str], ...]
    now: str
    limit: str
    used: str
    last: str
    is_over: bool


def follow_drift(records: AuditRecords) -> list[DriftCurve]:
    """A curve for every level of the spine that a version tells of."""
    return [_follow_level(records, level) for level in records.contract.list_spine()]


def list_validations(records: AuditRecords) -> tuple[tuple[float, str], ...]:
    """(seconds since 1970, by whom) of every validation, each once, in order."""
    found = {(one.at, one.by) for one in records.events if one.happening == "validated"}
    found |= {(one.at, one.by) for one in records.versions if one.origin == "validated"}
    return tuple(sorted(found))


def _follow_level(records: AuditRecords, level: str) -> DriftCurve:
    budgets = [
        (clause.since_validation, clause.id)
        for clause in records.contract.may_change
        if clause.level == level and clause.since_validation is not None
    ]
    budget, clause = min(budgets, default=(math.nan, ""))
    points = [
        (version.at, version.since_validation[level])
        for version in records.versions
        if level in version.since_validation
    ]
    validations = list_validations(records)
    # The drift begins anew with a validation, also where no version of that moment says so.
    points += [
        (at, 0.0)
        for at, _ in validations
        if not any(
            version.at == at and version.origin == "validated" for version in records.versions
        )
    ]
    points.sort(key=lambda point: point[0])
    now = points[-1][1] if points else math.nan
    share = now / budget
    last = NOTHING
    if validations:
        at, by = validations[-1]
        last = f"{say_time(at)} by {by or 'somebody who is not named'}"
    return DriftCurve(
        level=level,
        clause=clause,
        budget=budget,
        points=tuple(points),
        validations=validations,
        now=say_share(now),
        limit=say_share(budget) if clause else "none is set",
        used=say_share(share),
        last=last,
        is_over=share > 1.0,
    )
