"""Clauses in plain words, and the verdict on the whole."""

from dataclasses import replace
from datetime import date

import pytest

from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import Interface, MayChange, StaysFixed
from nestling.judge.contract.findings import Finding
from nestling.judge.verdicts.judging import Duty, list_duties
from nestling.report.audit.audit_page import judge_whole
from nestling.report.audit.audit_records import AuditRecords
from nestling.report.audit.clause_states import (
    ClauseState,
    say_bounds,
    say_fixed,
    say_interface,
    say_may,
    state_clauses,
)
from nestling.report.audit.dated_rows import ReviewRow, RiskRow
from nestling.report.audit.record_facts import judge_records

TODAY = date(2026, 11, 28)


def make_states(records: AuditRecords) -> dict[str, ClauseState]:
    findings = judge_records(records, TODAY)
    duties = list_duties(records.contract, findings, TODAY)
    return {one.id: one for one in state_clauses(records.contract, findings, duties)}


def test_a_clause_is_as_good_as_its_worst_view(records: AuditRecords) -> None:
    states = make_states(records)
    assert {id: state.state for id, state in states.items()} == {
        **{"M1": "passed", "M2": "passed", "parameters": "passed", "interface": "passed"},
        **{"B1": "passed", "B2": "failed", "B3": "not judged", "H1": "open", "H2": "expired"},
        "reviews": "passed",
    }
    assert [view.state for view in states["B2"].views] == ["failed", "passed"]
    assert [view.state for view in states["H1"].views] == ["not met", "met"]


def test_figures_are_shown_with_limit_interval_and_rows(records: AuditRecords) -> None:
    view = make_states(records)["B1"].views[0]
    assert view.view == "spine alone"
    assert (view.figure, view.interval, view.num_examples) == ("0.812", "0.790 to 0.830", "300")
    assert view.limit == "at least 0.750; at most 0.020 worse than at the last validation"
    assert view.message == ""  # the figures say it all
    assert make_states(records)["B2"].views[0].message == "sex-gap = 0.112 is above 0.1"


def test_what_no_finding_is_about_is_not_judged() -> None:
    contract = Contract("c", may_change=[MayChange("M1", level="fast", what="all of it")])
    (state,) = state_clauses(contract, [], [])
    assert state.state == "not judged"
    assert state.views[0].message == "It was not judged."


def test_what_no_clause_is_about_is_shown_too() -> None:
    finding = Finding("spine", "failed", "it changed", figures=(("change", 0.1),))
    (state,) = state_clauses(Contract("c"), [finding], [])
    assert (state.kind, state.state) == ("also judged", "failed")
    assert state.views[0].figure.replace("\xa0", " ") == "change 10 %"


def test_a_level_without_bounds_is_said_so() -> None:
    clause = MayChange("M1", level="fast", what="all of it.")
    assert say_bounds(clause) == "no bound is set"
    assert say_may(clause) == (
        "Level 'fast' may change by itself, as it learns: all of it. How far: no bound is set."
    )


def test_one_approval_is_one_person() -> None:
    clause = MayChange("M1", level="s", what="x", approvals=1, trigger="proposal")
    assert "that 1 person other than the proposer approve" in say_may(clause)


def test_fixed_parameters_and_interface_in_words() -> None:
    fixed = StaysFixed(
        parameters=["norm.*", "embed"],
        digests={"embed": "ab" * 32, "norm.weight": "cd" * 32},
        interface=Interface(input_shape=[3, 8], intended_use="second reading"),
    )
    contract = Contract("c", must_stay_fixed=fixed)
    assert say_fixed(contract) == (
        "The parameters that match 'norm.*' and 'embed' stay bit for bit. 2 tensors have the "
        "digest that was signed."
    )
    assert say_interface(contract) == (
        "The interface stays: an example has 3 x 8 inputs. Intended use: second reading."
    )
    assert (say_fixed(Contract("c")), say_interface(Contract("c"))) == ("", "")


PASSED = ClauseState("B1", "must stay fixed", "", "passed", ())
DUTY = Duty("H1", "harm", "spine", date(2027, 1, 1), 34, "open")
OPEN = replace(PASSED, id="H1", state="open")
REVIEW = ReviewRow("Li", "2026-01-01", "2026-12-31", "", "holds", "33 days left")
RISK = RiskRow("R1", "h", "minor", (), "", "Li", "", "accepted", "")


@pytest.mark.parametrize(
    ("parts", "state", "words"),
    [
        (([PASSED], [], [], []), "kept", "The contract is kept: 1 clause judged, none failed."),
        (([PASSED, OPEN], [DUTY], [REVIEW], [RISK]), "kept", "failed. 1 duty not yet due."),
        (([replace(PASSED, state="failed")], [], [], []), "broken", "not kept: clause B1 fails."),
        (
            ([PASSED, OPEN], [replace(DUTY, state="expired")], [], []),
            "broken",
            "duty H1 was due by 2027-01-01 and is not met.",
        ),
        (([PASSED], [], [replace(REVIEW, state="expired")], []), "broken", "no review of it holds"),
        (([PASSED], [], [], [replace(RISK, state="expired")]), "broken", "acceptance of risk R1"),
        (([PASSED], [], [], [replace(RISK, state="not accepted")]), "open", "nobody accepts risk"),
        (
            ([replace(PASSED, state="not judged")], [], [], []),
            "open",
            "Nothing failed, but clause B1 is not judged.",
        ),
        (([], [], [], []), "open", "The contract has no clauses"),
    ],
)
def test_the_verdict_on_the_whole(parts: tuple[list, ...], state: str, words: str) -> None:  # type: ignore[type-arg]
    found, sentence = judge_whole(*parts)
    assert found == state
    assert words in sentence
