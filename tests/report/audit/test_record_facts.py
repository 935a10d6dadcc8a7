"""Without a check of the run, its records are judged as far as they tell."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

from nestling.report.audit.audit_records import AuditRecords, read_audit_records
from nestling.report.audit.record_facts import (
    find_largest_commits,
    find_latest,
    find_validation,
    gather_facts,
    judge_records,
)

TODAY = date(2026, 11, 28)


def test_findings_of_the_last_check_come_first(records: AuditRecords) -> None:
    assert records.checked is not None
    assert judge_records(records, TODAY) == records.checked.findings


def test_without_a_check_the_records_are_judged(records: AuditRecords) -> None:
    found = {
        (one.clause, one.view): one for one in judge_records(replace(records, checked=None), TODAY)
    }
    assert found["B1", "spine"].status == "not judged"  # a group has too few rows
    assert found["B2", "spine"].status == "passed"
    assert found["B3", "spine"].status == "passed"
    assert found["H2", "spine"].status == "failed"
    assert found["parameters", ""].status == "not judged"
    assert found["interface", ""].status == "not judged"
    assert found["M1", ""].status == "not judged"  # nobody measured its change within a day
    assert found["M2", ""].status == "passed"
    assert dict(found["M2", ""].figures) == {"per_update": 0.0181, "since_validation": 0.0123}


def test_readings_of_a_mere_proposal_are_not_those_of_the_model(records: AuditRecords) -> None:
    proposed = replace(find_latest(records, "canary")["spine"], version="p0001", at=2e9)
    more = replace(records, probes=(*records.probes, proposed))
    assert find_latest(more, "canary")["spine"].version == "v0007"
    live = replace(proposed, version="")
    assert find_latest(replace(more, probes=(*more.probes, live)), "canary")["spine"].at == 2e9


def test_the_validated_version_is_what_falls_are_measured_from(records: AuditRecords) -> None:
    assert find_validation(records) == (records.versions[1].at, "Dr. Li", "v0002")
    facts = gather_facts(records, TODAY)
    assert facts.validated["spine"]["accuracy"].value == 0.80
    assert facts.commits == {"M2": [records.versions[4].at, records.versions[5].at]}


def test_the_largest_update_is_known_of_proposals_only(records: AuditRecords) -> None:
    assert find_largest_commits(records) == {"spine": 0.0181}


def test_nothing_recorded_is_nothing_judged(make_run: Callable[..., AuditRecords]) -> None:
    found = judge_records(make_run(), TODAY)
    clauses = {one.clause: one.status for one in found if one.clause[0] in "MBpi"}
    assert set(clauses.values()) == {"not judged"}


def test_a_folder_is_read_as_text_or_path(governed: Path) -> None:
    assert read_audit_records(str(governed)) == read_audit_records(governed)
