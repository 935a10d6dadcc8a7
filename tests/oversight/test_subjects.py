"""The same contract at work on a plain training loop, a stream learner, and with a record."""

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import ClockError, ContractError, SettingError, VersionError
from nestling.judge import (
    FixedBehaviour,
    Interface,
    LevelRole,
    MayChange,
    MustChange,
    ProbeData,
    ProbeSpec,
    StaysFixed,
)
from nestling.ledger.governance_log import GovernanceLog
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


def take_steps(optimizer: nl.NestedOptimizer, num: int = 10) -> None:
    x, y = make_rows()
    for _ in range(num):
        optimizer.zero_grad()
        nn.functional.cross_entropy(optimizer.model(x), y).backward()
        optimizer.step()


def test_a_plain_training_loop_is_governed_alike() -> None:
    optimizer = nl.NestedOptimizer(TwoParts(), make_plan())
    contract = make_contract(behaviour=[HOLDS], approvals=1)
    governed = nl.govern(optimizer, contract, probes={"accuracy": make_data()}, now=Clock())
    before = optimizer.levels.digests()
    take_steps(optimizer)
    after = optimizer.levels.digests()
    assert {name for name in before if before[name] != after[name]} == {"fast"}
    proposal = governed.propose("M2", take_steps, by="anna", reason="drift")
    assert optimizer.levels.digests() == after
    governed.approve(proposal, by="ben")
    assert governed.settle(proposal).status == "committed"
    now = optimizer.levels.digests()
    assert {name for name in now if now[name] != after[name]} == {"spine"}
    take_steps(optimizer)  # it goes on, the spine held again
    assert optimizer.levels["spine"].digest() == now["spine"]

    def flip(trial: nl.NestedOptimizer) -> None:
        with torch.no_grad():
            trial.model.spine.weight.neg_()  # type: ignore[union-attr,operator]
            trial.model.spine.weight.mul_(0.01)  # type: ignore[union-attr,operator]

    refused = governed.propose("M2", flip, by="anna", reason="drift")
    assert "spine" in [gate.view for gate in refused.stopped_by]


def make_stream_contract() -> nl.Contract:
    names = list(nl.StreamClassifier().levels)
    clauses = [
        MayChange(f"M{at}", level=name, what="drift", trigger="automatic")
        for at, name in enumerate(names)
        if name != "spine"
    ]
    spine = MayChange("S1", level="spine", what="guidelines", trigger="proposal")
    behaviour = FixedBehaviour("B1", probe="accuracy", least=0.8, views=["spine", "whole"])
    return nl.Contract(
        "events",
        owner="the bank",
        levels=[LevelRole("spine", role="spine")],
        may_change=[*clauses, spine],
        must_stay_fixed=StaysFixed(behaviour=[behaviour]),
        probes=[ProbeSpec("accuracy", metric="accuracy")],
    )


def test_a_stream_learner_is_governed_alike(tmp_path: Path) -> None:
    learner = nl.StreamClassifier()
    events = [{"a": float(n % 7), "b": float(n % 3)} for n in range(600)]
    labels = [n % 7 > 3 for n in range(600)]
    learner.learn_many(events[:300], labels[:300])
    target = torch.tensor([learner.classes.index(label) for label in labels[:200]])
    data = {"accuracy": ProbeData(events[:200], target)}
    governed = nl.govern(
        learner, make_stream_contract(), probes=data, folder=tmp_path / "run", now=Clock()
    )
    assert nl.judge.is_kept([f for f in governed.check() if f.clause == "B1"])
    before = learner.levels.digests()
    learner.learn_many(events[300:400], labels[300:400])
    assert learner.levels["spine"].digest() == before["spine"]
    assert learner.levels["tree"].digest() != before["tree"]

    def teach(trial: nl.StreamClassifier) -> None:
        trial.learn_many(events[400:], labels[400:])

    others = learner.levels.digests()
    proposal = governed.propose("S1", teach, by="anna", reason="new rules")
    assert learner.levels.digests() == others
    assert governed.settle(proposal).status == "committed"
    now = learner.levels.digests()
    assert {name for name in now if now[name] != others[name]} == {"spine"}

    def mislead(trial: nl.StreamClassifier) -> None:
        for _ in range(3):
            trial.learn_many(events, [not label for label in labels])

    worse = governed.propose("S1", mislead, by="anna", reason="other rules")
    assert [gate.view for gate in worse.stopped_by] == ["spine"]
    governed.rollback("spine", "v0001", by="ben", reason="the rules were withdrawn")
    assert learner.levels["spine"].digest() == before["spine"]


