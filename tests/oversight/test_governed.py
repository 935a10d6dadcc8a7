"""A learner under a contract: proposals, gates in three views, approvals, duties, clocks."""

from datetime import date
from pathlib import Path

import pytest
import torch

import nestling as nl
from nestling.core.errors import ClockError, ContractError, ProposalError, SettingError
from nestling.judge import FixedBehaviour, MustChange, ProbeSpec, Review
from nestling.oversight import Governed
from under_contract import (
    DAY,
    HOLDS,
    Clock,
    TwoParts,
    make_contract,
    make_data,
    make_plan,
    make_rows,
    train_on,
)

Made = tuple[nl.Learner, Governed, Clock]


def make_governed(contract: nl.Contract, folder: Path | None = None) -> Made:
    clock = Clock()
    learner = nl.Learner(TwoParts(), make_plan())
    data = {spec.name: make_data() for spec in contract.probes}
    return learner, nl.govern(learner, contract, probes=data, folder=folder, now=clock), clock


def test_the_spine_stands_still_between_proposals_and_the_fast_level_learns() -> None:
    learner, governed, _ = make_governed(make_contract(behaviour=[HOLDS]))
    before = learner.levels.digests()
    train_on(*make_rows())(learner)
    after = learner.levels.digests()
    assert {name for name in before if before[name] != after[name]} == {"fast"}
    assert nl.judge.is_kept(governed.check())


def test_a_proposal_changes_nothing_until_enough_people_approved() -> None:
    learner, governed, _ = make_governed(make_contract(behaviour=[HOLDS], approvals=2))
    before = learner.levels.digests()
    proposal = governed.propose("M2", train_on(*make_rows()), by="anna", reason="new guideline")
    assert proposal.status == "open"
    assert learner.levels.digests() == before
    with pytest.raises(ContractError, match="'anna' proposed p0001 and cannot approve it"):
        governed.approve(proposal, by="anna")
    governed.approve(proposal, by="ben")
    with pytest.raises(ContractError, match="'ben' has approved"):
        governed.approve(proposal, by="ben")
    with pytest.raises(ContractError, match="has 1 of 2 approvals"):
        governed.settle(proposal)
    assert learner.levels.digests() == before
    governed.approve(proposal, by="carl")
    assert governed.settle(proposal).status == "committed"
    after = learner.levels.digests()
    assert {name for name in before if before[name] != after[name]} == {"spine"}
    happenings = [event.happening for event in governed.take_events()]
    assert happenings[-4:] == ["judged", "approved", "approved", "committed"]
    with pytest.raises(ContractError, match="is committed"):
        governed.settle(proposal)


def test_harm_in_the_spine_that_the_fast_level_hides_is_found_by_the_spine_alone() -> None:
    """The whole passes, since the fast level makes up for what the change does to the spine."""
    learner, governed, _ = make_governed(make_contract(behaviour=[HOLDS]))
    with torch.no_grad():  # the fast level has learned so much that it decides alone
        learner.model.fast.weight.copy_(torch.tensor([[-40.0, 0.0], [40.0, 0.0]]))
    before = learner.levels.digests()
    x, y = make_rows()
    proposal = governed.propose("M2", flip_spine, by="anna", reason="drift")
    assert proposal.status == "refused"
    assert [(gate.clause, gate.view) for gate in proposal.stopped_by] == [("B1", "spine")]
    assert proposal.after["whole"]["accuracy"].value > 0.95
    assert proposal.after["spine"]["accuracy"].value < 0.2
    assert learner.levels.digests() == before
    refused = governed.take_events()[-1]
    assert refused.happening == "refused"
    assert "B1 (spine)" in refused.message
    assert (learner.model(x).argmax(1) == y).float().mean() > 0.95


def do_nothing(trial: nl.Learner) -> None:
    """Alter nothing."""


def flip_spine(trial: nl.Learner) -> None:
    with torch.no_grad():
        trial.model.spine.weight.neg_()


def test_each_person_has_a_view_of_its_own() -> None:
    clause = FixedBehaviour("B1", probe="accuracy", least=0.8, views=["whole", "cohorts"])
    plan = nl.Plan(
        nl.Memory("memory", on="input"),
        *make_plan().levels,
        readout=nl.mix("memory", "live"),
    )
    contract = make_contract(behaviour=[clause])
    data = contract.to_data()
    data["may_change"].append({"id": "M4", "level": "memory", "what": "what it sees"})
    contract = nl.Contract.from_data(data)
    learner = nl.Learner(TwoParts(), plan)
    learner.learn(*make_rows())
    x, y = make_rows(64, seed=3)
    for start in range(0, 64, 8):
        learner.personal("anna").learn(x[start : start + 8], y[start : start + 8])
    governed = nl.govern(learner, contract, probes={"accuracy": make_data()}, now=Clock())
    assert set(governed.measured) == {"spine", "whole", "cohorts/anna"}
    assert [f.view for f in governed.check() if f.clause == "B1"] == ["whole", "cohorts/anna"]


