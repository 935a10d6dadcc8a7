"""Muon against torch's and against its own definition."""

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import MismatchedParameters, SettingError
from nestling.optim.deep import Muon, MuonOptimizer, muon, muon_update
from nestling.optim.deep.muon import scale_step
from nestling.optim.deep.newton_schulz import orthogonalize

SHAPES = [(6, 6), (4, 10), (10, 4), (4, 10)]


def make_params(*shapes: tuple[int, ...], seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def give_gradients(params: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["shape", "rms"])
def test_equals_torchs(nesterov: bool, scale: str) -> None:
    ours, theirs = make_params(*SHAPES), make_params(*SHAPES)
    spec = Muon(lr=0.1, nesterov=nesterov, weight_decay=0.2, scale=scale, precision="bfloat16")  # type: ignore[arg-type]
    our_rule = spec.build(ours)
    their_rule = torch.optim.Muon(
        theirs,
        lr=0.1,
        nesterov=nesterov,
        weight_decay=0.2,
        adjust_lr_fn="original" if scale == "shape" else "match_rms_adamw",
    )
    for step in range(5):
        before = [param.detach().clone() for param in ours]
        for params, rule in ((ours, our_rule), (theirs, their_rule)):
            give_gradients(params, step)
            rule.step()
        for one, other, old in zip(ours, theirs, before, strict=True):
            moved = float((one - old).detach().norm())
            assert moved > 0.05
            # Both round to the 8 bits of bfloat16 at every product.
            assert float((one - other).detach().norm()) < 0.05 * moved * (step + 1)
            torch.testing.assert_close(
                our_rule.state[one]["momentum_buffer"], their_rule.state[other]["momentum_buffer"]
            )


def test_equals_its_definition_step_by_step() -> None:
    (weight,) = make_params((5, 3))
    rule = Muon(lr=0.1, momentum=0.9, weight_decay=0.5).build([weight])
    slow, buffer = weight.detach().clone(), torch.zeros(5, 3)
    for step in range(4):
        give_gradients([weight], step)
        assert weight.grad is not None
        buffer = 0.9 * buffer + 0.1 * weight.grad
        ahead = 0.1 * weight.grad + 0.9 * buffer
        slow = (1 - 0.1 * 0.5) * slow - 0.1 * (5 / 3) ** 0.5 * orthogonalize(ahead)
        rule.step()
        torch.testing.assert_close(weight.detach(), slow)


def test_update_is_pure_and_takes_kernels() -> None:
    gradients = [param.detach() for param in make_params((4, 3, 2, 2), (3, 5))]
    momenta = [torch.ones_like(gradient) for gradient in gradients]
    kept = [one.clone() for one in (*gradients, *momenta)]
    steps, moved = muon_update(gradients, momenta)
    assert all(map(torch.equal, (*gradients, *momenta), kept))
    assert [one.shape for one in steps] == [one.shape for one in gradients]
    ahead = 0.05 * gradients[0] + 0.95 * moved[0]
    torch.testing.assert_close(steps[0].reshape(4, 12), orthogonalize(ahead.reshape(4, 12)))
    with pytest.raises(MismatchedParameters, match="one momentum for each gradient"):
        muon_update(gradients, momenta[:1])


@pytest.mark.parametrize("other", [nl.adamw(lr=0.1), nl.adam(lr=0.1), nl.sgd(lr=0.1, momentum=0.5)])
def test_vectors_learn_by_the_other_rule_bit_for_bit(other: nl.optim.AdamW) -> None:
    ours, theirs = make_params((3, 3), (3,)), make_params((3,), seed=0)
    theirs[0].data.copy_(ours[1].data)
    rule, plain = Muon(lr=0.02, other=other).build(ours), other.build(theirs)
    for step in range(3):
        give_gradients(ours, step)
        theirs[0].grad = ours[1].grad.clone() if ours[1].grad is not None else None
        rule.step()
        plain.step()
        assert torch.equal(ours[1], theirs[0])
    # When the rate is turned, the other follows in its ratio.
    rule.param_groups[0]["lr"] = 0.01
    plain.param_groups[0]["lr"] = 0.05
    give_gradients(ours, 9)
    theirs[0].grad = ours[1].grad.clone() if ours[1].grad is not None else None
    rule.step()
    plain.step()
    torch.testing.assert_close(ours[1], theirs[0])


def test_parameters_without_a_gradient_stay_and_closures_are_heard() -> None:
    params = make_params((3, 3), (2, 2))
    still = params[1].detach().clone()
    rule = MuonOptimizer([{"params": params[:1], "lr": 0.5}, {"params": params[1:]}])

    def closure() -> Tensor:
        rule.zero_grad()
        loss = params[0].square().sum()
        loss.backward()
        return loss

    assert rule.step(closure) is not None  # type: ignore[arg-type]
    assert torch.equal(params[1], still)
    assert params[1] not in rule.state


def test_scales() -> None:
    assert scale_step((2, 8), "shape") == 1.0
    assert scale_step((8, 2), "none") == 1.0
    assert scale_step((3, 0), "shape") == 1.0


def test_sparse_gradients_are_refused_before_anything_moves() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.eye(3)[:, :2].to_sparse()
    with pytest.raises(SettingError, match="sparse"):
        muon().build([weight]).step()
    assert torch.equal(weight, torch.ones(3, 2))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"lr": -1.0}, "Muon lr: a number of 0 or more works, got -1"),
        ({"steps": 100}, "Muon steps: a number of 99 or less works, got 100"),
        ({"momentum": 1.0}, "Muon momentum: a number less than 1 works, got 1"),
        ({"polynomial": "tanh"}, "Muon polynomial: 'quintic' or 'cubic' works, got 'tanh'"),
    ],
)
def test_wrong_settings(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message.replace("(", r"\(")):
        Muon(**knobs)  # type: ignore[arg-type]