def test_versions_events_and_figures_are_kept_and_one_level_goes_back(tmp_path: Path) -> None:
    learner, clock = nl.Learner(TwoParts(), make_plan()), Clock()
    contract = make_contract(behaviour=[HOLDS])
    probes, folder = {"accuracy": make_data()}, tmp_path / "run"
    governed = nl.govern(learner, contract, probes=probes, folder=folder, now=clock)
    start = learner.levels.digests()
    clock.at += DAY
    train_on(*make_rows())(learner)
    proposal = governed.propose("M2", train_on(*make_rows()), by="anna", reason="guideline")
    governed.settle(proposal)
    clock.at += DAY
    governed.validate(by="dr. chen", note="looked at 20 patients")
    origins = [one.origin for one in governed.versions.records]
    assert origins == ["began", "committed", "validated"]
    committed = governed.versions.records[1]
    assert committed.changes["spine"] > 0.0
    assert committed.digests == learner.levels.digests()
    assert committed.contract_digest == contract.digest
    assert "accuracy/spine" in committed.behaviour
    fast = learner.levels["fast"].digest()
    made = governed.rollback("spine", "v0001", by="ben", reason="withdrawn")
    assert made == "v0004"
    assert learner.levels["spine"].digest() == start["spine"]
    assert learner.levels["fast"].digest() == fast
    train_on(*make_rows())(learner)
    assert learner.levels["spine"].digest() == start["spine"]  # held again
    kept = GovernanceLog(folder).read()
    assert [event.happening for event in kept] == [e.happening for e in governed.take_events()]
    assert kept[-1].undo == f"nestling rollback {folder} spine --to v0003"
    for name in ("contract.toml", "versions.jsonl", "governance.jsonl", "probes.jsonl"):
        assert (folder / name).exists()
    assert nl.Contract.of(folder / "contract.toml").digest == contract.digest


def test_a_level_that_goes_back_may_learn_its_feedback_again(tmp_path: Path) -> None:
    learner = nl.Learner(TwoParts(), make_plan())
    governed = nl.govern(
        learner, make_contract(), probes={"accuracy": make_data()}, folder=tmp_path, now=Clock()
    )
    x, y = make_rows()
    train_on(x, y)(learner)
    others = {name: one.digest() for name, one in learner.levels.items() if name != "fast"}
    twin = learner.copy()
    governed.rollback("fast", "v0001", by="ben", reason="bad", feedback=[(x, y)] * 10)
    assert learner.levels["fast"].digest() == twin.levels["fast"].digest()
    governed.rollback("fast", "v0001", by="ben", reason="bad", feedback=train_on(x, y))
    assert learner.levels["fast"].digest() == twin.levels["fast"].digest()
    assert {n: one.digest() for n, one in learner.levels.items() if n != "fast"} == others


@pytest.mark.parametrize(
    ("level", "to", "error", "words"),
    [
        ("spine", "v0009", VersionError, "no version 'v0009'"),
        ("spin", "v0001", Exception, "did you mean 'spine'"),
    ],
)
def test_what_is_not_there_is_not_rolled_back(
    tmp_path: Path, level: str, to: str, error: type[Exception], words: str
) -> None:
    learner = nl.Learner(TwoParts(), make_plan())
    governed = nl.govern(
        learner, make_contract(), probes={"accuracy": make_data()}, folder=tmp_path, now=Clock()
    )
    train_on(*make_rows())(learner)
    before = learner.levels.digests()
    with pytest.raises(error, match=words):
        governed.rollback(level, to, by="ben", reason="bad")
    assert learner.levels.digests() == before
    assert len(governed.versions.records) == 1


