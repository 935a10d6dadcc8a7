"""The change of every level since a person validated it, on the page of a run."""

from nestling.report.audit.audit_records import AuditVersion
from nestling.report.validated_change import tabulate_validated


def test_it_counts_from_the_last_validation() -> None:
    versions = [
        AuditVersion("v0001", 0.0, "began"),
        AuditVersion("v0002", 1.0, "validated", by="dr. chen", since_validation={"spine": 0.0}),
        AuditVersion("v0003", 2.0, "learned", since_validation={"spine": 0.051, "head": 1.5}),
    ]
    found = tabulate_validated(versions)
    assert found.rows == [("spine", "5.1\N{NO-BREAK SPACE}%"), ("head", "150\N{NO-BREAK SPACE}%")]
    assert "validated by dr. chen" in found.since
    assert "v0002" in found.since


def test_without_a_validation_it_says_so() -> None:
    found = tabulate_validated([AuditVersion("v0001", 0.0, "learned")])
    assert not found.rows
    assert "Nobody has validated" in found.since
    assert not tabulate_validated([]).rows
