"""Any function from parameters to a torch optimizer is an update rule; a wrong one is one line."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import SettingError
from nestling.optim import CustomOptimizer

PARAMS = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]


class Own(torch.optim.SGD):
    """A rule of its own beside torch's fused settings."""

    def step(self, _: Any = None) -> Any:  # type: ignore[override]
        for param in self.param_groups[0]["params"]:
            param.data.add_(1.0)


class Maker:
    """Can be called, and has no name of its own."""

    def __call__(self, params: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Rprop(params)


def make_rprop(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Rprop(params, lr=0.25)


def test_parameters_are_handed_over_and_settings_stay() -> None:
    inner = CustomOptimizer.wrap(make_rprop).build(iter(PARAMS))
    assert type(inner) is torch.optim.Rprop
    assert [id(p) for p in inner.param_groups[0]["params"]] == [id(p) for p in PARAMS]
    assert inner.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    ("make", "name", "is_importable"),
    [
        (torch.optim.RMSprop, "torch.optim.rmsprop:RMSprop", True),
        (make_rprop, f"{__name__}:make_rprop", None),  # where pytest keeps this module
        (partial(torch.optim.SGD, lr=0.5), "torch.optim.sgd:SGD(lr=0.5)", False),
        (
            partial(torch.optim.SGD, lr=torch.tensor(0.5)),
            "torch.optim.sgd:SGD(lr=Tensor)",
            False,
        ),
        (lambda params: torch.optim.SGD(params), f"{__name__}:<lambda>", False),
        (Maker(), f"{__name__}:Maker", False),
    ],
)
def test_name_says_where_it_is_defined(
    make: Callable[[list[Tensor]], torch.optim.Optimizer], name: str, is_importable: bool | None
) -> None:
    rule = CustomOptimizer.wrap(make)
    assert rule.name == name
    assert repr(rule) == f"CustomOptimizer({name!r})"
    if is_importable is not None:
        assert rule.is_importable is is_importable


def test_equal_if_the_functions_are() -> None:
    def close(lr: float) -> CustomOptimizer:
        return CustomOptimizer.wrap(lambda params: torch.optim.SGD(params, lr=lr))

    wrap = CustomOptimizer.wrap
    assert wrap(torch.optim.SGD) == wrap(torch.optim.SGD)
    assert wrap(torch.optim.SGD) == CustomOptimizer.load("torch.optim:SGD")
    assert CustomOptimizer.load("torch.optim:SGD").name == "torch.optim.sgd:SGD"
    assert wrap(torch.optim.SGD) != wrap(torch.optim.Adam)
    assert wrap(partial(torch.optim.SGD, lr=0.5)) == wrap(partial(torch.optim.SGD, lr=0.5))
    assert wrap(partial(torch.optim.SGD, lr=0.5)) != wrap(partial(torch.optim.SGD, lr=0.25))
    assert close(0.5) != close(0.5)  # who knows
    assert wrap(torch.optim.SGD) != nl.sgd()
    betas = partial(torch.optim.Adam, betas=[0.5, 0.5])  # a list has no hash
    assert hash(wrap(betas)) == hash(wrap(partial(torch.optim.Adam, betas=[0.5, 0.5])))


def refuse(params: list[Tensor]) -> torch.optim.Optimizer:
    raise ValueError("the moon\nis full")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "gave NoneType, which is no torch.optim.Optimizer"),
        (lambda: None, "failed, TypeError: .*1 was given; lambda params: torch.optim.RMSprop"),
        (refuse, "failed, ValueError: the moon is full; lambda params"),
        (nl.adamw, "failed, SettingError: AdamW lr"),
        (torch.optim.LBFGS, "gave LBFGS, whose step needs a closure; .* as nl.adamw"),
        (lambda _: torch.optim.SGD([PARAMS[0]]), "holds 1 parameters .* the 2 given"),
        (lambda params: torch.optim.SGD(params[::-1]), "2 given, in their order"),
        (
            lambda params: torch.optim.SGD([{"params": [param]} for param in params]),
            "made 2 parameter groups; make one, and .* a level of its own",
        ),
    ],
)
def test_wrong_ones_are_one_line_with_the_remedy(make: Callable[..., Any], words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        CustomOptimizer.wrap(make).build(PARAMS)
    assert "\n" not in str(caught.value)
    model = nn.Linear(2, 2)
    before = {
        name: (value.clone(), value.requires_grad) for name, value in model.named_parameters()
    }
    with pytest.raises(SettingError):
        nl.NestedOptimizer(model, nl.Plan(nl.Level("all", match=["*"], optimizer=make)))
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name][0])
        assert (value.requires_grad, value.grad) == (before[name][1], None)


@pytest.mark.parametrize("value", ["torch.optim:SGD", 3, None, [torch.optim.SGD]])
def test_what_is_no_function_is_no_optimizer(value: Any) -> None:
    """Not even a name: checking a level imports nothing, reading a plan does."""
    with pytest.raises(SettingError, match=r"Level optimizer: no optimizer; nl\.adamw"):
        nl.Level("all", match=["*"], optimizer=value)


def test_a_rule_derived_of_torchs_takes_its_own_step() -> None:
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    nested = nl.NestedOptimizer(
        model,
        nl.Plan(nl.Level("all", match=["*"], optimizer=lambda p: Own(p, lr=0.1, fused=True))),
    )
    for _ in range(3):
        nested.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        nested.step()
    torch.testing.assert_close(model.weight, before + 3.0)


def test_step_hooks_of_a_fused_optimizer_are_called() -> None:
    called = []

    def make(params: list[Tensor]) -> torch.optim.Optimizer:
        inner = torch.optim.AdamW(params, fused=True)
        inner.register_step_post_hook(lambda *_: called.append("after"))
        return inner

    model = nn.Linear(2, 1)
    nested = nl.NestedOptimizer(model, nl.Plan(nl.Level("all", match=["*"], optimizer=make)))
    for _ in range(3):
        nested.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        nested.step()
    assert called == ["after"] * 3