def test_a_version_of_another_plan_is_refused(tmp_path: Path) -> None:
    data = {"accuracy": make_data()}
    nl.govern(
        nl.Learner(TwoParts(), make_plan()),
        make_contract(),
        probes=data,
        folder=tmp_path,
        now=Clock(),
    )
    plan = nl.Plan(*(*make_plan().levels, nl.Copy("stable", of=["fast"])))
    contract = make_contract().to_data()
    contract["may_change"].append({"id": "M9", "level": "stable", "what": "follows"})
    learner = nl.Learner(TwoParts(), plan)
    governed = nl.govern(
        learner, nl.Contract.from_data(contract), probes=data, folder=tmp_path, now=Clock()
    )
    before = learner.levels.digests()
    with pytest.raises(VersionError, match="another plan"):
        governed.rollback("spine", "v0001", by="ben", reason="bad")
    assert learner.levels.digests() == before


def test_without_a_folder_nothing_can_be_rolled_back() -> None:
    learner = nl.Learner(TwoParts(), make_plan())
    governed = nl.govern(learner, make_contract(), probes={"accuracy": make_data()}, now=Clock())
    with pytest.raises(SettingError, match="no versions are kept"):
        governed.rollback("spine", "v0001", by="ben", reason="bad")
    with pytest.raises(SettingError, match="no versions are kept"):
        governed.keep_version(reason="as it is")


def test_a_learner_whose_clock_went_back_does_not_learn() -> None:
    learner, clock = nl.Learner(TwoParts(), make_plan()), Clock()
    contract = make_contract().to_data()
    contract["may_change"][0]["level"] = "spine"
    contract["may_change"][0]["per_update"] = 0.1
    contract["may_change"][1] = {"id": "M2", "level": "fast", "what": "drift"}
    nl.govern(learner, nl.Contract.from_data(contract), probes={"accuracy": make_data()}, now=clock)
    train_on(*make_rows())(learner)
    before = learner.levels.digests()
    clock.at -= 5.0
    with pytest.raises(ClockError, match="went back"):
        train_on(*make_rows())(learner)
    assert learner.levels.digests() == before


def test_after_a_restart_budgets_baselines_and_references_are_those_of_before(
    tmp_path: Path,
) -> None:
    flips = ProbeSpec("flips", metric="negative_flip_rate")
    probes = (ProbeSpec("accuracy", metric="accuracy"), flips)
    contract = make_contract(behaviour=[HOLDS], probes=probes, since_validation=0.5)
    data = {"accuracy": make_data(), "flips": make_data()}
    clock, folder = Clock(), tmp_path / "run"
    learner = nl.Learner(TwoParts(), make_plan())
    governed = nl.govern(learner, contract, probes=data, folder=folder, now=clock)
    train_on(*make_rows(), steps=30)(learner)
    governed.settle(governed.propose("M2", train_on(*make_rows()), by="anna", reason="drift"))
    readings = {one.level: one.change_since_validation for one in governed.read()}
    measured = governed.check()
    learner.snapshot(tmp_path / "last")

    twin = nl.Learner(TwoParts(), make_plan())
    twin.restore(tmp_path / "last")
    clock.at += 60.0
    again = nl.govern(twin, contract, probes=data, folder=folder, now=clock)
    assert {one.level: one.change_since_validation for one in again.read()} == readings
    assert [(f.clause, f.view, f.status) for f in again.check()] == [
        (f.clause, f.view, f.status) for f in measured
    ]
    for view in ("spine", "whole"):
        for name in ("accuracy", "flips"):
            assert again.measured[view][name].value == governed.measured[view][name].value
    assert len(again.versions.records) == 2
    proposal = again.propose("M2", train_on(*make_rows()), by="anna", reason="drift")
    assert proposal.id == "p0002"
    clock.at -= 120.0
    with pytest.raises(ClockError, match="went back"):
        nl.govern(twin, contract, probes=data, folder=folder, now=clock)


def test_after_a_restart_what_is_fixed_must_be_as_it_was(tmp_path: Path) -> None:
    data = make_contract(probes=[]).to_data()
    data["may_change"] = data["may_change"][:2]
    contract = nl.Contract.from_data({**data, "must_stay_fixed": {"parameters": ["scale.*"]}})
    learner = nl.Learner(TwoParts(), make_plan())
    nl.govern(learner, contract, folder=tmp_path, now=Clock())
    with torch.no_grad():
        learner.model.scale.weight.mul_(1.5)
    with pytest.raises(ContractError, match=r"'scale.weight' must stay fixed and is not"):
        nl.govern(learner, contract, folder=tmp_path, now=Clock())


