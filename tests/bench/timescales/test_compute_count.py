"""Counted compute against what paper and pencil say."""

from dataclasses import replace

import pytest
import torch

from nestling.bench.rivals.competitors import PlainLoop
from nestling.bench.rivals.tunable import Setup
from nestling.bench.timescales.compute_count import (
    OperationCount,
    choose_ratio,
    count_step,
    draw_batches,
)
from nestling.bench.timescales.timescale_cells import build_at_middle

SETUP = Setup(196, 10, 10, 1, 5, False, False, 0)


def count(name: str) -> float:
    return count_step(build_at_middle(name, SETUP), SETUP)


def test_products_of_a_step_are_counted_exactly() -> None:
    (x, y), *_ = draw_batches(SETUP)
    loop = PlainLoop(SETUP.make_model(), 0.1)
    with OperationCount() as counted:
        loop.learn(x, y, is_new=True)
    # Forward, gradients of weights, gradients of inputs but for the first layer's.
    layers = [196 * 128, 128 * 128, 128 * 10]
    assert counted.num_products == 10 * (2 * sum(layers) + sum(layers[1:]))
    num_params = sum(layers) + 128 + 128 + 10
    # At least the update, and a look at every gradient; far less than the products.
    assert num_params < counted.num_elements < 4 * num_params


def test_kernels_over_elements_and_views() -> None:
    x = torch.ones(3, 4)
    with OperationCount() as counted:
        x.t().reshape(2, 6).unsqueeze(0)
    moved = counted.total
    assert moved <= 12  # a copy at most, where a view will not do
    with OperationCount() as counted:
        torch.add(x, 1.0)
        torch._foreach_add_([x, x], [x, x])
    assert (counted.num_elements, counted.num_products) == (12 + 24, 0)
    stack, other, right, bias = (torch.ones(size) for size in ((2, 3, 4), (2, 4, 5), (4, 5), 5))
    with OperationCount() as counted:
        torch.bmm(stack, other)
        torch.addmm(bias, x, right)
    assert counted.total == 2 * 3 * 4 * 5 + 3 * 4 * 5


def test_what_saves_costs_less_and_what_adds_costs_more() -> None:
    plain = count("plain")
    assert count("plain") == plain
    assert count("rates16") == plain
    assert 0.95 * plain < count("periods16") < plain
    # Forward 0.43 M, and of backward the head's 0.013 M in 15 of 16 steps.
    assert 0.38 * plain < count("skip16") < 0.48 * plain
    assert plain < count("copy") < count("copies") < 1.15 * plain
    assert 1.9 * plain < count("er") < 2.1 * plain
    assert count("muon") < count("m3")


def test_count_follows_the_batch() -> None:
    small = replace(SETUP, batch_size=5)
    ratio = count("plain") / count_step(build_at_middle("plain", small), small)
    assert 1.7 < ratio < 2.0  # the update does not grow with the batch


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (1.0, 1.0),
        (0.95, 1.0),
        (1.11, 1.0),
        (1.13, 1.25),
        (0.42, 0.4096),
        (0.01, 0.4096),
        (70, 3.81),
    ],
)
def test_the_nearest_ratio_is_chosen(ratio: float, expected: float) -> None:
    assert choose_ratio(ratio) == pytest.approx(expected, abs=0.01)
