"""A level is the unit of state: read, turned, digested, taken out and put into another learner."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import differences, make_batch, read_answer, read_state
from nestling.core.errors import ForeignSnapshot, MismatchedParameters, SettingError
from nestling.levels import Clock


class Net(nn.Sequential):
    def __init__(self, num_outputs: int = 2) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Linear(4, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, num_outputs)
        )


def make_plan(period: int = 4) -> nl.Plan:
    return nl.Plan(
        nl.Memory("facts", on="input", half_lives=(20.0, math.inf), num_features=10),
        nl.Level("head", match=["3.*"], optimizer=nl.sgd(lr=0.1, momentum=0.9)),
        nl.Level("spine", match=["*"], period=period, optimizer=nl.adamw(lr=1e-3)),
        nl.Copy("average", of=["head"], decay=0.9, probability=0.5),
        readout=nl.mix("facts", "live", "average"),
    )


def make_learner(num_batches: int = 0, first: int = 0, period: int = 4) -> nl.Learner:
    learner = nl.Learner(Net(), make_plan(period))
    for seed in range(first, first + num_batches):
        learner.learn(*make_batch(seed))
    return learner


NAMES = ["facts", "head", "spine", "average"]


def test_every_level_of_the_plan_is_there_in_its_order() -> None:
    learner = make_learner(5)
    assert list(learner.levels) == NAMES
    assert len(learner.levels) == 4
    assert "live" not in learner.levels
    clocks = {name: level.clock for name, level in learner.levels.items()}
    assert clocks["head"] == Clock("steps", age=0, num_ticks=5, num_updates=5)
    assert clocks["spine"] == Clock("steps", age=1, num_ticks=5, num_updates=1)
    assert clocks["facts"] == Clock("examples", num_ticks=80, num_updates=80)
    readings = {reading.level: reading for reading in learner.read_levels()}
    for name, level in learner.levels.items():
        assert level.read().num_updates == readings[name].num_updates


def test_tensors_are_what_a_level_is_made_of() -> None:
    learner = make_learner(5)
    head, spine = learner.levels["head"], learner.levels["spine"]
    assert set(head.tensors()) == {"3.weight", "3.bias"}
    # Running statistics go with the weights of their module.
    assert set(spine.tensors()) >= {"0.weight", "1.weight", "1.running_mean", "1.running_var"}
    assert torch.equal(spine.tensors()["0.weight"], learner.model[0].weight)
    assert set(learner.levels["average"].tensors()) == {"3.weight", "3.bias"}
    assert len(learner.levels["facts"].tensors()) > 3
    for level in learner.levels.values():
        before = level.digest()
        for value in level.tensors().values():
            value.zero_()  # a copy
        assert level.digest() == before


def test_digests_say_which_levels_moved() -> None:
    learner = make_learner(8)  # the spine is at a boundary
    before = learner.levels.digests()
    assert before == {name: level.digest() for name, level in learner.levels.items()}
    learner.model.eval()
    with torch.no_grad():
        learner.model[3].bias += 1.0
    after = learner.levels.digests()
    assert [name for name in NAMES if before[name] != after[name]] == ["head"]


@pytest.mark.parametrize("name", NAMES)
def test_a_level_is_swapped_between_learners_and_back(name: str) -> None:
    one, other = make_learner(7), make_learner(10, first=50)
    digests = one.levels.digests()
    mine, theirs = one.levels[name].state_dict(), other.levels[name].state_dict()
    assert one.levels[name].digest() != other.levels[name].digest()
    one.levels[name].load_state_dict(theirs)
    now = one.levels.digests()
    assert now[name] == other.levels[name].digest()
    assert {k: v for k, v in now.items() if k != name} == {
        k: v for k, v in digests.items() if k != name
    }
    assert differences(one.levels[name].state_dict(), theirs) == []
    one.levels[name].load_state_dict(mine)
    assert one.levels.digests() == digests
    twin = make_learner(7)
    for seed in range(7, 14):  # and nothing of it is left
        one.learn(*make_batch(seed))
        twin.learn(*make_batch(seed))
    one_state, twin_state = read_state(one), read_state(twin)
    for state in (one_state, twin_state):
        del state["random"]["torch"]
    assert differences(one_state, twin_state) == []


def test_what_was_taken_out_stays_as_it_was() -> None:
    learner = make_learner(6)
    kept = {name: level.state_dict() for name, level in learner.levels.items()}
    before = copy.deepcopy(kept)
    for seed in range(6, 12):
        learner.learn(*make_batch(seed))
    assert differences(kept, before) == []


def make_foreign(kind: str) -> nl.Learner:
    plans = {
        "period": make_plan(),
        "wide": nl.Plan(
            nl.Memory("facts", on="input", half_lives=(20.0,), num_features=10),
            nl.Level("head", match=["3.*"], optimizer=nl.adamw()),
            nl.Level("spine", match=["*"], optimizer=nl.adamw()),
            nl.Copy("average", of=["head", "spine"]),
        ),
    }
    model = Net()
    if kind == "wide":
        model[0] = nn.Linear(4, 32)
        model[1], model[3] = nn.BatchNorm1d(32), nn.Linear(32, 2)
    return nl.Learner(model, plans[kind])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", [*NAMES, "wide", "half", "nothing", "cut"])
def test_a_level_of_another_plan_is_refused_in_one_line(name: str, other: str) -> None:
    if other == name:
        return
    learner = make_learner(6)
    state = learner.levels[other if other in NAMES else name].state_dict()
    if other == "wide":
        state = make_foreign("wide").levels[name].state_dict()
    elif other == "half":
        if name in ("facts", "average"):
            return
        state = nl.Learner(Net().half(), make_plan()).levels[name].state_dict()
    elif other == "nothing":
        state = {}
    elif other == "cut":
        state.popitem()
    before = read_state(learner)
    with pytest.raises(MismatchedParameters) as caught:
        learner.levels[name].load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert differences(before, read_state(learner)) == []


def test_knobs_are_turned_on_the_level_or_through_the_learner() -> None:
    learner = make_learner(5)
    direct = learner.levels["spine"].control(period=2, reason="follow faster")
    through = learner.control("average", decay=0.5, reason="follow faster")
    assert learner.levels["spine"].spec.period == 4  # until its boundary
    assert learner.levels["average"].spec.decay == 0.5  # whose period is 1
    happened = [event for seed in range(4) for event in learner.learn(*make_batch(seed)).events]
    assert happened == [through, direct]
    assert (through.applied_at, direct.applied_at) == (5, 8)
    assert learner.levels["spine"].spec.period == 2
    with pytest.raises(SettingError, match="needs a reason"):
        learner.levels["head"].control(period=2, reason="")
    learner.control("head", gate=[nl.ParentGate(of="spine")], reason="r")
    with pytest.raises(SettingError, match="circle"):
        learner.levels["spine"].control(gate=[nl.ParentGate(of="head")], reason="r")


def test_changes_that_wait_go_with_the_level() -> None:
    one, other = make_learner(5), make_learner(5)
    one.control("spine", lr=0.5, reason="follow")
    other.levels["spine"].load_state_dict(one.levels["spine"].state_dict())
    happened = [event for seed in range(3) for event in other.learn(*make_batch(seed)).events]
    assert [(event.level, event.applied_at) for event in happened] == [("spine", 8)]
    assert other.levels["spine"].group["lr"] == 0.5


def test_frozen_parameters_and_shared_buffers_are_saved_beside_the_levels(tmp_path: Path) -> None:
    model = Net()
    model[0].requires_grad_(False)
    model.register_buffer("seen", torch.zeros(1), persistent=False)
    learner = nl.Learner(model, make_plan())
    model.seen += 3.0
    learner.learn(*make_batch())
    assert set(learner.levels.rest()) == {"0.weight", "0.bias", "seen"}
    learner.snapshot(tmp_path / "s")
    again = Net()
    again[0].requires_grad_(False)
    again.register_buffer("seen", torch.zeros(1), persistent=False)
    nn.init.zeros_(again[0].weight)
    twin = nl.Learner(again, make_plan())
    twin.restore(tmp_path / "s")
    assert torch.equal(twin.model[0].weight, model[0].weight)
    assert float(twin.model.seen) == 3.0


# --- snapshots


def list_files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.name: (path.stat().st_ino, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("where", ["the same folder", "another folder"])
def test_a_second_snapshot_writes_only_the_levels_that_moved(where: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4096), nn.ReLU(), nn.Linear(4096, 512), nn.Linear(512, 2))
    plan = nl.Plan(
        nl.Memory("facts", on="input", num_features=100, half_lives=(math.inf,)),
        nl.Level("head", match=["3.*"]),
        nl.Level("spine", match=["*"], period=100, between="skip"),
        readout=nl.mix("facts", "live"),
    )
    learner = nl.Learner(model, plan)
    learner.learn(*make_batch(0))
    learner.snapshot(tmp_path / "first")
    before = list_files(tmp_path / "first")
    digests = learner.levels.digests()
    learner.learn(*make_batch(1))
    moved = [name for name, digest in learner.levels.digests().items() if digest != digests[name]]
    assert moved == ["facts", "head"]
    second = tmp_path / ("first" if where == "the same folder" else "second")
    learner.snapshot(second)
    written = [size for inode, size in list_files(second).values()
               if inode not in {inode for inode, _ in before.values()}]  # fmt: skip

    def count_bytes(value: object) -> int:
        if isinstance(value, Tensor):
            return value.nbytes
        if isinstance(value, dict):
            return sum(map(count_bytes, value.values()))
        return sum(map(count_bytes, value)) if isinstance(value, list | tuple) else 0

    wanted = sum(count_bytes(learner.levels[name].state_dict()) for name in moved)
    spine = count_bytes(learner.levels["spine"].state_dict())
    assert spine > 20 * wanted
    assert sum(written) < 1.1 * wanted + 40_000  # gates, clocks and the manifest, as JSON
    twin = nl.Learner(copy.deepcopy(model), plan)
    twin.restore(second)
    x, _ = make_batch(9)
    assert torch.equal(read_answer(twin, x), read_answer(learner, x))


def test_one_level_can_be_read_out_of_a_snapshot(tmp_path: Path) -> None:
    learner, other = make_learner(6), make_learner(3)
    learner.snapshot(tmp_path / "s")
    for name in NAMES:
        state = nl.learn.read_level(tmp_path / "s", name)
        assert differences(learner.levels[name].state_dict(), state) == []
        other.levels[name].load_state_dict(state)
    assert other.levels.digests() == learner.levels.digests()
    with pytest.raises(ForeignSnapshot, match="did you mean 'head'"):
        nl.learn.read_level(tmp_path / "s", "heda")


@pytest.mark.parametrize("damage", ["a weight", "a clock", "a level", "a part", "the plan"])
def test_a_state_that_does_not_fit_changes_nothing(damage: str) -> None:
    learner = make_learner(6)
    other = make_learner(9)
    before, state = read_state(learner), other.state_dict()
    if damage == "a weight":
        state["levels"]["levels"]["spine"]["weights"]["0.weight"] = torch.zeros(3, 3)
    elif damage == "a clock":
        del state["levels"]["levels"]["average"]["clock"]
    elif damage == "a level":
        del state["levels"]["levels"]["facts"]
    elif damage == "a part":
        del state["panel"]["readout"]["prior"]  # comes after the levels
    else:
        state["plan"] = make_plan(period=5).to_data()
    with pytest.raises(ForeignSnapshot) as caught:
        learner.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert differences(before, read_state(learner)) == []


def test_nothing_in_a_state_grows_with_time() -> None:
    learner = make_learner(2)

    def count_leaves(value: object) -> int:
        if isinstance(value, dict):
            return sum(map(count_leaves, value.values()))
        if isinstance(value, list | tuple):
            return sum(map(count_leaves, value))
        return 1

    for seed in range(64):
        learner.control("head", lr=0.1 + seed / 1e3, reason="turn it again and again")
        learner.learn(*make_batch(seed))
    early = count_leaves(learner.state_dict())
    for seed in range(64):
        learner.control("head", lr=0.2 + seed / 1e3, reason="turn it again and again")
        learner.learn(*make_batch(seed))
    assert count_leaves(learner.state_dict()) == early
