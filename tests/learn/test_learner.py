"""The learner on its first page, on many kinds of batch and target, and while it answers."""

import logging
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nestling as nl
from learners import differences, make_batch, make_mlp, read_state
from nestling.core.errors import DataError


def test_three_lines() -> None:
    loaders = []
    for shift in (0, 2):  # classes 0 and 1, then 2 and 3
        x, y = make_batch(seed=shift, num=200)
        x[:, 3] += 4 * shift
        loaders.append(DataLoader(TensorDataset(x, y + shift), batch_size=20))
    learner = nl.Learner(make_mlp())
    learner.fit(loaders[0])
    report = learner.fit(loaders[1])
    assert learner.panel.targets.classes == {0, 1, 2, 3}
    for loader in loaders:
        assert learner.evaluate(*loader.dataset.tensors) > 0.9  # type: ignore[attr-defined]
    assert (report.num_examples, report.num_steps, report.num_refused) == (200, 10, 0)
    assert report.seconds > 0
    assert 0 < report.loss < 20
    assert learner.counts.num_experiences == 2
    p = learner.predict_proba(loaders[0].dataset.tensors[0])  # type: ignore[attr-defined]
    assert p.shape == (200, 4)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.sum(1), torch.ones(200))


def test_memories_take_an_example_once_and_the_model_every_epoch() -> None:
    x, y = make_batch(num=64)
    learner = nl.Learner(make_mlp())
    report = learner.fit([(x, y)], epochs=3)
    assert (report.num_examples, report.num_steps) == (192, 3)
    assert learner.levels["memory"].bank.clock == 64
    learner.learn(x, y, again=True)
    assert learner.levels["memory"].bank.clock == 64
    losses = [learner.learn(x, y, again=True).loss for _ in range(20)]
    assert losses[-1] < losses[0]


def test_replay_is_offered_an_example_once() -> None:
    x, y = make_batch(num=64)
    learner = nl.Learner(make_mlp(), replay=100)
    learner.fit(list(zip(x.split(16), y.split(16), strict=True)), epochs=3)
    store = learner.protections.replay.store
    assert (store.num_seen, len(store)) == (64, 64)
    learner.learn(x[:8], y[:8], again=True)
    assert store.num_seen == 64
    learner.learn(x[:8], y[:8])
    assert store.num_seen == 72


@pytest.mark.parametrize("replay", [0, 10])
def test_a_head_that_grows(replay: int) -> None:
    learner = nl.Learner(make_mlp(4, 2, width=8), replay=replay)
    for seed in range(4):
        x, y = make_batch(seed, num_classes=3)
        learner.learn(x[y < 2], y[y < 2])
    before = learner.model[2].weight.detach().clone()  # type: ignore[index]
    for seed in range(4, 12):
        learner.learn(*make_batch(seed, num_classes=3))
    head = learner.model[2]  # type: ignore[index]
    assert head.out_features == 3
    assert head.weight.shape == (3, 8)
    assert not torch.equal(head.weight[:2], before)
    x, y = make_batch(99, 64, num_classes=3)
    assert learner.evaluate(x, y) > 0.8
    if learner.protections.replay is not None:
        outputs = learner.protections.replay.store.read_all()["logits"]
        assert outputs.shape == (10, 3)
        assert outputs[:, 2].isnan().any()
        assert not outputs[:, :2].isnan().any()


def test_growing_leaves_old_answers() -> None:
    learner = nl.Learner(make_mlp(), nl.Plan(nl.Level("l", match=["*"], optimizer=nl.sgd(lr=0.0))))
    x, y = make_batch()
    learner.learn(x, y)
    before = learner.model(x)
    learner.learn(x, y + 1)
    torch.testing.assert_close(learner.model(x)[:, :2], before)


def test_declared_classes_need_no_growth() -> None:
    learner = nl.Learner(make_mlp(4, 5), num_classes=5)
    x, y = make_batch()
    learner.learn(x, y)
    learner.learn(x, y + 3)
    assert learner.predict_proba(x).shape == (16, 5)


def test_task_labels_restrict_the_answer() -> None:
    learner = nl.Learner(make_mlp(4, 4))
    x, y = make_batch(num=64)
    learner.fit([(x, y)], task=0)
    learner.fit([(x, y + 2)], task=1)
    assert learner.panel.targets.task_classes == {0: {0, 1}, 1: {2, 3}}
    p = learner.predict_proba(x, task=0)
    assert not p[:, 2:].any()
    torch.testing.assert_close(p.sum(1), torch.ones(64))
    assert set(learner.predict(x, task=1).tolist()) == {2, 3}
    assert learner.evaluate(x, y, task=0) > 0.8
    with pytest.raises(DataError, match=r"known: \[0, 1\]"):
        learner.predict(x, task=2)


