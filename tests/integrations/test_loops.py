"""Torch's own companions of a loop: LR schedulers, GradScaler and torch.compile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

import nestling as nl
from nestling.levels import Copy, Level, NestedOptimizer, Plan

Schedule = Callable[[torch.optim.Optimizer], Any]


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def make_plan(between: str = "accumulate") -> Plan:
    return Plan(
        Level("head", match=["2.*"], optimizer=nl.adamw(lr=0.02)),
        Level(
            "spine", match=["*"], period=3, optimizer=nl.sgd(lr=0.1, momentum=0.5), between=between
        ),  # type: ignore[arg-type]
        Copy("slow", of=["spine"], period=2),
    )


def make_loader() -> DataLoader[tuple[Tensor, ...]]:
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)


def find_loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def assert_same_weights(left: nn.Module, right: nn.Module) -> None:
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)


SCHEDULES: dict[str, Schedule] = {
    "step": lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, [0.1, 0.2], total_steps=9),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedulers_turn_each_level_as_they_turn_torchs_groups(kind: str) -> None:
    model, twin = make_model(), make_model()
    nested = NestedOptimizer(model, make_plan())
    groups = [
        {"params": list(twin[2].parameters()), "lr": 0.02, "betas": (0.9, 0.999)},
        {"params": list(twin[0].parameters()), "lr": 0.1, "momentum": 0.5},
    ]
    # One cycle moves momentum too: it asks the first group which of the two names to use.
    plain = torch.optim.AdamW([{k: v for k, v in g.items() if k != "momentum"} for g in groups])
    if kind == "one cycle":
        options = {"total_steps": 9, "cycle_momentum": False}
        schedules = [lr_scheduler.OneCycleLR(o, [0.1, 0.2], **options) for o in (nested, plain)]  # type: ignore[arg-type]
    else:
        schedules = [SCHEDULES[kind](optimizer) for optimizer in (nested, plain)]
    rates = set()
    for batch in make_loader():
        nested.zero_grad()
        loss = find_loss(model, batch)
        loss.backward()
        nested.step()
        plain.step()
        for schedule in schedules:
            schedule.step(*([1.0] if kind == "plateau" else []))
        ours = [group["lr"] for group in nested.param_groups]
        assert ours == [group["lr"] for group in plain.param_groups]
        assert ours == [
            level.inner.param_groups[0]["lr"] for level in nested.levels.gradient.values()
        ]
        rates.add(ours[1])
    assert len(rates) > 1


def test_schedule_changes_the_step_that_is_taken() -> None:
    model = nn.Linear(1, 1, bias=False)
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"], optimizer=nl.sgd(lr=0.1))))
    schedule = lr_scheduler.StepLR(nested, 1, gamma=0.5)
    moves = []
    for _ in range(3):
        nested.zero_grad()
        before = model.weight.item()
        model(torch.ones(1, 1)).sum().backward()
        nested.step()
        schedule.step()
        moves.append(before - model.weight.item())
    assert moves == pytest.approx([0.1, 0.05, 0.025], rel=1e-4)


def test_grad_scaler_skips_a_step_without_moving_a_clock() -> None:
    model, twin = make_model(), make_model()
    nested, plain = (NestedOptimizer(m, make_plan()) for m in (model, twin))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    for index, batch in enumerate(make_loader()):
        nested.zero_grad()
        scaler.scale(find_loss(model, batch)).backward()
        scaler.unscale_(nested)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        is_bad = index == 4
        if is_bad:
            nested.zero_grad()
            scaler.update(2.0**10)
            scaler.scale(find_loss(model, batch) * float("inf")).backward()
            before = [p.detach().clone() for p in model.parameters()]
            clocks = [
                (level.clock.age, level.clock.num_ticks)
                for level in nested.levels.gradient.values()
            ]
        scaler.step(nested)
        scaler.update()
        if is_bad:
            assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
            assert clocks == [
                (level.clock.age, level.clock.num_ticks)
                for level in nested.levels.gradient.values()
            ]
            assert nested.levels.copies["slow"].clock.num_ticks == 4
            continue
        plain.zero_grad()
        find_loss(twin, batch).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        plain.step()
    assert nested.num_steps == 7
    assert_same_weights(model, twin)


@pytest.mark.parametrize("between", ["accumulate", "skip"])
def test_compiled_model_equals_eager(between: str) -> None:
    torch._dynamo.reset()
    models = [make_model(), make_model()]
    compiled: Any = torch.compile(models[1], backend="aot_eager")
    nested = [
        NestedOptimizer(models[0], make_plan(between)),
        NestedOptimizer(compiled, make_plan(between)),
    ]
    for batch in make_loader():
        for model, optimizer in zip((models[0], compiled), nested, strict=True):
            optimizer.zero_grad()
            optimizer.prepare_step()
            find_loss(model, batch).backward()
            optimizer.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert nested[1].read_levels()[1].num_updates == 2
