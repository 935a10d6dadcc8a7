"""A trained model that begins to learn: never much worse than it was, whatever was given."""

import copy
import logging
import pickle
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nestling as nl
from learners import draw, make_batch, make_mlp
from nestling.core.errors import DataError, NonFiniteInput, NotFitted, SettingError
from nestling.data import load_digits

Pair = tuple[Tensor, Tensor]


def train(model: nn.Module, x: Tensor, y: Tensor, num_epochs: int = 30) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_epochs):
        for rows in torch.randperm(len(x), generator=generator).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def digits() -> Pair:
    x, y = load_digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


@pytest.fixture(scope="module")
def trained(digits: Pair) -> nn.Module:
    x, y = digits
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return train(model, x[:1000], y[:1000])


def score(answer: Tensor, y: Tensor) -> float:
    return float((answer.argmax(dim=1) == y).double().mean())


def follow(learner: nl.Learner, stream: Pair, num: int = 300, size: int = 5) -> None:
    x, y = stream
    for start in range(0, num, size):
        learner.learn(x[start : start + size], y[start : start + size])


def test_ordinary_events_do_not_spoil_it(digits: Pair, trained: nn.Module) -> None:
    x, y = digits
    with torch.no_grad():
        was = score(trained(x[1300:]), y[1300:])
    learner = nl.Learner(copy.deepcopy(trained), pretrained=True)
    found = [learner.evaluate(x[1300:], y[1300:])]
    for start, stop in ((0, 5), (5, 20), (20, 50), (50, 100), (100, 300)):
        follow(learner, (x[1000 + start :], y[1000 + start :]), stop - start)
        found.append(learner.evaluate(x[1300:], y[1300:]))
    assert found[0] == pytest.approx(was)
    assert min(found) >= was - 0.01


@pytest.mark.parametrize("size", [1, 5, 100])
def test_a_person_is_learned_and_the_others_are_kept(
    digits: Pair, trained: nn.Module, size: int
) -> None:
    x, y = digits
    own = 1.0 - x[1000:]
    learner = nl.Learner(copy.deepcopy(trained), pretrained=True)
    others = learner.evaluate(x[1300:], y[1300:])
    assert learner.evaluate(own[300:], y[1300:]) < 0.2
    follow(learner, (own, y[1000:]), size=size)
    assert learner.evaluate(own[300:], y[1300:]) > 0.9
    assert learner.evaluate(x[1300:], y[1300:]) > others - 0.005
    assert learner.readout is not None
    assert learner.readout.outside is not None
    assert not learner.readout.outside.is_foreign
    shares = learner.readout.outside.gate.shares
    assert shares[0].argmax() == 0  # inside: the memory
    assert shares[2].argmax() == 1  # far from it: the model as it was given


def test_labels_in_another_order_are_found_out(digits: Pair, trained: nn.Module) -> None:
    x, y = digits
    other = (y + 3) % 10
    learner = nl.Learner(copy.deepcopy(trained), pretrained=True)
    assert learner.evaluate(x[1300:], other[1300:]) < 0.1
    follow(learner, (x[1000:], other[1000:]))
    assert learner.evaluate(x[1300:], other[1300:]) > 0.88
    assert learner.readout is not None
    assert learner.readout.outside is not None
    assert learner.readout.outside.is_foreign


@pytest.mark.parametrize("num_outputs", [4, 10, 17])
def test_a_fresh_head_is_found_out(digits: Pair, trained: nn.Module, num_outputs: int) -> None:
    x, y = digits
    model = copy.deepcopy(trained)
    torch.manual_seed(1)
    model[2] = nn.Linear(64, num_outputs)  # type: ignore[index]
    learner = nl.Learner(model, pretrained=True)
    by_class = y[1000:1300].argsort(stable=True)  # class after class
    follow(learner, (x[1000:1300][by_class], y[1000:1300][by_class]))
    assert learner.evaluate(x[1300:], y[1300:]) > 0.88
    origin = learner.optimizer.levels.copies["origin"]  # type: ignore[union-attr]
    assert origin.values["2.bias"].shape == (num_outputs,)
    assert learner.predict_proba(x[:2]).shape == (2, max(10, num_outputs))


