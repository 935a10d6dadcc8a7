"""Turning knobs of live levels, and parameters that come late or grow."""

import copy
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import (
    LateParameter,
    MismatchedParameters,
    NestlingError,
    SettingError,
    UnknownLevel,
)
from nestling.levels import Copy, Level, NestedOptimizer, ParentGate, Plan, ScheduleGate


def make(period: int = 4) -> tuple[nn.Sequential, NestedOptimizer]:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return model, NestedOptimizer(
        model,
        Plan(
            Level("head", match=["2.*"], optimizer=nl.sgd(lr=0.1, momentum=0.5)),
            Level("spine", match=["*"], period=period, optimizer=nl.sgd(lr=0.1)),
            Copy("slow", of=["spine"], period=3),
        ),
    )


def take_steps(model: nn.Module, nested: NestedOptimizer, count: int) -> None:
    for _ in range(count):
        nested.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        nested.step()


def test_change_applies_exactly_at_the_next_boundary() -> None:
    model, nested = make()
    take_steps(model, nested, 1)
    first = nested.control("spine", period=2, lr=0.01, reason="the stream calmed down")
    second = nested.control("spine", trust=0.5, reason="careful")
    slow = nested.control("slow", decay=0.5, reason="follow faster")
    assert (first.asked_at, first.applied_at, first.knobs) == (1, None, {"period": 2, "lr": 0.01})
    take_steps(model, nested, 2)
    assert (nested.levels["spine"].spec.period, nested.param_groups[1]["lr"]) == (4, 0.1)
    assert slow.applied_at == 3
    assert nested.levels.copies["slow"].spec.decay == 0.5
    take_steps(model, nested, 1)
    spec = nested.levels["spine"].spec
    assert (spec.period, spec.trust, nested.param_groups[1]["lr"]) == (2, 0.5, 0.01)
    assert first.applied_at == second.applied_at == 4
    take_steps(model, nested, 2)
    assert nested.read_levels()[1].num_updates == 2
    assert nested.take_events() == [slow, first, second]  # in the order of the boundaries
    assert nested.take_events() == []


def test_lr_of_a_schedule_survives_turning_another_knob() -> None:
    model, nested = make(period=1)
    nested.param_groups[1]["lr"] = 0.033
    nested.control("spine", trust=0.5, reason="careful")
    nested.control("spine", weight_decay=0.25, reason="shrink")
    take_steps(model, nested, 1)
    group = nested.param_groups[1]
    assert (group["lr"], group["weight_decay"]) == (0.033, 0.25)


@pytest.mark.parametrize("child", ["head", "spine"])
def test_turned_parent_gate_is_computed_after_its_parent(child: str) -> None:
    parent = {"head": "spine", "spine": "head"}[child]
    model, nested = make(period=1)
    nested.control(parent, gate=[ScheduleGate(start=0, stop=0, high=0.25)], reason="slow")
    nested.control(child, gate=[ParentGate(of=parent)], reason="follow")
    take_steps(model, nested, 2)
    assert [reading.factor for reading in nested.read_levels()[:2]] == [0.25, 0.25]


def test_parent_gates_turned_into_a_circle_are_refused() -> None:
    model, nested = make(period=2)
    nested.control("head", gate=[ParentGate(of="spine")], reason="follow")
    with pytest.raises(SettingError, match="circle"):
        nested.control("spine", gate=[ParentGate(of="head")], reason="follow")
    take_steps(model, nested, 2)


def test_changes_that_pass_through_a_circle_are_refused() -> None:
    """The levels' boundaries come in any order, so every order of changes must work."""
    model, _ = make()
    levels = [Level("head", match=["2.*"], period=3), Level("spine", match=["*"], period=2)]
    nested = NestedOptimizer(model, Plan(*levels))
    take_steps(model, nested, 1)  # in the middle of both periods
    nested.control("head", gate=[ParentGate(of="spine")], reason="follow")
    nested.control("head", gate=[], reason="lead")
    with pytest.raises(SettingError, match="circle"):
        nested.control("spine", gate=[ParentGate(of="head")], reason="follow")
    assert nested.state_dict()["state"]["levels"]["spine"]["waiting"] == []


