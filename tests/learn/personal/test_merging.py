"""What a person agrees to share is learned by the common memory exactly as if it were its own."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import draw, make_mlp
from nestling.core.batches import Batch
from nestling.core.errors import MergeError, SettingError
from nestling.levels.memory import MemoryLevel
from persons_at_hand import invert, is_same, make_learner, take, teach


def read_memory(learner: nl.Learner) -> dict[str, Any]:
    """The common memory, but for the solution that its scout holds for the gate, which is renewed
    when examples are scored."""
    state = learner.levels["memory"].state_dict()
    state["bank"]["scout"] = (state["bank"]["scout"] or {}).get("memory")
    return state


def ask_memory(learner: nl.Learner, x: Tensor) -> Tensor:
    """What the common memory alone answers, (N, K)."""
    level = learner.levels["memory"]
    assert isinstance(level, MemoryLevel)
    return level.answer(level.read_rows(Batch((x,)), None).features)


@pytest.mark.parametrize("num_before", [0, 30])
def test_equals_having_learned_the_same_rows(num_before: int) -> None:
    sharing, other = make_learner(), make_learner()
    for learner in (sharing, other):
        teach(learner, take(200, 200 + num_before))
    anna, own = sharing.personal("anna", shares=True), invert(take(0, 40))
    weight = torch.linspace(0.0, 2.0, 40)
    anna.learn(*own, weight=weight)
    assert anna.num_waiting == 40
    assert sharing.merge("anna") == 40
    other.learn(*own, weight=weight)
    assert is_same(read_memory(sharing), read_memory(other))
    asked = invert(take(300, 320))[0]
    assert torch.equal(ask_memory(sharing, asked), ask_memory(other, asked))


def test_it_is_merged_once_and_the_person_stays_as_it_was() -> None:
    learner = make_learner()
    anna = learner.personal("anna", shares=True)
    teach(anna, invert(take(0, 60)))
    levels = anna.state_dict()["levels"]
    asked = invert(take(300, 500))
    assert learner.merge("anna") == 60
    assert anna.num_waiting == learner.merge("anna") == 0
    assert is_same(anna.state_dict()["levels"], levels)
    assert float((ask_memory(learner, asked[0]).argmax(1) == asked[1]).double().mean()) > 0.6
    assert learner.task == "classification"
    teach(learner, take(100, 120))
    teach(anna, invert(take(60, 70)))
    assert learner.merge("anna") == 10


def test_integers_do_not_mind_the_order() -> None:
    def make() -> nl.Learner:
        learner = nl.Learner(make_mlp(20, 2))
        learner.learn(draw(20, 20), torch.arange(20) % 2)
        return learner

    x, y = draw(40, 20, seed=1), torch.arange(40) % 2
    one, other = make(), make()
    for learner, names in ((one, ("anna", "ben")), (other, ("ben", "anna"))):
        for name in names:
            rows = slice(0, 20) if name == "anna" else slice(20, 40)
            teach(learner.personal(name, shares=True), (x[rows], y[rows]))
        for name in names:
            assert learner.merge(name) == 20
        learner.learn(draw(300, 20, seed=2), torch.arange(300) % 2)  # past the unfinished block
    sums = [
        learner.levels["memory"].bank.memories[0].read_sums()  # type: ignore[union-attr]
        for learner in (one, other)
    ]
    assert is_same(*sums)


def test_a_new_class_becomes_common() -> None:
    learner = make_learner()
    anna, (x, y) = learner.personal("anna", shares=True), invert(take(0, 60))
    teach(anna, (x, torch.where(y == 3, 12, y)))
    learner.merge("anna")
    found = learner.predict_proba(x)
    assert found.shape == (60, 13)
    assert float(found[y == 3, 12].min()) > 0.0
    assert bool((ask_memory(learner, x[y == 3]).argmax(dim=1) == 12).all())
    teach(learner, take(100, 110))  # the head may grow later


def test_without_consent_nothing_is_kept() -> None:
    learner = make_learner()
    anna = learner.personal("anna")
    teach(anna, take(0, 20))
    common = learner.state_dict()
    with pytest.raises(MergeError, match="person 'anna' does not share"):
        learner.merge("anna")
    with pytest.raises(SettingError, match="no person 'ben'"):
        learner.merge("ben")
    anna.shares = True
    assert learner.merge("anna") == 0
    assert is_same(learner.state_dict(), common)
    teach(anna, take(20, 30))
    anna.shares = False
    anna.shares = True
    assert anna.num_waiting == learner.merge("anna") == 0


def test_rows_move_only_where_consent_is(caplog: pytest.LogCaptureFixture) -> None:
    phone, server = make_learner(), make_learner()
    anna = phone.personal("anna", shares=True)
    teach(anna, take(0, 20))
    closed, ready = server.personal("closed"), server.personal("ready", shares=True)
    with caplog.at_level(logging.INFO, logger="nestling"):
        closed.load_state_dict(anna.state_dict())
    assert "20 rows that waited are left out" in caplog.text
    ready.load_state_dict(anna.state_dict())
    assert closed.num_examples == ready.num_examples == 20
    assert (closed.num_waiting, server.merge("ready")) == (0, 20)


def test_rows_of_another_model_are_not_merged() -> None:
    learner = make_learner()
    anna = learner.personal("anna", shares=True)
    teach(anna, take(0, 20))
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    learner.load_state_dict(nl.Learner(model, pretrained=True).state_dict())
    common, own = learner.state_dict(), anna.state_dict()
    with pytest.raises(MergeError, match="'anna' cannot be merged: learned on another model"):
        learner.merge("anna")
    assert is_same(learner.state_dict(), common)
    assert is_same(anna.state_dict(), own)


def test_declared_classes_are_kept_to() -> None:
    free, declared = make_learner(), make_learner(num_classes=10)
    anna, there = free.personal("anna", shares=True), declared.personal("anna", shares=True)
    anna.learn(take(0, 2)[0], torch.tensor([1, 11]))
    there.load_state_dict(anna.state_dict())
    with pytest.raises(MergeError, match="outside the declared classes"):
        declared.merge("anna")
    assert there.num_waiting == 2