def test_a_person_whose_classes_come_one_after_the_other(digits: Pair, trained: nn.Module) -> None:
    x, y = digits
    with torch.no_grad():
        was = score(trained(x[1300:]), y[1300:])
    learner = nl.Learner(copy.deepcopy(trained), pretrained=True)
    order = y[1000:1300].argsort(stable=True)
    for rows in order.split(60):
        follow(learner, (1.0 - x[1000:1300][rows], y[1000:1300][rows]), len(rows))
        assert learner.evaluate(x[1300:], y[1300:]) > was - 0.01
    assert learner.evaluate(1.0 - x[1300:], y[1300:]) > 0.88


def test_before_the_first_event_it_answers_as_the_model() -> None:
    model = make_mlp(4, 3).eval()
    x = draw(6, 4)
    with torch.no_grad():
        expected = model(x).softmax(dim=1)
    learner = nl.Learner(model, pretrained=True)
    torch.testing.assert_close(learner.predict_proba(x), expected)
    assert learner.predict(x).tolist() == expected.argmax(1).tolist()
    assert learner.task is None
    values = nl.Learner(make_mlp(4, 1).eval(), pretrained=True)
    assert values.predict(x).shape == (6, 1)
    with pytest.raises(DataError, match="no probabilities; use predict"):
        values.predict_proba(x)
    target = values.predict(x) + 0.1 * x[:, :1]
    assert values.evaluate(x, target) < 1.0
    two = nl.Learner(make_mlp(4, 2).eval(), pretrained=True)
    assert two.evaluate(x, draw(6, 2)) < 1.0  # values after all
    with pytest.raises(NotFitted):
        nl.Learner(make_mlp()).predict(x)
    # Examples of no weight leave the memory empty.
    weightless = nl.Learner(make_mlp(4, 3).eval(), pretrained=True)
    weightless.learn(x, torch.arange(6) % 3, weight=torch.zeros(6))
    assert weightless.predict_proba(x).shape == (6, 3)


def test_one_example_and_equal_examples_change_little() -> None:
    x = draw(40, 4)
    model = train(make_mlp(4, 3), draw(400, 4, seed=1), draw(400, 4, seed=1)[:, :3].argmax(1))
    with torch.no_grad():
        expected = model(x).argmax(dim=1)
    one = nl.Learner(copy.deepcopy(model), pretrained=True)
    one.learn(x[:1], torch.tensor([2]))
    assert (one.predict(x) == expected).double().mean() > 0.9
    alike = nl.Learner(copy.deepcopy(model), pretrained=True)
    for _ in range(20):
        alike.learn(x[:1].repeat(5, 1), torch.full((5,), 2))
    assert alike.predict(x[:1]).tolist() == [2]
    assert (alike.predict(x[1:]) == expected[1:]).double().mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = make_mlp(4, 2).to(dtype).eval()
    learner = nl.Learner(model, pretrained=True)
    before = learner.predict_proba(draw(5, 4).to(dtype))
    assert before.dtype == torch.float32
    for seed in range(12):
        x, y = make_batch(seed)
        learner.learn(x.to(dtype), y)
    x, y = make_batch(99, 64)
    assert learner.evaluate(x.to(dtype), y) > 0.8


def test_outputs_that_are_not_finite_are_not_asked() -> None:
    model = make_mlp(4, 2)
    with torch.no_grad():
        model[2].bias.fill_(float("nan"))
    learner = nl.Learner(model, pretrained=True)
    x, y = make_batch(0, 64)
    with pytest.raises(NonFiniteInput, match="answer to row 0 is not finite") as found:
        learner.predict_proba(x)
    assert "\n" not in str(found.value)
    for rows in torch.arange(64).split(8):
        report = learner.learn(x[rows], y[rows])
        assert report.refused == "loss is nan"
    assert learner.evaluate(x, y) > 0.9
    torch.testing.assert_close(learner.export()(x), learner.predict_proba(x), atol=1e-5, rtol=1e-5)


