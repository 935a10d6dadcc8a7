"""A person's state: its own levels only, bit for bit, small, and on its own spine alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import draw, make_mlp
from nestling.core.errors import CorruptSnapshot, ForeignSnapshot, SnapshotError, UnknownLabel
from nestling.core.params import flatten_tensors
from nestling.learn.personal.roster import NUM_AWAKE
from persons_at_hand import invert, is_same, make_learner, take, teach


def count_bytes(state: Any) -> int:
    return sum(value.numel() * value.element_size() for value in flatten_tensors(state).values())


@pytest.mark.parametrize("by_file", [False, True])
@pytest.mark.parametrize("num_before", [5, 60])
def test_going_on_equals_never_having_stopped(
    tmp_path: Path, by_file: bool, num_before: int
) -> None:
    learner, there = make_learner(), make_learner()
    anna, moved = learner.personal("anna", shares=True), there.personal("moved", shares=True)
    teach(moved, take(200, 220))  # all of which is replaced
    own, asked = invert(take(0, 100)), invert(take(300, 340))[0]
    teach(anna, (own[0][:num_before], own[1][:num_before]))
    if by_file:
        anna.snapshot(tmp_path / "anna")
        moved.restore(tmp_path / "anna")
    else:
        moved.load_state_dict(anna.state_dict())
    for who in (anna, moved):
        teach(who, (own[0][num_before:], own[1][num_before:]))
    assert is_same(moved.state_dict(), anna.state_dict())
    assert torch.equal(moved.predict_proba(asked), anna.predict_proba(asked))
    assert moved.num_waiting == 100


def test_a_state_shares_nothing_with_whom_it_is_of() -> None:
    anna = make_learner().personal("anna")
    teach(anna, take(0, 20))
    state = anna.state_dict()
    kept = {name: value.clone() for name, value in flatten_tensors(state).items()}
    teach(anna, take(20, 40))
    assert is_same(flatten_tensors(state), kept)
    anna.load_state_dict(state)
    teach(anna, take(20, 40))
    assert is_same(flatten_tensors(state), kept)


def test_nobody_can_be_moved_too(tmp_path: Path) -> None:
    learner, x = make_learner(), take(300, 320)[0]
    empty, anna = learner.personal("empty"), learner.personal("anna", shares=True)
    empty.snapshot(tmp_path / "empty")
    teach(anna, take(0, 20))
    anna.restore(tmp_path / "empty")
    assert (anna.num_examples, anna.num_bytes, anna.num_waiting) == (0, 0, 0)
    assert torch.equal(anna.predict_proba(x), learner.predict_proba(x))
    assert learner.merge("anna") == 0


def test_resting_changes_no_bit() -> None:
    learner = make_learner()
    anna, ben = learner.personal("anna"), learner.personal("ben")
    own, asked = invert(take(0, 60)), invert(take(300, 320))[0]
    for start in range(0, 60, 5):
        for who in (anna, ben):
            who.learn(own[0][start : start + 5], own[1][start : start + 5])
        anna.rest()
        assert is_same(anna.state_dict(), ben.state_dict())
        anna.rest()
        assert torch.equal(anna.predict_proba(asked), ben.predict_proba(asked))


def test_who_asks_does_not_matter() -> None:
    learner = make_learner()
    anna, ben = learner.personal("anna"), learner.personal("ben")
    own = invert(take(0, 60))
    for start in range(0, 60, 5):
        for who in (anna, ben):
            who.learn(own[0][start : start + 5], own[1][start : start + 5])
        anna.predict(own[0])
    assert is_same(anna.state_dict(), ben.state_dict())


def test_the_idle_keep_nothing_but_their_state() -> None:
    learner = make_learner()
    persons = [learner.personal(f"person {index}") for index in range(NUM_AWAKE + 3)]
    for person in persons:
        teach(person, take(0, 10))
        person.predict(take(0, 5)[0])
    sizes = [_weigh(person) for person in persons]
    assert max(sizes[:3]) <= 1.1 * persons[0].num_bytes
    assert min(sizes[3:]) > 1.1 * persons[0].num_bytes


def _weigh(person: nl.PersonalLearner) -> int:
    """Bytes of all tensors that a person holds, caches included."""
    found: dict[int, int] = {}

    def visit(value: object) -> None:
        if isinstance(value, Tensor):
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict | list | tuple):
            for inner in value.values() if isinstance(value, dict) else value:
                visit(inner)
        elif hasattr(value, "__dict__"):
            visit(vars(value))

    for level in person.levels.values():
        visit(vars(level))
    return sum(found.values())


def make_wide(num_inputs: int, num_outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(num_inputs, 128), nn.ReLU(), nn.Linear(128, num_outputs))


class Encoded(nn.Module):
    """A head on 384 numbers of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(8, 384), nn.Linear(384, 150)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.tanh(self.body(x)))
        return found


