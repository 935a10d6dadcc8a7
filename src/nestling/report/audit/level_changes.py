"""Changes of levels in plain words, newest first: what, by whom, why, how far, how to undo it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nestling.judge.contract.findings import GovernanceEvent
from nestling.report.audit.audit_records import AuditRecords, AuditVersion
from nestling.report.audit.proposal_traces import GateRow, ProposalTrace, list_gates
from nestling.report.audit.wording import (
    NOTHING,
    ORIGINS,
    count_words,
    join_words,
    say_share,
    say_time,
    write_rollback,
)

_TITLES = {
    "committed": "Level '{level}' changed by a proposal",
    "rolled back": "Level '{level}' was rolled back",
    "braked": "Level '{level}' was braked and put back",
    "changed": "A setting of level '{level}' was changed",
    "validated": "The model was validated",
}


@dataclass(frozen=True)
class MovedLevel:
    """How far one level moved.

    Attributes:
        level: by name.
        at: when, UTC.
        version: id of the version that holds it.
        change: relative, since the version before, in words.
        since_validation: relative, since the last human validation, in words.
        undo: command; empty if it did not move or nothing lies before it.
    """

    level: str
    at: str
    version: str
    change: str
    since_validation: str
    undo: str


@dataclass(frozen=True)
class LevelChange:
    """One entry of the list of changes.

    Attributes:
        at: when it ended, UTC.
        kind: "committed", "rolled back", "braked", "changed", "validated", "began" or "learned".
        title: what happened, in a few words.
        clause: id that it cites; empty if none.
        by: who proposed or did it, in words.
        approved_by: who approved it.
        why: reasons given for it.
        outcome: what the record says of how it went.
        version: id that it made; empty if none.
        moved: how far each level moved.
        gates: verdicts, each in its view.
        undo: commands.
        seconds: when, since 1970, to sort by.
    """

    at: str
    kind: str
    title: str
    clause: str
    by: str
    approved_by: tuple[str, ...]
    why: str
    outcome: str
    version: str
    moved: tuple[MovedLevel, ...]
    gates: tuple[GateRow, ...]
    undo: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class VersionEntry:
    """A row of the table of versions.

    Attributes:
        id, at, parent, by, clause, reason: as recorded.
        origin: in words.
        num_examples: learned by then.
        moved: how far each level moved.
        digests: level and the start of its digest, in words.
        undo: commands.
    """

    id: str
    at: str
    origin: str
    parent: str
    by: str
    clause: str
    reason: str
    num_examples: str
    moved: tuple[MovedLevel, ...]
    digests: tuple[str, ...]
    undo: tuple[str, ...]


def list_changes(records: AuditRecords, traces: Sequence[ProposalTrace]) -> list[LevelChange]:
    """Every change of every level, newest first; what levels learned by themselves in a row is one.

    Args:
        records: of the run.
        traces: of its proposals.
    """
    ends = {
        trace.end.version: trace
        for trace in traces
        if trace.end is not None and trace.end.happening == "committed" and trace.end.version
    }
    events = {
        event.version: event
        for event in records.events
        if event.version and event.happening in ("rolled back", "validated")
    }
    entries: list[LevelChange] = []
    told: set[int] = set()
    waiting: list[AuditVersion] = []
    for version in records.versions:
        trace, event = ends.get(version.id), events.get(version.id)
        if version.origin == "learned" and trace is None and event is None:
            waiting.append(version)
            continue
        entries += _gather_learned(records, waiting)
        waiting = []
        if trace is not None and trace.end is not None:
            event = trace.end
        if event is not None:
            told.add(id(event))
        entries.append(_tell_version(records, version, event, trace))
    entries += _gather_learned(records, waiting)
    of_events = {id(trace.end): trace for trace in traces}
    entries += [
        _tell_event(event, of_events.get(id(event)))
        for event in records.events
        if event.happening in _TITLES
        and id(event) not in told
        # What the version of the same moment says already.
        and (event.at, event.message) not in {(one.at, one.reason) for one in records.versions}
    ]
    # What was written later is newer where two have the same second.
    entries.reverse()
    return sorted(entries, key=lambda entry: -entry.seconds)


def list_versions(records: AuditRecords) -> list[VersionEntry]:
    """The table of versions, newest first."""
    return [
        VersionEntry(
            version.id,
            say_time(version.at),
            ORIGINS.get(version.origin, version.origin),
            version.parent or NOTHING,
            version.by or "the system itself",
            version.clause or NOTHING,
            version.reason,
            f"{version.num_examples:,}",
            moved := _list_moved(records, version),
            tuple(f"{level} {digest[:12]}" for level, digest in version.digests.items()),
            tuple(one.undo for one in moved if one.undo),
        )
        for version in reversed(records.versions)
    ]


def _tell_version(
    records: AuditRecords,
    version: AuditVersion,
    event: GovernanceEvent | None,
    trace: ProposalTrace | None,
) -> LevelChange:
    moved = _list_moved(records, version)
    names = [one.level for one in moved if one.undo]
    level = event.level if event is not None and event.level else join_words(names)
    title = _TITLES.get(version.origin, "")
    if version.origin == "began":
        title = "The record began"
    undo = tuple(one.undo for one in moved if one.undo)
    if event is not None and event.undo:
        undo = (event.undo,)
    proposed = trace.proposed if trace is not None else None
    why, outcome = _say_why(proposed, event, version.reason)
    clause = (trace.clause if trace is not None else "") or version.clause
    return LevelChange(
        at=say_time(version.at),
        kind=version.origin,
        title=_name_level(title, level),
        clause=clause or (event.clause if event is not None else ""),
        by=(proposed.by if proposed else "") or (event.by if event else "") or version.by,
        approved_by=_list_approvers(trace),
        why=why,
        outcome=outcome,
        version=version.id,
        moved=moved,
        gates=list_gates(trace) if trace is not None else (),
        undo=() if version.origin in ("began", "validated") else undo,
        seconds=version.at,
    )


def _tell_event(event: GovernanceEvent, trace: ProposalTrace | None) -> LevelChange:
    """A change that no version tells of."""
    proposed = trace.proposed if trace is not None else None
    why, outcome = _say_why(proposed, event, "")
    moved: tuple[MovedLevel, ...] = ()
    if "relative_change" in event.figures or "since_validation" in event.figures:
        moved = (
            MovedLevel(
                event.level,
                say_time(event.at),
                event.version,
                _say_known(event.figures, "relative_change"),
                _say_known(event.figures, "since_validation"),
                event.undo,
            ),
        )
    return LevelChange(
        at=say_time(event.at),
        kind=event.happening,
        title=_name_level(_TITLES[event.happening], event.level),
        clause=(trace.clause if trace is not None else "") or event.clause,
        by=(proposed.by if proposed else "") or event.by,
        approved_by=_list_approvers(trace),
        why=why,
        outcome=outcome,
        version=event.version,
        moved=moved,
        gates=list_gates(trace) if trace is not None else (),
        undo=(event.undo,) if event.undo else (),
        seconds=event.at,
    )


def _gather_learned(records: AuditRecords, versions: Sequence[AuditVersion]) -> list[LevelChange]:
    """What levels learned by themselves, one version after another, as one entry."""
    if not versions:
        return []
    last = versions[-1]
    moved = [one for version in versions for one in _list_moved(records, version)]
    levels = list(dict.fromkeys(one.level for one in moved if one.undo))
    noun = "Level" if len(levels) == 1 else "Levels"
    quoted = join_words([f"'{level}'" for level in levels])
    title = f"{noun} {quoted} learned" if levels else "No level moved"
    allowing = {
        clause.level: clause.id
        for clause in records.contract.may_change
        if clause.trigger == "automatic"
    }
    clauses = list(dict.fromkeys(allowing[level] for level in levels if level in allowing))
    stray = join_words([f"'{level}'" for level in levels if level not in allowing])
    many = f", {count_words(len(versions), 'version')}" if len(versions) > 1 else ""
    return [
        LevelChange(
            at=say_time(last.at),
            kind="learned",
            title=title + many,
            clause=clauses[0] if len(clauses) == 1 and not stray else "",
            by=join_words(list(dict.fromkeys(one.by for one in versions if one.by))),
            approved_by=(),
            why="; ".join(dict.fromkeys(one.reason for one in versions if one.reason)),
            outcome=f"No clause lets {stray} change by itself." if stray else "",
            version=last.id,
            moved=tuple(one for one in reversed(moved) if one.undo),
            gates=(),
            undo=tuple(
                write_rollback(records.folder, level, versions[0].parent)
                for level in levels
                if versions[0].parent
            ),
            seconds=last.at,
        )
    ]


def _list_moved(records: AuditRecords, version: AuditVersion) -> tuple[MovedLevel, ...]:
    """How far each level moved with a version, those that moved first."""
    names = dict.fromkeys([*version.changes, *version.since_validation])
    rows = [
        MovedLevel(
            level,
            say_time(version.at),
            version.id,
            _say_known(version.changes, level),
            _say_known(version.since_validation, level),
            write_rollback(records.folder, level, version.parent)
            if version.parent and version.changes.get(level)
            else "",
        )
        for level in names
    ]
    told = [row for row in rows if row.change != NOTHING]
    return tuple(sorted(told, key=lambda row: not row.undo))


def _say_known(figures: Mapping[str, float], name: str) -> str:
    return say_share(figures[name]) if name in figures else NOTHING


def _list_approvers(trace: ProposalTrace | None) -> tuple[str, ...]:
    approved = trace.approved if trace is not None else []
    return tuple(dict.fromkeys(event.by for event in approved if event.by))


def _say_why(
    proposed: GovernanceEvent | None, event: GovernanceEvent | None, reason: str
) -> tuple[str, str]:
    """Why, and how it went, as far as the record says both; nothing is said twice."""
    why = reason or (proposed.message if proposed else "")
    outcome = event.message if event is not None and event.message != why else ""
    if why and why in outcome:
        # A rollback's own words say to where as well; those of a commit only who approved.
        return ("", outcome) if event and event.happening == "rolled back" else (why, "")
    return why, outcome


def _name_level(title: str, level: str) -> str:
    if level:
        return title.replace("{level}", level)
    return title.replace("Level '{level}'", "A level").replace(" of level '{level}'", "")