@pytest.mark.parametrize(
    ("name", "knobs", "error", "words"),
    [
        ("spnie", {"period": 2}, UnknownLevel, "did you mean 'spine'"),
        ("spine", {}, SettingError, "nothing to turn"),
        ("spine", {"decay": 0.5}, SettingError, "no knob 'decay'"),
        ("slow", {"lr": 0.5}, SettingError, "no knob 'lr'"),
        ("spine", {"period": 0}, SettingError, "period.*got 0"),
        ("spine", {"lr": -1.0}, SettingError, "lr.*got -1.0"),
        ("spine", {"lr": float("nan")}, SettingError, "lr.*nan"),
        ("spine", {"window": 9}, SettingError, "window 9 is longer than period 4"),
        ("spine", {"reduce": "max"}, SettingError, "reduce.*got 'max'"),
        ("spine", {"trust": 0.0}, SettingError, "trust"),
        ("spine", {"gate": [ParentGate(of="tail")]}, UnknownLevel, "'tail'"),
        ("slow", {"decay": 1.0}, SettingError, "decay 1 is for copies that never moved"),
        ("slow", {"probability": 2.0}, SettingError, "probability.*got 2.0"),
        ("spine", {"period": 2, "reason": " "}, SettingError, "needs a reason"),
    ],
)
def test_bad_knobs_change_nothing(
    name: str, knobs: dict[str, object], error: type[NestlingError], words: str
) -> None:
    model, nested = make(period=4)
    with pytest.raises(error, match=words) as caught:
        nested.control(name, **{"reason": "test"} | knobs)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    before = [level.spec for level in nested.levels.gradient.values()]
    take_steps(model, nested, 4)
    assert nested.take_events() == []
    assert [level.spec for level in nested.levels.gradient.values()] == before


@pytest.mark.parametrize("how", ["added", "replaced", "parameter"])
def test_late_parameters_are_named(how: str) -> None:
    model, nested = make()
    take_steps(model, nested, 1)
    if how == "added":
        model.add_module("3", nn.Linear(2, 2))
    elif how == "replaced":
        model[2] = nn.Linear(4, 2)
    else:
        model[0].register_parameter("scale", nn.Parameter(torch.ones(())))
    name = {"added": "3.weight", "replaced": "2.weight", "parameter": "0.scale"}[how]
    with pytest.raises(LateParameter, match=f"'{name}' appeared"):
        take_steps(model, nested, 1)
    assert nested.num_steps == 1


def test_unfrozen_parameter_is_late() -> None:
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"])))
    model(torch.ones(1, 2)).sum().backward()
    nested.step()
    model[0].bias.requires_grad_(True)
    with pytest.raises(LateParameter, match=r"'0.bias' .*unfrozen"):
        nested.step()


def test_swap_changes_rows_and_nothing_else() -> None:
    model, nested = make()
    for shape in ((3, 5), (3,), ()):
        with pytest.raises(MismatchedParameters, match=r"2\.weight"):
            nested.swap_parameter("2.weight", nn.Parameter(torch.zeros(shape)))
    take_steps(model, nested, 1)


def test_late_frozen_modules_and_buffers_are_welcome() -> None:
    model, nested = make()
    model.add_module("3", nn.Linear(2, 2).requires_grad_(False))
    model.register_buffer("seen", torch.zeros(()))
    take_steps(model, nested, 2)
    assert nested.num_steps == 2


def test_add_param_group_is_refused() -> None:
    _, nested = make()
    with pytest.raises(LateParameter, match="parameter group"):
        nested.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert len(nested.param_groups) == 2


def test_sparse_gradients_need_period_1() -> None:
    model = nn.Embedding(5, 2, sparse=True)
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"], period=2, optimizer=nl.sgd())))
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(SettingError, match="'weight' of level 'all' has a sparse gradient"):
        nested.step()


@pytest.mark.parametrize("rule", [nl.adamw(), nl.sgd(momentum=0.9)])
def test_swapped_parameter_keeps_its_state(rule: nl.levels.spec.OptimizerSpec) -> None:
    """New rows start with a zero state; the old rows go on as if nothing had happened."""
    torch.manual_seed(0)
    grown, plain = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    plain.load_state_dict(grown.state_dict())
    plan = Plan(
        Level("all", match=["*"], period=2, optimizer=rule, gate=[nl.ImportanceGate(strength=0.0)]),
        Copy("slow", of=["all"]),
    )
    optimizers = [NestedOptimizer(model, plan) for model in (grown, plain)]
    for step in range(9):
        if step == 3:
            wide = nn.Parameter(torch.cat([grown.weight.detach(), torch.zeros(1, 3)]))
            grown.weight = wide
            optimizers[0].swap_parameter("weight", wide)
        for model, nested in zip((grown, plain), optimizers, strict=True):
            nested.zero_grad()
            x = torch.full((1, 3), 1.0 + step)
            (model(x)[:, :2].square().sum() + model(x)[:, 2:].sum()).backward()
            nested.step()
        torch.testing.assert_close(grown.weight[:2], plain.weight)
    assert grown.weight[2].abs().sum() > 0
    slow = [nested.copy_values("slow")["weight"] for nested in optimizers]
    torch.testing.assert_close(slow[0][:2], slow[1])
    assert slow[0].shape == (3, 3)
    with pytest.raises(LateParameter, match="no level owns 'wieght'"):
        optimizers[0].swap_parameter("wieght", wide)


