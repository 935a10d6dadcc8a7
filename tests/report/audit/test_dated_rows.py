"""Duties, risks and reviews on a day."""

from datetime import date

from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import Review, Risk
from nestling.judge.verdicts.judging import list_duties
from nestling.report.audit.audit_records import AuditRecords
from nestling.report.audit.clause_states import state_clauses
from nestling.report.audit.dated_rows import DutyRow, list_reviews, list_risks, tabulate_duties
from nestling.report.audit.record_facts import judge_records


def make_rows(records: AuditRecords, today: date) -> list[DutyRow]:
    findings = judge_records(records, today)
    duties = list_duties(records.contract, findings, today)
    return tabulate_duties(records, state_clauses(records.contract, findings, duties), duties)


def test_expired_duties_come_first(records: AuditRecords) -> None:
    late, waiting = make_rows(records, date(2026, 11, 28))
    assert (late.id, late.state, late.left) == ("H2", "expired", "8 days ago")
    assert (waiting.id, waiting.state, waiting.left) == ("H1", "open", "64 days left")
    assert waiting.now == ("spine alone: 0.140 (not met)", "spine with fast levels: 0.090 (met)")
    assert late.said == "H2 has expired and is not met: 'spine' is frozen (2026-11-21T08:00:00Z)"


def test_the_last_day_still_counts(records: AuditRecords) -> None:
    row = next(one for one in make_rows(records, date(2026, 11, 20)) if one.id == "H2")
    assert (row.state, row.left) == ("open", "today is the last day")
    row = next(one for one in make_rows(records, date(2026, 11, 21)) if one.id == "H2")
    assert (row.state, row.left) == ("expired", "1 day ago")


def test_risks_by_severity_with_links_to_their_evidence(records: AuditRecords) -> None:
    rows = list_risks(records.contract, ["B1", "M2"], date(2026, 11, 28))
    assert [(row.id, row.state) for row in rows] == [
        ("R1", "accepted"),
        ("R2", "expired"),
        ("R3", "not accepted"),
    ]
    assert [one.anchor for one in rows[0].evidence] == ["clause-B1", "probe-sex-gap", ""]


def test_a_risk_is_accepted_through_its_last_day() -> None:
    risk = Risk("R1", "harm", "minor", accepted_by="Li", until=date(2026, 11, 28))
    contract = Contract("c", risks=[risk])
    assert list_risks(contract, [], date(2026, 11, 28))[0].state == "accepted"
    assert list_risks(contract, [], date(2026, 11, 29))[0].state == "expired"


def test_reviews_hold_between_their_days() -> None:
    review = Review("Li", date(2026, 11, 2), date(2026, 11, 28))
    contract = Contract("c", reviews=[review])
    states = [list_reviews(contract, date(2026, 11, day))[0].state for day in (1, 2, 28, 29)]
    assert states == ["not yet begun", "holds", "holds", "expired"]
