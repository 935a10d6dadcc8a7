"""Hugging Face Accelerate drives a nested optimizer like any other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import nestling as nl
from nestling.levels import NestedOptimizer, Plan

accelerate = pytest.importorskip("accelerate")

X = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
Y = X[:, :2].square()


def make_parts() -> tuple[nn.Module, NestedOptimizer, Any, DataLoader[tuple[Tensor, ...]]]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))
    optimizer = NestedOptimizer(
        model,
        Plan(
            nl.Level("head", match=["2.*"], optimizer=nl.adamw(lr=0.02)),
            nl.Level("spine", match=["*"], period=3, optimizer=nl.sgd(lr=0.1, momentum=0.9)),
            nl.Copy("slow", of=["head", "spine"], decay=0.9),
        ),
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.8)
    return model, optimizer, scheduler, DataLoader(TensorDataset(X, Y), batch_size=4)


def run_plain(num_epochs: int, num_gathered: int) -> tuple[nn.Module, NestedOptimizer]:
    model, optimizer, scheduler, loader = make_parts()
    for _ in range(num_epochs):
        for index, (x, y) in enumerate(loader, start=1):
            (nn.functional.mse_loss(model(x), y) / num_gathered).backward()
            if index % num_gathered == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    return model, optimizer


def run_accelerate(
    num_epochs: int,
    num_gathered: int,
    before_epoch: Callable[[Any, int], None] | None = None,
) -> tuple[nn.Module, NestedOptimizer]:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=num_gathered)
    model, optimizer, scheduler, loader = accelerator.prepare(*make_parts_in_order())
    for epoch in range(num_epochs):
        if before_epoch is not None:
            before_epoch(accelerator, epoch)
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.mse_loss(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    inner = optimizer.optimizer
    assert isinstance(inner, NestedOptimizer)
    return accelerator.unwrap_model(model), inner


def make_parts_in_order() -> tuple[nn.Module, NestedOptimizer, Any, Any]:
    accelerate.utils.set_seed(0)
    return make_parts()


def assert_same(
    left: tuple[nn.Module, NestedOptimizer], right: tuple[nn.Module, NestedOptimizer]
) -> None:
    for ours, theirs in zip(left[0].parameters(), right[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for name, value in left[1].copy_values("slow").items():
        assert torch.equal(value, right[1].copy_values("slow")[name])
    assert left[1].read_levels() == right[1].read_levels()


@pytest.mark.parametrize("num_gathered", [1, 2])
def test_prepared_loop_equals_the_plain_loop(num_gathered: int) -> None:
    plain = run_plain(3, num_gathered)
    prepared = run_accelerate(3, num_gathered)
    assert plain[1].num_steps == 36 // num_gathered
    assert [reading.num_updates for reading in plain[1].read_levels()] == [
        36 // num_gathered,
        12 // num_gathered,
        36 // num_gathered,
    ]
    assert_same(plain, prepared)


def test_checkpoint_of_accelerate_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """The state is saved in the middle of the spine's period: 8 steps of an uneven epoch."""

    def save(accelerator: Any, epoch: int) -> None:
        if epoch == 1:
            accelerator.save_state(str(tmp_path / "state"))

    def restore(accelerator: Any, epoch: int) -> None:
        if epoch == 0:
            accelerator.load_state(str(tmp_path / "state"))

    whole = run_accelerate(3, 1, save)
    resumed = run_accelerate(2, 1, restore)
    assert_same(whole, resumed)