def test_rates_of_an_optimizer_of_ones_own_are_turned_in_its_group() -> None:
    model = nn.Linear(3, 2)
    rule = partial(torch.optim.Adagrad, lr=0.5)
    plan = Plan(Level("all", match=["*"], period=2, optimizer=rule, band=(0.0, 99.0)))
    nested = NestedOptimizer(model, plan)
    model(torch.ones(1, 3)).sum().backward()
    nested.step()
    nested.control("all", lr=0.25, weight_decay=0.125, period=1, reason="calm")
    group = nested.levels["all"].inner.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0)
    model(torch.full((1, 3), 2.0)).sum().backward()
    nested.step()
    assert (group["lr"], group["weight_decay"]) == (0.25, 0.125)
    assert nested.read_levels()[0].lr == 0.25
    assert nested.levels["all"].spec.optimizer == plan.gradient_levels[0].optimizer
    for wrong in (-1.0, float("nan"), "fast"):
        with pytest.raises(SettingError, match="level 'all': lr: ") as caught:
            nested.control("all", lr=wrong, reason="calm")  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert len(nested.take_events()) == 1


class Unrated(torch.optim.Optimizer):
    """Has no rate at all; counts its steps in its group."""

    def __init__(self, params: list[Tensor]) -> None:
        super().__init__(params, {"num": 0})

    def step(self, _: Any = None) -> None:  # type: ignore[override]
        self.param_groups[0]["num"] += 1
        for param in self.param_groups[0]["params"]:
            param.sub_(param.grad)


def test_an_optimizer_without_a_rate_has_none_to_turn_or_to_read() -> None:
    model = nn.Linear(3, 2)
    plan = Plan(Level("all", match=["*"], optimizer=Unrated, band=(0.0, 99.0)))
    nested = NestedOptimizer(model, plan)
    with pytest.raises(SettingError, match="Unrated' of level 'all' has no lr"):
        nested.control("all", lr=0.5, reason="calm")
    assert nested.take_events() == []
    model(torch.ones(1, 3)).sum().backward()
    nested.step()
    assert nested.read_levels()[0].lr is None
    assert nested.read_levels()[0].relative_change > 0


def test_a_refused_update_puts_the_group_of_an_optimizer_back() -> None:
    model = nn.Linear(3, 2)
    plan = Plan(Level("all", match=["*"], optimizer=Unrated, protect=True))
    nested = NestedOptimizer(model, plan, judge=lambda _: False)
    before = copy.deepcopy(model.state_dict())
    model(torch.ones(1, 3)).sum().backward()
    nested.step()
    assert nested.param_groups[0]["num"] == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_moments_of_another_shape_begin_anew_with_a_parameter_that_grew() -> None:
    """Adafactor keeps a row and a column of moments, which fit the old weight alone."""
    model = nn.Linear(3, 2, bias=False)
    rule = partial(torch.optim.Adafactor, lr=0.1)
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"], optimizer=rule)))
    for num_rows in (2, 4):
        wide = nn.Parameter(torch.ones(num_rows, 3))
        model.weight = wide
        nested.swap_parameter("weight", wide)
        for _ in range(2):
            nested.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            nested.step()
        assert nested.levels["all"].inner.state[wide]["row_var"].shape == (num_rows, 1)


def test_an_optimizer_of_ones_own_gets_no_sparse_gradient() -> None:
    model = nn.Embedding(5, 2, sparse=True)
    rule = partial(torch.optim.SparseAdam, lr=0.1)
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"], optimizer=rule)))
    before = model.weight.detach().clone()
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(SettingError, match=r"'weight' of .* sparse gradient; sparse=False works"):
        nested.step()
    assert torch.equal(model.weight, before)


def test_wrong_arguments_are_plan_errors() -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(SettingError, match="did you mean 'in_place'"):
        NestedOptimizer(model, Plan(Level("all", match=["*"])), accumulate="inplace")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="no gradient level"):
        NestedOptimizer(model, Plan(nl.Memory("m")))
    _, nested = make()
    with pytest.raises(SettingError, match="'spine' is no copy"):
        nested.copy_values("spine")
    with warnings.catch_warnings(), pytest.raises(UnknownLevel, match="'slwo'"):
        nested.copy_values("slwo")