def test_a_change_that_alters_another_level_is_refused_with_nothing_changed() -> None:
    contract = make_contract()
    data = contract.to_data()
    data["may_change"] = [one for one in data["may_change"] if one["id"] != "M3"]
    learner, governed, _ = make_governed(nl.Contract.from_data(data))
    before = learner.levels.digests()

    def change(trial: nl.Learner) -> None:
        flip_spine(trial)
        with torch.no_grad():
            trial.model.scale.weight.mul_(2.0)

    with pytest.raises(ContractError, match="altered level 'scale', which no modification"):
        governed.propose("M2", change, by="anna", reason="drift")
    with pytest.raises(ProposalError, match="left level 'spine' as it was"):
        governed.propose("M2", do_nothing, by="anna", reason="drift")
    with pytest.raises(SettingError, match="no modification 'M7'"):
        governed.propose("M7", change, by="anna", reason="drift")
    with pytest.raises(SettingError, match="needs who and why"):
        governed.propose("M2", change, by=" ", reason="drift")
    assert learner.levels.digests() == before


def test_a_change_to_what_is_not_finite_is_refused() -> None:
    learner, governed, _ = make_governed(make_contract(behaviour=[HOLDS]))

    def break_it(trial: nl.Learner) -> None:
        with torch.no_grad():
            trial.model.spine.weight[0, 0] = float("nan")

    proposal = governed.propose("M2", break_it, by="anna", reason="drift")
    assert proposal.status == "refused"
    assert "finite" in [gate.clause for gate in proposal.stopped_by]
    assert bool(learner.model.spine.weight.isfinite().all())


def test_a_level_that_changed_since_the_trial_is_not_written_over() -> None:
    learner, governed, _ = make_governed(make_contract())
    proposal = governed.propose("M2", train_on(*make_rows()), by="anna", reason="drift")
    flip_spine(learner)
    assert governed.settle(proposal).status == "refused"
    assert "has changed since the trial" in governed.take_events()[-1].message


def test_fast_levels_may_learn_on_and_the_gates_are_passed_anew() -> None:
    learner, governed, _ = make_governed(make_contract(behaviour=[HOLDS]))
    proposal = governed.propose("M2", train_on(*make_rows()), by="anna", reason="drift")
    train_on(*make_rows(seed=4))(learner)
    fast = learner.levels["fast"].digest()
    assert governed.settle(proposal).status == "committed"
    assert learner.levels["fast"].digest() == fast
    other = governed.propose("M2", train_on(*make_rows(seed=5)), by="anna", reason="drift")
    x, y = make_rows()
    for _ in range(200):
        learner.learn(4.0 * x, 1 - y)
    assert governed.settle(other).status == "refused"
    assert [gate.view for gate in other.stopped_by] == ["whole"]


def test_bounds_and_cadence_of_the_clause_are_gates() -> None:
    contract = make_contract(since_validation=0.05, least_hours=24.0)
    _, governed, clock = make_governed(contract)

    def scale_by(factor: float) -> object:
        def change(trial: nl.Learner) -> None:
            with torch.no_grad():
                trial.model.spine.weight.mul_(factor)

        return change

    def propose(factor: float) -> nl.oversight.ChangeProposal:
        return governed.propose("M2", scale_by(factor), by="anna", reason="drift")  # type: ignore[arg-type]

    assert propose(1.2).status == "refused"
    assert governed.settle(propose(1.04)).status == "committed"
    early = propose(1.001)
    assert "hours since the last commit" in early.describe()
    clock.at += DAY
    late = propose(1.04)  # 1.04 * 1.04 is beyond 1.05
    assert "since_validation" in late.describe()
    governed.validate(by="dr. chen", note="looked at")
    assert governed.settle(propose(1.04)).status == "committed"


def test_an_expired_review_lets_nothing_through() -> None:
    review = Review(by="dr. chen", on=date(2026, 9, 1), until=date(2026, 10, 1))
    learner, governed, clock = make_governed(make_contract(reviews=[review]))
    assert governed.propose("M2", train_on(*make_rows()), by="anna", reason="a").status == "open"
    clock.at += 30 * DAY
    proposal = governed.propose("M2", train_on(*make_rows()), by="anna", reason="b")
    assert proposal.status == "refused"
    assert "ended 2026-10-01" in proposal.describe()
    del learner


def test_what_has_too_few_rows_is_said_and_not_passed() -> None:
    contract = make_contract(behaviour=[HOLDS])
    learner = nl.Learner(TwoParts(), make_plan())
    governed = nl.govern(learner, contract, probes={"accuracy": make_data(10)}, now=Clock())
    proposal = governed.propose("M2", train_on(*make_rows()), by="anna", reason="drift")
    assert proposal.status == "refused"
    assert {gate.status for gate in proposal.stopped_by} == {"not judged"}
    judged = [event for event in governed.take_events() if event.happening == "judged"]
    assert {event.passed for event in judged} == {None}


