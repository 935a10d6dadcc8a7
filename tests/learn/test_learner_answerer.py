"""The verb `answerer`: what is published when, and who waits for whom."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.learners import make_batch, make_mlp
from torch import Tensor, nn

import nestling as nl
from nestling.answer.answerer import Answerer, Publisher
from nestling.core.errors import DataError

SECONDS = 20.0  # more than anything here takes


@contextmanager
def locked(learner: nl.Learner) -> Iterator[None]:
    """Another thread holds the learner's lock."""
    has, free = threading.Event(), threading.Event()

    def hold() -> None:
        with learner._lock:
            has.set()
            free.wait(SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    assert has.wait(SECONDS)
    try:
        yield
    finally:
        free.set()
        thread.join()


def in_time(function: Any) -> Any:
    """What a function gives in another thread, which must not wait for the lock."""
    given: list[Any] = []
    thread = threading.Thread(target=lambda: given.append(function()), daemon=True)
    thread.start()
    thread.join(SECONDS / 2.0)
    assert given, "it waits"
    return given[0]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each publication, how many examples were learned."""
    made: list[int] = []
    publish = Publisher.publish

    def note(self: Publisher, *given: Any) -> Answerer:
        made.append(given[-1])
        return publish(self, *given)

    monkeypatch.setattr(Publisher, "publish", note)
    return made


def test_nobody_waits_while_another_holds_the_lock() -> None:
    learner = nl.Learner(make_mlp(), pretrained=True)
    learner.learn(*make_batch())
    view = learner.answerer()
    x, _ = make_batch(seed=1)
    expected = learner.predict_proba(x)
    with locked(learner):
        assert in_time(learner.answerer) is view
        assert torch.equal(in_time(lambda: learner.answerer().predict_proba(x)), expected)


def test_in_the_midst_of_a_batch_stands_what_was_before_it() -> None:
    views: list[Answerer] = []

    class Asking(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if self.training and views:
                views.append(in_time(learner.answerer))
            out: Tensor = super().forward(x)
            return out

    learner = nl.Learner(Asking(*make_mlp()))
    learner.learn(*make_batch())
    views.append(learner.answerer())
    learner.learn(*make_batch(seed=1))
    assert len(views) > 1
    assert all(one is views[0] for one in views)
    assert learner.answerer().num_examples == 32


def test_who_asks_after_each_batch_finds_it_published(published: list[int]) -> None:
    learner = nl.Learner(make_mlp())
    learner.learn(*make_batch())
    learner.answerer()
    for seed in range(3):
        learner.learn(*make_batch(seed=seed))
        with locked(learner):
            assert in_time(learner.answerer).num_examples == learner.counts.num_examples
    assert published == [16, 32, 48, 64]


def test_who_never_asks_pays_nothing(published: list[int]) -> None:
    learner = nl.Learner(make_mlp())
    for seed in range(3):
        learner.learn(*make_batch(seed=seed))
    assert published == []
    learner.answerer()
    for seed in range(3):  # nobody asks any more: the first still publishes, then none does
        learner.learn(*make_batch(seed=seed))
    assert published == [48, 64]
    assert learner._training.publisher.latest is None
    assert learner.answerer().num_examples == 96
    assert learner.answerer() is learner.answerer()
    assert published == [48, 64, 96]


@pytest.mark.parametrize(
    "change", ["learn", "fit", "restore", "load", "consolidate", "end", "again"]
)
@pytest.mark.parametrize("asks", [False, True])
def test_every_change_of_answers_is_published(change: str, asks: bool, tmp_path: Any) -> None:
    half = nl.Plan(  # so that any change of any expert is one of the answers
        nl.Memory("memory", on="input", num_features=32),
        nl.Level("all", match=("*",)),
        readout=nl.mix("memory", "live", weights=(0.5, 0.5)),
    )
    learner = nl.Learner(make_mlp(), half, retain=[nl.protect.EWC(1.0)])
    x, _ = make_batch(seed=9)
    learner.learn(*make_batch())
    learner.end_experience([make_batch()])
    learner.snapshot(tmp_path / "old")
    old = learner.state_dict()
    learner.learn(*make_batch(seed=1))
    if asks:
        learner.answerer()
    else:
        learner.predict(x)
    before = learner.predict_proba(x)
    if change == "learn":
        learner.learn(*make_batch(seed=2))
    elif change == "again":
        learner.learn(*make_batch(seed=2), again=True)
    elif change == "fit":
        learner.fit([make_batch(seed=2)], epochs=2)
    elif change == "restore":
        learner.restore(tmp_path / "old")
    elif change == "load":
        learner.load_state_dict(old)
    elif change == "consolidate":
        learner.consolidate(lambda _: True, change=lambda m: nn.init.ones_(m[2].weight))
    else:
        learner.end_experience([make_batch()])
    view = learner.answerer()
    assert torch.equal(view.predict_proba(x), learner.predict_proba(x))
    assert view.num_examples == learner.counts.num_examples
    if change != "end":
        assert not torch.equal(view.predict_proba(x), before)


def test_a_refused_batch_leaves_the_answers() -> None:
    learner = nl.Learner(make_mlp())
    learner.learn(*make_batch())
    x, _ = make_batch(seed=1)
    expected = learner.answerer().predict_proba(x)
    with pytest.raises(DataError):
        learner.learn(torch.full((2, 4), float("nan")), torch.tensor([0, 1]))
    assert torch.equal(learner.answerer().predict_proba(x), expected)


def test_what_cannot_be_published_is_said_to_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = nl.Learner(make_mlp())
    learner.learn(*make_batch())
    learner.answerer()

    def fail(*_: object) -> None:
        raise RuntimeError("no copy")

    with monkeypatch.context() as patched:
        patched.setattr("nestling.answer.standing_models.copy_module", fail)
        assert learner.learn(*make_batch(seed=1)).num_examples == 16
        with pytest.raises(RuntimeError, match="no copy"):
            learner.answerer()
    assert learner.answerer().num_examples == 32


def test_in_inference_mode_it_is_published_as_anywhere() -> None:
    learner = nl.Learner(make_mlp(), pretrained=True)
    x, _ = make_batch(seed=1)
    with torch.inference_mode():
        learner.learn(*make_batch())
        view = learner.answerer()
    learner.learn(*make_batch(seed=2))
    answer = view.predict_proba(x)
    assert not answer.is_inference()
    assert not torch.equal(answer, learner.answerer().predict_proba(x))
