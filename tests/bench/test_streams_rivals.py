"""Rivals on streams: the plain network against torch, and River's systems by name."""

import numpy as np
import pytest
import torch
from torch import nn

from nestling.bench.streams.online_networks import (
    ADAMW_RATE,
    BATCH,
    DECAY,
    SGD_RATE,
    GrowingColumns,
    OnlineNetwork,
    Rule,
)
from nestling.bench.streams.stream_rivals import RIVALS, make_forest_of_values
from nestling.data.events import Event


def draw_events(count: int, num_classes: int = 3) -> list[Event]:
    random = np.random.default_rng(0)
    events: list[Event] = []
    for _ in range(count):
        label = int(random.integers(num_classes))
        x = {f"x{k}": float(random.normal() + 2.0 * (k == label)) for k in range(num_classes)}
        events.append(({**x, "word": "abc"[int(random.integers(3))]}, label))
    return events


def test_columns_are_z_scores_and_words_of_what_came() -> None:
    columns = GrowingColumns()
    for value, word in ((1.0, "a"), (2.0, "b"), (6.0, "a")):
        columns.observe({"x": value, "w": word})
    deviation = np.std([1.0, 2.0, 6.0])
    assert columns.encode({"x": 5.0, "w": "b"}).tolist() == pytest.approx(
        [2.0 / deviation, 0.0, 1.0]
    )
    assert columns.encode({"w": "never", "other": 1.0}).tolist() == [0.0, 0.0, 0.0]
    # A column that is not there is at its mean; one that never moved says nothing.
    constant = GrowingColumns()
    constant.observe({"x": 3.0})
    assert constant.encode({"x": 9.0}).tolist() == [0.0]


def test_columns_that_come_late_are_scaled_by_their_own_events() -> None:
    columns = GrowingColumns()
    columns.observe({"x": 1.0})
    columns.observe({"x": 3.0, "late": 10.0})
    columns.observe({"x": 2.0, "late": 20.0})
    assert columns.encode({"late": 20.0})[1] == pytest.approx(1.0)


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_the_network_is_torchs(rule: Rule) -> None:
    """Same weights, same rows: gradients are autograd's, and ten steps end where torch's do."""
    ours = OnlineNetwork(rule, seed=0)
    events = draw_events(40)
    for x, y in events[:20]:
        ours.learn_one(x, y)
    rows = np.stack([ours._columns.encode(x) for x, _ in events])
    labels = np.array([int(y) for _, y in events])
    net = nn.Sequential(
        nn.Linear(rows.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
    ).double()
    layers = [net[0], net[2], net[4]]
    for layer, weight, bias in zip(layers, ours._weights[:3], ours._weights[3:], strict=True):
        layer.weight.data = torch.tensor(weight.T.copy())
        layer.bias.data = torch.tensor(bias.copy())
    order = [ours._classes[y] for y in (0, 1, 2)]
    targets = torch.tensor([order[y] for y in labels])
    loss = nn.functional.cross_entropy(net(torch.tensor(rows)), targets)
    loss.backward()
    gradients = ours.measure_gradients(rows, targets.numpy())
    for layer, weight, bias in zip(layers, gradients[:3], gradients[3:], strict=True):
        assert np.allclose(layer.weight.grad.numpy().T, weight, atol=1e-12)
        assert np.allclose(layer.bias.grad.numpy(), bias, atol=1e-12)
    if rule == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), SGD_RATE)
    else:
        optimizer = torch.optim.AdamW(net.parameters(), ADAMW_RATE, weight_decay=DECAY)
        for moments in (ours._first, ours._second):
            for one in moments:
                one[:] = 0.0
        ours._num_steps = 0
    for start in range(0, 40, 4):
        x_ND, y_N = rows[start : start + 4], targets[start : start + 4]
        ours.step(x_ND, y_N.numpy())
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.tensor(x_ND)), y_N).backward()
        optimizer.step()
    theirs = net(torch.tensor(rows)).softmax(dim=1).detach().numpy()
    assert np.allclose(ours.answer(rows), theirs, atol=1e-9)


def test_the_network_grows_and_asks_nothing_of_what_it_did_not_see() -> None:
    network = OnlineNetwork("adamw", seed=0)
    assert network.predict_proba_one({"x": 1.0}) == {}
    network.learn_one({"x": 1.0}, "a")
    before = network.predict_proba_one({"x": 1.0, "new": "word"})
    assert before == {"a": 1.0}
    network.learn_one({"x": 2.0, "new": "word"}, "b")
    answer = network.predict_proba_one({"new": "word"})
    assert set(answer) == {"a", "b"}
    assert sum(answer.values()) == pytest.approx(1.0)


def test_a_reservoir_holds_every_event_with_the_same_chance() -> None:
    counts = np.zeros(40)
    for seed in range(200):
        network = OnlineNetwork("sgd", seed, replay=10)
        for number in range(40):
            network._hold(({"x": number}, 0))
        assert len(network._held) == 10
        for x, _ in network._held:
            counts[x["x"]] += 1
    assert counts.mean() == pytest.approx(50.0)
    assert abs(counts - 50.0).max() < 25.0  # four deviations of a share of a quarter


def test_a_step_with_replay_takes_the_event_and_others(monkeypatch: pytest.MonkeyPatch) -> None:
    network = OnlineNetwork("sgd", 0, replay=5)
    taken: list[int] = []
    monkeypatch.setattr(network, "step", lambda x_ND, _: taken.append(len(x_ND)))
    for x, y in draw_events(3):
        network.learn_one(x, y)
    assert taken == [1, BATCH, BATCH]


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_learns_events(name: str) -> None:
    if not name.startswith("network"):
        pytest.importorskip("river")
    learner = RIVALS[name](0, 3)
    right = []
    for x, y in draw_events(300):
        answer = learner.predict_proba_one(x)
        right.append(bool(answer) and max(answer, key=answer.__getitem__) == y)
        learner.learn_one(x, y)
    assert np.mean(right[100:]) > 0.6  # chance is a third


def test_the_forest_of_values_learns() -> None:
    pytest.importorskip("river")
    forest = make_forest_of_values(0)
    for number in range(200):
        forest.learn_one({"x": float(number % 10)}, float(number % 10))
    assert forest.predict_one({"x": 9.0}) > forest.predict_one({"x": 0.0})
