"""A saved optimizer goes on bit for bit, wherever it was cut, and refuses foreign states."""

import copy
import io
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import MismatchedParameters
from nestling.levels import (
    AgreementGate,
    Change,
    Copy,
    Freeze,
    ImportanceGate,
    Level,
    NestedOptimizer,
    ParentGate,
    Plan,
    ScheduleGate,
    SurpriseGate,
)

NUM_STEPS = 40


def make_plan() -> Plan:
    return Plan(
        Level("head", match=["4.*"], gate=[SurpriseGate(half_life=5)], trust=0.05),
        Level(
            "middle",
            match=["2.*"],
            period=3,
            optimizer=nl.adam(lr=0.01),
            gate=[ImportanceGate(half_life=3), ScheduleGate(start=5, stop=30, low=0.2)],
            protect=True,
        ),
        Level(
            "spine",
            match=["*"],
            period=4,
            window=2,
            optimizer=nl.sgd(lr=0.05, momentum=0.9),
            gate=[AgreementGate(half_life=2, floor=0.1), ParentGate(of="head")],
            freeze=Freeze(windows=((9, 12),), until="go"),
        ),
        Copy("slow", of=["head", "spine"], probability=0.5, decay=0.9),
        Copy("slower", of=["middle"], period=3, warmup=False),
    )


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def make_nested(model: nn.Module, accumulate: str) -> NestedOptimizer:
    plan = make_plan()
    return NestedOptimizer(model, plan, accumulate=accumulate, seed=3)  # type: ignore[arg-type]


def take_step(model: nn.Module, nested: NestedOptimizer, step: int) -> None:
    if step == 4:
        nested.release("go")
    if step in (13, 21):
        nested.control("spine", period=5, lr=0.02, reason="calm")
        nested.control("spine", gate=[AgreementGate(half_life=3)], reason="calm")
        nested.control("slow", decay=0.8, reason="calm")
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
    nested.zero_grad()
    nested.prepare_step()
    loss = (model(x) - x[:, :2].square()).square().mean()
    loss.backward()
    nested.observe(loss)
    nested.step()


def flatten(state: object, path: str = "") -> dict[str, object]:
    """Every leaf of a state but the wall clock, so that a difference names its place."""
    if isinstance(state, dict):
        parts = [flatten(value, f"{path}/{key}") for key, value in state.items()]
    elif isinstance(state, list | tuple):
        parts = [flatten(value, f"{path}/{index}") for index, value in enumerate(state)]
    else:
        leaf = state.tolist() if isinstance(state, Tensor) else state
        return {} if path.endswith("/seconds") else {path: leaf}
    return {key: value for part in parts for key, value in part.items()}


