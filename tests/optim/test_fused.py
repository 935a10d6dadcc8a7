"""The short way to torch's fused kernels gives torch's bits, and steps aside where it must."""

import copy

import pytest
import torch
from torch import Tensor, nn

from nestling.optim import SGD, Adam, AdamW, OptimizerSpec
from nestling.optim.fused import step_fused

RULES = {
    "adamw": AdamW(lr=0.01, weight_decay=0.1),
    "adam": Adam(lr=0.01, weight_decay=0.1),
    "sgd": SGD(lr=0.1),
    "momentum": SGD(lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
}


def make_params() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,), ())]


def draw_gradients(params: list[nn.Parameter], step: int, *, skip: bool) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(100 + step)
    drawn = [torch.randn(param.shape, generator=generator) for param in params]
    # Now and then a parameter goes without: its count of steps then lags behind the others'.
    return [
        None if skip and step > 1 and step % 3 == index else grad
        for index, grad in enumerate(drawn)
    ]


def step_short(inner: torch.optim.Optimizer, params: list[nn.Parameter]) -> bool:
    moved = [param for param in params if param.grad is not None]
    with torch.no_grad():
        return step_fused(inner, moved, [param.grad for param in moved], 1)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("skip", [False, True])
def test_bits_are_torchs(rule: OptimizerSpec, skip: bool) -> None:
    ours, theirs = make_params(), make_params()
    short, plain = rule.build(ours), rule.build(theirs)
    num_short = 0
    for step in range(9):
        for one, other, grad in zip(
            ours, theirs, draw_gradients(ours, step, skip=skip), strict=True
        ):
            one.grad, other.grad = grad, copy.deepcopy(grad)
        plain.step()
        if step_short(short, ours):
            num_short += 1
        else:
            short.step()
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)
    assert num_short >= 6
    for one, other in zip(ours, theirs, strict=True):
        saved, torchs = short.state[one], plain.state[other]
        assert saved.keys() == torchs.keys()
        for name, value in torchs.items():
            assert value is None or torch.equal(saved[name], value), name


def test_torch_can_take_over_after_short_steps() -> None:
    """The counts of steps lie together; torch adds to each by itself, and they stay right."""
    params = make_params()
    inner = RULES["adamw"].build(params)
    for step in range(6):
        for param, grad in zip(params, draw_gradients(params, step, skip=False), strict=True):
            param.grad = grad
        if step in (0, 3) or not step_short(inner, params):
            inner.step()
    assert [float(inner.state[param]["step"]) for param in params] == [6.0, 6.0, 6.0]


def test_sums_are_divided_in_place() -> None:
    for divisor in (2, 3, 7):
        params, means = make_params(), make_params()
        inner, plain = RULES["adamw"].build(params), RULES["adamw"].build(means)
        for step in range(3):
            grads = draw_gradients(params, step, skip=False)
            for param, mean, grad in zip(params, means, grads, strict=True):
                assert grad is not None
                param.grad, mean.grad = grad.clone(), grad / divisor
            plain.step()
            if step == 0:
                torch._foreach_div_([param.grad for param in params], divisor)
                inner.step()
            else:
                sums = [param.grad for param in params]
                with torch.no_grad():
                    assert step_fused(inner, params, sums, divisor)
            for param, mean in zip(params, means, strict=True):
                torch.testing.assert_close(param.grad, mean.grad)
                torch.testing.assert_close(param, mean, rtol=1e-6, atol=1e-7)


def test_it_steps_aside() -> None:
    """Unfused, amsgrad, a tensor as rate, mixed dtypes: torch's own step knows what to do."""
    params = make_params()
    for param in params:
        param.grad = torch.ones_like(param)
    unfused = torch.optim.AdamW(params, foreach=False)
    amsgrad = torch.optim.AdamW(params, fused=True, amsgrad=True)
    tensor_rate = torch.optim.AdamW(params, torch.tensor(0.1), fused=True)
    other_rule = torch.optim.Adagrad(params, fused=True)
    for inner in (unfused, amsgrad, tensor_rate, other_rule):
        inner.step()
        before = [param.detach().clone() for param in params]
        assert not step_short(inner, params)
        assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
    mixed = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))]
    for param in mixed:
        param.grad = torch.ones_like(param)
    assert not step_short(torch.optim.SGD(mixed, 0.1, fused=True), mixed)
