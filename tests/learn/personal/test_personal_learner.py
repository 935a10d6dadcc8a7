"""One person's levels: they help the person, and nobody else notices."""

import copy
import logging
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import nn

import nestling as nl
from learners import draw, make_batch, make_mlp
from nestling.core.errors import (
    DataError,
    NestlingError,
    NonFiniteInput,
    NotFitted,
    SettingError,
    ShapeMismatch,
    UnknownLabel,
)
from nestling.levels.memory import MemoryLevel
from persons_at_hand import invert, is_same, make_learner, take, teach


def test_before_its_first_example_it_answers_as_the_common_learner() -> None:
    learner, x = make_learner(), take(0, 50)[0]
    anna = learner.personal("anna")
    assert torch.equal(anna.predict_proba(x), learner.predict_proba(x))
    teach(learner, take(100, 140))
    assert torch.equal(anna.predict_proba(x), learner.predict_proba(x))
    assert anna.num_examples == anna.num_bytes == 0
    assert dict(anna.levels) == {}
    assert anna.weights == {"common": 1.0}


@pytest.mark.parametrize("num_common", [0, 60])
def test_learns_the_person_and_keeps_the_others(num_common: int) -> None:
    learner = make_learner()
    if num_common:
        teach(learner, take(400, 400 + num_common))
    anna, own, others = learner.personal("anna"), invert(take(300, 500)), take(300, 500)
    was = anna.evaluate(*others)
    assert anna.evaluate(*own) < 0.3
    teach(anna, invert(take(0, 200)))
    assert anna.evaluate(*own) > 0.8
    assert anna.evaluate(*others) >= was - 0.01
    assert anna.weights["memory"] > 0.5
    assert anna.num_examples == anna.levels["gate"].mixture.num_heard == 200


def test_a_persons_learning_changes_no_bit_of_anybody_else() -> None:
    learner, x = make_learner(), take(300, 330)[0]
    teach(learner, take(400, 440))
    anna, ben = learner.personal("anna"), learner.personal("ben")
    teach(ben, invert(take(0, 30)))
    common, bens = learner.state_dict(), ben.state_dict()
    answers = learner.predict_proba(x), ben.predict_proba(x), ben.predict_proba(1.0 - x)
    teach(anna, invert(take(50, 100)))
    anna.predict(x)
    assert is_same(learner.state_dict(), common)
    assert is_same(ben.state_dict(), bens)
    again = learner.predict_proba(x), ben.predict_proba(x), ben.predict_proba(1.0 - x)
    assert is_same(list(again), list(answers))
    # And the other way round: whatever the others learn, a person's own state is its own.
    annas = anna.state_dict()
    teach(ben, take(100, 120))
    teach(learner, take(120, 140))
    assert is_same(anna.state_dict(), annas)


def test_the_common_state_goes_on_as_if_there_were_no_person() -> None:
    alone, beside = make_learner(), make_learner()
    anna = beside.personal("anna", shares=True)
    for start in range(0, 60, 5):
        batch = take(start, start + 5)
        alone.learn(*batch)
        beside.learn(*batch)
        anna.learn(*invert(batch))
        anna.predict(batch[0])
    assert is_same(beside.state_dict(), alone.state_dict())


def test_an_answer_knows_the_last_example() -> None:
    learner = make_learner()
    anna, (x, y) = learner.personal("anna"), invert(take(0, 100))
    teach(anna, (x[:60], y[:60]))
    before = anna.predict_proba(x[60:61])[0, y[60]]
    anna.learn(x[60:61], y[60:61])
    assert anna.predict_proba(x[60:61])[0, y[60]] > before


def test_a_class_that_the_common_learner_has_no_output_for() -> None:
    learner = make_learner()
    anna, own, others = learner.personal("anna"), invert(take(0, 100)), take(300, 400)
    was = anna.evaluate(*others)
    y = torch.where(own[1] == 3, 12, own[1])  # what others call a 3 is a class of its own to her
    teach(anna, (own[0], y))
    asked = invert(take(300, 500))
    threes = asked[1] == 3
    found = anna.predict_proba(asked[0])
    assert found.shape == (200, 13)
    assert torch.allclose(found.sum(dim=1), torch.ones(200))
    assert float((found.argmax(dim=1)[threes] == 12).double().mean()) > 0.5
    assert float((found.argmax(dim=1)[~threes] == 12).double().mean()) < 0.1
    assert anna.evaluate(*others) >= was - 0.02
    assert learner.predict_proba(asked[0]).shape == (200, 10)