def freeze_dry(model: nn.Module, nested: NestedOptimizer) -> tuple[Any, Any]:
    buffer = io.BytesIO()
    torch.save((model.state_dict(), nested.state_dict()), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("accumulate", ["separate", "in_place"])
def test_goes_on_bit_for_bit_from_every_step(accumulate: str) -> None:
    model = make_model()
    nested = make_nested(model, accumulate)
    saved, states = [], []
    for step in range(NUM_STEPS + 1):
        saved.append(freeze_dry(model, nested))
        states.append(flatten((model.state_dict(), nested.state_dict())))
        take_step(model, nested, step)
    turned = [event for event in nested.take_events() if isinstance(event, Change)]
    assert len(turned) == 6
    assert turned[0].applied_at is not None
    assert all(reading.num_updates > 0 for reading in nested.read_levels())
    for start in range(NUM_STEPS):
        other = make_model()
        weights, state = saved[start]
        other.load_state_dict(weights)
        again = make_nested(other, accumulate)
        again.load_state_dict(state)
        assert flatten((other.state_dict(), again.state_dict())) == states[start]
        stop = min(start + 11, NUM_STEPS)
        for step in range(start, stop):
            take_step(other, again, step)
        assert flatten((other.state_dict(), again.state_dict())) == states[stop]


def test_state_is_a_copy() -> None:
    model = make_model()
    nested = make_nested(model, "separate")
    take_step(model, nested, 0)
    state = nested.state_dict()
    before = flatten(copy.deepcopy(state))
    fresh = make_nested(make_model(), "separate")
    fresh.load_state_dict(state)
    take_step(model, nested, 1)
    take_step(fresh.model, fresh, 1)
    assert flatten(state) == before


def test_saved_copies_and_factors_stand_alone() -> None:
    """A child of period 1 reads its parent's last factor, also right after a restore."""
    shut = ScheduleGate(start=3, stop=3, low=0.25)
    plan = Plan(
        Level("head", match=["4.*"], gate=[ParentGate(of="spine")]),
        Level("spine", match=["*"], period=2, gate=[shut]),
        Copy("slow", of=["head"]),
    )
    model, other = make_model(), make_model()
    nested, again = (NestedOptimizer(m, plan) for m in (model, other))
    for step in range(2):
        take_plain_step(model, nested, step)
    weights, state = copy.deepcopy(model.state_dict()), nested.state_dict()
    before = flatten(state)
    take_plain_step(model, nested, 2)
    assert flatten(state) == before
    other.load_state_dict(weights)
    again.load_state_dict(state)
    take_plain_step(other, again, 2)
    assert [level.factor for level in again.levels.gradient.values()] == [0.25, 0.25]
    assert flatten(again.state_dict()) == flatten(nested.state_dict())


def take_plain_step(model: nn.Module, nested: NestedOptimizer, step: int) -> None:
    nested.zero_grad()
    model(torch.full((2, 3), 1.0 + step)).square().mean().backward()
    nested.step()


FOREIGN: dict[str, tuple[Plan, str]] = {
    "level": (Plan(Level("other", match=["*"])), "levels"),
    "copy": (Plan(*make_plan().levels[:-1]), "copies"),
    "claims": (
        Plan(*[Level("head", match=["3.*", "4.*", "2.bias"]), *make_plan().levels[1:]]),
        r"2\.bias",
    ),
    "optimizer": (
        Plan(Level("head", match=["4.*"], optimizer=nl.sgd()), *make_plan().levels[1:]),
        "adamw",
    ),
}


@pytest.mark.parametrize("kind", [*FOREIGN, "shape", "torch"])
def test_foreign_state_is_refused_and_nothing_is_changed(kind: str) -> None:
    model = make_model()
    nested = make_nested(model, "separate")
    for step in range(6):
        take_step(model, nested, step)
    before = flatten(nested.state_dict())
    words = "shape"
    other: torch.optim.Optimizer
    if kind == "shape":
        wide = make_model()
        wide[4] = nn.Linear(4, 3)
        other = NestedOptimizer(wide, make_plan())
    elif kind == "torch":
        other = torch.optim.SGD(make_model().parameters(), lr=0.1)
        words = "not of a nested optimizer"
    else:
        plan, words = FOREIGN[kind]
        if kind == "claims":
            plan = Plan(Level("head", match=["4.*", "2.bias"]), *plan.levels[1:])
        other = NestedOptimizer(make_model(), plan)
    with pytest.raises(MismatchedParameters, match=words) as caught:
        nested.load_state_dict(other.state_dict())
    assert "\n" not in str(caught.value)
    if kind in ("shape", "claims", "optimizer"):
        assert "load it where model and plan are those it was saved with" in str(caught.value)
    assert flatten(nested.state_dict()) == before


@pytest.mark.parametrize("state", [5, None, {}, {"state": 3}, {"state": {"levels": {}}}])
def test_what_is_no_state_is_said(state: Any) -> None:
    nested = make_nested(make_model(), "separate")
    with pytest.raises(MismatchedParameters, match=r"NestedOptimizer\.state_dict\(\) gives one"):
        nested.load_state_dict(state)


def test_an_optimizer_of_ones_own_is_the_plans_after_a_restore() -> None:
    """The state holds its name, which need not lead anywhere; a change that waits does too."""

    def make(rate: float) -> NestedOptimizer:
        head = Level("head", match=["4.*"], optimizer=lambda p: torch.optim.Rprop(p, lr=rate))
        rule = partial(torch.optim.NAdam, lr=rate)
        return NestedOptimizer(
            make_model(), Plan(head, Level("spine", match=["*"], period=3, optimizer=rule))
        )

    nested, again = make(0.125), make(0.125)
    for step in range(4):
        take_plain_step(nested.model, nested, step)
    nested.control("spine", lr=0.5, weight_decay=0.25, reason="calm")
    weights, state = freeze_dry(nested.model, nested)
    again.model.load_state_dict(weights)
    rules = [level.spec.optimizer for level in again.levels.values()]
    again.load_state_dict(state)
    assert [level.spec.optimizer for level in again.levels.values()] == rules
    for step in range(4, 9):
        for one in (nested, again):
            take_plain_step(one.model, one, step)
        assert flatten(again.state_dict()) == flatten(nested.state_dict())
        assert flatten(again.model.state_dict()) == flatten(nested.model.state_dict())
    assert again.param_groups[1]["lr"] == 0.5
    assert again.levels["spine"].spec.optimizer == rules[1]
    with pytest.raises(MismatchedParameters, match=r"NAdam\(lr=0\.125.*NAdam\(lr=0\.25"):
        make(0.25).load_state_dict(state)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_model_and_optimizer_can_be_copied_together(how: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    plan = nl.Plan(
        nl.Level("head", match=["2.*"], gate=(nl.AgreementGate(half_life=3.0),)),
        nl.Level("spine", match=["*"], period=3, optimizer=nl.sgd(lr=0.1, momentum=0.9)),
        nl.Copy("average", of=["head"], decay=0.9, probability=0.5),
    )
    nested = nl.NestedOptimizer(model, plan)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))

    def step(model: nn.Module, nested: nl.NestedOptimizer) -> None:
        nested.zero_grad()
        model(x).square().sum().backward()
        nested.step()

    for _ in range(4):
        step(model, nested)
    pair = (model, nested)
    twin, twin_nested = (
        copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    )
    before = twin[0].weight.detach().clone()
    for _ in range(5):
        step(model, nested)
    assert torch.equal(twin[0].weight, before)
    for _ in range(5):
        step(twin, twin_nested)
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    assert torch.equal(
        nested.copy_values("average")["2.weight"], twin_nested.copy_values("average")["2.weight"]
    )
