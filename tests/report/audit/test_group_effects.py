"""The effect of a change by group: before and after, with intervals, never more than is known."""

import math
from dataclasses import replace

from nestling.report.audit.audit_records import AuditRecords
from nestling.report.audit.group_effects import list_effects, list_tried


def test_every_commit_is_compared_with_the_version_before(records: AuditRecords) -> None:
    accuracy, gap = list_effects(records)
    assert (accuracy.probe, gap.probe) == ("accuracy", "sex-gap")
    assert [change.version for change in gap.changes] == ["v0006", "v0005"]
    (everyone, men, women) = gap.changes[0].rows
    assert [one.group for one in (everyone, men, women)] == ["all rows", "sex=male", "sex=female"]
    assert women.cells[2] == "+0.160"
    assert men.cells[2] == "\N{MINUS SIGN}0.010"
    assert (everyone.worse, men.worse, women.worse) == (True, False, True)


def test_curves_follow_the_versions(records: AuditRecords) -> None:
    gap = list_effects(records)[1]
    assert gap.versions == ("v0004", "v0005", "v0006", "v0007")
    assert gap.committed == (1, 2)
    women = gap.curves["spine"][1]
    assert [round(value, 3) for _, value, _, _ in women.points] == [0.12, 0.15, 0.31, 0.15]


def test_a_group_that_is_too_small_is_never_worse(records: AuditRecords) -> None:
    accuracy = list_effects(records)[0]
    small = accuracy.changes[0].rows[-1]
    assert small.group == "hospital=Long Beach"
    assert small.cells[:3] == ("not judged (12\xa0rows)", "not judged (12\xa0rows)", "\N{EN DASH}")
    assert not small.worse
    assert accuracy.too_few == ("hospital=Long Beach has 12 rows of 30",)
    assert all(math.isnan(value) for _, value, _, _ in accuracy.curves["spine"][3].points)


def test_other_data_do_not_compare(records: AuditRecords) -> None:
    probes = [
        replace(one, result=replace(one.result, data_digest="77" * 32))
        if one.version == "v0006"
        else one
        for one in records.probes
    ]
    change = list_effects(replace(records, probes=tuple(probes)))[1].changes[0]
    assert "do not compare" in change.note
    assert {row.cells[2] for row in change.rows} == {"\N{EN DASH}"}
    assert not any(row.worse for row in change.rows)


def test_a_parent_that_was_not_measured_gives_way_to_the_last_reading(
    records: AuditRecords,
) -> None:
    probes = tuple(one for one in records.probes if one.version != "v0005")
    change = list_effects(replace(records, probes=probes))[1].changes[0]
    assert change.rows[2].cells[0].startswith("0.120")


def test_no_reading_at_all_is_said(records: AuditRecords) -> None:
    probes = tuple(one for one in records.probes if one.version == "v0007")
    changes = list_effects(replace(records, probes=probes))[1].changes
    assert {change.note for change in changes} == {
        "The probe was measured neither before nor after this change."
    }


def test_readings_of_proposals_are_no_versions(records: AuditRecords) -> None:
    proposed = tuple(replace(one, version="p0001") for one in records.probes)
    more = replace(records, probes=(*records.probes, *proposed))
    assert list_effects(more) == list_effects(records)


def test_what_a_refused_proposal_would_have_done_is_compared_with_the_live_model(
    records: AuditRecords,
) -> None:
    (effect,) = list_tried(records.probes, "p0002")
    assert (effect.probe, effect.metric, effect.better) == (
        *("sex-gap", "false_negative_gap", "lower"),
    )
    everyone, men, women = effect.rows
    assert [one.group for one in effect.rows] == ["all rows", "sex=male", "sex=female"]
    # v0005 of the 8th day, neither v0004 before it nor v0006 after the proposal.
    assert [cell.split()[0] for cell in women.cells] == ["0.150", "0.250", "0.110", "0.140"]
    assert (everyone.worse, men.worse, women.worse) == (True, False, True)
    assert effect.note == ""


def test_a_proposal_that_was_not_measured_or_not_named_has_no_effects(
    records: AuditRecords,
) -> None:
    assert list_tried(records.probes, "p0009") == ()
    live = tuple(replace(one, version="") for one in records.probes)
    assert list_tried(live, "") == ()


def test_another_proposal_is_not_what_was_before(records: AuditRecords) -> None:
    probes = [
        replace(one, version="p0001") if one.version == "v0005" else one for one in records.probes
    ]
    (effect,) = list_tried(probes, "p0002")
    assert effect.rows[2].cells[0].startswith("0.120")  # v0004


def test_a_proposal_on_other_data_is_not_called_worse(records: AuditRecords) -> None:
    probes = [
        replace(one, result=replace(one.result, data_digest="77" * 32))
        if one.version == "p0002"
        else one
        for one in records.probes
    ]
    (effect,) = list_tried(probes, "p0002")
    assert "do not compare" in effect.note
    assert not any(row.worse for row in effect.rows)


def test_a_proposal_before_any_reading_says_that_nothing_was_measured(
    records: AuditRecords,
) -> None:
    probes = [one for one in records.probes if one.version == "p0002" and one.view == "spine"]
    (effect,) = list_tried(probes, "p0002")
    assert [cell.split(" [")[0] for cell in effect.rows[2].cells] == [
        *("not measured", "0.250", "not measured", "not measured"),
    ]
    assert not any(row.worse for row in effect.rows)
