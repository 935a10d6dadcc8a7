"""What was refused, held, braked or alarmed: proposals by their gates, feedback by its source."""

from collections.abc import Sequence
from dataclasses import dataclass

from nestling.judge.contract.findings import GovernanceEvent
from nestling.report.audit.proposal_traces import (
    GateRow,
    ProposalTrace,
    list_gates,
    list_masked,
)
from nestling.report.audit.wording import NOTHING, say_figures, say_time, say_view


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


def list_refusals(traces: Sequence[ProposalTrace]) -> list[RefusedProposal]:
    """Refused proposals, newest first, each with the gates that did not pass."""
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
                proposed.message if proposed else "",
                end.message,
                failed,
                len([gate for gate in gates if gate.verdict == "passed"]),
                tuple(list_masked(trace)),
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
