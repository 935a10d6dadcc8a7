"""One level becomes what was saved; the others stay, bit for bit."""

import pytest
import torch
from torch import nn

import nestling as nl
from nestling.core.errors import MismatchedParameters, SettingError, UnknownLevel


def make_learner(memory: nl.Memory | None = None, replay: int = 0) -> nl.Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    plan = nl.Plan(
        *([] if memory is None else [memory]),
        nl.Level("head", match=["2.*"]),
        nl.Level("spine", match=["*"], period=2),
        readout="live" if memory is None else nl.mix("memory", "live"),
    )
    return nl.Learner(model, plan, replay=replay)


def learn(learner: nl.Learner, seed: int) -> None:
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(seed))
    learner.learn(x, (x[:, 0] > 0).long())


@pytest.mark.parametrize("whole", [True, False])
def test_one_level_is_as_it_was_and_the_others_stay(whole: bool) -> None:
    learner = make_learner()
    learn(learner, 0)
    level = learner.levels["head"]
    saved, digest = level.state_dict() if whole else level.tensors(), level.digest()
    for seed in range(1, 6):
        learn(learner, seed)
    spine = learner.levels["spine"].state_dict()
    learner.load_level("head", saved)
    assert learner.levels["head"].digest() == digest
    now = learner.levels["spine"].state_dict()
    for name, value in spine["weights"].items():
        assert torch.equal(now["weights"][name], value)
    assert learner.levels.gradient["head"].inner.state_dict()["state"] != {} or not whole
    learn(learner, 9)  # it goes on


def test_a_memory_of_the_live_model_is_refitted() -> None:
    memory = nl.Memory("memory", on="0", num_features=0, include_read=True, frozen=False)
    learner = make_learner(memory, replay=64)
    learn(learner, 0)
    saved = learner.levels["spine"].tensors()
    for seed in range(1, 5):
        learn(learner, seed)
    before = learner.levels["memory"].digest()
    learner.load_level("spine", saved)
    assert learner.levels["memory"].digest() != before


def test_without_replay_it_is_refused_and_nothing_changes() -> None:
    memory = nl.Memory("memory", on="0", num_features=0, include_read=True, frozen=False)
    learner = make_learner(memory)
    learn(learner, 0)
    saved = learner.levels["spine"].tensors()
    learn(learner, 1)
    before = learner.levels.digests()
    with pytest.raises(SettingError, match="replay=200"):
        learner.load_level("spine", saved)
    assert learner.levels.digests() == before


def test_feedback_that_was_admitted_is_learned_again_past_the_guard_of_sources() -> None:
    def make_guarded(guard: nl.protect.SourceGuard | None) -> nl.Learner:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        plan = nl.Plan(nl.Level("head", match=["2.*"]), nl.Level("spine", match=["*"]))
        return nl.Learner(model, plan, sources=guard)

    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(3))
    y = (x[:, 0] > 0).long()
    feedback = list(zip(x.split(16), y.split(16), strict=True))
    # One row of a source in the last thousand, and none that lies outside: it would hold these.
    learners = [make_guarded(one) for one in (None, nl.protect.SourceGuard(rate=0.001))]
    digests = []
    for learner in learners:
        learner.learn(x[:16], y[:16], source=[f"ward {number}" for number in range(16)])
        saved = learner.levels["head"].state_dict()
        learner.load_level("head", saved, feedback=feedback)
        digests.append(learner.levels["head"].digest())
    assert digests[0] == digests[1]
    plain = make_guarded(None)
    plain.learn(x[:16], y[:16])
    assert plain.levels["head"].digest() not in digests
    guarded = learners[1]
    state = guarded.state_dict()["sources"]
    guarded.load_level("head", guarded.levels["head"].state_dict(), feedback=feedback)
    assert str(guarded.state_dict()["sources"]) == str(state)  # they count as given once


def test_another_level_is_refused() -> None:
    learner = make_learner()
    learn(learner, 0)
    before = learner.levels.digests()
    with pytest.raises(UnknownLevel, match="did you mean 'spine'"):
        learner.load_level("spin", learner.levels["spine"].state_dict())
    with pytest.raises(MismatchedParameters):
        learner.load_level("head", learner.levels["spine"].tensors())
    assert learner.levels.digests() == before
