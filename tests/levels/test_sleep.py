"""A sleep level: what it takes in, what it refuses, and that its state is exact and whole."""

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import nestling as nl
from learners import draw
from nestling.core.batches import Batch
from nestling.core.errors import (
    DataError,
    MismatchedParameters,
    SettingError,
    ShapeMismatch,
    UnknownLevel,
)
from nestling.levels.sleep import MAX_INPUTS, SleepLevel


def make_level(**settings: Any) -> SleepLevel:
    return SleepLevel(nl.Sleep("sleep", of="memory", **settings))


def take(level: SleepLevel, x: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
    level.learn(level.check(Batch((x,)), y, weight))


def make_plan(**settings: Any) -> nl.Plan:
    settings = {"of": "memory"} | settings
    return nl.Plan(
        nl.Memory("memory", on="input", half_lives=(math.inf,)),
        nl.Level("head", match=["2.*"]),
        nl.Level("net", match=["*"]),
        nl.Sleep("sleep", **settings),
        readout="memory",
    )


def test_a_plan_with_it_goes_to_toml_and_back() -> None:
    plan = make_plan(
        teaches="head", num_inputs=50, start="fresh", bounds=(-1, 2), optimizer=nl.sgd(lr=0.1)
    )
    assert plan.sleeps[0].teaches == ("head",)
    assert nl.Plan.from_toml(plan.to_toml()) == plan
    own = make_plan(optimizer=torch.optim.RMSprop)
    assert nl.Plan.from_toml(own.to_toml()) == own
    assert 'kind = "sleep"' in plan.to_toml()


def test_a_plan_says_what_is_wrong_with_it() -> None:
    with pytest.raises(UnknownLevel, match=r"sleep 'sleep' of 'memry'; .*did you mean 'memory'"):
        make_plan(of="memry")
    with pytest.raises(UnknownLevel, match=r"sleep 'sleep' teaches 'heads'; .*'head'"):
        make_plan(teaches=["heads"])
    with pytest.raises(SettingError, match=r"bounds \(1.0, 1.0\) are empty"):
        make_plan(bounds=(1, 1))
    with pytest.raises(SettingError, match="num_inputs"):
        make_plan(num_inputs=0)
    with pytest.raises(SettingError, match="no gradient level to teach; add"):
        nl.Plan(nl.Memory("m"), nl.Sleep("s", of="m"), readout="m")
    with pytest.raises(UnknownLevel, match="read-out 'sleep' cannot answer"):
        nl.Plan(*make_plan().levels, readout="sleep")
    with pytest.raises(SettingError, match="bound"):
        nl.Plan.from_toml('[[level]]\nkind = "sleep"\nname = "s"\nof = "m"\nbound = [0, 1]\n')


def test_inputs_become_codes_and_codes_inputs() -> None:
    level = make_level(bounds=(-1.0, 1.0))
    x = torch.tensor([[[-1.0, 0.0], [0.5, 1.0]]])
    seen = level.check(Batch((x,)), torch.tensor([0]), None)
    assert seen.codes.tolist() == [[0, 64, 95, 127]]
    assert seen.num_clipped == 0
    level.learn(seen)
    assert level.restore_inputs(seen.codes).shape == x.shape
    assert torch.allclose(level.restore_inputs(seen.codes), x, atol=1 / 127)
    bytes_level = make_level(bounds=(0, 255))
    pixels = torch.tensor([[0, 100, 255]], dtype=torch.uint8)
    take(bytes_level, pixels, torch.tensor([0]))
    assert bytes_level.restore_inputs(torch.tensor([[0, 50, 127]], dtype=torch.uint8)).tolist() == [
        [0, 100, 255]
    ]


def test_what_lies_beyond_the_bounds_is_clipped_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    level = make_level()
    with caplog.at_level(logging.WARNING, logger="nestling"):
        for _ in range(2):
            take(level, torch.tensor([[-0.5, 0.2, 3.0], [0.0, 1.0, 0.5]]), torch.tensor([0, 1]))
    assert level.num_clipped == 4
    assert [record.getMessage() for record in caplog.records] == [
        "sleep 'sleep': 2 of 6 values lie beyond bounds (0, 1) and count as the bound; give "
        "nl.Sleep(..., bounds=...) the least and the greatest value"
    ]
    assert level.restore_inputs(torch.tensor([[0, 127, 127]], dtype=torch.uint8)).max() == 1.0


def test_state_is_the_same_in_any_order_and_comes_back() -> None:
    x, y = draw(90, 5).abs().clamp(max=1), torch.arange(90) % 3
    one, other = make_level(), make_level()
    take(one, x, y)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(3))
    for rows in order.split(7):
        take(other, x[rows], y[rows])
    assert one.digest() == other.digest()
    assert one.clock.num_ticks == 90
    assert one.read().kind == "sleep"
    third = make_level()
    third.load_state_dict(one.state_dict())
    assert third.digest() == one.digest()
    take(third, x[:4], y[:4])
    take(one, x[:4], y[:4])
    assert third.digest() == one.digest() != other.digest()


