"""Which events belong to which proposal; refusals, feedback, brakes and alarms."""

from dataclasses import replace

from nestling.judge.contract.findings import GovernanceEvent
from nestling.report.audit.audit_records import AuditRecords
from nestling.report.audit.proposal_traces import (
    list_feedback,
    list_gates,
    list_masked,
    list_refusals,
    list_signals,
    trace_proposals,
)


def test_events_are_grouped_by_proposal(records: AuditRecords) -> None:
    traces = trace_proposals(records.events)
    assert [(one.end.happening if one.end else "", len(one.judged)) for one in traces] == [
        ("committed", 3),
        ("refused", 3),
        ("committed", 0),
    ]
    assert [len(one.approved) for one in traces] == [2, 0, 2]


def test_proposals_of_two_levels_at_once_are_told_apart() -> None:
    traces = trace_proposals(
        [
            GovernanceEvent("proposed", 1.0, "", "a", "M1"),
            GovernanceEvent("proposed", 2.0, "", "b", "M2"),
            GovernanceEvent("approved", 3.0, "", "a", by="li"),
            GovernanceEvent("judged", 3.5, "", clause="B1", passed=True),
            GovernanceEvent("committed", 4.0, "", "b"),
            GovernanceEvent("refused", 5.0, "", "a"),
        ]
    )
    first, second = traces
    assert ([one.by for one in first.approved], first.judged) == (["li"], [])
    assert len(second.judged) == 1
    assert [one.end.happening for one in traces if one.end] == ["refused", "committed"]


def test_an_end_without_a_beginning_and_a_beginning_without_an_end() -> None:
    end, start = trace_proposals(
        [GovernanceEvent("committed", 1.0, "", "a"), GovernanceEvent("proposed", 2.0, "", "a")]
    )
    assert (end.proposed, start.end) == (None, None)
    assert list_refusals([end, start], ()) == []


def test_what_was_judged_again_counts(records: AuditRecords) -> None:
    (_, trace, _) = trace_proposals(records.events)
    again = replace(trace.judged[0], passed=True)
    trace.judged.append(again)
    assert [gate.verdict for gate in list_gates(trace)] == ["not judged", "passed", "passed"]
    assert list_masked(trace) == []


def test_a_refusal_names_gates_views_and_figures(records: AuditRecords) -> None:
    (row,) = list_refusals(trace_proposals(records.events), records.probes)
    assert (row.level, row.clause, row.by, row.num_passed) == ("spine", "M2", "ana", 1)
    assert [(gate.clause, gate.view, gate.verdict) for gate in row.failed] == [
        ("B2", "spine alone", "failed"),
        ("B3", "spine alone", "not judged"),
    ]
    assert row.masked == ("B2",)
    assert row.why == "data of Long Beach"
    assert [effect.probe for effect in row.effects] == ["sex-gap"]


def test_a_refusal_without_gates_shows_what_its_own_event_says() -> None:
    event = GovernanceEvent(
        "refused", 1.0, "too far", "spine", "M2", view="spine", figures={"value": 0.2}
    )
    (row,) = list_refusals(trace_proposals([event]), ())
    assert (row.failed[0].verdict, row.failed[0].figures) == ("failed", "0.200")
    assert row.effects == ()


def test_feedback_is_counted_by_source_and_rule(records: AuditRecords) -> None:
    rows = list_feedback(records.events)
    assert [(row.source, row.rule, row.what, row.num_events) for row in rows] == [
        ("ward 7", "rate", "held", 2),
        ("ward 9", "norm", "refused", 1),
    ]
    unnamed = list_feedback([GovernanceEvent("held", 1.0, "why")])
    assert (unnamed[0].source, unnamed[0].rule) == ("not named", "not named")


def test_brakes_and_alarms_newest_first(records: AuditRecords) -> None:
    rows = list_signals(records.events)
    assert [(row.what, row.level) for row in rows] == [("alarm", "spine"), ("brake", "ward")]
    assert rows[0].figures.replace("\xa0", " ") == "since validation 2.98 %"
