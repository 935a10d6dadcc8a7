"""The read-out hears of every example, by what was answered before, and mixes as it has heard."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import draw, make_batch, make_mlp
from nestling.answer.outside import Knowers
from nestling.answer.panel import MOST_WAITING
from nestling.answer.readout import Readout
from nestling.memory import MemoryBank

LIVE = nl.Level("net", match=["*"])
MEMORY = nl.Memory("memory", on="input", half_lives=(math.inf,), num_features=20)
SLOW = nl.Copy("slow", of=["net"], decay=0.9)


class Tagger(nn.Module):
    """An answer per position."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))  # type: ignore[no-any-return]


def read_gate(learner: nl.Learner) -> Any:
    assert learner.readout is not None
    assert learner.readout.gate is not None
    return learner.readout.gate


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# --- every example is heard


LEARNERS = {
    "default": lambda: nl.Learner(make_mlp(4, 2)),
    "default with replay": lambda: nl.Learner(make_mlp(4, 2), replay=20),
    "pretrained": lambda: nl.Learner(make_mlp(4, 2), pretrained=True),
    "pretrained with replay": lambda: nl.Learner(make_mlp(4, 2), pretrained=True, replay=20),
    "dropout": lambda: nl.Learner(nn.Sequential(nn.Dropout(0.5), make_mlp(4, 2))),
    "a copy": lambda: nl.Learner(
        make_mlp(4, 2), nl.Plan(LIVE, SLOW, readout=nl.mix("live", "slow"))
    ),
    "memory and copy": lambda: nl.Learner(
        make_mlp(4, 2), nl.Plan(MEMORY, LIVE, SLOW, readout=nl.mix("memory", "live", "slow"))
    ),
    "outside of a memory alone": lambda: nl.Learner(
        make_mlp(4, 2),
        nl.Plan(
            MEMORY,
            LIVE,
            nl.Copy("given", of=["net"], decay=1.0),
            readout=nl.mix("memory", "given", outside="given"),
        ),
    ),
}