def test_a_state_of_another_plan_is_refused() -> None:
    level, wide = make_level(), make_level(bounds=(0, 2))
    take(level, torch.rand(4, 3), torch.zeros(4).long())
    before = level.digest()
    with pytest.raises(MismatchedParameters, match="was saved as Sleep"):
        level.load_state_dict(wide.state_dict())
    with pytest.raises(MismatchedParameters, match="lacks 'num_kept'"):
        level.load_state_dict({k: v for k, v in level.state_dict().items() if k != "num_kept"})
    assert level.digest() == before


def test_knobs_of_the_next_sleep_are_turned() -> None:
    level = make_level()
    change = level.control(reason="softer", temperature=2.0, epochs=5)
    assert level.spec.temperature == 2.0
    assert level.spec.epochs == 5
    assert change.applied_at == 0
    with pytest.raises(SettingError, match="no knob 'period'"):
        level.control(reason="slower", period=4)
    with pytest.raises(SettingError, match="temperature"):
        level.control(reason="cold", temperature=0.0)
    turned = make_level()
    turned.load_state_dict(level.state_dict())
    assert turned.spec.temperature == 2.0


def test_examples_of_weight_zero_are_left_out() -> None:
    x, y = torch.rand(6, 3), torch.arange(6) % 2
    weighed, plain = make_level(), make_level()
    take(weighed, x, y, torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 1.0]))
    take(plain, x[[1, 2, 4, 5]], y[[1, 2, 4, 5]])
    assert weighed.digest() == plain.digest()


def test_what_it_cannot_dream_of_is_one_line_and_changes_nothing() -> None:
    level = make_level()
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    take(level, x, y)
    before = level.digest()
    with pytest.raises(ShapeMismatch, match=r"sums inputs of shape \(3,\), got \(4,\)"):
        level.check(Batch((torch.rand(4, 4),)), y, None)
    with pytest.raises(DataError, match="dreams of one input without a name, got input 0, input 1"):
        level.check(Batch((x, x)), y, None)
    with pytest.raises(DataError, match="dreams of one input without a name, got pixels"):
        level.check(Batch((), {"pixels": x}), y, None)
    with pytest.raises(DataError, match=r"dreams of numbers, got torch\.int64 indices"):
        level.check(Batch((y[:, None],)), y, None)
    with pytest.raises(DataError, match="the targets are values"):
        level.check(Batch((x,)), torch.rand(4), None)
    with pytest.raises(DataError, match="the targets are 8 for 4"):
        level.check(Batch((x,)), torch.cat([y, y]), None)
    with pytest.raises(DataError, match=f"an input's {MAX_INPUTS + 1} values"):
        make_level().check(Batch((torch.zeros(1, MAX_INPUTS + 1),)), y[:1], None)
    assert level.digest() == before