def test_nothing_but_one_new_class() -> None:
    anna = make_learner().personal("anna")
    x = 1.0 - take(0, 100)[0]
    teach(anna, (x[:80], torch.full((80,), 10)))
    assert float((anna.predict(x[80:]) == 10).double().mean()) > 0.8
    assert float((anna.predict(take(0, 100)[0]) == 10).double().mean()) < 0.1


def test_weights_count_in_the_memory() -> None:
    learner, (x, y) = make_learner(), invert(take(0, 40))
    plain, zero = learner.personal("plain"), learner.personal("zero")
    zero.learn(x, y, weight=[0.0] * 40)
    assert zero.num_examples == 40
    assert zero.levels["memory"].foresee(torch.zeros(1, 300).double()) is None
    assert torch.equal(zero.predict_proba(x), learner.predict_proba(x))
    plain.learn(x, y, weight=torch.ones(40))
    assert plain.levels["memory"].foresee(torch.zeros(1, 300).double()) is not None


def test_the_same_name_is_the_same_person() -> None:
    learner = make_learner()
    anna = learner.personal("anna")
    assert learner.personal("anna") is anna
    learner.personal("ben", max_bytes=500_000)
    assert learner.personal("ben").max_bytes == 500_000
    assert learner.persons == ["anna", "ben"]
    with pytest.raises(SettingError, match="has 500,000 already"):
        learner.personal("ben", max_bytes=400_000)
    with pytest.raises(SettingError, match="does not share yet"):
        learner.personal("anna", shares=True)
    teach(anna, take(0, 10))
    learner.forget_person("anna")
    assert learner.persons == ["ben"]
    assert learner.personal("anna").num_examples == 0
    with pytest.raises(SettingError, match=r"no person 'carl'; known: \['anna', 'ben'\]"):
        learner.forget_person("carl")


@pytest.mark.parametrize("name", ["", 3, None, b"anna"])
def test_a_name_is_a_text(name: Any) -> None:
    with pytest.raises(SettingError, match="'anna'"):
        make_learner().personal(name)


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, "1", 5_000])
def test_room_that_holds_nothing(max_bytes: Any) -> None:
    with pytest.raises(SettingError, match="max_bytes"):
        teach(make_learner().personal("anna", max_bytes=max_bytes), take(0, 5))


def test_levels_can_be_read() -> None:
    anna = make_learner().personal("anna")
    teach(anna, take(0, 20))
    readings = {reading.level: reading for reading in anna.read_levels()}
    assert list(readings) == list(anna.levels) == ["memory", "adapter", "gate"]
    assert readings["memory"].num_updates == readings["gate"].num_updates == 20
    assert readings["adapter"].num_updates == 4
    was = {name: level.digest() for name, level in anna.levels.items()}
    teach(anna, take(20, 25))
    assert all(level.digest() != was[name] for name, level in anna.levels.items())


