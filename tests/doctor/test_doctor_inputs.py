"""What cannot be examined at all is one clear error, and nothing of the user's is changed."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import (
    IdlePattern,
    ModelError,
    NonFiniteInput,
    SettingError,
    ShapeMismatch,
    UnclaimedParameter,
)
from nestling.doctor import examine, guess_inputs, make_inputs


class Raises(nn.Linear):
    def forward(self, _x: Tensor) -> Tensor:
        raise KeyError("no such table")


class Diverges(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0.0


class CannotBeCopied(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> "CannotBeCopied":
        raise TypeError("cannot pickle 'generator' object")


class Pools(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean()


class GivesText(nn.Linear):
    def forward(self, _x: Tensor) -> str:
        return "yes"


X = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (Raises(3, 2), ModelError, "KeyError"),
        (Diverges(3, 2), NonFiniteInput, "8 of 8 outputs"),
        (nn.Linear(5, 2), ModelError, r"shape \(4, 3\)"),
        (nn.ReLU(), SettingError, "no parameters"),
        (CannotBeCopied(3, 2), ModelError, "cannot be copied"),
        (Pools(3, 2), ShapeMismatch, "one row per sample"),
        (GivesText(3, 2), ModelError, "returned a str"),
        (nn.Linear, SettingError, "the class Linear"),
    ],
)
def test_models_that_cannot_be_examined(model: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        examine(model, inputs=X)
    assert "\n" not in str(caught.value)


def test_inputs_and_labels_that_do_not_fit() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(NonFiniteInput, match="inputs"):
        examine(model, inputs=X * float("nan"))
    with pytest.raises(ShapeMismatch, match="at least one sample"):
        examine(model, inputs=X[:0])
    with pytest.raises(ShapeMismatch, match="labels from 0 to 2 for 2 outputs"):
        examine(model, inputs=X, labels=torch.tensor([0, 1, 2, 0]))
    with pytest.raises(ShapeMismatch, match=r"labels of shape \(3,\)"):
        examine(model, inputs=X, labels=torch.tensor([0, 1, 1]))
    with pytest.raises(SettingError, match="shape=0"):
        make_inputs((0, 3))
    with pytest.raises(SettingError, match="steps=1"):
        examine(model, inputs=X, steps=1)
    with pytest.raises(SettingError, match="batch_first=True works"):
        examine(nn.LSTM(3, 2))
    with pytest.raises(SettingError, match="nothing to examine"):
        examine()
    with pytest.raises(SettingError, match="without a model"):
        examine(inputs=X, optimizer=torch.optim.SGD)
    with pytest.raises(ModelError, match="no inputs can be guessed"):
        guess_inputs(nn.PReLU())


def test_plans_and_optimizers_that_do_not_fit() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(IdlePattern, match=r"head\.\*"):
        examine(
            model, nl.Plan(nl.Level("a", match=["*"]), nl.Level("b", match=["head.*"])), inputs=X
        )
    with pytest.raises(UnclaimedParameter, match="bias"):
        examine(model, nl.Plan(nl.Level("head", match=["weight"])), inputs=X)
    with pytest.raises(SettingError, match="cannot read plan"):
        examine(model, "nowhere.toml", inputs=X)
    with pytest.raises(SettingError, match="not the optimizer itself"):
        examine(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="gave int"):
        examine(optimizer=lambda _params: 3)  # type: ignore[arg-type, return-value]


def test_the_model_and_the_random_numbers_of_the_caller_stay() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4)).eval()
    before = copy.deepcopy(model.state_dict())
    drawn = torch.get_rng_state()
    with torch.no_grad():
        report = examine(model)
    assert report.failed == ()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(param.grad is None for param in model.parameters())
    assert not model.training
    assert torch.equal(torch.get_rng_state(), drawn)


def test_the_same_report_twice() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 4))
    assert examine(model).to_data() == examine(model).to_data()


def test_what_cannot_be_examined_is_no_pass() -> None:
    model = nn.Linear(3, 2).requires_grad_(False)
    report = examine(model, inputs=X[:1])
    outcomes = {check.name: check.outcome for check in report.checks}
    assert outcomes == {
        "updates when due": "not examined",
        "resumes bit for bit": "not examined",
        "causal": "not examined",
        "no leak between samples": "not examined",
        "write rules receive gradient": "not examined",
        "repeated writes settle": "not examined",
        "eval() is pure": "ok",
        "learns above chance": "not examined",
    }
    plan = nl.Plan(nl.Level("slow", match=["*"], period=500))
    checks = examine(nn.Linear(3, 2), plan, inputs=X).checks
    assert any(
        check.name == "updates when due"
        and check.outcome == "not examined"
        and "due first at step 500, after 100 steps" in check.finding
        for check in checks
    )


def test_everything_that_applies_to_a_memory_is_examined() -> None:
    checks = examine(nl.models.CMS(8, (4, 8))).checks
    assert {check.name for check in checks if check.outcome == "not examined"} == {
        "still between due steps"  # of a level of period 1
    }
    named = {(check.name, check.subject) for check in checks}
    assert {("period has an effect", "chunks[0]"), ("period has an effect", "chunks[1]")} <= named
    assert ("resumes bit for bit", "state") in named


def test_labels_and_tokens_may_be_given() -> None:
    net = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 3))
    x = make_inputs((4, 6), tokens=9)
    checks = examine(net, inputs=x, labels=x % 3).checks
    assert not [check for check in checks if check.outcome == "failed"]
    (chance,) = (check for check in checks if check.name == "learns above chance")
    assert chance.outcome == "ok"