def test_what_happens_while_it_learns_is_kept(tmp_path: Path) -> None:
    learner = nl.Learner(TwoParts(), make_plan())
    governed = nl.govern(
        learner, make_contract(), probes={"accuracy": make_data()}, folder=tmp_path, now=Clock()
    )
    learner.control("fast", lr=0.1, reason="calmer")
    governed.hear(learner.learn(*make_rows()).events)
    held = nl.levels.Held("ward 7", "rate", 3, "3 rows held: too many of one source")
    governed.hear([held])
    changed, kept = GovernanceLog(tmp_path).read()[-2:]
    assert (changed.happening, changed.level) == ("changed", "fast")
    assert "calmer" in changed.message
    assert (kept.happening, kept.by, kept.clause) == ("held", "ward 7", "rate")


def test_a_duty_that_runs_out_stops_its_level_while_it_learns() -> None:
    duty = MustChange(
        "H1",
        harm="misses it",
        probe="accuracy",
        level="fast",
        by=date(2026, 9, 25),
        most=0.1,
        views=["whole"],
    )
    learner, clock = nl.Learner(TwoParts(), make_plan()), Clock()
    contract = make_contract(duties=[duty])
    governed = nl.govern(learner, contract, probes={"accuracy": make_data()}, now=clock)
    before = learner.levels["fast"].digest()
    train_on(*make_rows())(learner)
    during = learner.levels["fast"].digest()
    assert during != before
    clock.at += 30 * DAY
    train_on(*make_rows())(learner)
    assert learner.levels["fast"].digest() == during
    assert governed.stopped == {"fast": "a duty is overdue"}
    assert "stands still until" in governed.take_events()[-1].message


def test_cohorts_of_a_loop_of_ones_own_have_a_view_each() -> None:
    clause = FixedBehaviour("B1", probe="accuracy", least=0.8, views=["whole", "cohorts"])
    optimizer = nl.NestedOptimizer(TwoParts(), make_plan())

    def ask_clinic(target: nl.NestedOptimizer) -> Callable[[Tensor], Tensor]:
        """Its own fast part turns the answer round."""
        return lambda x: target.model(x).softmax(1).flip(1).detach()

    governed = nl.govern(
        optimizer,
        make_contract(behaviour=[clause]),
        probes={"accuracy": make_data()},
        cohorts={"clinic": ask_clinic},
        now=Clock(),
    )
    found = {f.view: f.status for f in governed.check() if f.clause == "B1"}
    assert found == {"whole": "passed", "cohorts/clinic": "failed"}
    proposal = governed.propose("M2", take_steps, by="anna", reason="drift")
    assert [gate.view for gate in proposal.stopped_by] == ["cohorts/clinic"]


def test_the_interface_is_judged_by_what_probes_show_and_get() -> None:
    data = make_contract(behaviour=[HOLDS]).to_data()
    wanted = {"task": "classification", "input_shape": [2], "num_outputs": 2}
    data["must_stay_fixed"]["interface"] = wanted
    optimizer = nl.NestedOptimizer(TwoParts(), make_plan())
    probes = {"accuracy": make_data()}
    governed = nl.govern(optimizer, nl.Contract.from_data(data), probes=probes, now=Clock())
    assert {f.status for f in governed.check()} == {"passed"}
    wanted["num_outputs"] = 3
    governed = nl.govern(optimizer, nl.Contract.from_data(data), probes=probes, now=Clock())
    assert [f.clause for f in governed.check() if f.status == "failed"] == ["interface"]