@pytest.mark.parametrize(
    ("model", "num_inputs", "num_classes"),
    [(make_wide(64, 10), 64, 10), (Encoded(), 8, 150), (make_wide(64, 700), 64, 700)],
)
def test_a_person_has_a_megabyte_at_most(
    model: nn.Module, num_inputs: int, num_classes: int
) -> None:
    anna = nl.Learner(model, pretrained=True).personal("anna")
    for step in range(20):
        y = torch.arange(8 * step, 8 * step + 8) % num_classes
        anna.learn(draw(8, num_inputs, seed=step), y)
    assert anna.num_bytes == count_bytes(anna.state_dict())
    assert anna.num_bytes <= 1_000_000
    # Classes that the model has no output for find room, but not any number of them.
    anna.learn(draw(16, num_inputs), torch.arange(num_classes, num_classes + 16))
    assert anna.num_bytes == count_bytes(anna.state_dict())
    assert anna.num_bytes <= 1_000_000
    with pytest.raises(UnknownLabel, match="has room for"):
        anna.learn(draw(1, num_inputs), torch.tensor([2000]))


def test_rows_that_wait_count() -> None:
    learner = make_learner()
    anna, ben = learner.personal("anna", shares=True), learner.personal("ben")
    for who in (anna, ben):
        teach(who, take(0, 50))
    assert anna.num_bytes == count_bytes(anna.state_dict())
    assert anna.num_bytes == ben.num_bytes + 50 * (4 * (64 + 32) + 8 + 8)


def test_another_spine_is_refused() -> None:
    other = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    learner, elsewhere = make_learner(), nl.Learner(other, pretrained=True)
    anna, there = learner.personal("anna"), elsewhere.personal("anna")
    teach(anna, take(0, 20))
    for num_there in (0, 20):
        teach(there, take(0, num_there))
        was = there.state_dict()
        with pytest.raises(ForeignSnapshot, match="another model") as caught:
            there.load_state_dict(anna.state_dict())
        assert "\n" not in str(caught.value)
        assert is_same(there.state_dict(), was)


def test_other_features_are_refused() -> None:
    def make(num_features: int) -> nl.Learner:
        plan = nl.Plan(
            nl.Memory("memory", on=None, num_features=num_features),
            nl.Level("all", match=["*"]),
            readout=nl.mix("memory", "live"),
        )
        learner = nl.Learner(make_mlp(), plan)
        learner.learn(draw(8, 4), torch.arange(8) % 2)
        return learner

    anna, there = make(20).personal("anna"), make(30).personal("anna")
    anna.learn(draw(8, 4), torch.arange(8) % 2)
    with pytest.raises(ForeignSnapshot, match="other features"):
        there.load_state_dict(anna.state_dict())


