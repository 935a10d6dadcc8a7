"""The toy of figure 4: its gradient, its steps, and equal searches."""

import pytest
import torch

from nestling.bench.optimizers.contenders import Contender, draw_trials
from nestling.bench.optimizers.figure_toy import (
    NUM_STARTS,
    RULES,
    START,
    TARGET,
    TOYS,
    TUNING_SEED,
    Toy,
    count_steps,
    draw_starts,
    measure_toy,
)

GOOD = {"lr": 0.03, "forget": 0.3, "erase_rate": 0.01, "inner_lr": 3.0}


@pytest.mark.parametrize("name", TOYS)
def test_gradient_is_that_of_autograd(name: str) -> None:
    point = draw_starts(3).requires_grad_()
    (expected,) = torch.autograd.grad(TOYS[name].value(point).sum(), point)
    torch.testing.assert_close(TOYS[name].gradient(point.detach()), expected)


def test_the_least_value_is_zero_at_the_origin() -> None:
    origin = torch.zeros(1, 2, dtype=torch.float64)
    for toy in TOYS.values():
        assert float(toy.value(origin)) == 0.0
        assert not bool(toy.gradient(origin).any())


def test_starts_differ_by_seed_and_the_papers_is_among_them() -> None:
    assert draw_starts(0)[0].tolist() == list(START)
    assert draw_starts(0).shape == (NUM_STARTS, 2)
    assert torch.equal(draw_starts(1), draw_starts(1))
    assert not bool((draw_starts(0) == draw_starts(1)).any())
    assert not bool((draw_starts(TUNING_SEED) == draw_starts(0)).any())


@pytest.mark.parametrize("name", ["momentum", "delta", "delta_matrix", "dmgd"])
def test_rules_reach_the_target_of_a_gentle_toy(name: str) -> None:
    rule, toy = RULES[name], Toy(1.0, 0.3, 1.0)
    steps = count_steps(toy, rule, GOOD, draw_starts(0))
    assert all(0 < one < 1_000 for one in steps)


def test_adaptive_rules_reach_it_too() -> None:
    toy, settings = Toy(1.0, 0.3, 1.0), {"lr": 0.2, "forget": 0.1}
    assert max(count_steps(toy, RULES["adamw"], settings, draw_starts(0))) < 1_000


def test_steps_are_counted_to_the_first_value_at_the_target() -> None:
    """Plain descent on r^2 alone: r halves at each step with lr 1/4."""
    toy = Toy(0.0, 0.0, 1.0)
    starts = torch.tensor([[1.0, 0.0], [0.01, 5.0]], dtype=torch.float64)
    rule = Contender({}, RULES["momentum"].build)
    # (1/2)^(2 n) <= 1e-3 from n = 5 on; the second start is there already.
    assert TARGET == 1e-3
    assert count_steps(toy, rule, {"lr": 0.25, "forget": 1.0}, starts) == [5, 0]


def test_a_run_that_diverges_counts_as_the_most_steps() -> None:
    assert (
        count_steps(
            TOYS["k 10, a 1, w 2"],
            RULES["momentum"],
            {"lr": 10.0, "forget": 0.5},
            draw_starts(0),
            50,
        )
        == [50] * NUM_STARTS
    )


def test_each_start_is_a_run_of_its_own() -> None:
    toy, starts = TOYS["k 1, a 1, w 2"], draw_starts(1)
    together = count_steps(toy, RULES["delta_matrix"], GOOD, starts)
    alone = [count_steps(toy, RULES["delta_matrix"], GOOD, one[None])[0] for one in starts]
    assert together == alone


def test_rules_have_as_many_trials_at_the_same_points() -> None:
    drawn = {name: draw_trials(rule.space, 6, "toy") for name, rule in RULES.items()}
    assert {len(trials) for trials in drawn.values()} == {6}
    for ours, theirs in zip(drawn["delta"], drawn["momentum"], strict=True):
        assert {name: ours[name] for name in theirs} == theirs
    names = ("momentum", "delta")
    _, rows = measure_toy(
        1,
        num_trials=4,
        num_few=2,
        max_steps=60,
        toys={"one": TOYS["k 1, a 1, w 2"]},
        rules={name: RULES[name] for name in names},
    )
    assert {(row["trials"], row["trials_few"], row["starts"]) for row in rows} == {
        (4, 2, NUM_STARTS)
    }


def test_a_rule_is_as_fast_as_itself() -> None:
    rule = RULES["momentum"]
    figures, rows = measure_toy(
        2,
        num_trials=3,
        num_few=1,
        max_steps=100,
        toys={"one": TOYS["k 1, a 1, w 2"]},
        rules={"momentum": rule, "again": rule},
    )
    assert figures == {
        "toy_again_over_momentum_steps": 1.0,
        "toy_again_over_momentum_steps_few": 1.0,
    }
    assert [row["optimizer"] for row in rows] == ["momentum", "again"]
    assert rows[0]["steps"] == rows[1]["steps"]
