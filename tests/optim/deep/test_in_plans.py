"""Deep optimizers as a plan's: through a file and back."""

import pytest

import nestling as nl
from nestling.levels import Level, Plan
from nestling.optim import DGD, DMGD, M3, MemoryMomentum, Muon, OptimizerSpec, muon

SPECS: list[OptimizerSpec] = [
    Muon(),
    muon(0.03, other=nl.sgd(lr=0.2)),
    Muon(other=nl.sgd()),
    Muon(lr=0.1, polynomial="cubic", scale="rms", precision="bfloat16", other=nl.adam()),
    M3(mode="paper", betas=(0.5, 0.6, 0.7), period=4, other=nl.sgd()),
    DGD(form="step", other=nl.adamw()),
    DMGD(target="ones", loss="dot"),
    MemoryMomentum(objective="huber", delta=0.5, readout="sign"),
]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_through_toml_and_back(spec: OptimizerSpec) -> None:
    plan = Plan(Level("all", match=["*"], optimizer=spec))
    again = Plan.from_toml(plan.to_toml())
    assert again == plan
    assert again.gradient_levels[0].optimizer == spec


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_its_rate_can_be_turned(spec: OptimizerSpec) -> None:
    from nestling.levels.control import turn_level

    turned = turn_level(Level("all", match=["*"], optimizer=spec), {"lr": 0.5})
    assert not isinstance(turned.optimizer, nl.optim.CustomOptimizer)
    assert turned.optimizer.lr == 0.5


def test_read_from_a_file() -> None:
    text = """
    [[level]]
    kind = "gradient"
    name = "all"
    match = ["*"]
    optimizer = {name = "muon", lr = 0.1, other = {name = "sgd", lr = 0.5}}
    """
    (level,) = Plan.from_toml(text).gradient_levels
    assert level.optimizer == muon(0.1, other=nl.sgd(lr=0.5))
