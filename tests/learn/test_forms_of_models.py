"""Every form of model, input and label: what is the same by meaning is answered the same."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import draw, make_batch, make_mlp, read_answer
from nestling.core.errors import IdlePattern
from nestling.protect import DER, ER, EWC, SI, GDumb, LwF

X, Y = make_batch(num=40)


def plain(*more: nl.Copy) -> nl.Plan:
    return nl.Plan(nl.Level("all", match=["*"], optimizer=nl.sgd(lr=0.1)), *more)


# --- classes that never came


@pytest.mark.parametrize(
    "make",
    [
        lambda: nl.Learner(make_mlp(), plain()),
        lambda: nl.Learner(make_mlp()),
        lambda: nl.Learner(make_mlp(), replay=10),
        lambda: nl.Learner(make_mlp(4, 8), plain(), num_classes=8),
    ],
    ids=["live", "default", "replay", "declared"],
)
def test_classes_that_never_came_have_no_probability(
    make: Callable[[], nl.Learner], tmp_path: Path
) -> None:
    learner = make()
    learner.fit([(X, Y * 7)])
    answer = learner.predict_proba(X)
    assert answer.shape[1] == 8
    assert float(answer[:, 1:7].max()) == 0.0
    torch.testing.assert_close(answer.sum(1), torch.ones(40))
    assert set(learner.predict(X).tolist()) <= {0, 7}
    torch.testing.assert_close(learner.export()(X), answer)
    learner.snapshot(tmp_path / "s")
    again = make()
    again.restore(tmp_path / "s")
    assert torch.equal(again.predict_proba(X), answer)


def test_classes_of_a_model_that_knows_them_are_answered() -> None:
    learner = nl.Learner(make_mlp(4, 3), pretrained=True)
    learner.learn(X[:2], torch.zeros(2, dtype=torch.long))
    learner.learn(X[:2], torch.full((2,), 5))
    answer = learner.predict_proba(50.0 * X)
    assert float(answer[:, 1:3].max()) > 0.1  # the given model's
    assert float(answer[:, 3:5].max()) == 0.0


# --- inputs by name


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(left) - 2 * self.first(right)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("replay", [0, 10])
def test_the_order_of_names_means_nothing(pretrained: bool, replay: int) -> None:
    left, right = X, draw(40, 4, seed=1)
    orders: list[Callable[[Any], dict[str, Tensor]]] = [
        lambda rows: {"left": left[rows], "right": right[rows]},
        lambda rows: {"right": right[rows], "left": left[rows]},
    ]
    answers = []
    for order in orders:
        learner = nl.Learner(Pair(), pretrained=pretrained, replay=replay)
        for rows in torch.arange(40).split(10):
            learner.learn({**order(rows), "labels": Y[rows]})
        answers += [learner.predict_proba(one(slice(None))) for one in orders]
        exported = learner.export()
        answers += [exported(**one(slice(None))) for one in orders]
        torch.testing.assert_close(exported(left, right), answers[0])
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0])


def test_a_mask_that_comes_first_by_name_is_not_what_a_memory_reads() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 2)

        def forward(self, attention_mask: Tensor, values: Tensor) -> Tensor:
            return self.last(values * attention_mask)  # type: ignore[no-any-return]

    mask = torch.ones(40, 4, dtype=torch.long)
    learner = nl.Learner(Masked())
    learner.fit([{"attention_mask": mask, "values": X, "labels": Y}] * 3)
    assert learner.evaluate({"values": X, "attention_mask": mask, "labels": Y}) > 0.8


# --- dtypes


class Mixed(nn.Module):
    """Half of it in bfloat16; it converts what it is given."""

    def __init__(self, last: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 8).bfloat16(), nn.Linear(8, 2).to(last)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.to(torch.bfloat16))
        return self.last(hidden.to(self.last.weight.dtype))  # type: ignore[no-any-return]


@pytest.mark.parametrize("last", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pretrained", [False, True])
def test_a_model_may_convert_its_inputs(last: torch.dtype, pretrained: bool) -> None:
    learner = nl.Learner(Mixed(last), pretrained=pretrained, replay=10)
    for x in (X, X.double(), X):
        assert not learner.learn(x, Y).refused
        assert learner.predict(x).shape == (40,)


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("replay", [0, 10])
def test_labels_of_two_sources(retain: bool, replay: int) -> None:
    methods = [ER(10), DER(10, 0.3), GDumb(10, num_epochs=1)] if retain else []
    learner = nl.Learner(make_mlp(), replay=replay, retain=methods)
    for dtype in (torch.uint8, torch.int64, torch.int32, torch.int16):
        learner.learn(X, Y.to(dtype))
    assert learner.evaluate(X, Y.int()) > 0.5


def test_values_of_two_sources() -> None:
    learner = nl.Learner(make_mlp(4, 1), replay=10)
    for target in (X[:, 0], X[:, 0].double(), X[:, :1].float()[:, 0]):
        learner.learn(X, target)
    assert math.isfinite(learner.evaluate(X, X[:, 0]))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: np.asfortranarray(a),
        lambda a: np.lib.stride_tricks.as_strided(a, writeable=False),
    ],
    ids=["reversed", "big-endian", "fortran", "read-only"],
)
def test_arrays_of_every_layout(change: Callable[[Any], Any]) -> None:
    x, y = X.numpy(), Y.numpy()
    learners = [nl.Learner(make_mlp(), replay=10) for _ in range(2)]
    learners[0].learn(x, y)
    learners[1].learn(change(x), change(y))
    wanted, found = (read_answer(one, X) for one in learners)
    assert torch.equal(found, wanted)
    assert torch.equal(learners[0].predict(change(x)), learners[0].predict(X))


def test_an_array_that_torch_does_not_know_is_refused() -> None:
    learner = nl.Learner(make_mlp())
    if np.dtype(np.longdouble).itemsize > 8:
        with pytest.raises(nl.NestlingError, match=r"longdouble|float128"):
            learner.learn(X.numpy().astype(np.longdouble), Y)


# --- compiled models


def compiled(num_outputs: int = 3) -> Any:
    return torch.compile(make_mlp(4, num_outputs), backend="eager")


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_compiled_model_learns_as_the_model_does(pretrained: bool, tmp_path: Path) -> None:
    def make(model: nn.Module) -> nl.Learner:
        methods = [EWC(1.0), SI(1.0), LwF(1.0), ER(10)]
        return nl.Learner(model, pretrained=pretrained, replay=10, retain=methods)

    x, y = make_batch(num=40, num_classes=3)
    learners = [make(make_mlp(4, 3)), make(compiled())]
    for learner in learners:
        learner.fit([(x[:20], y[:20]), (x[20:], y[20:])])
        learner.learn(x, y + 1)  # the head grows
    wanted, found = (learner.predict_proba(x) for learner in learners)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(learners[1].export()(x), wanted)
    learners[1].snapshot(tmp_path / "s")
    for other in (make(make_mlp(4, 3)), make(compiled())):
        other.restore(tmp_path / "s")
        assert torch.equal(other.predict_proba(x), found)
        other.learn(x, y)


def test_names_of_a_compiled_model() -> None:
    plan = nl.spine_and_head(compiled())
    assert nl.assign_levels(compiled(), plan)
    assert all("_orig_mod" not in one for level in plan.gradient_levels for one in level.match)
    with pytest.raises(IdlePattern, match=r"go without '_orig_mod\.'"):
        nl.Learner(
            compiled(),
            nl.Plan(nl.Level("head", match=["_orig_mod.2.*"]), nl.Level("rest", match=["*"])),
        )
