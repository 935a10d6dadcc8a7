"""What is said of a step before it is taken holds after it, whatever the gradients were."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nestling.levels.step_bounds import adam_bound, bound_step

RULES: list[Any] = [
    lambda p: torch.optim.SGD(p, 0.1),
    lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.3),
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5),
    lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.3),
    lambda p: torch.optim.Adam(p, 0.01, betas=(0.5, 0.9)),
    lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3),
    lambda p: torch.optim.AdamW(p, 0.01, betas=(0.9, 0.95), eps=0.0),
]


@given(
    rule=st.sampled_from(RULES),
    growths=st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=30),
    divisor=st.integers(1, 3),
)
def test_no_step_is_larger_than_was_said(rule: Any, growths: list[float], divisor: int) -> None:
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(s, generator=generator)) for s in ((3, 4), (5,))]
    inner = rule(params)
    size = 1.0
    for growth in growths:  # gradients that grow and shrink by orders of magnitude
        size = min(max(size * 10.0**growth, 1e-6), 1e6)
        for param in params:
            param.grad = size * torch.randn(param.shape, generator=generator)
        before = [param.detach().double().clone() for param in params]
        sums = [param.grad * divisor for param in params]  # type: ignore[operator]
        fixed, share = bound_step(inner, params, sums, divisor)
        inner.step()
        weights = torch.cat([value.flatten() for value in before]).norm()
        now = torch.cat([param.detach().double().flatten() for param in params])
        moved = (now - torch.cat([value.flatten() for value in before])).norm()
        assert float(moved) <= (fixed + share * float(weights)) * 1.001 + 1e-6


def test_of_others_nothing_is_said() -> None:
    param = nn.Parameter(torch.ones(2))

    class Own(torch.optim.SGD):
        """It may do what it likes."""

    others = [
        torch.optim.Adagrad([param]),
        Own([param], 0.1),
        torch.optim.Adam([param], amsgrad=True),
        torch.optim.SGD([param], 0.1, momentum=0.9, nesterov=True),
    ]
    for inner in others:
        assert bound_step(inner, [param], [torch.ones(2)], 1)[0] == float("inf")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_not_vouched_for(bad: float) -> None:
    param = nn.Parameter(torch.ones(2))
    for inner in (torch.optim.SGD([param], 0.1), torch.optim.AdamW([param], 0.1)):
        fixed, _ = bound_step(inner, [param], [torch.tensor([1.0, bad])], 1)
        assert not fixed < float("inf")


def test_betas_without_a_bound_have_none() -> None:
    assert adam_bound(0.99, 0.5) == float("inf")
    assert adam_bound(0.0, 0.5) == pytest.approx(2.0**0.5)