@pytest.mark.parametrize("size", [1, 7, 50])
@pytest.mark.parametrize("name", LEARNERS)
def test_it_hears_of_every_example(name: str, size: int) -> None:
    learner = LEARNERS[name]()
    for seed in range(100 // size):
        learner.learn(*make_batch(seed, size))
        num_waiting = learner.panel.num_waiting
        assert read_gate(learner).num_heard + num_waiting == (seed + 1) * size
        assert num_waiting < MOST_WAITING
    learner.fit([make_batch(1, 5)])
    assert learner.panel.num_waiting == 0


@pytest.mark.parametrize("pretrained", [False, True])
def test_it_hears_of_values(pretrained: bool) -> None:
    learner = nl.Learner(make_mlp(4, 2), pretrained=pretrained)
    for seed in range(12):
        x = draw(7, 4, seed=seed)
        learner.learn(x, x[:, :2].sigmoid())
    assert read_gate(learner).num_heard == 84
    assert all(bool(one.isfinite().all()) for one in read_gate(learner).weights)


@pytest.mark.parametrize("pretrained", [False, True])
def test_it_hears_of_weighted_examples(pretrained: bool) -> None:
    learner = nl.Learner(make_mlp(4, 2), pretrained=pretrained)
    for seed in range(12):
        weight = torch.rand(7, generator=torch.Generator().manual_seed(seed))
        weight[0] = 0.0
        learner.learn(*make_batch(seed, 7), weight=torch.zeros(7) if seed == 0 else weight)
    assert read_gate(learner).num_heard == 84


@pytest.mark.parametrize("pretrained", [False, True])
def test_it_hears_of_every_position_that_has_a_label(pretrained: bool) -> None:
    learner = nl.Learner(Tagger(), pretrained=pretrained)
    num = 0
    for seed in range(10):
        x = draw(3, 6, 3, seed=seed)
        y = (x[..., 0] > 0).long()
        y[:, -1] = -100
        learner.learn(x, y)
        num += int((y != -100).sum())
        assert read_gate(learner).num_heard == num


@pytest.mark.parametrize("name", ["default", "pretrained"])
def test_a_first_batch_that_nobody_could_foresee_moves_nothing(name: str) -> None:
    learner, fresh = LEARNERS[name](), LEARNERS[name]()
    learner.learn(*make_batch(0, 50))
    task = learner.task
    assert task is not None
    begin = Readout(fresh.plan, task)
    assert begin.gate is not None
    assert read_gate(learner).num_heard == 50
    for one, other in zip(read_gate(learner).weights, begin.gate.weights, strict=True):
        assert torch.equal(one, other)


def test_a_refused_step_is_heard_of_and_spoils_nothing() -> None:
    learner = nl.Learner(make_mlp(4, 2))
    for seed in range(10):
        learner.learn(*make_batch(seed))
    with torch.no_grad():
        learner.model[2].bias.fill_(math.nan)  # type: ignore[index,union-attr]
    report = learner.learn(*make_batch(10))
    assert report.refused is not None
    assert read_gate(learner).num_heard == 11 * 16
    assert all(bool(one.isfinite().all()) for one in read_gate(learner).weights)
    assert learner.evaluate(*make_batch(99, 64)) > 0.8


@pytest.mark.parametrize("name", LEARNERS)
def test_asking_changes_no_bit(name: str) -> None:
    asked, other = LEARNERS[name](), LEARNERS[name]()
    for seed in range(20):
        torch.manual_seed(seed)
        asked.learn(*make_batch(seed, 7))
        torch.manual_seed(seed)
        other.learn(*make_batch(seed, 7))
        asked.predict_proba(draw(3, 4, seed=seed))
    assert same(read_gate(asked).state_dict(), read_gate(other).state_dict())


# --- what it hears


def make_readout() -> Readout:
    readout = Readout(nl.Learner(make_mlp(4, 2), pretrained=True).plan, "classification")
    assert readout.names == ("memory", "live", "concepts")
    return readout


def draw_answers(num: int, seed: int, num_classes: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, num_classes, generator=generator).mul(2.0).double().softmax(dim=1)


def draw_knowers(num: int, known: list[bool], num_given: int = 6) -> Knowers:
    memory = draw_answers(num, 1, len(known)) * torch.tensor(known)
    return Knowers(
        memory / memory.sum(dim=1, keepdim=True),
        torch.tensor(known),
        draw_answers(num, 2, num_given),
        torch.zeros(num, dtype=torch.float64),
        300.0,
    )


@pytest.mark.parametrize("label", [2, 4, 9])
def test_classes_that_the_memory_could_not_know_say_nothing(label: int) -> None:
    """Whether the given model has an output for them (2, 4) or nobody has (9)."""
    readout, knowers = make_readout(), draw_knowers(30, [True, True, False])
    assert readout.gate is not None
    assert readout.outside is not None
    answers = [knowers.memory, draw_answers(30, 3, 10), draw_answers(30, 4, 3)]
    before, outside = readout.gate.state_dict(), readout.outside.state_dict()
    readout.observe(answers, torch.full((30,), label), knowers)
    assert same(before | {"num_heard": 30}, readout.gate.state_dict())
    outside["gate"]["num_heard"] = 30  # type: ignore[index]
    assert same(outside, readout.outside.state_dict())


def test_other_classes_of_the_same_batch_are_heard_as_if_alone() -> None:
    knowers, labels = draw_knowers(2, [True, True, False]), torch.tensor([1, 4])
    answers = [knowers.memory, draw_answers(2, 3, 6), draw_answers(2, 4, 3)]
    both, alone = make_readout(), make_readout()
    both.observe(answers, labels, knowers)
    first = Knowers(
        knowers.memory[:1], knowers.known, knowers.given[:1], knowers.novelty[:1], 300.0
    )
    alone.observe([one[:1] for one in answers], labels[:1], first)
    for one, other in ((both.gate, alone.gate), (both.outside.gate, alone.outside.gate)):  # type: ignore[union-attr]
        assert one is not None
        assert other is not None
        assert same(one.state_dict(), other.state_dict() | {"num_heard": 2})


def test_what_it_is_given_is_left_as_it_is() -> None:
    readout, knowers = make_readout(), draw_knowers(30, [True, True, False])
    answers = [knowers.memory, draw_answers(30, 3, 10), draw_answers(30, 4, 3)]
    labels = torch.arange(30) % 5
    held = [*answers, labels, knowers.known, knowers.given, knowers.novelty]
    before = [one.clone() for one in held if one is not None]
    readout.observe(answers, labels, knowers)
    readout.count(labels, None)
    readout.mix(answers, None, knowers)
    assert all(same(one, was) for one, was in zip(held, before, strict=True))


def test_the_fast_expert_is_believed_once_it_is_better() -> None:
    readout = Readout(nl.Plan(MEMORY, LIVE, readout=nl.mix("memory", "live")), "classification")
    labels = torch.arange(300) % 3
    right = torch.full((300, 3), 0.05, dtype=torch.float64).scatter_(1, labels[:, None], 0.9)
    wrong = right.roll(1, dims=1)
    before = readout.weights
    assert before["memory"] > 0.9
    for rows in torch.arange(300).split(10):
        readout.observe([wrong[rows], right[rows]], labels[rows])
        readout.count(labels[rows], None)
    assert readout.weights["live"] > 0.7
    assert sum(readout.weights.values()) == pytest.approx(1.0)
    assert torch.equal(readout.mix([wrong, right]).argmax(dim=1), labels)


def test_one_expert_that_is_not_finite_spoils_no_answer() -> None:
    readout = Readout(nl.Plan(MEMORY, LIVE, readout=nl.mix("memory", "live")), "classification")
    answers = [draw_answers(20, 1), draw_answers(20, 2) * math.nan]
    labels = torch.arange(20) % 3
    readout.observe(answers, labels)
    readout.count(labels, None)
    assert bool(readout.mix(answers).isfinite().all())
    assert all(bool(one.isfinite().all()) for one in readout.gate.weights)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["default", "pretrained", "memory and copy"])
