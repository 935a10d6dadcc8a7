"""Change since a person validated is a number; what is held fixed keeps every bit."""

import math
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import nestling as nl
from governed_nets import Clock, Net, copy_weights, digest, draw, make_optimizer, measure, take_step
from nestling.core.errors import MismatchedParameters, SettingError
from nestling.core.params import digest_tensors
from nestling.levels import Alarm, ChangeBounds, NestedOptimizer
from nestling.levels.validation import measure_drift


def test_change_since_validation_is_read_for_every_kind_of_level() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    plan = nl.Plan(
        nl.Level("spine", match=["*"], optimizer=nl.sgd(lr=0.1)),
        nl.Copy("slow", of=["spine"], decay=0.9),
        nl.Memory("memory"),
    )
    learner = nl.Learner(model, plan, num_classes=3)
    learner.learn(*draw(0))
    assert all(one.change_since_validation is None for one in learner.read_levels())
    learner.levels.mark_validated(by="anna", at=5.0)
    before = copy_weights(model)
    assert [one.change_since_validation for one in learner.read_levels()] == [0.0] * 3
    for step in range(1, 6):
        learner.learn(*draw(step))
    found = {one.level: one.change_since_validation for one in learner.read_levels()}
    assert found["spine"] == pytest.approx(measure(model, before, ""), rel=1e-6)
    assert 0.0 < (found["slow"] or 0.0) < (found["spine"] or 0.0)
    assert (found["memory"] or 0.0) > 0.1


def test_drift_of_rows_that_came_and_names_that_went() -> None:
    ones = torch.ones(2, 2)
    assert measure_drift({"w": ones}, {"w": torch.cat([ones, ones])}) == 1.0
    assert measure_drift({"w": ones}, {"w": ones[:1]}) == pytest.approx(0.5**0.5)
    assert measure_drift({"w": ones}, {}) == 1.0
    assert measure_drift({}, {"w": ones}) == math.inf
    counted = {"w": ones, "num_batches": torch.tensor(100)}
    assert measure_drift(counted, counted | {"num_batches": torch.tensor(900)}) == 0.0


@pytest.mark.filterwarnings("ignore::nestling.levels.LevelAlarm")
def test_a_drift_budget_alarms_once_at_80_percent_and_anew_after_validation() -> None:
    model, clock = Net(), Clock()
    nested = make_optimizer(model, lr=0.3)
    nested.levels.bind("spine", ChangeBounds(since_validation=0.02), clock)
    for round_ in range(2):
        anchor = {n: v for n, v in copy_weights(model).items() if n[0] in "01"}
        alarms, shares = [], []
        for step in range(60):
            take_step(model, nested, 100 * round_ + step)
            shares.append(measure(model, anchor, "") / 0.02)
            happened = [e for e in nested.take_events() if isinstance(e, Alarm)]
            alarms += [(step, e) for e in happened if e.kind == "drift budget"]
        assert max(shares) <= 1.0 + 1e-5
        first = next(step for step, share in enumerate(shares) if share >= 0.8)
        assert [step for step, _ in alarms] == [first]
        assert alarms[0][1].level == "spine"
        assert "0.02" in alarms[0][1].message
        clock.at += 10.0
        nested.levels.mark_validated(by="anna", at=clock.at)
        assert nested.read_levels()[2].change_since_validation == 0.0


