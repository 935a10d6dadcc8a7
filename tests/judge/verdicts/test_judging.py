"""Every clause of a contract: what makes it pass, fail, or not be judged."""

import math
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.findings import Finding
from nestling.judge.probes.probe_result import ProbeResult
from nestling.judge.verdicts.contract_facts import ContractFacts, InterfaceFacts, LevelChanges
from nestling.judge.verdicts.judging import is_kept, judge_contract, list_duties

ACC = ProbeResult("acc", "accuracy", 0.85, 0.8, 0.9, 400, 0.95, "higher", "d1")
GAP = ProbeResult("gap", "false_negative_gap", 0.1, 0.05, 0.15, 400, 0.95, "lower", "d1")
TODAY = date(2026, 12, 1)
M1 = {"id": "M1", "level": "head", "what": "drift"}
H1 = {"id": "H1", "harm": "missed", "probe": "gap", "level": "head", "by": "2026-12-11"}


def judge(clauses: dict[str, Any], facts: ContractFacts) -> list[Finding]:
    return judge_contract(Contract.from_data({"name": "triage"} | clauses), facts)


def judge_one(clauses: dict[str, Any], facts: ContractFacts) -> Finding:
    (found,) = judge(clauses, facts)
    assert "\n" not in found.message
    return found


def measure(**results: ProbeResult) -> ContractFacts:
    return ContractFacts(measured={"whole": results}, today=TODAY)


def test_nothing_asked_nothing_found() -> None:
    assert judge({}, ContractFacts()) == []
    assert is_kept([])


# --- what may change


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        (LevelChanges(0.1, 0.2, 0.3), "passed", "0.1 per update of 0.1, 0.2 per day of 0.2"),
        (LevelChanges(0.1, 0.21, 0.3), "failed", "0.21 per day, at most 0.2; roll the level back"),
        (LevelChanges(0.1, 0.2, math.nan), "failed", "nan since validation, at most 0.5"),
        (LevelChanges(math.inf, 0.2, 0.3), "failed", "inf per update, at most 0.1"),
        (LevelChanges(0.1, None, 0.3), "not judged", "the change per day was not measured"),
        (LevelChanges(0.2, None, 0.3), "failed", "0.2 per update, at most 0.1"),
        (LevelChanges(None, None, 0.3, is_held=True), "passed", "at most 0.2 per day, which is"),
        (LevelChanges(None, None, 0.6, is_held=True), "failed", "0.6 since validation"),
    ],
)
def test_bounds_of_a_level(changes: LevelChanges, status: str, said: str) -> None:
    clause = M1 | {"per_update": 0.1, "per_day": 0.2, "since_validation": 0.5}
    found = judge_one({"may_change": [clause]}, ContractFacts(changes={"head": changes}))
    assert (found.clause, found.status) == ("M1", status)
    assert said in found.message


def test_a_level_without_bounds_passes_and_one_that_was_not_measured_is_not_judged() -> None:
    assert judge_one({"may_change": [M1]}, ContractFacts()).status == "passed"
    bounded = {"may_change": [M1 | {"per_day": 0.1}]}
    assert judge_one(bounded, ContractFacts()).status == "not judged"


def test_a_level_that_no_modification_names_must_not_change() -> None:
    still = ContractFacts(changes={"spine": LevelChanges(since_validation=0.0)})
    assert judge({}, still) == []
    moved = judge_one({}, ContractFacts(changes={"spine": LevelChanges(since_validation=1e-9)}))
    assert (moved.clause, moved.status) == ("spine", "failed")
    assert "add a may_change clause" in moved.message
    broken = ContractFacts(changes={"spine": LevelChanges(0.0, math.nan)})
    assert judge_one({}, broken).status == "failed"


def test_proposals_that_came_too_close_together() -> None:
    slow = {"may_change": [M1 | {"trigger": "proposal", "least_hours": 24.0}]}
    hour = 3600.0
    kept = ContractFacts(commits={"M1": [48 * hour, 0.0, 24 * hour]})
    assert judge_one(slow, kept).status == "passed"
    found = judge_one(slow, ContractFacts(commits={"M1": [0.0, 23 * hour]}))
    assert found.status == "failed"
    assert "23 hours apart, 24 hours must lie between" in found.message


