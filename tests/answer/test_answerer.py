"""An answerer: the learner's answers of a moment, from any thread, whatever the learner does."""

import copy
import gc
import math
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.learners import draw, make_batch, make_mlp, read_answer
from torch import Tensor, nn

import nestling as nl
from nestling.answer.answerer import Answerer
from nestling.answer.standing_models import ModelKeeper
from nestling.core.batches import Batch
from nestling.core.errors import DataError, NestlingError, NonFiniteInput, NotFitted, ShapeMismatch
from nestling.levels.low_rank import attach_low_rank

SMALL = {"num_features": 32}


class Tagger(nn.Module):
    """Tokens (N, T) -> classes last (N, T, 3)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(7, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.embed(tokens)))
        return out


def make_dense() -> nn.Module:
    """Images (N, 2, 4, 4) -> classes second (N, 3, 4, 4)."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))


def make_normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 2)
    )


def make_overlaid() -> nn.Module:
    model = make_mlp()
    attach_low_rank(model, ["0.*"], rank=2, generator=torch.Generator().manual_seed(0))
    return model


def plan(readout: Any, *more: Any, memory: Any = None) -> nl.Plan:
    memory = memory or nl.Memory("memory", on="input", **SMALL)
    return nl.Plan(memory, nl.Level("all", match=("*",)), *more, readout=readout)


def classes(seed: int) -> tuple[Tensor, Tensor]:
    return make_batch(seed=seed)


def values(seed: int) -> tuple[Tensor, Tensor]:
    x = draw(16, 4, seed=seed)
    return x, x[:, :1].sin()


def tokens(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(seed))
    return x, x % 3


def pixels(seed: int) -> tuple[Tensor, Tensor]:
    x = draw(3, 2, 4, 4, seed=seed)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def growing(seed: int) -> tuple[Tensor, Tensor]:
    x, y = make_batch(seed=seed)
    return x, y + seed % 5


half_frozen = nl.Memory("memory", on=None, frozen=False, **SMALL)
two_lives = nl.Memory("memory", on="input", half_lives=(20.0, math.inf), block=8, **SMALL)
with_prior = nl.Memory("memory", on="input", half_lives=(math.inf,), prior_half_life=20.0, **SMALL)
slow_copy = nl.Copy("stable", of=("all",), decay=0.9)

FORMS: dict[str, tuple[Callable[[], nl.Learner], Callable[[int], tuple[Tensor, Tensor]]]] = {
    "default": (lambda: nl.Learner(make_mlp()), classes),
    "pretrained": (lambda: nl.Learner(make_mlp(), pretrained=True), classes),
    "declared": (lambda: nl.Learner(make_mlp(num_outputs=4), num_classes=4), classes),
    "running statistics": (lambda: nl.Learner(make_normed()), classes),
    "trained running statistics": (lambda: nl.Learner(make_normed(), pretrained=True), classes),
    "replay": (lambda: nl.Learner(make_mlp(), replay=20), classes),
    "averaged": (
        lambda: nl.Learner(make_mlp(), retain=[nl.protect.CLSER(20, seed=0)]),
        classes,
    ),
    "fixed weights": (
        lambda: nl.Learner(make_mlp(), plan(nl.mix("memory", "live", weights=(0.3, 0.7)))),
        classes,
    ),
    "copies": (
        lambda: nl.Learner(make_normed(), plan(nl.mix("memory", "live", "stable"), slow_copy)),
        classes,
    ),
    "live alone": (lambda: nl.Learner(make_mlp(), plan("live")), classes),
    "copy alone": (lambda: nl.Learner(make_normed(), plan("stable", slow_copy)), classes),
    "memory alone": (lambda: nl.Learner(make_mlp(), plan("memory")), classes),
    "memory of the live model": (
        lambda: nl.Learner(make_mlp(), plan(nl.mix("memory", "live"), memory=half_frozen)),
        classes,
    ),
    "bank": (
        lambda: nl.Learner(make_mlp(), plan(nl.mix("memory", "live"), memory=two_lives)),
        classes,
    ),
    "prior": (lambda: nl.Learner(make_mlp(), plan("memory", memory=with_prior)), classes),
    "overlay": (
        lambda: nl.Learner(make_overlaid(), plan(nl.mix("memory", "live"))),
        classes,
    ),
    "values": (lambda: nl.Learner(make_mlp(num_outputs=1)), values),
    "trained values": (lambda: nl.Learner(make_mlp(num_outputs=1), pretrained=True), values),
    "transformed values": (
        lambda: nl.Learner(make_mlp(num_outputs=1), output_transform=torch.tanh),
        values,
    ),
    "sequences": (lambda: nl.Learner(Tagger()), tokens),
    "trained sequences": (lambda: nl.Learner(Tagger(), pretrained=True), tokens),
    "sequences by memory": (
        lambda: nl.Learner(Tagger(), plan("memory", memory=nl.Memory("memory", **SMALL))),
        tokens,
    ),
    "dense": (
        lambda: nl.Learner(
            make_dense(),
            plan(nl.mix("memory", "live"), memory=nl.Memory("memory", on="1", **SMALL)),
        ),
        pixels,
    ),
    "growing head": (lambda: nl.Learner(make_mlp()), growing),
}


