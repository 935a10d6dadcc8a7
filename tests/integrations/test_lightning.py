"""A LightningModule may return a nested optimizer; its checkpoints resume bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import nestling as nl
from nestling.levels import NestedOptimizer, Plan

lightning = pytest.importorskip("lightning")

X = torch.randn(28, 5, generator=torch.Generator().manual_seed(0))
Y = X[:, :2].square()
NUM_BATCHES = 7  # no multiple of the spine's period: a checkpoint falls into its middle


def make_net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))


def make_optimizer(net: nn.Module) -> NestedOptimizer:
    return NestedOptimizer(
        net,
        Plan(
            nl.Level("head", match=["2.*"], gate=[nl.SurpriseGate()], optimizer=nl.adamw(lr=0.02)),
            nl.Level(
                "spine",
                match=["*"],
                period=3,
                between="skip",
                optimizer=nl.sgd(lr=0.1, momentum=0.9),
            ),
            nl.Copy("slow", of=["head", "spine"], decay=0.9, probability=0.7),
        ),
    )


def make_loader() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(X, Y), batch_size=4)


class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()

    def on_train_batch_start(self, *_: object) -> None:
        self.nested.prepare_step()

    @property
    def nested(self) -> NestedOptimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, NestedOptimizer)
        return optimizer

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.net)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.7)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def make_trainer(num_epochs: int, folder: Path) -> Any:
    return lightning.Trainer(
        max_epochs=num_epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=0.5,
        default_root_dir=folder,
    )


def run_lightning(num_epochs: int, folder: Path, checkpoint: Path | None = None) -> Any:
    module = Module()
    trainer = make_trainer(num_epochs, folder)
    trainer.fit(module, make_loader(), ckpt_path=checkpoint)
    return trainer, module


# Lightning 2.6 walks over its checkpoint by a call that torch 2.13 deprecates, and on machines with
# more cores it advises loaders with worker processes; neither is ours to mend.
quiet = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
    r"ignore:The 'train_dataloader' does not have many workers:UserWarning",
)


@quiet
def test_trainer_equals_the_plain_loop(tmp_path: Path) -> None:
    net = make_net()
    optimizer = make_optimizer(net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.7)
    for _ in range(2):
        for x, y in make_loader():
            optimizer.prepare_step()
            loss = nn.functional.mse_loss(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            # In the order of the groups, as Lightning does: a norm's last bit depends on it.
            owned = [param for group in optimizer.param_groups for param in group["params"]]
            nn.utils.clip_grad_norm_(owned, 0.5)
            optimizer.observe(loss)
            optimizer.step()
            scheduler.step()
    _, module = run_lightning(2, tmp_path)
    for ours, theirs in zip(net.parameters(), module.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    nested = module.nested
    assert nested.num_steps == 2 * NUM_BATCHES
    assert nested.read_levels() == optimizer.read_levels()
    assert nested.read_levels()[1].share_backward_skipped > 0.6


@quiet
def test_checkpoint_and_resume_equal_an_uninterrupted_run(tmp_path: Path) -> None:
    _, whole = run_lightning(3, tmp_path)
    trainer, _ = run_lightning(1, tmp_path)
    path = tmp_path / "first.ckpt"
    trainer.save_checkpoint(path)
    _, resumed = run_lightning(3, tmp_path, checkpoint=path)
    for ours, theirs in zip(whole.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    left, right = whole.nested, resumed.nested
    assert left.num_steps == right.num_steps == 3 * NUM_BATCHES
    assert left.read_levels() == right.read_levels()
    for name, value in left.copy_values("slow").items():
        assert torch.equal(value, right.copy_values("slow")[name])