BAD: dict[str, tuple[tuple[Any, ...], type[Exception]]] = {
    "not finite": ((torch.full((2, 64), float("nan")), torch.tensor([0, 1])), NonFiniteInput),
    "no target": ((torch.zeros(2, 64),), DataError),
    "another length": ((torch.zeros(2, 64), torch.tensor([0, 1, 2])), ShapeMismatch),
    "another width": ((torch.zeros(2, 63), torch.tensor([0, 1])), DataError),
    "values": ((torch.zeros(2, 64), torch.tensor([0.5, 1.0])), DataError),
    "below zero": ((torch.zeros(2, 64), torch.tensor([0, -1])), UnknownLabel),
    "far beyond all": ((torch.zeros(2, 64), torch.tensor([0, 70_000])), UnknownLabel),
    "no room": ((torch.zeros(2, 64), torch.tensor([0, 900])), UnknownLabel),
    "negative weight": ((torch.zeros(2, 64), torch.tensor([0, 1]), [1.0, -1.0]), DataError),
    "few weights": ((torch.zeros(2, 64), torch.tensor([0, 1]), [1.0]), ShapeMismatch),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("has_learned", [False, True])
def test_bad_input_changes_nothing(name: str, has_learned: bool) -> None:
    (given, error), learner = BAD[name], make_learner()
    anna = learner.personal("anna", shares=True)
    if has_learned:
        teach(learner, take(50, 60))
        teach(anna, take(0, 10))
    if name == "no target":
        given = (given[0],)
    state, common = anna.state_dict(), learner.state_dict()
    with pytest.raises(error) as caught:
        anna.learn(*given)
    assert "\n" not in str(caught.value)
    assert is_same(anna.state_dict(), state)
    assert is_same(learner.state_dict(), common)


def test_questions_that_cannot_be_answered() -> None:
    anna = make_learner().personal("anna")
    teach(anna, take(0, 10))
    with pytest.raises(NonFiniteInput):
        anna.predict(torch.full((1, 64), float("inf")))
    with pytest.raises(DataError):
        anna.predict(torch.zeros(1, 63))
    with pytest.raises(DataError, match="needs targets"):
        anna.evaluate(torch.zeros(1, 64))
    with pytest.raises(DataError, match="needs classes"):
        anna.evaluate(torch.zeros(1, 64), torch.zeros(1))
    assert anna.predict(torch.zeros(0, 64)).shape == (0,)
    assert anna.learn(torch.zeros(0, 64), torch.zeros(0, dtype=torch.long)).num_examples == 0


def test_declared_classes_hold_for_persons_too() -> None:
    anna = make_learner(num_classes=10).personal("anna")
    with pytest.raises(UnknownLabel, match="declare num_classes=13"):
        anna.learn(torch.zeros(1, 64), torch.tensor([12]))


def test_learners_without_persons() -> None:
    x, _ = make_batch()
    live = nl.Plan(
        nl.Memory("memory", on=None, frozen=False),
        nl.Level("all", match=["*"]),
        readout=nl.mix("memory", "live"),
    )
    with pytest.raises(SettingError, match="no memory that reads the input or a frozen model"):
        nl.Learner(make_mlp(), live).personal("anna")
    plain = nl.Plan(nl.Level("all", match=["*"]))
    with pytest.raises(SettingError, match="no memory"):
        nl.Learner(make_mlp(), plain).personal("anna")
    values = nl.Learner(make_mlp(4, 1))
    values.learn(x, x[:, :1])
    with pytest.raises(SettingError, match="values"):
        values.personal("anna")


def test_a_learner_without_a_given_model_learns_first(caplog: pytest.LogCaptureFixture) -> None:
    learner = nl.Learner(make_mlp(20, 2))
    anna, x = learner.personal("anna"), draw(120, 20)
    y = (x[:, 0] > 0).long()
    with pytest.raises(NotFitted, match="teach it first"):
        anna.learn(x, y)
    with pytest.raises(NotFitted, match="teach it first"):
        anna.predict(x)
    learner.learn(x, y)
    with caplog.at_level(logging.INFO, logger="nestling"):
        teach(anna, (x, 1 - y))
    assert "no adapter" in caplog.text
    assert list(anna.levels) == ["memory", "gate"]
    assert anna.evaluate(x, 1 - y) > 0.7


def test_features_before_the_common_learners_first_example_are_its_own_later() -> None:
    learner = make_learner()
    early, late = learner.personal("early"), learner.personal("late")
    teach(early, take(0, 10))
    teach(learner, take(100, 110))
    teach(late, take(0, 10))
    assert early.state_dict()["footing"] == late.state_dict()["footing"]
    assert is_same(early.levels["memory"].state_dict(), late.levels["memory"].state_dict())


def test_a_memory_that_reads_the_last_layer_alone() -> None:
    model = make_mlp()
    plan = nl.Plan(
        nl.Memory("memory", on=None, num_features=20),
        nl.Level("all", match=["*"]),
        readout=nl.mix("memory", "live"),
    )
    learner = nl.Learner(model, plan)
    learner.learn(*make_batch())
    anna = learner.personal("anna")
    teach(anna, make_batch(1, 40))
    assert list(anna.levels) == ["memory", "adapter", "gate"]
    assert anna.evaluate(*make_batch(2, 40)) > 0.7


class Tagger(nn.Module):
    """One answer per token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.relu(self.body(x)))
        return found


@pytest.mark.parametrize("teaches_first", [False, True])
def test_answers_per_position(teaches_first: bool) -> None:
    learner = nl.Learner(Tagger(), pretrained=True)
    x = draw(30, 5, 4)
    y = x[..., :3].argmax(dim=-1)
    if teaches_first:
        learner.learn(x[:10], y[:10])
    anna = learner.personal("anna")
    shown = y.clone()
    shown[:, 0] = -100
    teach(anna, (x, shown))
    assert anna.num_examples == 30 * 4
    assert anna.predict(x).shape == (30, 5)
    assert anna.evaluate(x, y) > 0.7


class Odd(nn.Module):
    """Its first linear layer is never run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.idle, self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.relu(self.body(x)))
        return found