def test_the_origin_stands_still_with_its_running_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x, _ = make_batch(5, 20)
    with torch.no_grad():
        expected = model(x).softmax(dim=1)
    learner = nl.Learner(model, pretrained=True)
    for seed in range(20):
        learner.learn(*make_batch(seed))
    assert learner.optimizer is not None
    origin = learner.optimizer.levels.copies["origin"]
    assert origin.read().num_updates == 0
    assert set(origin.buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    from nestling.core.batches import Batch

    learner.panel.experts.is_lent = False  # by its own copy, not by the one that the memory reads
    torch.testing.assert_close(
        learner.panel.experts.answer_as_given(Batch((x,)), None)[0].float(), expected
    )
    with pytest.raises(SettingError, match="never moves"):
        learner.control("origin", reason="try", decay=0.5)


def test_going_back_to_the_model_as_it_was_given() -> None:
    model = make_mlp(4, 2)
    before = copy.deepcopy(model.state_dict())
    learner = nl.Learner(model, pretrained=True)
    for seed in range(20):
        learner.learn(*make_batch(seed))
    assert not torch.equal(model[2].weight, before["2.weight"])
    assert learner.consolidate(lambda _: True, change="origin").status == "committed"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_snapshots_of_a_head_that_grew(tmp_path: Path) -> None:
    x, y = make_batch(0, 60, num_classes=4)
    learner, twin = (nl.Learner(make_mlp(4, 2), pretrained=True) for _ in range(2))
    for rows in torch.arange(40).split(5):
        learner.learn(x[rows], y[rows])
    learner.snapshot(tmp_path / "last")
    twin.restore(tmp_path / "last")
    for one in (learner, twin):
        one.restore(tmp_path / "last")
        one.learn(x[40:], y[40:])
    assert torch.equal(learner.predict_proba(x), twin.predict_proba(x))


def test_threads_ask_while_one_learns() -> None:
    learner = nl.Learner(make_mlp(4, 2), pretrained=True)
    x, _ = make_batch(7, 5)
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(30):
                assert bool(learner.predict_proba(x).isfinite().all())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for seed in range(30):
        learner.learn(*make_batch(seed, 7))
    for thread in threads:
        thread.join()
    assert failed == []


def test_positions_and_keyword_inputs() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(torch.relu(self.mix(tokens)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    learner = nl.Learner(Tagger(), pretrained=True)
    x = draw(30, 6, 3)
    y = (x[..., 0] > 0).long()
    y[:, -1] = -100
    assert learner.predict_proba({"tokens": x}).shape == (30, 6, 2)
    for rows in torch.arange(30).split(3):
        learner.learn({"tokens": x[rows], "labels": y[rows]})
    assert learner.predict_proba({"tokens": x}).shape == (30, 6, 2)
    assert learner.evaluate({"tokens": x, "labels": y}) > 0.85


def test_a_plan_may_name_its_own_outside() -> None:
    with pytest.raises(SettingError, match="is no copy level"):
        nl.Plan(
            nl.Memory("m"),
            nl.Level("all", match=["*"]),
            readout=nl.mix("m", "live", outside="live"),
        )
    with pytest.raises(SettingError, match="of no memory"):
        nl.Plan(
            nl.Level("all", match=["*"]),
            nl.Copy("origin", of=["all"], decay=1.0),
            readout=nl.mix("live", "origin", outside="origin"),
        )
    with pytest.raises(SettingError, match="not among"):
        nl.mix("a", "b", outside="c")
    with pytest.raises(SettingError, match="leave the weights out"):
        nl.mix("a", "b", weights=(1, 1), outside="b")
    plan = nl.Learner(make_mlp(), pretrained=True).plan
    assert nl.Plan.from_toml(plan.to_toml()) == plan
    assert 'outside = "origin"' in plan.to_toml()


def test_an_early_layer_that_tells_nothing_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nestling")

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.used, self.head = nn.Linear(9, 9), nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.used(x)))  # type: ignore[no-any-return]

    class Folded(Idle):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.idle(x.reshape(-1, 2)).reshape(-1, 4))

    x, y = make_batch(0, 240)
    for kind in (Idle, Folded):
        torch.manual_seed(0)
        model = kind()
        learner = nl.Learner(copy.deepcopy(model), pretrained=True)
        learner.predict_proba(x)
        for rows in torch.arange(240).split(6):
            learner.learn(x[rows], y[rows])
        assert learner.plan.memories[0].on is None
        assert "reads the input of 'head' of a frozen copy" in caplog.messages[-1]
        assert learner.evaluate(x, y) > 0.6
        torch.testing.assert_close(
            learner.export()(x), learner.predict_proba(x), atol=1e-5, rtol=1e-5
        )
        learner.snapshot(tmp_path / kind.__name__)
        twin = nl.Learner(copy.deepcopy(model), pretrained=True)
        twin.restore(tmp_path / kind.__name__)
        assert torch.equal(twin.predict_proba(x), learner.predict_proba(x))


def test_a_first_batch_that_is_wrong_takes_no_view_away() -> None:
    learner = nl.Learner(make_mlp(4, 2), pretrained=True)
    plan = learner.plan
    with pytest.raises(DataError):
        learner.learn(draw(5, 7), torch.zeros(5, dtype=torch.long))
    assert learner.plan is plan
    learner.learn(*make_batch(0))
    assert len(learner.levels["memory"].reader.taps) == 2


