"""Traces of proposals, and what was refused, held, braked or alarmed.

Events name no proposal, but a level has one at a time: what comes between belongs to it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from nestling.judge.contract.findings import GovernanceEvent
from nestling.report.audit.audit_records import ProbeReading
from nestling.report.audit.group_effects import TriedEffect, list_tried
from nestling.report.audit.wording import NOTHING, say_figures, say_time, say_view

_PROPOSAL = re.compile(r"^(p\d+)(: | refused: )")


@dataclass
class ProposalTrace:
    """A proposal from first to last event.

    Attributes:
        level: that it would change.
        proposed: the first event; None if the record does not hold it.
        judged: one event per gate and view.
        approved: one event per person.
        end: "committed" or "refused"; None while it is open.
    """

    level: str
    proposed: GovernanceEvent | None = None
    judged: list[GovernanceEvent] = field(default_factory=list)
    approved: list[GovernanceEvent] = field(default_factory=list)
    end: GovernanceEvent | None = None

    @property
    def clause(self) -> str:
        """Id of the modification that it cites; empty if none."""
        cited = (event.clause for event in (self.proposed, self.end) if event is not None)
        return next((clause for clause in cited if clause), "")

    @property
    def id(self) -> str:
        """Such as "p0001"; empty if no event tells."""
        told = (event.message for event in (self.proposed, self.end) if event is not None)
        found = (_PROPOSAL.match(message) for message in told)
        return next((match.group(1) for match in found if match), "")


@dataclass(frozen=True)
class GateRow:
    """Verdict of one gate in one view.

    Attributes:
        clause: id of the gate's clause.
        view: in words.
        verdict: "passed", "failed" or "not judged".
        figures: by name, in words.
        message: in words.
    """

    clause: str
    view: str
    verdict: str
    figures: str
    message: str


@dataclass(frozen=True)
class RefusedProposal:
    """A proposal that was refused: nothing changed.

    Attributes:
        at: when, UTC.
        level: that it would have changed.
        clause: that it cites.
        by: who proposed it.
        why: reason given for the proposal.
        message: why it was refused.
        failed: gates that did not pass, each in its view.
        num_passed: gates that passed.
        masked: gates that passed with the fast levels and failed on the spine alone.
        effects: what it would have done to groups, a probe each.
    """

    at: str
    level: str
    clause: str
    by: str
    why: str
    message: str
    failed: tuple[GateRow, ...]
    num_passed: int
    masked: tuple[str, ...]
    effects: tuple[TriedEffect, ...]


@dataclass(frozen=True)
class FeedbackRow:
    """Feedback of one source that one rule held or refused.

    Attributes:
        source: by name.
        rule: id of the clause or guard.
        what: "held" or "refused".
        num_events: lines of the record.
        figures: of the last one, in words.
        last: when last, UTC.
        message: of the last one.
    """

    source: str
    rule: str
    what: str
    num_events: int
    figures: str
    last: str
    message: str


@dataclass(frozen=True)
class SignalRow:
    """A brake or an alarm.

    Attributes:
        at: when, UTC.
        what: "brake" or "alarm".
        level: whose; a dash if of none.
        message: in words.
        figures: in words.
    """

    at: str
    what: str
    level: str
    message: str
    figures: str


def trace_proposals(events: Sequence[GovernanceEvent]) -> list[ProposalTrace]:
    """Group events into proposals, in the order in which these began.

    Args:
        events: in the order of the record.

    >>> at = 1_795_000_000.0
    >>> events = [
    ...     GovernanceEvent("proposed", at, "new data", level="spine", clause="M1", by="ana"),
    ...     GovernanceEvent("judged", at, "0.81", clause="B1", view="spine", passed=True),
    ...     GovernanceEvent("approved", at, "", level="spine", by="bo"),
    ...     GovernanceEvent("committed", at, "", level="spine", version="v0002"),
    ... ]
    >>> [trace] = trace_proposals(events)
    >>> len(trace.judged), trace.approved[0].by, trace.end.version
    (1, 'bo', 'v0002')
    """
    traces: list[ProposalTrace] = []
    open_ones: dict[str, ProposalTrace] = {}
    for event in events:
        if event.happening == "proposed":
            trace = ProposalTrace(event.level, event)
            traces.append(trace)
            open_ones[event.level] = trace
        elif event.happening in ("judged", "approved"):
            found = _find_open(open_ones, event.level)
            if found is not None:
                (found.judged if event.happening == "judged" else found.approved).append(event)
        elif event.happening == "committed" or (event.happening == "refused" and event.level):
            found = open_ones.pop(event.level, None)
            if found is None:
                found = ProposalTrace(event.level)
                traces.append(found)
            found.end = event
    return traces


def list_gates(trace: ProposalTrace) -> tuple[GateRow, ...]:
    """The gates of a proposal: those that failed first, then those that were not judged."""
    order = {"failed": 0, "not judged": 1, "passed": 2}
    # What was judged again before the commit counts.
    latest = {(event.clause, event.view, tuple(event.figures)): event for event in trace.judged}
    rows = [
        GateRow(
            event.clause,
            say_view(event.view),
            say_verdict(event.passed),
            say_figures(event.figures) or NOTHING,
            # Which proposal it was is said above.
            _PROPOSAL.sub("", event.message),
        )
        for event in latest.values()
    ]
    return tuple(sorted(rows, key=lambda row: order[row.verdict]))


def say_verdict(passed: bool | None) -> str:
    """A verdict in words; what was not judged has not passed."""
    return "not judged" if passed is None else "passed" if passed else "failed"


def list_masked(trace: ProposalTrace) -> list[str]:
    """Gates that passed with the fast levels but failed on the spine alone: masked harm."""
    found: dict[str, dict[str, bool | None]] = {}
    for event in trace.judged:
        found.setdefault(event.clause, {})[event.view] = event.passed
    return [
        clause
        for clause, views in found.items()
        if views.get("spine") is False and views.get("whole") is True
    ]


def list_refusals(
    traces: Sequence[ProposalTrace], readings: Sequence[ProbeReading]
) -> list[RefusedProposal]:
    """Refused proposals, newest first, each with the gates that did not pass.

    Args:
        traces: in the order in which they began.
        readings: of the run; those of a proposal bear its id.
    """
    rows = []
    for trace in reversed(traces):
        end = trace.end
        if end is None or end.happening != "refused":
            continue
        gates = list_gates(trace)
        failed = tuple(gate for gate in gates if gate.verdict != "passed")
        if not failed and (end.view or end.figures):
            figures = say_figures(end.figures) or NOTHING
            failed = (GateRow(end.clause, say_view(end.view), "failed", figures, end.message),)
        proposed = trace.proposed
        rows.append(
            RefusedProposal(
                say_time(end.at),
                trace.level,
                trace.clause,
                (proposed.by if proposed else "") or end.by,
                _PROPOSAL.sub("", proposed.message) if proposed else "",
                _PROPOSAL.sub("", end.message),
                failed,
                len([gate for gate in gates if gate.verdict == "passed"]),
                tuple(list_masked(trace)),
                list_tried(readings, trace.id),
            )
        )
    return rows


def list_feedback(events: Sequence[GovernanceEvent]) -> list[FeedbackRow]:
    """Held and refused feedback by source and rule, the most frequent first."""
    groups: dict[tuple[str, str, str], list[GovernanceEvent]] = {}
    for event in events:
        # A refusal that names a level is that of a proposal.
        if event.happening == "held" or (event.happening == "refused" and not event.level):
            key = (event.by or "not named", event.clause or "not named", event.happening)
            groups.setdefault(key, []).append(event)
    rows = [
        FeedbackRow(
            *key,
            num_events=len(group),
            figures=say_figures(group[-1].figures) or NOTHING,
            last=say_time(group[-1].at),
            message=group[-1].message,
        )
        for key, group in groups.items()
    ]
    return sorted(rows, key=lambda row: -row.num_events)


def list_signals(events: Sequence[GovernanceEvent]) -> list[SignalRow]:
    """Brakes and alarms, newest first."""
    names = {"braked": "brake", "alarm": "alarm"}
    return [
        SignalRow(
            say_time(event.at),
            names[event.happening],
            event.level or NOTHING,
            event.message,
            say_figures(event.figures) or NOTHING,
        )
        for event in reversed(events)
        if event.happening in names
    ]


def _find_open(open_ones: dict[str, ProposalTrace], level: str) -> ProposalTrace | None:
    """The open proposal of a level; the newest one for an event that names no level."""
    if level:
        return open_ones.get(level)
    return next(reversed(open_ones.values()), None)