def test_validated_tensors_are_written_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = nl.Plan(nl.Level("spine", match=["*"], optimizer=nl.sgd(lr=0.1)), nl.Memory("memory"))
    learner = nl.Learner(nn.Linear(4, 3), plan, num_classes=3)
    learner.learn(*draw(0))
    learner.levels.mark_validated(by="anna", at=5.0)
    learner.levels.hold(["bias"])
    for step in (1, 2):
        learner.learn(*draw(step))
        learner.snapshot(tmp_path / str(step))
    manifests = [(tmp_path / str(step) / "manifest.json").read_text() for step in (1, 2)]
    names = [{one.name for one in (tmp_path / s).rglob("*") if one.is_file()} for s in ("1", "2")]
    assert all("validated state of spine" in manifest for manifest in manifests)
    assert len(names[0] & names[1]) >= 2, "both levels' validated tensors are linked"
    other = nl.Learner(nn.Linear(4, 3), plan, num_classes=3)
    other.restore(tmp_path / "2")
    assert repr(other.state_dict()) == repr(learner.state_dict())
    assert other.read_levels() == learner.read_levels()
    other.learn(*draw(3)), learner.learn(*draw(3))
    assert other.levels.digests() == learner.levels.digests()
    assert other.levels.governance.held == {"bias"}


def test_what_came_with_a_state_goes_with_another_and_what_was_asked_for_stays() -> None:
    plain, governed = make_optimizer(Net()), make_optimizer(Net())
    before = plain.state_dict()
    governed.levels.bind("spine", ChangeBounds(per_day=0.1), Clock())
    governed.levels.mark_validated(by="anna", at=1.0)
    governed.levels.hold(["5.bias"])
    state = governed.state_dict()
    plain.load_state_dict(state)
    assert repr(plain.state_dict()) == repr(state)
    plain.load_state_dict(before)
    assert repr(plain.state_dict()) == repr(before)
    governed.load_state_dict(before)
    assert governed.levels.governance.held == {"5.bias"}
    assert governed.levels.gradient["spine"].budget is not None


@pytest.mark.parametrize("by", ["", " ", None])
def test_a_validation_has_a_name(by: object) -> None:
    nested = make_optimizer(Net())
    with pytest.raises(SettingError, match="name who validated"):
        nested.levels.mark_validated(by=by, at=1.0)  # type: ignore[arg-type]
    assert nested.levels.governance.validation is None


@pytest.mark.parametrize("at", [math.nan, math.inf, "today", True])
def test_a_validation_has_a_time(at: object) -> None:
    nested = make_optimizer(Net())
    with pytest.raises(SettingError, match="seconds since 1970"):
        nested.levels.mark_validated(by="anna", at=at)  # type: ignore[arg-type]


def test_a_validation_does_not_come_before_the_last() -> None:
    nested = make_optimizer(Net())
    nested.levels.mark_validated(by="anna", at=5.0)
    with pytest.raises(SettingError, match="before the last validation"):
        nested.levels.mark_validated(by="bert", at=4.0)
    assert nested.levels.governance.validation.by == "anna"  # type: ignore[union-attr]


@pytest.mark.parametrize("names", [["0.wait"], ["0.weight", "*"], "0.weight"])
def test_only_what_there_is_can_be_held(names: Any) -> None:
    nested = make_optimizer(Net())
    with pytest.raises(SettingError, match="hold"):
        nested.levels.hold(names)
    assert nested.levels.governance.held == frozenset()


def test_a_head_that_is_held_does_not_grow() -> None:
    learner = nl.Learner(
        nn.Linear(4, 2), nl.Plan(nl.Level("all", match=["*"], optimizer=nl.sgd(lr=0.1)))
    )
    learner.levels.hold(["weight"])
    x, _ = draw(0)
    learner.learn(x, torch.arange(16) % 2)
    before = digest(learner.model)
    with pytest.raises(SettingError, match="num_classes"):
        learner.learn(x, torch.arange(16) % 3)
    assert digest(learner.model) == before


def test_a_state_that_holds_what_is_not_here_is_refused() -> None:
    nested = make_optimizer(Net())
    nested.levels.hold(["5.bias"])
    state = nested.state_dict()
    state["state"]["governed"]["held"] = ["9.bias"]
    with pytest.raises(MismatchedParameters, match=r"9\.bias"):
        make_optimizer(Net()).load_state_dict(state)


class Tied(nn.Module):
    """A weight that has two names, a buffer of its own, and a zero with a sign."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.again = nn.Linear(4, 2)
        self.tied = self.last
        with torch.no_grad():
            for param in self.parameters():
                param.view(-1)[0] = -0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3) -> (N, 2)."""
        hidden = self.norm(self.first(x)).relu()
        return self.again(self.tied(self.last(hidden)))  # type: ignore[no-any-return]