def test_a_learner_that_was_restored_to_another_spine(tmp_path: Path) -> None:
    learner = make_learner()
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    nl.Learner(model, pretrained=True).snapshot(tmp_path / "other")
    learner.snapshot(tmp_path / "own")
    anna, ben = learner.personal("anna", shares=True), learner.personal("ben")
    x = take(100, 110)[0]
    teach(anna, take(0, 20))
    was, answers = anna.state_dict(), anna.predict_proba(x)
    learner.restore(tmp_path / "other")
    for ask in (lambda: anna.predict(x), lambda: anna.learn(*take(0, 5))):
        with pytest.raises(ForeignSnapshot, match="person 'anna': learned on another model"):
            ask()
    assert is_same(anna.state_dict(), was)
    teach(ben, take(0, 5))  # who had learned nothing
    learner.restore(tmp_path / "own")
    assert torch.equal(anna.predict_proba(x), answers)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("levels"),
        lambda state: state["levels"].pop("gate"),
        lambda state: state["levels"]["memory"].pop("values"),
        lambda state: state["levels"]["memory"]["values"].update(scatter=torch.zeros(3)),
        lambda state: state["levels"]["memory"]["values"].update(mean=torch.zeros(7)),
        lambda state: state["levels"]["memory"]["values"].update(mean="a text"),
        lambda state: state["levels"]["adapter"].update(A=torch.zeros(4, 5)),
        lambda state: state["levels"]["gate"]["mixture"].update(mixers=torch.zeros(1)),
        lambda state: state["levels"]["gate"].update(names=["a", "b"]),
        lambda state: state["footing"].update(widths=[1, 2, 3]),
        lambda state: state["footing"].pop("reader"),
        lambda state: state.update(footing=None),
        lambda state: state["waiting"].update(label=torch.zeros(3)),
    ],
)
def test_a_damaged_state_changes_nothing(damage: Any) -> None:
    anna = make_learner().personal("anna", shares=True)
    teach(anna, take(0, 20))
    state, was = anna.state_dict(), anna.state_dict()
    damage(state)
    with pytest.raises(ForeignSnapshot) as caught:
        anna.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert is_same(anna.state_dict(), was)
    teach(anna, take(20, 25))


@pytest.mark.parametrize("state", [None, 3, {}, [], "anna"])
def test_something_else_is_no_state(state: Any) -> None:
    with pytest.raises(ForeignSnapshot):
        make_learner().personal("anna").load_state_dict(state)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    learner = make_learner()
    anna = learner.personal("anna")
    teach(anna, take(0, 20))
    anna.snapshot(tmp_path / "anna")
    was = anna.state_dict()
    parts = json.loads((tmp_path / "anna" / "manifest.json").read_bytes())["body"]["parts"]
    assert set(parts) == {"footing", "waiting", "level memory", "level adapter", "level gate"}
    file = tmp_path / "anna" / parts["level memory"]["file"]
    payload = bytearray(file.read_bytes())
    payload[-5] ^= 1
    file.write_bytes(bytes(payload))
    with pytest.raises(CorruptSnapshot):
        anna.restore(tmp_path / "anna")
    learner.snapshot(tmp_path / "learner")
    for path in ("learner", "nobody"):
        with pytest.raises(SnapshotError):
            anna.restore(tmp_path / path)
    assert is_same(anna.state_dict(), was)


def test_a_state_that_has_no_room_here() -> None:
    learner = make_learner()
    anna, small = learner.personal("anna"), learner.personal("small", max_bytes=100_000)
    teach(anna, take(0, 20))
    teach(small, take(0, 20))
    assert small.num_bytes <= 100_000
    with pytest.raises(ForeignSnapshot, match="more than max_bytes=100,000"):
        small.load_state_dict(anna.state_dict())
    anna.load_state_dict(small.state_dict())
    assert anna.num_bytes == small.num_bytes


class Pooled(nn.Module):
    """Its head runs at every position, and its answer is the mean of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.body(x))).mean(dim=1)
        return found


def test_a_head_that_runs_at_every_position() -> None:
    learner = nl.Learner(Pooled(), pretrained=True)
    anna, ben = learner.personal("anna"), learner.personal("ben")
    x = draw(20, 5, 4)
    teach(anna, (x, torch.arange(20) % 3))
    ben.load_state_dict(anna.state_dict())
    assert torch.equal(ben.predict_proba(x), anna.predict_proba(x))
