"""Every mechanism does what its name says, and has the control that it needs."""

import functools
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from nestling.bench.rivals.tunable import Setup
from nestling.bench.timescales.compute_count import draw_batches
from nestling.bench.timescales.mechanisms import MECHANISMS
from nestling.bench.timescales.nested_loop import NestedLoop
from nestling.bench.timescales.timescale_cells import (
    BASES,
    build_at_middle,
    draw_evenly,
    find_timescale_method,
    join_name,
    list_mechanisms,
    name_rival,
)
from nestling.core.errors import SettingError

SETUP = Setup(12, 3, 4, 1, 2, False, False, 0, widths=(16, 16))
NAMES = [join_name(base, one) for base in BASES for one in list_mechanisms(base)]


@functools.cache
def move(name: str, num_steps: int, lr: float) -> Mapping[str, Tensor]:
    """How far each parameter moved."""
    method = find_timescale_method(name)
    inner = "plain" if name in BASES else name.rpartition("+")[2]
    settings = draw_evenly(MECHANISMS[inner], 0) | {"lr": lr}
    loop = method.build(SETUP, settings)
    assert isinstance(loop, NestedLoop)
    before = {n: p.detach().clone() for n, p in loop.model.named_parameters()}
    for x, y in draw_batches(SETUP)[:num_steps]:
        loop.learn(x, y, is_new=True)
    return {n: p.detach() - before[n] for n, p in loop.model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_each_learns_and_answers(name: str) -> None:
    made = build_at_middle(name, SETUP)
    (x, _), *_ = batches = draw_batches(SETUP)
    fresh = SETUP.make_model()(x)
    for x, y in batches:
        made.learn(x, y, is_new=True)
    scores = made.compute_scores(x)
    assert scores.shape == (4, 3)
    assert torch.isfinite(scores).all()
    assert (scores - fresh).abs().max() > 1e-3
    has_store = name.startswith("er")
    has_slow = name in ("copy", "copies", "beakers", "lookahead", "outer")
    assert (made.count_bytes() > 0) == (has_store or has_slow)


@pytest.mark.parametrize(
    ("name", "control", "num_steps"),
    [("periods4", "rates4", 4), ("periods16", "rates16", 16), ("sums16", "plain", 16)],
)
def test_a_control_moves_as_far_where_steps_are_small(
    name: str, control: str, num_steps: int
) -> None:
    """To first order the only difference is when the trunk moves."""
    ours, theirs = move(name, num_steps, 1e-3), move(control, num_steps, 1e-3)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=0.05, atol=3e-7)
    assert move(name, num_steps - 1, 1e-3)["trunk.0.weight"].abs().max() == 0.0
    assert move(control, num_steps - 1, 1e-3)["trunk.0.weight"].abs().max() > 0.0


def test_skip_moves_by_the_last_gradient_alone() -> None:
    skipped, meant = move("skip16", 16, 1e-3), move("periods16", 16, 1e-3)
    assert skipped["trunk.0.weight"].abs().max() > 0.0
    assert not torch.allclose(skipped["trunk.0.weight"], meant["trunk.0.weight"], rtol=0.05)
    torch.testing.assert_close(skipped["head.weight"], meant["head.weight"])


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        ("cms", {"blocks.0.0.weight": 1, "blocks.1.0.weight": 4, "blocks.2.0.weight": 16}),
        ("adam-periods", {"head.weight": 1, "trunk.2.weight": 3, "trunk.0.weight": 6}),
    ],
)
def test_layers_move_at_their_own_periods(name: str, slow: dict[str, int]) -> None:
    for key, period in slow.items():
        assert move(name, period, 1e-3)[key].abs().max() > 0.0
        if period > 1:
            assert move(name, period - 1, 1e-3)[key].abs().max() == 0.0


def test_outer_rules_answer_by_the_weights_from_which_they_go_on() -> None:
    """Lookahead holds still between its boundaries; with a rate of 1 it would be plain SGD."""
    made = find_timescale_method("lookahead").build(SETUP, {"lr": 0.1, "step_size": 0.5})
    plain = find_timescale_method("plain").build(SETUP, {"lr": 0.1})
    (x, _), *_ = batches = draw_batches(SETUP)
    fresh = made.compute_scores(x)
    torch.testing.assert_close(fresh, plain.compute_scores(x))
    for one, y in batches[:5]:
        made.learn(one, y, is_new=True)
        plain.learn(one, y, is_new=True)
        torch.testing.assert_close(made.compute_scores(x), fresh, rtol=0.0, atol=0.0)
    for competitor in (made, plain):
        competitor.learn(*batches[5], is_new=True)
    assert isinstance(made, NestedLoop)
    assert isinstance(plain, NestedLoop)
    start = SETUP.make_model().get_parameter("head.weight")
    moved = made.model.get_parameter("head.weight") - start
    torch.testing.assert_close(moved, (plain.model.get_parameter("head.weight") - start) / 2)


def test_replay_changes_what_is_learned() -> None:
    for name in ("plain", "copy"):
        alone, beside = move(name, 8, 0.1), move(join_name("er", name), 8, 0.1)
        assert not torch.allclose(alone["head.weight"], beside["head.weight"])


def test_controls_and_names_are_of_this_benchmark() -> None:
    for one in MECHANISMS.values():
        assert one.control is None or one.control in MECHANISMS
        assert next(iter(one.space)) == "lr"
    assert "clser" not in list_mechanisms("plain")
    assert list_mechanisms("er", ["clser"]) == ["plain", "copy", "clser"]
    assert name_rival("plain", 1.25**-2) == "plain-x0.64"


@pytest.mark.parametrize(
    "name", ["clser", "periods5", "er+plain", "er+", "plain-xyz", "plain-x0", "er+copy-x2"]
)
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match="method"):
        find_timescale_method(name)


def test_a_wrong_mechanism_is_refused() -> None:
    with pytest.raises(SettingError, match="did you mean 'periods16'"):
        list_mechanisms("plain", ["period16"])


def test_all_of_one_rule_try_the_same_rates_evenly() -> None:
    rates = {
        name: [draw_evenly(MECHANISMS[name], trial)["lr"] for trial in range(7)]
        for name in ("plain", "copy", "sums16", "adam", "adam-periods")
    }
    assert rates["plain"] == rates["copy"] == rates["sums16"] != rates["adam"]
    assert rates["adam"] == rates["adam-periods"]
    ordered = sorted(rates["plain"])
    steps = [high / low for low, high in pairwise(ordered)]
    assert max(steps) < 1.05 * min(steps)
    memories = {draw_evenly(MECHANISMS["copy"], trial)["memory"] for trial in range(7)}
    assert len(memories) == 7
