"""A learner asleep: its network learns what the memory knows, from nothing stored."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nestling as nl
from learners import differences, read_state
from nestling.consolidate import draw_weights, dream, mix_targets, teach_asleep
from nestling.core.errors import DataError, NotFitted, SettingError, ShapeMismatch, UnknownLevel
from nestling.data import load


def make_net(seed: int = 0, num_outputs: int = 10) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(64, 100), nn.ReLU(), nn.Dropout(0.1), nn.Linear(100, num_outputs)
        )


def make_learner(net: nn.Module | None = None, **settings: Any) -> nl.Learner:
    settings = {"num_inputs": 20_000, "start": "fresh"} | settings
    plan = nl.Plan(
        nl.Memory("memory", on="input", half_lives=(math.inf,)),
        nl.Level("head", match=["3.*"]),
        nl.Level("body", match=["*"]),
        nl.Copy("slow", of=["head", "body"]),
        nl.Sleep("sleep", of="memory", **settings),
        readout="memory",
    )
    return nl.Learner(make_net() if net is None else net, plan)


def learn_digits(learner: nl.Learner, num: int | None = None) -> None:
    """One pass, class by class, which a network alone forgets."""
    x, y, _, _ = load("digits")
    for rows in torch.argsort(y, stable=True)[:num].split(16):
        learner.learn(x[rows], y[rows])


def score(model: nn.Module) -> float:
    _, _, x, y = load("digits")
    model.eval()
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def test_a_network_asleep_comes_within_a_few_points_of_the_memory() -> None:
    _, _, x, y = load("digits")
    learner = make_learner()
    learn_digits(learner)
    tuned, memory, before = score(learner.model), learner.evaluate(x, y), learner.levels.digests()
    assert tuned < 0.6
    proposal = learner.consolidate(change="sleep")
    assert proposal.status == "committed"
    assert memory >= 0.97
    assert score(learner.model) >= memory - 0.06
    after = learner.levels.digests()
    assert {name for name in after if after[name] != before[name]} == {"head", "body"}
    assert learner.levels["sleep"].clock.num_updates == 1
    # A plain model is what is left; nothing of the house is in it.
    assert type(learner.model) is nn.Sequential
    assert learner.evaluate(x, y) == memory


def test_refused_nothing_changes() -> None:
    learner = make_learner(num_inputs=500)
    learn_digits(learner)
    before = read_state(learner)
    proposal = learner.consolidate(lambda _: False, change="sleep")
    assert proposal.status == "refused"
    assert differences(before, read_state(learner)) == []


def test_a_network_that_would_be_worse_is_refused_by_the_dreams() -> None:
    learner = make_learner(num_inputs=5_000)
    learn_digits(learner)
    assert learner.consolidate(change="sleep").status == "committed"
    # New weights and far too few steps: worse than what is there.
    learner.control("sleep", reason="hurry", num_inputs=64, epochs=1)
    before = learner.levels.digests()
    proposal = learner.consolidate(change="sleep")
    assert proposal.status == "refused"
    assert "is not >=" in proposal.verdict.reason
    assert learner.levels.digests() == before


def test_it_depends_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    first, second = make_learner(num_inputs=1_000), make_learner(num_inputs=1_000)
    torch.manual_seed(5)  # dropout of every step; a snapshot brings it back
    learn_digits(first)
    torch.manual_seed(5)
    learn_digits(second, 640)
    second.snapshot(tmp_path / "half")
    resumed = make_learner(num_inputs=1_000)
    resumed.restore(tmp_path / "half")
    x, y, _, _ = load("digits")
    for rows in torch.argsort(y, stable=True)[640:].split(16):
        resumed.learn(x[rows], y[rows])
    torch.manual_seed(1234)  # dropout asleep draws from a seed of its own
    first.consolidate(change="sleep")
    torch.manual_seed(99)
    state = torch.get_rng_state()
    resumed.consolidate(change="sleep")
    assert torch.equal(torch.get_rng_state(), state)
    assert differences(read_state(first), read_state(resumed)) == []
    resumed.snapshot(tmp_path / "whole")
    again = make_learner(num_inputs=1_000)
    again.restore(tmp_path / "whole")
    assert differences(read_state(first), read_state(again)) == []
    other = make_learner(num_inputs=1_000, seed=1)
    learn_digits(other)
    other.consolidate(change="sleep")
    assert first.levels["head"].digest() != other.levels["head"].digest()


def test_only_the_levels_that_it_teaches_learn() -> None:
    learner = make_learner(num_inputs=1_000, teaches="head", start="live")
    learn_digits(learner)
    before = learner.levels.digests()
    assert learner.consolidate(change="sleep").status == "committed"
    after = learner.levels.digests()
    assert {name for name in after if after[name] != before[name]} == {"head"}
    assert all(param.requires_grad for param in learner.model.parameters())


def test_learning_goes_on_after_sleep_and_examples_count_once() -> None:
    learner = make_learner(num_inputs=500)
    x, y, _, _ = load("digits")
    learner.fit([(x[:100], y[:100])], epochs=3)
    assert learner.levels["sleep"].clock.num_ticks == 100
    learner.consolidate(change="sleep")
    learner.learn(x[100:200], y[100:200])
    assert learner.levels["sleep"].clock.num_ticks == 200


def test_any_network_that_takes_such_inputs_can_be_taught() -> None:
    learner = make_learner()
    learn_digits(learner)
    levels = learner.levels
    dreams = dream(levels.sleeps["sleep"], levels.memories["memory"], num_inputs=10_000)
    assert dreams.x.shape == (10_000, 64)
    assert torch.allclose(dreams.answers.sum(1), torch.ones(10_000), atol=1e-5)
    assert float((dreams.answers.argmax(1) == dreams.classes).float().mean()) > 0.9
    student = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 12))
    before = copy.deepcopy(student.state_dict())
    weights = teach_asleep(student, dreams, epochs=6)
    assert differences(before, dict(student.state_dict())) == []
    student.load_state_dict(weights)
    assert score(student) > 0.8


def test_what_is_taught_is_the_word_of_the_memory_and_the_class() -> None:
    answers, classes = torch.tensor([[0.64, 0.36, 0.0], [0.0, 0.5, 0.5]]), torch.tensor([0, 0])
    assert torch.equal(mix_targets(answers, classes, 1.0, 0.0), answers)
    assert torch.equal(mix_targets(answers, classes, 3.0, 1.0), torch.eye(3)[[0, 0]])
    softened = torch.tensor([[0.8 / 1.4, 0.6 / 1.4, 0.0], [0.0, 0.5, 0.5]])
    assert torch.allclose(mix_targets(answers, classes, 2.0, 0.0), softened)
    mixed = torch.tensor([[0.64 * 0.75 + 0.25, 0.27, 0.0], [0.25, 0.375, 0.375]])
    assert torch.allclose(mix_targets(answers, classes, 1.0, 0.25), mixed)


def test_new_weights_are_drawn_for_whole_modules_only() -> None:
    net = make_net()
    before = copy.deepcopy(net.state_dict())
    draw_weights(net, ["0.weight", "3.weight", "3.bias"], seed=0)
    after = net.state_dict()
    assert torch.equal(before["0.weight"], after["0.weight"])  # its bias was not named
    assert not torch.equal(before["3.weight"], after["3.weight"])


def test_what_cannot_sleep_is_one_line() -> None:
    learner = make_learner()
    with pytest.raises(NotFitted, match="sleep 'sleep' has nothing to dream of; learn"):
        learner.consolidate(change="sleep")
    learn_digits(learner, 100)
    with pytest.raises(UnknownLevel, match=r"change 'sleeep'; .*'sleep'"):
        learner.consolidate(lambda _: True, change="sleeep")
    levels = learner.levels
    empty = make_learner().levels
    with pytest.raises(NotFitted, match="memory 'memory', which sleep 'sleep' asks, is empty"):
        dream(levels.sleeps["sleep"], empty.memories["memory"])
    dreams = dream(levels.sleeps["sleep"], levels.memories["memory"], num_inputs=20)
    with pytest.raises(DataError, match=r"the model cannot take input 0 \(2, 64\)"):
        teach_asleep(nn.Linear(63, 10), dreams)
    wide = replace(dreams, targets=torch.rand(20, 10))
    with pytest.raises(ShapeMismatch, match=r"gives \(2, 3\) for 2 dreams .* knows 10 classes"):
        teach_asleep(nn.Linear(64, 3), wide)
    with pytest.raises(SettingError, match="0 epochs, batch size 64"):
        teach_asleep(make_net(), dreams, epochs=0)
    x, y, _, _ = load("digits")
    before = read_state(learner)
    with pytest.raises(ShapeMismatch, match="sums inputs of shape"):
        learner.learn(x[:4].reshape(4, 8, 8).flatten(1)[:, :, None], y[:4])
    assert differences(before, read_state(learner)) == []