# --- what must stay fixed, to the bit


FIXED = {"must_stay_fixed": {"parameters": ["norm.*"], "digests": {"norm.w": "ab" * 32}}}


@pytest.mark.parametrize(
    ("digests", "signed", "status", "said"),
    [
        ({"norm.w": "ab" * 32, "head.w": "0"}, {}, "passed", "1 fixed parameters"),
        ({"norm.w": "ab" * 32, "head.w": "0"}, {"head.w": "1"}, "passed", "as signed"),
        # The contract's own digest counts, whatever else was noted.
        ({"norm.w": "cd" * 32}, {"norm.w": "cd" * 32}, "failed", "'norm.w' (changed)"),
        ({"head.w": "0"}, {}, "failed", "'norm.w' (gone)"),
        ({"norm.w": "ab" * 32, "norm.b": "0"}, {}, "not judged", "no digest of 'norm.b' was"),
        ({"norm.w": "ab" * 32, "norm.b": "0"}, {"norm.b": "0"}, "passed", "2 fixed parameters"),
        ({"norm.w": "ab" * 32, "norm.b": "0"}, {"norm.b": "1"}, "failed", "'norm.b' (changed)"),
        (None, {}, "not judged", "were not looked at"),
    ],
)
def test_fixed_parameters(
    digests: dict[str, str] | None, signed: dict[str, str], status: str, said: str
) -> None:
    found = judge_one(FIXED, ContractFacts(digests=digests, signed=signed))
    assert (found.clause, found.status) == ("parameters", status)
    assert said in found.message


def test_patterns_that_match_nothing_fail_and_many_names_are_cut() -> None:
    none = {"must_stay_fixed": {"parameters": ["norm.*"]}}
    found = judge_one(none, ContractFacts(digests={"head.w": "0"}))
    assert found.status == "failed"
    names = {f"norm.{index}": "0" for index in range(9)}
    found = judge_one(none, ContractFacts(digests=names, signed=dict.fromkeys(names, "1")))
    assert "'norm.4' (changed) and 4 more must stay" in found.message
    assert dict(found.figures) == {"num_fixed": 9.0, "num_changed": 9.0}


@pytest.mark.parametrize(
    ("facts", "status", "said"),
    [
        (InterfaceFacts("classification", (13,), 2), "passed", "input_shape (13,)"),
        (InterfaceFacts("classification", (13,), 3), "failed", "num_outputs is 3, the contract"),
        (InterfaceFacts("regression", (13,), 2), "failed", "task is 'regression'"),
        (InterfaceFacts("classification", None, 2), "not judged", "input_shape could not be"),
        (InterfaceFacts(refusal="13 != 12"), "failed", "shape (13,) are refused: 13 != 12"),
        (None, "not judged", "task, input_shape, num_outputs could not"),
    ],
)
def test_interface(facts: InterfaceFacts | None, status: str, said: str) -> None:
    wanted = {"task": "classification", "input_shape": [13], "num_outputs": 2}
    clauses = {"must_stay_fixed": {"interface": wanted}}
    found = judge_one(clauses, ContractFacts(interface=facts))
    assert (found.clause, found.status) == ("interface", status)
    assert said in found.message


# --- behaviour


def behaviour(**limits: Any) -> dict[str, Any]:
    return {"must_stay_fixed": {"behaviour": [{"id": "B1", "views": "whole"} | limits]}}


@pytest.mark.parametrize(
    ("limits", "status", "said"),
    [
        ({"least": 0.85}, "passed", "acc = 0.85 [0.8, 0.9] at 95%, 400 rows; least 0.85"),
        ({"least": 0.86}, "failed", "acc = 0.85 [0.8, 0.9] at 95%, 400 rows is below 0.86;"),
        ({"most": 0.85}, "passed", "most 0.85"),
        ({"most": 0.84}, "failed", "is above 0.84"),
    ],
)
def test_limits_of_behaviour(limits: dict[str, float], status: str, said: str) -> None:
    found = judge_one(behaviour(probe="acc", **limits), measure(acc=ACC))
    assert (found.clause, found.view, found.status) == ("B1", "whole", status)
    assert said in found.message
    assert dict(found.figures)["value"] == 0.85