def ask(answers: Any, x: Tensor, *, is_real: bool) -> Tensor:
    found: Tensor = answers.predict(x) if is_real else answers.predict_proba(x)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_answers_as_the_learner_did_and_stays(form: str) -> None:
    make, data = FORMS[form]
    learner = make()
    x, y = data(99)
    is_real = y.is_floating_point()
    published, answered = [], []
    for seed in range(12):
        learner.learn(*data(seed))
        published.append(learner.answerer())
        answered.append(ask(learner, x, is_real=is_real))
        assert published[-1].num_examples == learner.counts.num_examples
        assert torch.equal(published[-1].predict(x), learner.predict(x))
    assert any(not torch.equal(one, answered[0]) for one in answered)
    for one, answer in zip(published, answered, strict=True):
        found = ask(one, x, is_real=is_real)
        assert torch.equal(found, answer)
        assert not found.requires_grad
        assert not found.is_inference()


def test_by_task_and_in_every_form_of_input() -> None:
    learner = nl.Learner(make_mlp(num_outputs=4))
    x, y = make_batch()
    learner.learn(x, y, task=0)
    learner.learn(x, y + 2, task=1)
    view = learner.answerer()
    for task in (0, 1, None):
        assert torch.equal(view.predict(x, task=task), learner.predict(x, task=task))
    assert torch.equal(view.predict_proba(x.numpy(), task=1), learner.predict_proba(x, task=1))
    assert torch.equal(view.predict({"input": x, "label": y}), learner.predict(x))
    assert torch.equal(view.predict(Batch((x,))), learner.predict(x))
    with torch.inference_mode():
        assert torch.equal(view.predict(x), learner.predict(x))


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_before_anything_was_learned(num_outputs: int) -> None:
    learner = nl.Learner(make_mlp(num_outputs=num_outputs), pretrained=True)
    x = draw(5, 4)
    view = learner.answerer()
    assert torch.equal(view.predict(x), learner.predict(x))
    assert view.num_examples == 0
    for count in (0, 1):  # the first batch may be empty
        learner.learn(*make_batch(num=count) if num_outputs > 1 else values(0))
        assert torch.equal(learner.answerer().predict(x), learner.predict(x))
    with pytest.raises(NotFitted, match="learned nothing"):
        nl.Learner(make_mlp()).answerer().predict(x)


def test_what_counted_for_nothing_is_answered_by_who_knows() -> None:
    learner = nl.Learner(make_mlp(), pretrained=True)
    x, y = make_batch()
    learner.learn(x, y, weight=torch.zeros(len(x)))
    assert torch.equal(learner.answerer().predict_proba(x), learner.predict_proba(x))


BAD: dict[str, tuple[Any, dict[str, Any], type[Exception]]] = {
    "not finite": (torch.full((2, 4), math.nan), {}, NonFiniteInput),
    "too wide": (torch.zeros(2, 5), {}, DataError),
    "one number": (torch.tensor(1.0), {}, ShapeMismatch),
    "a text": ("four", {}, DataError),
    "other dtype": (torch.zeros(2, 4, dtype=torch.float64), {}, ShapeMismatch),
    "unknown task": (torch.zeros(2, 4), {"task": 7}, DataError),
}


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_as_by_the_learner(name: str, pretrained: bool) -> None:
    x, how, error = BAD[name]
    learner = nl.Learner(make_mlp(), pretrained=pretrained)
    learner.learn(*make_batch())
    said = []
    for one in (learner, learner.answerer()):
        with pytest.raises(error) as caught:
            one.predict(x, **how)
        assert isinstance(caught.value, NestlingError)
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]


def test_values_have_no_probabilities() -> None:
    learner = nl.Learner(make_mlp(num_outputs=1))
    learner.learn(*values(0))
    with pytest.raises(DataError, match="no probabilities"):
        learner.answerer().predict_proba(draw(2, 4))


def test_nothing_that_the_learner_does_moves_it(tmp_path: Any) -> None:
    learner = nl.Learner(make_mlp(), pretrained=True)
    x, y = make_batch(seed=5)
    learner.learn(*make_batch())
    learner.snapshot(tmp_path / "early")
    learner.learn(*make_batch(seed=1))
    view = learner.answerer()
    before = view.predict_proba(x)

    def check() -> None:
        assert torch.equal(view.predict_proba(x), before)

    learner.fit([make_batch(seed=2), make_batch(seed=3)], epochs=2)
    check()
    learner.learn(x, y + 3)  # the head grows
    check()
    learner.control("memory", switch_rate=0.2, reason="test")
    learner.consolidate(lambda _: True, change=lambda model: nn.init.zeros_(model[0].weight))
    check()
    learner.restore(tmp_path / "early")
    check()
    for value in (
        *learner.model.parameters(),
        *learner.levels.memories["memory"].tensors().values(),
    ):
        value.detach().fill_(7.0)
    check()
    learner.export()
    learner.levels.memories["memory"].reader.load_state_dict(
        {k: v + 1.0 for k, v in learner.levels.memories["memory"].reader.state_dict().items()}
    )
    check()


