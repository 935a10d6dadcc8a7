"""Drift of the spine against its budget, and its pictures."""

import base64
import math
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import LevelRole
from nestling.report.audit.audit_plots import pick_ticks, picture_drift, picture_groups
from nestling.report.audit.audit_records import AuditRecords
from nestling.report.audit.group_effects import GroupCurve
from nestling.report.audit.spine_drift import follow_drift


def read_svg(uri: str) -> str:
    text = base64.b64decode(uri.partition(",")[2]).decode()
    ElementTree.fromstring(text)
    return text


def test_drift_follows_versions_and_budget(records: AuditRecords) -> None:
    (curve,) = follow_drift(records)
    assert [value for _, value in curve.points] == [0, 0, 0, 0, 0.0123, 0.0298, 0.0123, 0.0123]
    assert (curve.clause, curve.budget, curve.is_over) == ("M2", 0.04, False)
    assert curve.used == "30.8\xa0%"
    assert curve.last == "2026-11-02T10:24:00Z by Dr. Li"
    assert len(curve.validations) == 1  # told by an event and by a version


def test_a_spent_budget_is_over(records: AuditRecords) -> None:
    last = replace(records.versions[-1], since_validation={"spine": 0.05})
    (curve,) = follow_drift(replace(records, versions=(*records.versions[:-1], last)))
    assert curve.is_over
    assert curve.used == "125\xa0%"


def test_a_validation_without_a_version_begins_anew(records: AuditRecords) -> None:
    event = replace(records.events[0], at=records.versions[-1].at + 1.0, version="")
    (curve,) = follow_drift(replace(records, events=(*records.events, event)))
    assert curve.points[-1] == (event.at, 0.0)


def test_a_spine_without_budget_or_versions(make_run: Callable[..., AuditRecords]) -> None:
    contract = Contract("c", levels=[LevelRole("spine", role="spine")])
    (curve,) = follow_drift(make_run(contract=contract))
    assert (curve.points, curve.limit, curve.last) == ((), "none is set", "\N{EN DASH}")
    assert math.isnan(curve.budget)
    assert not curve.is_over


def test_the_picture_of_drift_holds_budget_and_validation(records: AuditRecords) -> None:
    (curve,) = follow_drift(records)
    picture = picture_drift(curve)
    for uri in (picture.light, picture.dark):
        text = read_svg(uri)
        assert "budget 4 %" in text
        assert "validation by a person" in text
    assert picture.light != picture.dark
    assert "now 1.23\xa0%; its budget is 4\xa0%" in picture.alt


def test_one_moment_and_no_finite_figure_can_be_drawn(records: AuditRecords) -> None:
    (curve,) = follow_drift(replace(records, versions=records.versions[:1], events=()))
    assert read_svg(picture_drift(curve).light)
    wild = replace(curve, points=((1.0, math.inf), (2.0, math.inf)))
    assert read_svg(picture_drift(wild).light)


def test_names_with_dollars_are_no_formulas() -> None:
    curve = GroupCurve("income=$50k$", ((0, 0.5, 0.4, 0.6),))
    picture = picture_groups("spine alone", [curve], ["v0001"], [], (0.4, 0.6))
    assert "income=$50k$" in read_svg(picture.light)


def test_many_versions_share_the_axis() -> None:
    names = [f"v{number:04d}" for number in range(40)]
    points = tuple((place, 0.5, math.nan, math.nan) for place in range(40))
    picture = picture_groups("spine alone", [GroupCurve("a", points)], names, [3], (0.5, 0.5))
    text = read_svg(picture.light)
    assert "v0004" in text
    assert "v0001" not in text


def test_ticks_stand_on_whole_hours_and_days() -> None:
    start = 1_795_000_000.0  # 2026-11-18T11:06:40Z
    for length in (0.0, 0.3, 5.0, 90.0, 4000.0, 86_400.0, 1e6, 1e8, 1e10):
        ticks, unit = pick_ticks(start, start + length)
        assert 1 <= len(ticks) <= 5
        assert "UTC" in unit
        assert len({label for _, label in ticks}) == len(ticks)
    ticks, unit = pick_ticks(start, start + 86_400.0)
    assert [label for _, label in ticks] == ["12:00", "18:00", "00:00", "06:00"]
    assert unit == "time, UTC, on 2026-11-18 to 2026-11-19"
