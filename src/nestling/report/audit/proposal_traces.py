"""Traces of proposals: which judgements and approvals belong to which proposal, and how it ended.

Events name no proposal, but a level has one at a time: what comes between belongs to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nestling.judge.contract.findings import GovernanceEvent
from nestling.report.audit.wording import NOTHING, say_figures, say_view


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
    rows = [
        GateRow(
            event.clause,
            say_view(event.view),
            say_verdict(event.passed),
            say_figures(event.figures) or NOTHING,
            event.message,
        )
        for event in trace.judged
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


def _find_open(open_ones: dict[str, ProposalTrace], level: str) -> ProposalTrace | None:
    """The open proposal of a level; the newest one for an event that names no level."""
    if level:
        return open_ones.get(level)
    return next(reversed(open_ones.values()), None)