def test_an_optimizer_that_writes_unseen_is_followed() -> None:
    """Fused steps, and whoever writes to `.data`, change weights that torch does not see change."""

    class Unseen(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None:
                        param.data.sub_(param.grad)

    for rule in (nl.adamw(lr=0.1), nl.sgd(lr=0.1), Unseen):
        levels = nl.Level("all", match=("*",), optimizer=rule)
        learner = nl.Learner(make_mlp(), nl.Plan(levels, readout="live"))
        x, _ = make_batch(seed=9)
        for seed in range(4):
            learner.learn(*make_batch(seed=seed))
            assert torch.equal(learner.answerer().predict_proba(x), learner.predict_proba(x))


def test_it_outlives_the_learner_and_keeps_no_memory_of_it_alive() -> None:
    learner = nl.Learner(make_mlp(), pretrained=True)
    learner.learn(*make_batch())
    x, _ = make_batch(seed=1)
    view, answer = learner.answerer(), learner.predict_proba(x)
    level = learner.levels.memories["memory"]
    kept = [weakref.ref(one) for one in (learner.model, level, level.bank, level.reader.module)]
    del learner, level
    gc.collect()
    assert [one() for one in kept] == [None] * len(kept)
    assert torch.equal(view.predict_proba(x), answer)


def test_old_ones_are_let_go() -> None:
    learner = nl.Learner(make_mlp(), pretrained=True)
    old = []
    for seed in range(5):
        learner.learn(*make_batch(seed=seed))
        old.append(weakref.ref(learner.answerer()))
    gc.collect()
    assert [one() is None for one in old] == [True, True, True, True, False]


def test_weights_that_stand_still_are_shared() -> None:
    learner = nl.Learner(make_mlp(), pretrained=True)
    views = []
    for seed in range(2):
        learner.learn(*make_batch(seed=seed))
        views.append(learner.answerer())
    first, second = (view._experts.asked["memory"] for view in views)
    own = learner.levels.memories["memory"].reader.module
    assert own is not None
    assert first.standing is second.standing  # type: ignore[attr-defined]
    assert first.standing.module is not own  # type: ignore[attr-defined]
    inside = dict(first.standing.module.named_parameters())  # type: ignore[attr-defined]
    for name, param in own.named_parameters():
        assert inside[name].data_ptr() == param.data_ptr()


def test_a_keeper_copies_what_moved_alone() -> None:
    model, keeper = make_normed(), ModelKeeper()
    first = keeper.hold(model)
    with torch.no_grad():
        model[4].weight.add_(1.0)
    second = keeper.hold(model)
    assert second is not first
    assert second[0].weight is first[0].weight
    assert torch.equal(second[4].weight, first[4].weight + 1.0)
    model(draw(8, 4))  # running statistics
    third = keeper.hold(model)
    assert torch.equal(third[1].running_mean, model[1].running_mean)
    assert not torch.equal(third[1].running_mean, second[1].running_mean)
    assert not third.training
    model[3].p = 0.25
    assert keeper.hold(model)[3].p == 0.25


def test_running_statistics_that_nobody_counts_are_followed() -> None:
    model, keeper = nn.InstanceNorm1d(2, track_running_stats=True), ModelKeeper()
    first = keeper.hold(model)
    model(draw(3, 2, 5))
    second = keeper.hold(model)
    assert torch.equal(second.running_mean, model.running_mean)
    assert not torch.equal(second.running_mean, first.running_mean)


def test_a_copy_or_a_pickle_of_the_learner_has_its_own() -> None:
    learner = nl.Learner(
        make_mlp(),
        nl.Plan(
            nl.Memory("memory", **SMALL),
            nl.Level("all", match=("*",)),
            readout=nl.mix("memory", "live"),
        ),
    )
    learner.learn(*make_batch())
    view = learner.answerer()
    x, _ = make_batch(seed=3)
    for twin in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        twin.learn(*make_batch(seed=1))
        other = twin.answerer()
        assert other is not view
        assert torch.equal(other.predict_proba(x), twin.predict_proba(x))
    assert learner.answerer() is view
    assert torch.equal(view.predict_proba(x), read_answer(learner, x))


def test_threads_hammer_while_another_learns() -> None:
    learner = nl.Learner(make_normed(), pretrained=True)
    x, _ = make_batch(seed=50)
    learner.learn(*make_batch())
    answered: list[tuple[Answerer, Tensor]] = []
    failed: list[BaseException] = []
    done = threading.Event()

    def hammer() -> None:
        try:
            while not done.is_set():
                view = learner.answerer()
                answered.append((view, view.predict_proba(x)))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    states = {learner.counts.num_examples: learner.predict_proba(x)}
    for thread in threads:
        thread.start()
    try:
        for seed in range(40):
            learner.learn(*make_batch(seed=seed, num=5))
            states[learner.counts.num_examples] = learner.predict_proba(x)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failed, failed
    assert len({view.num_examples for view, _ in answered}) > 3
    for view, answer in answered:
        assert torch.equal(answer, states[view.num_examples])