def test_pretrained_features_are_kept() -> None:
    learner = nl.Learner(make_mlp(), pretrained=True)
    assert [level.name for level in learner.plan.gradient_levels] == ["head", "spine"]
    spine = learner.model[0].weight.detach().clone()  # type: ignore[index]
    for seed in range(8):
        learner.learn(*make_batch(seed))
    assert torch.equal(learner.model[0].weight, spine)  # type: ignore[index]
    assert [str(tap) for tap in learner.levels["memory"].reader.taps] == [
        "the input of '0'",
        "the input of '2'",
    ]


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("input", "memory 'm' reads the model's input"),
        ("1", "memory 'm' reads the output of '1' of a frozen copy of the model"),
        (None, "memory 'm' reads the input of '2' of a frozen copy of the model"),
        (
            ("input", "input of 2", "0"),
            "memory 'm' reads the model's input and the input of '2' and the output of '0' of a "
            "frozen copy of the model",
        ),
    ],
)
def test_what_a_memory_reads_is_said(
    on: str | tuple[str, ...] | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nestling")
    plan = nl.Plan(nl.Memory("m", on=on, num_features=5), nl.Level("all", match=["*"]), readout="m")
    learner = nl.Learner(make_mlp(), plan)
    assert caplog.messages == [said]
    learner.learn(*make_batch())
    widths = {"input": 4, "1": 16, None: 16}
    assert learner.levels["m"].bank.num_inputs == (widths[on] if not isinstance(on, tuple) else 36)


def test_bytes_and_images_can_be_remembered() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    learner = nl.Learner(model, nl.Plan(nl.Memory("m", on="input"), readout="m"))
    x = torch.randint(0, 255, (32, 1, 4, 4), generator=torch.Generator()).to(torch.uint8)
    assert nl.Plan(nl.Memory("m"), readout="m").gradient_levels == ()
    model.forward = lambda x: nn.Sequential.forward(model, x.float())  # type: ignore[method-assign]
    learner.learn(x, (x[:, 0, 0, 0] > 127).long())
    assert learner.predict_proba(x).shape == (32, 2)


def test_bfloat16() -> None:
    learner = nl.Learner(make_mlp(), precision="bf16", replay=8)
    x, y = make_batch(num=64)
    losses = [learner.learn(x, y).loss for _ in range(20)]
    assert losses[-1] < losses[0]
    assert all(p.dtype == torch.float32 for p in learner.model.parameters())
    assert learner.evaluate(x, y) > 0.9


def test_threads_may_ask_while_it_learns() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    quiet = nl.Learner(model)
    torch.manual_seed(0)
    x, _ = make_batch(99)
    wrong: list[object] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            p = quiet.predict_proba(x)
            if not torch.allclose(p.sum(1), torch.ones(16), atol=1e-5):
                wrong.append(p)

    quiet.learn(*make_batch())
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for seed in range(30):
        quiet.learn(*make_batch(seed))
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert quiet.counts.num_examples == 31 * 16


def test_asking_changes_nothing() -> None:
    learner = nl.Learner(make_mlp(), replay=8)
    learner.learn(*make_batch())
    before = read_state(learner)
    learner.predict_proba(make_batch()[0])
    learner.evaluate(*make_batch())
    learner.export()
    assert differences(before, read_state(learner)) == []


def test_metrics_go_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))  # type: ignore[no-untyped-call]
    learner = nl.Learner(make_mlp(), writer=writer)
    learner.fit([make_batch(0), make_batch(1)])
    writer.close()  # type: ignore[no-untyped-call]
    events = EventAccumulator(str(tmp_path))  # type: ignore[no-untyped-call]
    events.Reload()  # type: ignore[no-untyped-call]
    steps = [event.step for event in events.Scalars("loss")]  # type: ignore[no-untyped-call]
    assert steps == [16, 32]
    assert "network/num_updates" in events.Tags()["scalars"]  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("pretrained", [False, True])
def test_the_modes_of_the_caller_stay_outside(mode: type, pretrained: bool, tmp_path: Path) -> None:
    plain, inside = (nl.Learner(make_mlp(4, 2), pretrained=pretrained, replay=20) for _ in range(2))
    for seed in range(10):
        plain.learn(*make_batch(seed))
        with mode():
            inside.learn(*make_batch(seed))  # made in inference mode, too
            if seed == 4:
                inside.snapshot(tmp_path / "last")
                inside.restore(tmp_path / "last")
    assert plain.optimizer is not None
    assert inside.optimizer is not None
    assert inside.optimizer.num_steps == plain.optimizer.num_steps == 10
    inside.fit([make_batch(10)])
    plain.fit([make_batch(10)])
    x, _ = make_batch(99)
    assert torch.equal(inside.predict_proba(x), plain.predict_proba(x))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("pretrained", [False, True])
def test_weights_that_hooks_compute_can_be_copied(pretrained: bool) -> None:
    model = make_mlp(4, 2)
    torch.nn.utils.weight_norm(model[0])
    x, y = make_batch(0, 64)
    model(x)
    learner = nl.Learner(model, pretrained=pretrained)
    for rows in torch.arange(64).split(8):
        learner.learn(x[rows], y[rows])
    assert learner.evaluate(x, y) > 0.7
    torch.testing.assert_close(learner.export()(x), learner.predict_proba(x), atol=1e-5, rtol=1e-5)