def test_a_duty_that_is_overdue_stops_its_level_until_a_proposal_meets_it() -> None:
    duty = MustChange(
        "H1",
        harm="misses the second finding",
        probe="second",
        level="fast",
        by=date(2026, 9, 25),
        least=0.8,
        views=["whole"],
    )
    probes = [ProbeSpec("second", metric="accuracy")]
    contract = make_contract(duties=[duty], probes=probes)
    learner, clock = nl.Learner(TwoParts(), make_plan()), Clock()
    x, _ = make_rows(200, seed=9)
    second = nl.judge.ProbeData(x, (x[:, 1] > 0).long())
    governed = nl.govern(learner, contract, probes={"second": second}, now=clock)
    assert [one.state for one in governed.duties] == ["open"]
    clock.at += 30 * DAY
    assert not nl.judge.is_kept(governed.check())
    assert governed.stopped == {"fast": "a duty is overdue"}
    assert [e.happening for e in governed.take_events()][-1] == "duty"
    before = learner.levels["fast"].digest()
    train_on(*make_rows())(learner)
    assert learner.levels["fast"].digest() == before  # it stands still
    x, _ = make_rows()
    worse = governed.propose("M1", train_on(x, (x[:, 0] > 0).long()), by="anna", reason="more")
    assert worse.status == "refused"
    assert "H1" in [gate.clause for gate in worse.stopped_by]
    better = governed.propose(
        "M1", train_on(x, (x[:, 1] > 0).long(), 400), by="anna", reason="mends it"
    )
    assert governed.settle(better).status == "committed"
    governed.check()
    assert governed.stopped == {}


def test_a_clock_that_goes_back_is_refused() -> None:
    learner, governed, clock = make_governed(make_contract())
    clock.at -= 1.0
    for call in (
        lambda: governed.propose("M2", flip_spine, by="anna", reason="drift"),
        lambda: governed.validate(by="dr. chen"),
        governed.check,
    ):
        with pytest.raises(ClockError, match="the clock went back"):
            call()
    assert governed.proposals == []
    del learner


def test_a_contract_that_does_not_fit_is_refused_before_anything_is_held() -> None:
    learner = nl.Learner(TwoParts(), make_plan())
    data = make_contract().to_data()
    data["may_change"] = data["may_change"][1:]
    with pytest.raises(SettingError, match="level 'fast' learns, but no modification"):
        nl.govern(learner, nl.Contract.from_data(data), probes={"accuracy": make_data()})
    with pytest.raises(SettingError, match="probe 'accuracy' has no data"):
        nl.govern(learner, make_contract())
    both = {"accuracy": make_data(), "precision": make_data()}
    with pytest.raises(SettingError, match="which the contract does not list"):
        nl.govern(learner, make_contract(), probes=both)
    with pytest.raises(SettingError, match="govern takes a learner"):
        nl.govern(learner.model, make_contract())
    before = learner.levels["spine"].digest()
    train_on(*make_rows())(learner)
    assert learner.levels["spine"].digest() != before


def test_what_is_fixed_must_be_as_it_was_signed() -> None:
    learner = nl.Learner(TwoParts(), make_plan())
    data = make_contract(probes=[]).to_data()
    digest = nl.consolidate.proposal.digest_tensor(learner.model.scale.weight)
    data["may_change"] = data["may_change"][:2]
    fixed = {"parameters": ["scale.*"], "digests": {"scale.weight": digest}}
    contract = nl.Contract.from_data({**data, "must_stay_fixed": fixed})
    governed = nl.govern(learner, contract, now=Clock())
    train_on(*make_rows())(learner)
    assert nl.judge.is_kept(governed.check())
    with torch.no_grad():
        learner.model.scale.weight[0, 1] = 1e-7  # by hand, one bit or two
    found = {f.clause: f.message for f in governed.check() if f.status == "failed"}
    assert "'scale.weight' (changed) must stay bit for bit" in found["parameters"]
    assert "level 'scale' changed" in found["scale"]
    with pytest.raises(ContractError, match=r"'scale.weight' is not as it was signed"):
        nl.govern(learner, contract, now=Clock())


def test_a_level_that_explodes_is_put_back_alone() -> None:
    learner, governed, _ = make_governed(make_contract())
    train_on(*make_rows())(learner)
    spine = learner.levels["spine"].digest()
    optimizer = learner.optimizer
    assert optimizer is not None
    optimizer.zero_grad()
    for param in learner.model.fast.parameters():
        param.grad = torch.full_like(param, float("nan"))
    optimizer.step()
    assert learner.levels["spine"].digest() == spine
    assert all(bool(param.isfinite().all()) for param in learner.model.parameters())
    governed.hear(optimizer.take_events())
    assert governed.take_events()[-1].happening == "braked"