def test_a_head_that_grows_leaves_the_spine_its_view() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    plan = nl.Plan(nl.Level("head", match=["2.*"]), nl.Level("spine", match=["*"]))
    learner = nl.Learner(model, plan)
    learner.learn(*make_rows())
    contract = nl.Contract(
        "growing",
        levels=[LevelRole("spine", role="spine")],
        may_change=[
            MayChange("M1", level="head", what="new classes"),
            MayChange("M2", level="spine", what="guidelines", trigger="proposal"),
        ],
        probes=[ProbeSpec("accuracy", metric="accuracy")],
    )
    governed = nl.govern(learner, contract, probes={"accuracy": make_data()}, now=Clock())
    x, y = make_rows()
    learner.learn(x, y + 1)  # a third class
    governed.check()
    assert set(governed.measured) == {"spine", "whole"}


def test_an_amended_contract_is_noted(tmp_path: Path) -> None:
    learner, data = nl.Learner(TwoParts(), make_plan()), {"accuracy": make_data()}
    nl.govern(learner, make_contract(), probes=data, folder=tmp_path, now=Clock())
    nl.govern(learner, make_contract(approvals=2), probes=data, folder=tmp_path, now=Clock())
    assert "amended" in GovernanceLog(tmp_path).read()[-1].message


def make_value_contract(levels: Sequence[str]) -> nl.Contract:
    behaviour = FixedBehaviour("B1", probe="distance", most=2.0, views=["spine", "whole"])
    return nl.Contract(
        "values",
        levels=[LevelRole("spine", role="spine")],
        may_change=[MayChange(f"M{at}", level=name, what="all") for at, name in enumerate(levels)],
        must_stay_fixed=StaysFixed(behaviour=[behaviour], interface=Interface(task="regression")),
        probes=[ProbeSpec("distance", metric="mean_absolute_error")],
    )


def test_a_loop_that_predicts_values_is_governed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
    plan = nl.Plan(nl.Level("head", match=["2.*"]), nl.Level("spine", match=["*"]))
    optimizer = nl.NestedOptimizer(model, plan)
    x = torch.linspace(-1, 1, 64)[:, None]
    contract = make_value_contract(["head", "spine"])
    governed = nl.govern(
        optimizer, contract, probes={"distance": ProbeData(x, x[:, 0])}, now=Clock()
    )
    findings = governed.check()
    assert nl.judge.is_kept(findings), findings
    assert governed.measured["whole"]["distance"].value < 2.0


def test_a_stream_of_values_is_governed() -> None:
    learner = nl.StreamRegressor()
    events = [{"hour": n % 24} for n in range(400)]
    learner.learn_many(events, [float(n % 24) for n in range(400)])
    target = torch.arange(48, dtype=torch.float64) % 24
    governed = nl.govern(
        learner,
        make_value_contract(list(learner.levels)),
        probes={"distance": ProbeData(events[:48], target)},
        now=Clock(),
    )
    assert {f.status for f in governed.check()} == {"passed"}
    assert set(governed.measured) == {"spine", "whole"}


def test_a_refused_contract_leaves_no_trace(tmp_path: Path) -> None:
    """Nothing is held, bound or written, whatever it is that does not fit."""
    learner, data = nl.Learner(TwoParts(), make_plan()), {"accuracy": make_data()}
    zero = make_contract().to_data()
    zero["may_change"][0]["per_update"] = 0.1  # of a level whose weights are all zero
    with pytest.raises(SettingError, match="weights that are all zero"):
        nl.govern(learner, nl.Contract.from_data(zero), probes=data, folder=tmp_path, now=Clock())
    assert not (tmp_path / "contract.toml").exists()
    assert not learner.levels.governance.held
    assert learner.levels.gradient["spine"].budget is None
    nl.govern(learner, make_contract(), probes=data, folder=tmp_path, now=Clock())
    before = (tmp_path / "contract.toml").read_text()
    late = Clock()
    late.at -= DAY
    with pytest.raises(ClockError, match="went back"):
        nl.govern(learner, make_contract(approvals=2), probes=data, folder=tmp_path, now=late)
    assert (tmp_path / "contract.toml").read_text() == before
    stream = nl.StreamClassifier()
    levels = list(stream.levels)
    clauses = [MayChange(f"M{at}", level=name, what="all") for at, name in enumerate(levels)]
    bound = MayChange("M99", level="sgd", what="all", per_update=0.1)
    contract = nl.Contract("events", may_change=[*clauses[1:], bound])
    with pytest.raises(SettingError, match="kernels know no bound"):
        nl.govern(stream, contract, now=Clock())
