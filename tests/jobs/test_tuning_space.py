import math

import pytest
import torch

from nestling.core.errors import SettingError
from nestling.jobs.tune import apply_knobs, derive_space, read_space
from nestling.levels import Copy, Level, Memory, Plan, mix, outer_nesterov
from nestling.optim import adamw, sgd

PLAN = Plan(
    Memory("memory", on="input", half_lives=(math.inf,)),
    Level("head.fast", match=("2.*",), optimizer=sgd(lr=0.1)),
    Level("spine", match=("*",), period=4, between="skip"),
    Copy("slow", of=("spine",), decay=0.9),
    readout=mix("memory", "live"),
)


def test_knobs_reach_every_kind_of_level_and_leave_the_plan_alone() -> None:
    before = PLAN.to_toml()
    knobs = {
        "head.fast.optimizer.lr": 0.3,
        "spine.optimizer.lr": 0.01,
        "spine.period": 8,
        "slow.decay": 0.5,
        "memory.half_lives": 100.0,
        "memory.num_features": 30,
    }
    plan = apply_knobs(PLAN, knobs)
    fast, spine = plan.gradient_levels
    assert fast.optimizer == sgd(lr=0.3)
    assert spine.optimizer == adamw(lr=0.01)  # the default optimizer, named nowhere
    assert (spine.period, spine.between) == (8, "skip")
    assert plan.copies[0].decay == 0.5
    assert (plan.memories[0].half_lives, plan.memories[0].num_features) == ((100.0,), 30)
    assert plan.readout == PLAN.readout
    assert PLAN.to_toml() == before
    assert apply_knobs(PLAN, {}) == PLAN


def test_the_derived_space_is_one_that_the_plan_takes() -> None:
    knobs = {knob.name: knob for knob in derive_space(PLAN)}
    assert list(knobs) == [
        "memory.half_lives",
        "head.fast.optimizer.lr",
        "head.fast.period",
        "spine.optimizer.lr",
        "spine.period",
        "slow.decay",
    ]
    assert knobs["head.fast.optimizer.lr"].low == pytest.approx(0.01)
    assert math.inf in knobs["memory.half_lives"].choices
    for knob in knobs.values():
        for value in knob.list_ends():
            assert apply_knobs(PLAN, {knob.name: value}) != PLAN or value in (math.inf, 0.9, 1, 4)


def test_a_copy_with_a_rule_has_no_decay_to_tune() -> None:
    outer = Copy("outer", of=("spine",), period=5, rule=outer_nesterov(lr=0.7))
    plan = Plan(*(level for level in PLAN.levels if level.name != "slow"), outer)
    assert not [knob.name for knob in derive_space(plan) if knob.name.startswith("outer")]
    turned = apply_knobs(plan, {"outer.rule.lr": 0.5, "outer.period": 8})
    assert turned.copies[0].rule == outer_nesterov(lr=0.5)
    assert turned.copies[0].period == 8


def test_a_table_is_read() -> None:
    low, whole, listed = read_space(
        {
            "spine.optimizer.lr": {"low": 1e-3, "high": 0.1, "log": True},
            "memory.num_features": {"low": 10, "high": 20},
            "spine.period": [1, 2],
        },
        PLAN,
    )
    assert (low.low, low.high, low.is_log, low.is_whole) == (1e-3, 0.1, True, False)
    assert whole.is_whole
    assert listed.choices == (1, 2)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"spin.period": [1, 2]}, "spine"),
        ({"spine.perod": [1, 2]}, "period"),
        ({"spine.optimizer.rate": [0.1, 0.2]}, "rate"),
        ({"spine.period.of": [1, 2]}, "has no fields"),
        ({"spine.period": [1, 0]}, "period"),
        ({"spine.period": [2]}, "two values"),
        ({"spine.period": 2}, "list"),
        ({"spine.period": {"low": 1, "hi": 2}}, "high"),
        ({"spine.optimizer.lr": {"low": 0.1, "high": 0.01}}, "low < high"),
        ({"spine.optimizer.lr": {"low": 0, "high": 0.1, "log": True}}, "above 0"),
        ({"spine.optimizer.lr": {"low": "a", "high": 0.1}}, "numbers"),
        ({"slow.decay": {"low": 0.5, "high": 1.5}}, "decay"),
        ({}, "tune.space"),
        ([1], "tune.space"),
    ],
)
def test_a_table_that_is_none(table: object, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        read_space(table, PLAN)


def test_an_optimizer_of_ones_own_has_no_rate_to_search() -> None:
    plan = Plan(Level("net", match=["*"], optimizer=lambda params: torch.optim.Rprop(params)))
    assert [knob.name for knob in derive_space(plan)] == ["net.period"]
    tuned = apply_knobs(plan, {"net.period": 4}).gradient_levels[0]
    assert tuned.period == 4
    assert tuned.optimizer == plan.gradient_levels[0].optimizer
    with pytest.raises(SettingError, match=r"knob net\.optimizer\.lr: .*keeps its settings"):
        apply_knobs(plan, {"net.optimizer.lr": 0.1})