RULES: list[Callable[[], Any]] = [
    lambda: nl.sgd(lr=0.1, weight_decay=0.1),
    lambda: nl.sgd(lr=0.1, momentum=0.9, weight_decay=0.1, fused=False),
    lambda: nl.adam(lr=0.05, weight_decay=0.1),
    lambda: nl.adamw(lr=0.05, weight_decay=0.3),
]
GATES: list[Any] = [
    (),
    (nl.levels.ImportanceGate(strength=1.0),),
    (nl.levels.SurpriseGate(), nl.levels.AgreementGate(half_life=3)),
    (nl.levels.ScheduleGate(start=0, stop=5, low=0.1, high=1.0),),
]
GLOBS = ["*", "first.*", "*.bias", "norm.*", "norm.running_*", "tied.weight", "last.b*", "again.*"]


@pytest.mark.filterwarnings("ignore::nestling.levels.LevelAlarm")
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_held_keeps_every_bit_in_1000_plans(data: st.DataObject) -> None:
    def choose(values: Any) -> Any:
        return data.draw(st.sampled_from(values))

    accumulate = choose(["separate", "in_place"])

    def settings_of() -> dict[str, Any]:
        return {
            "optimizer": choose(RULES)(),
            "period": choose([1, 1, 2, 3]),
            "gate": choose(GATES),
            "between": choose(["accumulate", "skip"]),
            "trust": choose([None, None, 0.01]),
            "protect": choose([False, False, True]),
        }

    model = Tied()
    plan = nl.Plan(
        nl.Level("head", match=["again.*"], **settings_of()),
        nl.Level("spine", match=["*"], **settings_of()),
        nl.Copy("slow", of=["head", "spine"], decay=0.5),
        nl.Copy("still", of=["spine"], decay=1.0),
    )
    nested = NestedOptimizer(model, plan, accumulate=accumulate, judge=bool)
    named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    globs = data.draw(st.lists(st.sampled_from(GLOBS), min_size=1, max_size=3))
    names = [name for name in named if any(fnmatch(name, glob) for glob in globs)]
    starts, num_steps = choose([1, 1, 2]), choose([2, 3, 5])
    if choose([False, True]):
        bounds = ChangeBounds(choose([None, 0.01]), choose([None, 0.02]), choose([None, 0.03]))
        nested.levels.bind("spine", bounds, Clock())
    then = ""
    for step in range(1, num_steps + 1):
        if step == starts:
            nested.levels.hold(names)
            then = digest_tensors({name: named[name] for name in names})
        if step == 2 and choose([False, True]):
            nested.control("spine", reason="test", lr=0.2, weight_decay=0.5)
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
        nested.zero_grad()
        if choose([False, True]):
            nested.prepare_step()
        loss = nn.functional.cross_entropy(model(x), torch.arange(6) % 2)
        if loss.requires_grad:
            loss.backward()
        nested.observe(loss)
        nested.step()
        if step >= starts:
            assert digest_tensors({name: named[name] for name in names}) == then


def test_a_level_that_is_held_whole_costs_no_backward_pass() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    plan = nl.Plan(nl.Level("head", match=["2.*"]), nl.Level("spine", match=["*"], period=4))
    learner = nl.Learner(model, plan)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8) % 2
    learner.learn(x, y)
    before = learner.levels["spine"].digest()
    learner.levels.hold(["0.weight", "0.bias"])
    for _ in range(9):
        learner.learn(x, y)
    assert learner.levels["spine"].digest() == before
    spine = {one.level: one for one in learner.read_levels()}["spine"]
    assert spine.share_backward_skipped == 0.9
    assert spine.num_updates == 0
    learner.levels.hold([])
    for _ in range(8):
        learner.learn(x, y)
    assert learner.levels["spine"].digest() != before
