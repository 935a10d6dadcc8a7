"""Every change of every level: whose, why, how far, and how to undo it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nestling.judge.contract.findings import GovernanceEvent
from nestling.report.audit.audit_records import AuditRecords
from nestling.report.audit.level_changes import LevelChange, list_changes, list_versions
from nestling.report.audit.proposal_traces import trace_proposals


def make_changes(records: AuditRecords) -> list[LevelChange]:
    return list_changes(records, trace_proposals(records.events))


def test_every_change_is_listed_once_newest_first(records: AuditRecords) -> None:
    changes = make_changes(records)
    assert [(one.kind, one.version) for one in changes] == [
        ("learned", "v0008"),
        ("changed", ""),
        ("braked", ""),
        ("rolled back", "v0007"),
        ("committed", "v0006"),
        ("committed", "v0005"),
        ("learned", "v0004"),
        ("validated", "v0002"),
        ("began", "v0001"),
    ]
    assert [one.at for one in changes] == sorted((one.at for one in changes), reverse=True)


def test_a_commit_names_proposer_approvers_gates_and_the_way_back(records: AuditRecords) -> None:
    commit = make_changes(records)[5]
    assert (commit.by, commit.approved_by, commit.clause) == ("ana", ("Bo Lind", "Cem Aydin"), "M2")
    assert commit.why == "data of Budapest <script>alert(1)</script>"
    assert commit.outcome == "all gates passed"
    assert [(gate.clause, gate.view, gate.verdict) for gate in commit.gates] == [
        ("B1", "spine alone", "passed"),
        ("B1", "spine with fast levels", "passed"),
        ("B2", "spine alone", "passed"),
    ]
    spine = commit.moved[0]
    assert (spine.level, spine.change, spine.since_validation) == (
        "spine",
        "1.23\xa0%",
        "1.23\xa0%",
    )
    assert commit.undo == ("nestling rollback run spine --to v0004",)


def test_a_command_is_made_where_the_record_holds_none(records: AuditRecords) -> None:
    commit = make_changes(records)[4]
    assert commit.undo == (f"nestling rollback {records.folder} spine --to v0005",)
    assert commit.gates == ()


def test_versions_learned_in_a_row_are_one_entry_and_one_way_back(records: AuditRecords) -> None:
    learned = make_changes(records)[6]
    assert learned.title == "Level 'ward' learned, 2 versions"
    assert [(one.version, one.level) for one in learned.moved] == [
        ("v0004", "ward"),
        ("v0003", "ward"),
    ]
    assert learned.undo == (f"nestling rollback {records.folder} ward --to v0002",)


def test_events_without_versions_are_told_too(make_run: Callable[..., AuditRecords]) -> None:
    events = [
        GovernanceEvent("committed", 5.0, "done", "spine", "M2", "ana", version="v0009"),
        GovernanceEvent("changed", 6.0, "the contract is in force"),
    ]
    found = make_changes(make_run(events=[event.to_record() for event in events]))
    assert [one.title for one in found] == [
        "A setting was changed",
        "Level 'spine' changed by a proposal",
    ]
    assert found[1].undo == ()


def test_nothing_moved_is_said(records: AuditRecords) -> None:
    still = replace(records.versions[2], changes={"spine": 0.0})
    found = make_changes(replace(records, versions=(still,), events=()))
    assert found[0].title == "No level moved"
    assert found[0].undo == ()


def test_a_folder_with_spaces_is_quoted(records: AuditRecords, tmp_path: object) -> None:
    spaced = replace(records, folder=records.folder / "my run")
    assert list_versions(spaced)[0].undo[0].startswith("nestling rollback '")


def test_the_table_of_versions(records: AuditRecords) -> None:
    rows = list_versions(records)
    assert [row.id for row in rows] == [f"v{number:04d}" for number in range(8, 0, -1)]
    rolled = rows[1]
    assert (rolled.origin, rolled.parent, rolled.by) == ("rolled back", "v0006", "Dr. Li")
    assert rolled.digests == ("spine abababababab", "ward cdcdcdcdcdcd")
    assert rolled.num_examples == "6,000"
    assert (rows[-1].parent, rows[-1].undo) == ("\N{EN DASH}", ())


def test_a_change_that_is_not_finite_is_beyond_any_bound(records: AuditRecords) -> None:
    wild = replace(records.versions[7], changes={"ward": float("inf")})
    (row,) = list_versions(replace(records, versions=(wild,)))
    assert row.moved[0].change == "beyond any bound"


def test_a_level_that_no_clause_lets_learn_is_named(records: AuditRecords) -> None:
    stray = replace(records.versions[7], changes={"ward": 0.01, "spine": 0.01}, clause="")
    found = make_changes(replace(records, versions=(stray,), events=()))[0]
    assert found.outcome == "No clause lets 'spine' change by itself."
    assert found.clause == ""


def test_nothing_is_said_twice(make_run: Callable[..., AuditRecords]) -> None:
    def version(number: int, origin: str, reason: str) -> dict[str, object]:
        return {
            **{"id": f"v{number:04d}", "at": float(number), "origin": origin, "reason": reason},
            **{"parent": f"v{number - 1:04d}", "changes": {"spine": 0.1}},
        }

    def event(happening: Any, at: float, message: str, version: str = "") -> dict[str, object]:
        return GovernanceEvent(happening, at, message, "spine", version=version).to_record()

    found = make_changes(
        make_run(
            versions=[
                version(1, "began", "the contract is in force"),
                version(2, "committed", "new data"),
                version(3, "rolled back", "too far"),
            ],
            events=[
                event("changed", 1.0, "the contract is in force"),
                event("proposed", 1.5, "p0001: new data; it would change by 0.1"),
                event("committed", 2.0, "p0001: new data; approved by bo", "v0002"),
                event("rolled back", 3.0, "level 'spine' is as it was in v0001: too far", "v0003"),
            ],
        )
    )
    assert [(one.kind, one.why, one.outcome) for one in found] == [
        ("rolled back", "", "level 'spine' is as it was in v0001: too far"),
        ("committed", "new data", ""),
        ("began", "the contract is in force", ""),
    ]
