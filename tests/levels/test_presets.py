"""Presets claim every parameter of the built-in models, and say so when they cannot."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from nestling.core.errors import NestlingError, SettingError
from nestling.levels import (
    NestedOptimizer,
    Plan,
    adapters,
    assign_levels,
    by_depth,
    spine_and_head,
)
from nestling.models import ConvNet, TransformerClassifier, mlp

MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "mlp": (lambda: mlp([6, 8, 8, 3]), torch.ones(2, 6)),
    "convnet": (lambda: ConvNet(3, (8, 8)), torch.ones(2, 64)),
    "transformer": (
        lambda: TransformerClassifier(9, 3, length=4, width=8, num_heads=2),
        torch.ones(2, 4, dtype=torch.long),
    ),
}
PRESETS: dict[str, Callable[[nn.Module], Plan]] = {
    "spine_and_head": spine_and_head,
    "by_depth": lambda model: by_depth(model, 3, ratio=2),
    "one level": lambda model: by_depth(model, 1),
}


def adapt(name: str, model: nn.Module) -> Plan:
    """Overlays go on linear layers only, so the globs depend on the model."""
    globs = {"mlp": ["*.weight"], "convnet": ["head.weight"]}.get(name, ["blocks.*.fc.weight"])
    return adapters(model, globs, 2, generator=torch.Generator())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("preset", [*PRESETS, "adapters"])
def test_every_parameter_is_claimed_and_learns(kind: str, preset: str) -> None:
    build, x = MODELS[kind]
    model = build()
    before = model(x).detach()
    plan = adapt(kind, model) if preset == "adapters" else PRESETS[preset](model)
    torch.testing.assert_close(model(x).detach(), before)
    claims = assign_levels(model, plan)
    assert sorted(name for names in claims.values() for name in names) == sorted(
        name for name, _ in model.named_parameters()
    )
    assert all(claims.values())
    assert Plan.from_toml(plan.to_toml()) == plan
    nested = NestedOptimizer(model, plan)
    for _ in range(max(level.period for level in plan.gradient_levels)):
        nested.zero_grad()
        nested.prepare_step()
        model(x).square().sum().backward()
        nested.step()
    assert (
        min(reading.num_updates for reading in nested.read_levels()) == 1 or preset == "one level"
    )


def test_spine_and_head_finds_the_last_linear_layer() -> None:
    for build, _ in MODELS.values():
        claims = assign_levels(model := build(), spine_and_head(model))
        assert claims["head"] == ["head.weight", "head.bias"]
    claims = assign_levels(model, spine_and_head(model, head="blocks.1"))
    assert len(claims["head"]) == 12


@pytest.mark.parametrize("num_levels", [1, 2, 3, 4, 5])
def test_by_depth_is_geometric_and_about_even(num_levels: int) -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(10)))
    plan = by_depth(model, num_levels, ratio=3)
    assert [level.period for level in plan.gradient_levels] == [3**i for i in range(num_levels)]
    claims = assign_levels(model, plan)
    sizes = [len(names) for names in claims.values()]
    assert sum(sizes) == 20
    assert max(sizes) - min(sizes) <= 4
    owner = {int(name[0]): depth for depth, names in enumerate(claims.values()) for name in names}
    assert [owner[index] for index in range(9, -1, -1)] == sorted(owner.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda m: spine_and_head(m, head="haed"),
        lambda _: spine_and_head(nn.Linear(2, 2)),
        lambda _: spine_and_head(nn.Conv2d(1, 1, 1)),
        lambda m: by_depth(m, 0),
        lambda m: by_depth(m, 99),
        lambda m: by_depth(m, 2, ratio=0),
        lambda m: adapters(m, ["nothing.*"], 2, generator=torch.Generator()),
        lambda m: adapters(m, ["*.weight"], 0, generator=torch.Generator()),
    ],
)
def test_presets_that_cannot_work_leave_the_model_alone(
    make: Callable[[nn.Module], Plan],
) -> None:
    model = mlp([4, 5, 2])
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(SettingError) as caught:
        make(model)
    assert isinstance(caught.value, NestlingError)
    assert "\n" not in str(caught.value)
    assert [name for name, _ in model.named_parameters()] == names


def test_a_head_that_cannot_be_found_is_to_be_named() -> None:
    with pytest.raises(SettingError, match=r"Conv2d has no linear layer; name it: head='\.\.\.'"):
        spine_and_head(nn.Conv2d(1, 1, 1))
