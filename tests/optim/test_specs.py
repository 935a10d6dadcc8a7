"""What a specification says is what torch gets; a wrong value is one line."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import nestling as nl
from nestling.core.errors import SettingError
from nestling.optim import SGD, Adam, AdamW, OptimizerSpec


@pytest.mark.parametrize(
    ("spec", "kind", "knobs"),
    [
        (
            nl.adamw(3.0, betas=(0.5, 0.6), eps=1e-3, weight_decay=0.2),
            torch.optim.AdamW,
            {"lr": 3.0, "betas": (0.5, 0.6), "eps": 1e-3, "weight_decay": 0.2},
        ),
        (
            nl.adam(3.0, betas=(0.5, 0.6), eps=1e-3, weight_decay=0.2),
            torch.optim.Adam,
            {"lr": 3.0, "betas": (0.5, 0.6), "eps": 1e-3, "weight_decay": 0.2},
        ),
        (
            nl.sgd(3.0, momentum=0.5, weight_decay=0.2, nesterov=True),
            torch.optim.SGD,
            {"lr": 3.0, "momentum": 0.5, "weight_decay": 0.2, "nesterov": True},
        ),
    ],
)
def test_every_setting_reaches_torch(
    spec: OptimizerSpec, kind: type[torch.optim.Optimizer], knobs: dict[str, object]
) -> None:
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    inner = spec.build(iter(params))
    assert type(inner) is kind
    group = inner.param_groups[0]
    assert [id(param) for param in group["params"]] == [id(param) for param in params]
    assert {knob: group[knob] for knob in knobs} == knobs


@pytest.mark.parametrize(
    ("make", "kind"), [(nl.adamw, torch.optim.AdamW), (nl.adam, torch.optim.Adam)]
)
def test_adams_defaults_are_torchs(
    make: Callable[[], OptimizerSpec], kind: Callable[..., torch.optim.Optimizer]
) -> None:
    params = [nn.Parameter(torch.ones(1))]
    theirs = kind(params, fused=True).param_groups[0]
    assert {**make().build(params).param_groups[0], "params": None} == {**theirs, "params": None}


@pytest.mark.parametrize("make", [nl.adamw, nl.adam, nl.sgd])
def test_function_and_class_have_the_same_defaults(make: Callable[[], OptimizerSpec]) -> None:
    spec = make()
    assert type(spec)() == spec
    assert hash(type(spec)()) == hash(spec)


@pytest.mark.parametrize("make", [nl.adamw, nl.adam, nl.sgd])
@pytest.mark.parametrize("asked", [None, True, False])
def test_fused_where_it_can_be(make: Callable[..., OptimizerSpec], asked: bool | None) -> None:
    floats = make(fused=asked).build([nn.Parameter(torch.ones(1))])
    assert floats.param_groups[0]["fused"] is (asked is not False)
    unusual = nn.Parameter(torch.ones(1, device="meta"))
    if asked is None:
        assert make().build([unusual]).param_groups[0]["fused"] is False


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AdamW(lr=-1.0), "AdamW lr: .*got -1.0"),
        (lambda: nl.adam(lr=float("inf")), "Adam lr: .*got inf"),
        (lambda: nl.adam(lr="fast"), "Adam lr: .*got 'fast'"),
        (lambda: nl.adamw(betas=(0.9, 1.0)), r"AdamW betas\.1: .*got 1.0"),
        (lambda: nl.adamw(betas=(0.9,)), "AdamW betas"),
        (lambda: nl.adamw(eps=-1e-8), "AdamW eps: .*got -1e-08"),
        (lambda: nl.adam(weight_decay=-0.5), "Adam weight_decay: .*got -0.5"),
        (lambda: nl.sgd(momentum=1.5), "SGD momentum: .*got 1.5"),
        (lambda: nl.sgd(nesterov=True), "nesterov=True needs a momentum; momentum=0.9 works"),
        (lambda: SGD(momentun=0.9), "did you mean 'momentum'"),
        (lambda: Adam(name="adamw"), "Adam name: .*got 'adamw'"),
    ],
)
def test_wrong_values_are_one_line(make: Callable[[], object], words: str) -> None:
    for _ in range(2):  # the first use of a class builds its schema
        with pytest.raises(SettingError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_specs_cannot_be_changed() -> None:
    spec = nl.adamw()
    with pytest.raises((AttributeError, TypeError), match="lr"):
        spec.lr = 1.0  # type: ignore[misc]
