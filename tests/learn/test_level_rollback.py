"""One level goes back to what it was; every other level, the gate and the rest stay bit for bit."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import make_batch
from nestling.core.errors import (
    ForeignSnapshot,
    MismatchedParameters,
    NestlingError,
    SettingError,
    UnknownLevel,
)
from nestling.learn.parts import SavedLevels, read_level, read_levels_state, write_levels

NAMES = ["facts", "head", "spine", "average"]


def make_net(num_outputs: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, num_outputs)
    )


def make_learner(*, frozen: bool = True, replay: int = 0, on: str | None = None) -> nl.Learner:
    plan = nl.Plan(
        nl.Memory("facts", on=on, half_lives=(20.0, math.inf), num_features=10, frozen=frozen),
        nl.Level("head", match=["3.*"], optimizer=nl.sgd(lr=0.1, momentum=0.9)),
        nl.Level("spine", match=["*"], period=2, optimizer=nl.adamw(lr=1e-2)),
        nl.Copy("average", of=["head"], decay=0.9),
        readout=nl.mix("facts", "live", "average"),
    )
    return nl.Learner(make_net(), plan, replay=replay)


def learn(learner: nl.Learner, start: int, end: int) -> None:
    for seed in range(start, end):
        learner.learn(*make_batch(seed))


@pytest.mark.parametrize("name", NAMES)
def test_live_rollback_of_one_level_is_exact_and_leaves_the_others(
    tmp_path: Path, name: str
) -> None:
    learner = make_learner()
    learn(learner, 0, 5)
    learner.snapshot(tmp_path / "one")
    then = learner.levels.digests()
    learn(learner, 5, 12)
    before, answer = learner.levels.digests(), learner.predict_proba(make_batch()[0])
    assert before[name] != then[name]
    learner.load_level(name, read_level(tmp_path / "one", name))
    assert learner.levels.digests() == before | {name: then[name]}
    assert not torch.equal(answer, learner.predict_proba(make_batch()[0]))
    learn(learner, 12, 15)  # it goes on
    assert all(math.isfinite(reading.factor) for reading in learner.read_levels())


@pytest.mark.parametrize("name", NAMES)
def test_rollback_of_files_equals_rollback_of_a_live_learner(tmp_path: Path, name: str) -> None:
    learner = make_learner()
    learn(learner, 0, 5)
    learner.snapshot(tmp_path / "one")
    then = learner.levels.digests()
    learn(learner, 5, 12)
    learner.snapshot(tmp_path / "two")
    now = learner.levels.digests()
    one, two = SavedLevels(tmp_path / "one"), SavedLevels(tmp_path / "two")
    two.write_with(tmp_path / "three", name, one)
    mixed = make_learner()
    mixed.restore(tmp_path / "three")
    assert mixed.levels.digests() == now | {name: then[name]}
    learner.load_level(name, one.read(name))
    x = make_batch(99)[0]
    assert torch.equal(mixed.predict_proba(x), learner.predict_proba(x))
    # No tensor was written again: each file is one that stands in the other two folders.
    files = {file.name for file in (tmp_path / "three").glob("*.safetensors")}
    known = {
        file.name for folder in ("one", "two") for file in (tmp_path / folder).glob("*.safetensors")
    }
    assert len(files - known) == 1  # the small part
    for saved, digests in ((one, then), (two, now)):
        for level in saved:
            assert nl.core.params.digest_tensors(saved.read_tensors(level)) == digests[level]


def test_a_memory_on_the_live_model_is_refitted_from_replay_or_the_rollback_refused(
    tmp_path: Path,
) -> None:
    for replay in (0, 40):
        learner = make_learner(frozen=False, replay=replay)
        learn(learner, 0, 4)
        learner.snapshot(tmp_path / f"one {replay}")
        then = learner.levels.digests()
        learn(learner, 4, 9)
        learner.snapshot(tmp_path / f"two {replay}")
        before = learner.levels.digests()
        state = read_level(tmp_path / f"one {replay}", "spine")
        one, two = (SavedLevels(tmp_path / f"{name} {replay}") for name in ("one", "two"))
        with pytest.raises(SettingError, match=r"'facts' reads the live model.*replay=200"):
            two.write_with(tmp_path / "mixed", "spine", one)
        assert not (tmp_path / "mixed").exists()
        if not replay:
            with pytest.raises(SettingError, match=r"'facts' reads the live model.*replay=200"):
                learner.load_level("spine", state)
            assert learner.levels.digests() == before
            continue
        learner.load_level("spine", state)
        after = learner.levels.digests()
        assert after["spine"] == then["spine"]
        assert after["facts"] not in (before["facts"], then["facts"])
        assert {name for name in NAMES if after[name] != before[name]} == {"spine", "facts"}
        # A level that did not move makes nothing out of date.
        same = after["facts"]
        learner.load_level("spine", learner.levels["spine"].state_dict())
        assert learner.levels["facts"].digest() == same
    # A memory of the input does not care.
    learner = make_learner(frozen=False, on="input")
    learn(learner, 0, 3)
    state = learner.levels["spine"].state_dict()
    learn(learner, 3, 6)
    learner.load_level("spine", state)


def test_feedback_is_learned_again_by_that_level_alone(tmp_path: Path) -> None:
    learner = make_learner()
    learn(learner, 0, 4)
    learner.snapshot(tmp_path / "one")
    then = learner.levels.digests()
    learn(learner, 4, 9)
    before = learner.levels.digests()
    facts = learner.levels["facts"].tensors()
    feedback = [make_batch(seed) for seed in range(4, 9)]
    for name in ("head", "spine", "facts"):
        learner.load_level(name, read_level(tmp_path / "one", name), feedback=feedback)
        after = learner.levels.digests()
        assert after[name] != then[name]
        assert {one for one in NAMES if after[one] != before[one]} <= {name}
        if name == "facts":  # its sums depend on nothing else, so they are what they were
            now = learner.levels["facts"].tensors()
            kept = [one for one in facts if not one.startswith("standing.")]
            assert len(kept) > 5
            assert all(torch.equal(facts[one], now[one]) for one in kept)
        before = after
    with pytest.raises(SettingError, match="learns nothing from batches by itself"):
        learner.load_level(
            "average", read_level(tmp_path / "one", "average"), feedback=[make_batch(0)]
        )
    assert learner.levels.digests() == before


def test_feedback_that_cannot_be_learned_changes_nothing(tmp_path: Path) -> None:
    learner = make_learner()
    learn(learner, 0, 4)
    state = learner.levels["head"].state_dict()
    learn(learner, 4, 6)
    before = learner.levels.digests()
    bad: tuple[Tensor, Tensor] = (torch.full((4, 4), math.nan), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(NestlingError):
        learner.load_level("head", state, feedback=[make_batch(4), bad])
    assert learner.levels.digests() == before


def test_what_does_not_fit_is_refused_with_nothing_changed(tmp_path: Path) -> None:
    learner = make_learner()
    learn(learner, 0, 3)
    learner.snapshot(tmp_path / "one")
    before = learner.levels.digests()
    with pytest.raises(UnknownLevel, match="did you mean 'head'"):
        learner.load_level("heat", learner.levels["head"].state_dict())
    with pytest.raises(MismatchedParameters, match="is a gradient level, the state is of a memory"):
        learner.load_level("head", learner.levels["facts"].state_dict())
    with pytest.raises(MismatchedParameters, match="had another form in that version"):
        learner.load_level("head", learner.levels["spine"].state_dict())
    saved = SavedLevels(tmp_path / "one")
    with pytest.raises(ForeignSnapshot, match="did you mean 'head'"):
        saved.write_with(tmp_path / "two", "heat", saved)
    assert not (tmp_path / "two").exists()
    assert learner.levels.digests() == before


def test_levels_of_an_optimizer_are_saved_and_go_back_one_by_one(tmp_path: Path) -> None:
    plan = nl.Plan(
        nl.Level("head", match=["3.*"], optimizer=nl.sgd(lr=0.1)),
        nl.Level("spine", match=["*"], period=2, optimizer=nl.adamw(lr=1e-2)),
        nl.Copy("average", of=["head"], decay=0.9),
    )
    model = make_net()
    optimizer = nl.NestedOptimizer(model, plan)

    def train(num_steps: int) -> None:
        for seed in range(num_steps):
            x, y = make_batch(seed)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    train(3)
    write_levels(tmp_path / "one", optimizer.levels)
    then = optimizer.levels.digests()
    train(4)
    write_levels(tmp_path / "two", optimizer.levels, tmp_path / "one")
    now = optimizer.levels.digests()
    one, two = SavedLevels(tmp_path / "one"), SavedLevels(tmp_path / "two")
    assert list(one) == ["head", "spine", "average"]
    two.write_with(tmp_path / "three", "spine", one)
    optimizer.levels.load_state_dict(read_levels_state(tmp_path / "three"))
    assert optimizer.levels.digests() == now | {"spine": then["spine"]}
    optimizer.levels.load_state_dict(read_levels_state(tmp_path / "two"))
    optimizer.levels["head"].load_state_dict(read_level(tmp_path / "one", "head"))
    assert optimizer.levels.digests() == now | {"head": then["head"]}
    learner = make_learner()
    learner.snapshot(tmp_path / "learner")
    with pytest.raises(ForeignSnapshot, match="give two of the same kind"):
        two.write_with(tmp_path / "four", "head", SavedLevels(tmp_path / "learner"))


def test_what_was_validated_stays_where_it_is(tmp_path: Path) -> None:
    learner = make_learner()
    learn(learner, 0, 3)
    learner.snapshot(tmp_path / "one")
    learn(learner, 3, 6)
    learner.levels.mark_validated("Ada", 1.0)
    learn(learner, 6, 8)
    learner.snapshot(tmp_path / "two")
    state = read_level(tmp_path / "one", "spine")
    SavedLevels(tmp_path / "two").write_with(
        tmp_path / "three", "spine", SavedLevels(tmp_path / "one")
    )
    learner.load_level("spine", state)
    twin = make_learner()
    twin.restore(tmp_path / "three")
    for one in (learner, twin):
        drifts = {reading.level: reading.change_since_validation for reading in one.read_levels()}
        assert drifts["spine"] > 0.0
    assert [r.change_since_validation for r in learner.read_levels()] == [
        r.change_since_validation for r in twin.read_levels()
    ]


@pytest.mark.parametrize("rule", [nl.lookahead(), nl.outer_nesterov()])
def test_slow_weights_bring_nothing_back_that_was_rolled_back(
    tmp_path: Path, rule: nl.levels.LookaheadRule | nl.levels.OuterNesterovRule
) -> None:
    def make() -> nl.Learner:
        plan = nl.Plan(
            nl.Level("head", match=["3.*"], optimizer=nl.sgd(lr=0.1)),
            nl.Level("spine", match=["*"], optimizer=nl.sgd(lr=0.1)),
            nl.Copy("slow", of=["head", "spine"], period=4, rule=rule),
        )
        return nl.Learner(make_net(), plan)

    def read(one: nl.Learner) -> dict[str, Tensor]:
        return {n: v for n, v in one.levels["spine"].tensors().items() if n.endswith("t")}

    learner = make()
    learn(learner, 0, 5)
    learner.snapshot(tmp_path / "one")
    then = read(learner)
    learn(learner, 5, 11)
    learner.snapshot(tmp_path / "two")
    one, two = SavedLevels(tmp_path / "one"), SavedLevels(tmp_path / "two")
    two.write_with(tmp_path / "three", "spine", one)
    mixed = make()
    mixed.restore(tmp_path / "three")
    slow = learner.levels["slow"].digest()
    learner.load_level("spine", one.read("spine"))
    assert learner.levels["slow"].digest() == slow, "no other level is touched"
    learner.control("spine", lr=0.0, reason="what moves it now is the rule alone")
    mixed.control("spine", lr=0.0, reason="what moves it now is the rule alone")
    for other in (learner, mixed):
        learn(other, 11, 17)
        assert all(torch.equal(then[name], value) for name, value in read(other).items())
    assert learner.levels.digests() == mixed.levels.digests()


def test_a_level_that_learns_alone_is_not_pulled_to_slow_weights() -> None:
    def make(*copies: nl.Copy) -> nl.Learner:
        plan = nl.Plan(
            nl.Level("head", match=["3.*"], optimizer=nl.sgd(lr=0.1)),
            nl.Level("spine", match=["*"], optimizer=nl.sgd(lr=0.1)),
            *copies,
        )
        return nl.Learner(make_net(), plan)

    slow = nl.Copy("slow", of=["head", "spine"], period=2, rule=nl.lookahead())
    found = []
    for learner in (make(), make(slow)):
        learner.learn(*make_batch(0))
        weights = learner.levels["spine"].tensors()
        learner.load_level("spine", weights, feedback=[make_batch(seed) for seed in (1, 2, 3)])
        found.append(learner.levels["spine"].digest())
    assert found[0] == found[1]
    learner.control("spine", lr=0.0, reason="what moves it now is the rule alone")
    learn(learner, 4, 8)
    after = learner.levels["spine"].tensors()
    assert not torch.equal(after["0.weight"], weights["0.weight"])


def test_a_consolidation_that_was_kept_is_where_slow_weights_begin() -> None:
    plan = nl.Plan(
        nl.Level("all", match=["*"], optimizer=nl.sgd(lr=0.1)),
        nl.Copy("slow", of=["all"], period=3, rule=nl.outer_nesterov()),
    )
    learner = nl.Learner(make_net(), plan)
    learn(learner, 0, 5)

    def double(model: nn.Module) -> None:
        for param in model.parameters():
            param.data.mul_(2.0)

    before = learner.levels["all"].tensors()
    assert learner.consolidate(lambda _: True, change=double).status == "committed"
    learner.control("all", lr=0.0, reason="what moves it now is the rule alone")
    learn(learner, 5, 12)
    assert torch.equal(learner.levels["all"].tensors()["0.weight"], 2.0 * before["0.weight"])
