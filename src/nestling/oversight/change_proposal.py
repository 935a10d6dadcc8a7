"""`ChangeProposal`: a slow update that was tried on a copy, judged by gates, awaiting approval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nestling.core.errors import ContractError
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import MayChange
from nestling.judge.contract.findings import Finding
from nestling.judge.verdicts.contract_facts import Measured


@dataclass
class ChangeProposal:
    """Proposed change of a level under a contract: gates, figures, approvals, status.

    `Governed.propose` makes it. Until it is committed nothing of the live model has changed.

    Attributes:
        id: "p0001", "p0002", ... in the order in which they were made.
        clause: id of the modification that it cites.
        level: that it changes.
        by: who proposed it.
        reason: why, in words.
        at: when, seconds since 1970, UTC.
        changes: level -> relative change, of every level that a commit would change.
        gates: what each gate found, in each view.
        before: view -> probe -> result, of the live model.
        after: view -> probe -> result, of the model as it would be.
        num_needed: people who must approve it, the proposer not among them.
        approvals: who approved -> when.
        status: "open" until it is committed or refused.
    """

    id: str
    clause: str
    level: str
    by: str
    reason: str
    at: float
    changes: Mapping[str, float]
    gates: Sequence[Finding]
    before: Measured
    after: Measured
    num_needed: int
    approvals: dict[str, float] = field(default_factory=dict)
    status: Literal["open", "committed", "refused"] = "open"
    states: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_passed(self) -> bool:
        """Whether every gate passed; what could not be judged is no pass."""
        return all(gate.status == "passed" for gate in self.gates)

    @property
    def stopped_by(self) -> list[Finding]:
        """The gates that did not pass."""
        return [gate for gate in self.gates if gate.status != "passed"]

    @property
    def num_missing(self) -> int:
        """Approvals that are still wanted."""
        return max(0, self.num_needed - len(self.approvals))

    def describe(self) -> str:
        """What stopped it, or what it waits for, on one line."""
        if self.stopped_by:
            return "; ".join(
                f"{gate.clause}{f' ({gate.view})' if gate.view else ''}: {gate.message}"
                for gate in self.stopped_by
            )
        if self.num_missing:
            return f"{len(self.approvals)} of {self.num_needed} approvals"
        return "all gates passed"


def check_approval(proposal: ChangeProposal, by: str) -> None:
    """Raise ContractError unless this person may approve this proposal now."""
    if proposal.status != "open":
        raise ContractError(f"proposal {proposal.id} is {proposal.status}; propose again")
    if not by.strip():
        raise ContractError(f"an approval of proposal {proposal.id} needs a name; by='...' works")
    if by == proposal.by:
        raise ContractError(
            f"{by!r} proposed {proposal.id} and cannot approve it; somebody else must"
        )
    if by in proposal.approvals:
        raise ContractError(
            f"{by!r} has approved proposal {proposal.id} already; {proposal.num_missing} other "
            "people must"
        )


def judge_bounds(clause: MayChange, change: float | None, since: float | None) -> list[Finding]:
    """Whether a proposed change keeps the bounds of its clause.

    A proposal counts as one update: its whole change must be within `per_update`, and, as it
    happens within a moment, within `per_day`.

    Args:
        clause: of the modification.
        change: relative change that it would make; None to judge the cumulative one alone.
        since: relative change since the last validation that it would lead to; None if there was
            no validation.

    >>> clause = MayChange("M1", level="spine", what="drift", per_update=0.1)
    >>> judge_bounds(clause, 0.2, None)[0].status
    'failed'
    """
    found = []
    for name, value in (
        ("per_update", change),
        ("per_day", change),
        ("since_validation", since),
    ):
        bound = getattr(clause, name)
        if bound is None or (change is None and name != "since_validation"):
            continue
        if value is None:
            message = f"{name}: nothing was validated yet to measure from; validate first"
            found.append(Finding(clause.id, "not judged", message))
            continue
        kept = value <= bound * (1.0 + 1e-6)
        words = "within" if kept else "above"
        message = f"{name}: level {clause.level!r} would change by {value:.4g}, {words} {bound:g}"
        if not kept:
            message += "; propose a smaller change"
        figures = ((name, float(value)), ("bound", float(bound)))
        found.append(Finding(clause.id, "passed" if kept else "failed", message, figures=figures))
    return found


def judge_cadence(clause: MayChange, last: float | None, now: float) -> list[Finding]:
    """Whether enough hours have passed since the last commit under a clause."""
    if not clause.least_hours or last is None:
        return []
    hours = (now - last) / 3600.0
    kept = hours >= clause.least_hours
    message = f"cadence: {hours:.1f} hours since the last commit, {clause.least_hours:g} wanted"
    if not kept:
        message += f"; wait {clause.least_hours - hours:.1f} hours"
    figures = (("hours", hours), ("bound", clause.least_hours))
    return [Finding(clause.id, "passed" if kept else "failed", message, figures=figures)]


def keep_gates(findings: Sequence[Finding], contract: Contract, level: str) -> list[Finding]:
    """Of all findings about a candidate those that gate it.

    Everything that must stay fixed and every review; a duty only of the level that changes and
    only when it is overdue, so that a level that froze may change to what meets it. Bounds and
    cadence are judged apart, and risks are people's.
    """
    changes = {clause.id for clause in contract.may_change}
    risks = {risk.id for risk in contract.risks}
    duties = {duty.id: duty for duty in contract.must_change_by}
    kept = []
    for finding in findings:
        if finding.clause in changes | risks:
            continue
        duty = duties.get(finding.clause)
        if duty is not None and (duty.level != level or finding.status != "failed"):
            continue
        kept.append(finding)
    return kept