@pytest.mark.parametrize(
    ("now", "before", "status", "said"),
    [
        (ACC, replace(ACC, value=0.88), "failed", "is worse by 0.03 than 0.88"),
        (ACC, replace(ACC, value=0.86), "passed", "fall 0.02"),
        (ACC, replace(ACC, value=0.5), "passed", "fall 0.02"),
        # Of a gap, lower is better.
        (GAP, replace(GAP, value=0.07), "failed", "is worse by 0.03 than 0.07"),
        (GAP, replace(GAP, value=0.5), "passed", "fall 0.02"),
        (ACC, replace(ACC, data_digest="d2"), "not judged", "on other data (d1...)"),
        (ACC, replace(ACC, value=math.nan), "not judged", "was not judged; validate anew"),
        (ACC, None, "not judged", "validate the version first"),
    ],
)
def test_fall_since_the_last_validation(
    now: ProbeResult, before: ProbeResult | None, status: str, said: str
) -> None:
    validated = {} if before is None else {"whole": {now.probe: before}}
    facts = replace(measure(**{now.probe: now}), validated=validated)
    found = judge_one(behaviour(probe=now.probe, fall=0.02), facts)
    assert found.status == status
    assert said in found.message


def test_a_limit_that_is_broken_fails_even_where_the_fall_cannot_be_judged() -> None:
    assert judge_one(behaviour(probe="acc", fall=0.1, least=0.9), measure(acc=ACC)).status == (
        "failed"
    )


def test_too_few_rows_and_other_data_are_said_and_not_passed() -> None:
    few = replace(ACC, too_few=("sex=female has 7 rows, 30 are needed",))
    found = judge_one(behaviour(probe="acc", least=0.1), measure(acc=few))
    assert found.status == "not judged"
    assert "sex=female has 7 rows, 30 are needed" in found.message
    none = judge_one(behaviour(probe="acc", least=0.1), measure(acc=replace(ACC, value=math.nan)))
    assert none.status == "not judged"
    probes = {"probes": [{"name": "acc", "metric": "accuracy", "digest": "d2"}]}
    found = judge_one(behaviour(probe="acc", least=0.1) | probes, measure(acc=ACC))
    assert found.status == "not judged"
    assert "the contract says d2" in found.message


def test_every_view_is_judged_by_itself() -> None:
    clause = {"id": "B1", "probe": "acc", "least": 0.8, "views": ["spine", "whole", "cohorts"]}
    clauses = {"must_stay_fixed": {"behaviour": [clause]}}
    facts = ContractFacts(
        measured={
            "spine": {"acc": replace(ACC, value=0.12)},
            "whole": {"acc": ACC},
            "cohorts/north": {"acc": ACC},
            "cohorts/south": {"acc": replace(ACC, value=0.5)},
        }
    )
    found = {finding.view: finding.status for finding in judge(clauses, facts)}
    assert found == {
        "spine": "failed",
        "whole": "passed",
        "cohorts/north": "passed",
        "cohorts/south": "failed",
    }
    without = judge(clauses, ContractFacts(measured={"whole": {"acc": ACC}}))
    assert [(one.view, one.status) for one in without] == [
        ("spine", "not judged"),
        ("whole", "passed"),
        ("cohorts", "not judged"),
    ]
    assert not is_kept(without)


# --- duties


def duty(**changed: Any) -> dict[str, Any]:
    return {"may_change": [M1], "must_change_by": [H1 | {"views": "whole", "most": 0.05} | changed]}