def test_a_saved_state_goes_on_bit_by_bit(name: str) -> None:
    learner = LEARNERS[name]()
    for seed in range(12):
        learner.learn(*make_batch(seed, 7))
    assert learner.readout is not None
    state = learner.readout.state_dict()
    twin = Readout(learner.plan, "classification")
    twin.load_state_dict(state)
    assert same(state, twin.state_dict())
    knowers = draw_knowers(9, [True, True]) if learner.readout.outside is not None else None
    answers = [draw_answers(9, seed, 2) for seed in range(len(twin.names))]
    labels = torch.arange(9) % 2
    for one in (learner.readout, twin):
        one.observe(answers, labels, knowers)
        one.count(labels, None)
    assert same(learner.readout.state_dict(), twin.state_dict())
    assert not same(state, twin.state_dict())
    mixed = [one.mix(answers, None, knowers) for one in (learner.readout, twin)]
    assert torch.equal(*mixed)


def test_rows_heard_early_do_not_lend_their_features_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step that gives no output cuts the rows that wait; each has features of its own."""
    torch.manual_seed(0)
    learner = nl.Learner(nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(900, 64, generator=generator)
    y = torch.randint(4, (900,), generator=generator)
    read_step = learner.panel.experts.read_step
    compared = 0
    for number, rows in enumerate(torch.arange(900).split(7)):
        bank = learner.levels["memory"].bank
        if number > 20:
            find = type(bank)._find_looked

            def check(x_NI: Tensor, bank: MemoryBank = bank, find: Any = find) -> Tensor:
                nonlocal compared
                compared += 1
                found: Tensor = find(bank, x_NI)
                assert bank.features is not None
                assert torch.equal(found, bank.features(x_NI))
                return found

            monkeypatch.setattr(bank, "_find_looked", check)
        silent = number % 3 == 1
        monkeypatch.setattr(
            learner.panel.experts, "read_step", (lambda *_: {}) if silent else read_step
        )
        learner.learn(x[rows], y[rows])
    assert compared > 50
