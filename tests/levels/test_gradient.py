"""Corners of one level's step: unused weights, judges that raise, sparse gradients, alarms."""

import math

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import LateParameter, SettingError
from nestling.levels import Alarm, Freeze, Gate, Level, LevelAlarm, NestedOptimizer, Plan, Refusal
from nestling.levels.readings import norm


class Forked(nn.Module):
    """Two branches, of which a batch uses one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x: Tensor, branch: str) -> Tensor:
        return torch.as_tensor(self.get_submodule(branch)(x).square().sum())


def test_branch_that_a_period_did_not_use_is_not_updated() -> None:
    """No gradient is not a gradient of zero: momentum and weight decay must not move it."""
    models = [Forked(), Forked()]
    plan = Plan(Level("all", match=["*"], period=2, optimizer=nl.adamw(lr=0.1)))
    optimizers = [
        NestedOptimizer(models[0], plan, accumulate="separate"),
        NestedOptimizer(models[1], plan, accumulate="in_place"),
    ]
    for branch in ["left", "left", "right", "right", "left", "right"] * 2:
        still = {"left": "right", "right": "left"}[branch]
        for model, nested in zip(models, optimizers, strict=True):
            before = model.get_submodule(still).weight.detach().clone()  # type: ignore[operator]
            nested.zero_grad()
            model(torch.ones(1, 2), branch).backward()
            nested.step()
            if nested.num_steps in (2, 4, 8, 10):
                assert torch.equal(before, model.get_submodule(still).weight)  # type: ignore[arg-type]
        for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_freeze_in_the_middle_of_an_in_place_period_asks_for_prepare_step() -> None:
    model = nn.Linear(2, 1)
    freeze = Freeze(windows=((2, 3),))
    plan = Plan(Level("all", match=["*"], period=4, freeze=freeze, optimizer=nl.sgd()))
    nested = NestedOptimizer(model, plan, accumulate="in_place")
    for step in (1, 2):
        nested.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        if step == 2:
            with pytest.raises(SettingError, match=r"'all'.*prepare_step\(\) before the forward"):
                nested.step()
        else:
            nested.step()
    assert nested.num_steps == 1


def test_judge_that_raises_leaves_no_trace() -> None:
    model = nn.Linear(2, 1)

    def judge(level: str) -> bool:
        raise RuntimeError(f"no verdict on {level}")

    plan = Plan(Level("all", match=["*"], protect=True, optimizer=nl.sgd(momentum=0.9)))
    nested = NestedOptimizer(model, plan, judge=judge)
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(RuntimeError, match="no verdict on all"):
        nested.step()
    assert torch.equal(model.weight, before)
    assert not nested.levels["all"].inner.state


def test_refusals_in_a_row_sound_an_alarm() -> None:
    model = nn.Linear(2, 1)
    verdicts = [False] * 19 + [True] + [False] * 40
    plan = Plan(Level("all", match=["*"], protect=True))
    nested = NestedOptimizer(model, plan, judge=lambda _: verdicts.pop(0))

    def run(num_steps: int) -> None:
        for _ in range(num_steps):
            nested.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            nested.step()

    run(39)
    with pytest.warns(LevelAlarm, match="'all' had 20 updates in a row refused; look at its judge"):
        run(1)
    run(20)
    happened = nested.take_events()
    refused = [event.step for event in happened if isinstance(event, Refusal)]
    assert refused == [*range(1, 20), *range(21, 61)]
    alarms = [event for event in happened if isinstance(event, Alarm)]
    assert [(alarm.kind, alarm.step) for alarm in alarms] == [("dead", 40)]


@pytest.mark.parametrize(
    ("level", "works"),
    [
        (Level("all", match=["*"], optimizer=nl.sgd(fused=False)), True),
        (Level("all", match=["*"], optimizer=nl.sgd(fused=False), trust=0.5, protect=True), True),
        (
            Level("all", match=["*"], optimizer=nl.sgd(fused=False), gate=[nl.AgreementGate()]),
            False,
        ),
        (Level("all", match=["*"], optimizer=nl.sgd(fused=False), period=2), False),
        (Level("all", match=["*"], optimizer=nl.sgd()), False),
        (Level("all", match=["*"], optimizer=nl.adamw()), False),
    ],
)
def test_sparse_gradients_work_or_are_refused_with_nothing_changed(
    level: Level, works: bool
) -> None:
    model = nn.Embedding(4, 2, sparse=True)
    before = model.weight.detach().clone()
    nested = NestedOptimizer(model, Plan(level))
    model(torch.tensor([1])).sum().backward()
    if works:
        nested.step()
        assert [not torch.equal(a, b) for a, b in zip(before, model.weight, strict=True)] == [
            False,
            True,
            False,
            False,
        ]
    else:
        with pytest.raises(SettingError, match="'weight' of level 'all' has a sparse gradient"):
            nested.step()
        assert nested.num_steps == 0
        assert torch.equal(model.weight, before)


def test_replaced_module_is_late_even_if_the_old_one_is_gone() -> None:
    """A new module may get the address of the one that it replaces."""
    model = nn.Sequential(nn.Linear(2, 2))
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"])))
    del model[0]
    for _ in range(20):
        model.add_module("0", nn.Linear(2, 2))
        model(torch.ones(1, 2)).sum().backward()
        with pytest.raises(LateParameter, match=r"'0\.weight'"):
            nested.step()
        del model[0]


def test_weights_that_are_not_finite_run_away() -> None:
    model = nn.Linear(2, 1)
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"], optimizer=nl.sgd())))
    model(torch.full((1, 2), math.inf)).sum().backward()
    nested.step()
    with pytest.warns(LevelAlarm, match="'all' changes by inf per update"):
        nested.read_levels()
    nested.read_levels()


def test_weights_that_start_at_zero_sound_no_alarm() -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"], band=(1e-6, 0.5))))
    model(torch.ones(1, 2)).sum().backward()
    nested.step()
    assert nested.read_levels()[0].relative_change == 0.0
    assert nested.take_events() == []


@pytest.mark.parametrize("value", [1.0, 200.0])
def test_norm_of_half_precision_is_wide(value: float) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        tensors = [torch.full((301,), value, dtype=dtype), torch.full((300,), value, dtype=dtype)]
        wanted = value * math.sqrt(601)
        assert norm(tensors) == pytest.approx(wanted, rel=1e-5)


def test_dead_level_is_told_apart_from_a_closed_one() -> None:
    model = nn.Linear(2, 1)
    closed = [nl.ScheduleGate(start=0, stop=10**6, low=0.0, high=0.0)]
    plans = [
        Plan(Level("all", match=["*"], optimizer=nl.sgd())),
        Plan(Level("all", match=["*"], optimizer=nl.sgd(), gate=closed)),
    ]
    for plan, kinds in zip(plans, (["dead"], []), strict=True):
        nested = NestedOptimizer(model, plan)

        def run(nested: NestedOptimizer) -> None:
            for _ in range(150):
                nested.zero_grad()
                model(torch.zeros(1, 2)).sum().mul(0.0).backward()
                nested.step()
                nested.read_levels()

        if kinds:
            with pytest.warns(LevelAlarm, match="did not move in 20 updates; check its gradient"):
                run(nested)
        else:
            run(nested)
        assert [event.kind for event in nested.take_events()] == kinds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gate", [[], [nl.AgreementGate()]])
def test_a_period_of_half_precision_gradients_is_averaged_in_full(
    dtype: torch.dtype, gate: list[Gate]
) -> None:
    """600 ones stick at 256 in bfloat16; four times 30,000 overflow in float16."""
    for period, value, lr in ((600, 1.0, 1.0), (4, 30_000.0, 1e-4)):
        model = nn.Linear(1, 1, bias=False).to(dtype)
        nn.init.zeros_(model.weight)
        level = Level("all", match=["*"], period=period, optimizer=nl.sgd(lr=lr), gate=gate)
        nested = NestedOptimizer(model, Plan(level))
        for step in range(period):
            if step == period // 2:
                state = nested.state_dict()
                nested = NestedOptimizer(model, Plan(level))
                nested.load_state_dict(state)
            nested.zero_grad()
            model(torch.full((1, 1), value, dtype=dtype)).sum().backward()
            nested.step()
        assert model.weight.item() == pytest.approx(-value * lr, rel=0.01)
        assert model.weight.dtype == dtype


@pytest.mark.parametrize(
    ("dtype", "value", "reduce"),
    [(torch.float16, 30_000.0, "sum"), (torch.float32, 3e38, "sum"), (torch.float32, 3e38, "mean")],
)
def test_a_period_whose_sum_overflows_makes_no_update(
    dtype: torch.dtype, value: float, reduce: str
) -> None:
    model = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.zeros_(model.weight)
    level = Level("all", match=["*"], period=4, reduce=reduce, optimizer=nl.sgd(lr=1e-4))  # type: ignore[arg-type]
    nested = NestedOptimizer(model, Plan(level))
    for step in range(8):
        nested.zero_grad()
        size = value if step < 4 else 1.0
        model(torch.full((1, 1), size, dtype=dtype)).sum().backward()
        nested.step()
        assert bool(model.weight.isfinite().all())
        assert bool(model.weight == 0.0) == (step < 7)
    (refusal,) = nested.take_events()
    assert isinstance(refusal, Refusal)
    assert "not finite together" in refusal.reason
    assert nested.read_levels()[0].num_refused == 1


def test_half_precision_is_not_summed_in_place() -> None:
    model = nn.Linear(1, 1).to(torch.bfloat16)
    slow = Level("all", match=["*"], period=4, optimizer=nl.sgd())
    with pytest.raises(SettingError, match=r"'all' has weights in torch.bfloat16.*separate"):
        NestedOptimizer(model, Plan(slow), accumulate="in_place")
    fast = Level("all", match=["*"], optimizer=nl.sgd())
    nested = NestedOptimizer(model, Plan(fast), accumulate="in_place")
    with pytest.raises(SettingError, match="accumulate='separate' works"):
        nested.control("all", period=4, reason="slower")
    nested.control("all", period=4, between="skip", reason="one gradient of each period")