def test_an_early_layer_that_is_never_run_is_left_out() -> None:
    learner = nl.Learner(Odd(), pretrained=True)
    anna = learner.personal("anna")
    with pytest.raises(DataError):
        anna.predict(torch.zeros(1, 3))
    teach(anna, make_batch(0, 20))
    learner.learn(*make_batch(1))
    teach(anna, make_batch(2, 20))
    assert anna.num_examples == 40
    assert anna.predict(make_batch()[0]).shape == (16,)


def test_callers_modes_do_not_matter() -> None:
    learner = make_learner()
    anna, ben = learner.personal("anna"), learner.personal("ben")
    own = invert(take(0, 20))
    teach(ben, own)
    with torch.inference_mode():
        teach(anna, (own[0].clone(), own[1]))
        anna.rest()
        anna.predict(own[0])
    assert is_same(anna.state_dict(), ben.state_dict())
    teach(anna, take(20, 30))


def test_copies_and_pickles_take_their_persons_along() -> None:
    learner, x = make_learner(), take(100, 120)[0]
    anna = learner.personal("anna")
    teach(anna, invert(take(0, 20)))
    for twin in (learner.copy(), pickle.loads(pickle.dumps(learner)), copy.deepcopy(learner)):
        other = twin.personal("anna")
        assert other is not anna
        assert torch.equal(other.predict_proba(x), anna.predict_proba(x))
        was = anna.state_dict()
        teach(other, take(30, 40))
        assert is_same(anna.state_dict(), was)
        assert twin.persons == ["anna"]


def test_many_threads_give_what_one_gives() -> None:
    learner, alone = make_learner(), make_learner()
    names = [f"person {index}" for index in range(10)]  # more than stay awake
    failed: list[BaseException] = []

    def live(name: str, index: int) -> None:
        try:
            for step in range(4):
                batch = take(20 * index + 5 * step, 20 * index + 5 * step + 5)
                learner.personal(name).learn(*invert(batch))
                learner.personal(name).predict(batch[0])
        except (NestlingError, RuntimeError) as error:
            failed.append(error)

    threads = [
        threading.Thread(target=live, args=(name, index)) for index, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    twin = learner.copy()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(twin.persons) <= 10
    for index, name in enumerate(names):
        other = alone.personal(name)
        teach(other, invert(take(20 * index, 20 * index + 20)))
        assert is_same(other.state_dict(), learner.personal(name).state_dict())


@pytest.mark.parametrize(("num_common", "num_live"), [(0, 0), (20, 1)])
def test_the_frozen_model_is_read_once(num_common: int, num_live: int) -> None:
    learner = make_learner()
    if num_common:
        teach(learner, take(100, 100 + num_common))
    anna = learner.personal("anna")
    teach(anna, take(0, 5))
    level = learner.levels["memory"]
    assert isinstance(level, MemoryLevel)
    assert level.reader.module is not None
    run: list[str] = []
    for name, module in (("frozen", level.reader.module), ("live", learner.model)):
        module.register_forward_hook(lambda *_, name=name: run.append(name))
    for ask in (lambda: anna.learn(*take(5, 10)), lambda: anna.predict(take(5, 10)[0])):
        run.clear()
        ask()
        assert run.count("frozen") == 1
        assert run.count("live") == num_live


def test_persons_beside_a_common_learner_that_learns() -> None:
    learner = make_learner()
    failed: list[BaseException] = []

    def live(who: Any, start: int) -> None:
        try:
            for step in range(10):
                batch = take(start + 5 * step, start + 5 * step + 5)
                who.learn(*batch)
                assert who.predict_proba(batch[0]).isfinite().all()
        except (NestlingError, RuntimeError, AssertionError) as error:
            failed.append(error)

    alone = make_learner()
    teach(alone, take(0, 50))
    people = [learner.personal("anna"), learner.personal("ben"), learner]
    threads = [
        threading.Thread(target=live, args=(who, 50 * (2 - index)))
        for index, who in enumerate(people)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert is_same(learner.state_dict(), alone.state_dict())