@pytest.mark.parametrize(
    ("most", "today", "status", "said", "state", "days"),
    [
        (0.1, TODAY, "passed", "met: gap = 0.1", "met", 10),
        (0.1, date(2027, 12, 1), "passed", "met: gap = 0.1", "met", -355),
        (0.05, TODAY, "passed", "open: gap = 0.1 [0.05, 0.15]", "open", 10),
        (0.05, date(2026, 12, 10), "passed", "by 2026-12-11, 1 day left", "open", 1),
        (0.05, date(2026, 12, 11), "passed", "0 days left", "open", 0),
        (0.05, date(2026, 12, 12), "failed", "1 day ago: level 'head' freezes", "expired", -1),
    ],
)
def test_a_duty_before_and_after_its_day(
    most: float, today: date, status: str, said: str, state: str, days: int
) -> None:
    contract = Contract.from_data({"name": "triage"} | duty(most=most))
    _, found = judge_contract(contract, replace(measure(gap=GAP), today=today))
    assert (found.clause, found.status) == ("H1", status)
    assert said in found.message
    (left,) = list_duties(contract, [found], today)
    assert (left.id, left.harm, left.level, left.state) == ("H1", "missed", "head", state)
    assert left.days_left == days
    assert left.by == date(2026, 12, 11)


def test_a_duty_that_was_not_measured_is_not_met() -> None:
    _, before = judge(duty(), ContractFacts(today=TODAY))
    assert before.status == "not judged"
    assert "10 days left" in before.message
    _, after = judge(duty(), ContractFacts(today=date(2027, 1, 1)))
    assert after.status == "failed"
    assert "was not measured" in after.message
    _, no_day = judge(duty(), ContractFacts(measured={"whole": {"gap": GAP}}))
    assert no_day.status == "not judged"
    contract = Contract.from_data({"name": "triage"} | duty())
    assert list_duties(contract, [], date(2027, 1, 1))[0].state == "expired"


def test_a_duty_is_met_in_every_view_or_not_at_all() -> None:
    contract = Contract.from_data({"name": "triage"} | duty(views=["spine", "whole"], most=0.1))
    facts = ContractFacts(
        today=TODAY,
        measured={"spine": {"gap": replace(GAP, value=0.3)}, "whole": {"gap": GAP}},
    )
    (left,) = list_duties(contract, judge_contract(contract, facts), TODAY)
    assert left.state == "open"


# --- protocol, reviews, risks


def test_probes_of_the_protocol_must_be_measured() -> None:
    clauses = {"protocol": {"probes": ["acc", "gap"]}}
    assert judge_one(clauses, measure(acc=ACC, gap=GAP)).status == "passed"
    found = judge_one(clauses, measure(acc=ACC))
    assert found.status == "not judged"
    assert "'gap' were not measured" in found.message


REVIEWS = [
    {"by": "Ada", "on": "2026-01-01", "until": "2026-06-30"},
    {"by": "Grace", "on": "2026-07-01", "until": "2026-12-31"},
]


@pytest.mark.parametrize(
    ("today", "status", "said"),
    [
        (date(2026, 6, 30), "passed", "by Ada"),
        (date(2026, 12, 31), "passed", "by Grace on 2026-07-01, holds until 2026-12-31"),
        (date(2027, 1, 1), "failed", "the last review, by Grace, ended 2026-12-31; a person must"),
        (date(2025, 12, 31), "failed", "no review holds on 2025-12-31"),
        (None, "not judged", "no day was given"),
    ],
)
def test_reviews_expire(today: date | None, status: str, said: str) -> None:
    found = judge_one({"reviews": REVIEWS}, ContractFacts(today=today))
    assert (found.clause, found.status) == ("reviews", status)
    assert said in found.message


@pytest.mark.parametrize(
    ("changed", "today", "status", "said"),
    [
        ({"accepted_by": "Ada", "until": "2026-12-01"}, TODAY, "passed", "until 2026-12-01"),
        ({"accepted_by": "Ada", "until": "2026-11-30"}, TODAY, "failed", "which is over"),
        ({"until": "2026-11-30"}, TODAY, "failed", "which is over"),
        ({"accepted_by": "Ada"}, TODAY, "passed", "accepted by Ada"),
        ({"accepted_by": "Ada", "until": "2026-12-01"}, None, "not judged", "no day"),
        ({}, TODAY, "not judged", "nobody accepts what remains"),
    ],
)
def test_risks_are_accepted_by_someone_for_a_time(
    changed: dict[str, str], today: date | None, status: str, said: str
) -> None:
    risk = {"id": "R1", "hazard": "hidden harm", "severity": "serious"} | changed
    found = judge_one({"risks": [risk]}, ContractFacts(today=today))
    assert (found.clause, found.status) == ("R1", status)
    assert said in found.message