def test_buffers_of_the_caller_may_be_used_again() -> None:
    own, shared = (nl.Learner(make_mlp(4, 2), pretrained=True) for _ in range(2))
    x_buffer, y_buffer = torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)
    for seed in range(30):
        x, y = make_batch(seed, 6)
        own.learn(x, y)
        x_buffer.copy_(x)
        y_buffer.copy_(y)
        shared.learn(x_buffer, y_buffer)
    x, _ = make_batch(99)
    assert torch.equal(own.predict_proba(x), shared.predict_proba(x))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
@pytest.mark.parametrize("pretrained", [False, True])
def test_labels_of_any_integers(dtype: torch.dtype, pretrained: bool) -> None:
    learner = nl.Learner(make_mlp(4, 2), pretrained=pretrained)
    for seed in range(20):
        x, y = make_batch(seed)
        learner.learn(x, y.to(dtype))
    assert learner.evaluate(*make_batch(99)) > 0.8
    assert learner.predict_proba(x[:0]).shape == (0, 2)


def test_numbers_that_are_no_logits_say_so() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))
    x, y = make_batch(0)
    learner = nl.Learner(model, pretrained=True)
    assert learner.predict(x).shape == (16, 1)
    with pytest.raises(DataError, match="no logits of classes"):
        learner.evaluate(x, y)
    three = nl.Learner(make_mlp(4, 3), pretrained=True)
    with pytest.raises(DataError, match="one value per output"):
        three.evaluate(x, x[:, 0])


def test_a_frozen_head_that_grows_keeps_the_origin(digits: Pair, trained: nn.Module) -> None:
    model = copy.deepcopy(trained)
    model[2].requires_grad_(False)  # type: ignore[index]
    x, _ = digits
    plan = nl.Plan(
        nl.Memory("m", on="input", half_lives=(float("inf"),), num_features=50),
        nl.Level("all", match=["*"]),
        nl.Copy("given", of=["all"], decay=1.0),
        readout=nl.mix("m", "live", "given", outside="given"),
    )
    learner = nl.Learner(model, plan)
    learner.learn(x[:4], torch.tensor([0, 1, 2, 11]))
    assert learner.optimizer is not None
    assert learner.optimizer.levels.copies["given"].buffers["2.bias"].shape == (10,)
    assert learner.predict_proba(x[:4]).shape == (4, 12)


def test_values_of_a_far_person_do_not_spoil_the_others() -> None:
    x = draw(900, 6)
    y = x[:, :1] - 0.5 * x[:, 1:2] ** 2
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        functional.mse_loss(model(x[:600]), y[:600]).backward()
        optimizer.step()
    learner = nl.Learner(model.eval(), pretrained=True)
    before = learner.evaluate(x[600:], y[600:])
    assert before > 0.9
    for rows in torch.arange(300).split(5):
        learner.learn(x[rows] + 8.0, y[rows] + 3.0)
        if int(rows[-1]) in (19, 99, 299):
            assert learner.evaluate(x[600:], y[600:]) > before - 0.01
    error = (learner.predict(x[300:600] + 8.0) - y[300:600] - 3.0).abs().median()
    assert error < 1.0
    torch.testing.assert_close(learner.export()(x), learner.predict(x), atol=1e-5, rtol=1e-5)


def test_empty_batches_and_links_before_the_first_event() -> None:
    one = nl.Learner(make_mlp(4, 1).eval(), pretrained=True)
    assert one.predict(torch.zeros(0, 4)).shape == (0, 1)
    two = nl.Learner(make_mlp(4, 2).eval(), pretrained=True, output_transform=torch.sigmoid)
    x = draw(3, 4)
    with torch.no_grad():
        torch.testing.assert_close(two.predict(x), two.model(x).sigmoid())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_head_whose_weight_a_hook_computes_cannot_grow() -> None:
    model = make_mlp(4, 2)
    torch.nn.utils.weight_norm(model[2])
    learner = nl.Learner(model, pretrained=True)
    x, y = make_batch(0)
    learner.learn(x, y)
    before = learner.predict_proba(x)
    with pytest.raises(SettingError, match="has an overlay"):
        learner.learn(x, y + 2)
    assert torch.equal(learner.predict_proba(x), before)


def test_a_plan_survives_pickling() -> None:
    plan = nl.Learner(make_mlp(), pretrained=True).plan
    assert pickle.loads(pickle.dumps(plan)) == plan
