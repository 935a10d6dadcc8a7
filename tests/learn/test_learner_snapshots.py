"""A learner's snapshot holds everything that its next step and its next answer depend on."""

from pathlib import Path

import torch

import nestling as nl


def test_buffers_that_are_not_persistent_are_saved(tmp_path: Path) -> None:
    class Centred(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)
            self.mean: torch.Tensor
            self.register_buffer("mean", torch.zeros(4), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.mean.mul_(0.9).add_(0.1 * x.detach().mean(dim=0))
            return torch.as_tensor(self.layer(x - self.mean))

    torch.manual_seed(0)
    plan = nl.Plan(nl.Level("all", match=["*"]))
    learner, twin = (nl.Learner(Centred(), plan) for _ in range(2))
    x = torch.randn(20, 4) + 5.0
    learner.learn(x, (x[:, 0] > 5).long())
    learner.snapshot(tmp_path / "last")
    twin.restore(tmp_path / "last")
    assert torch.equal(learner.predict_proba(x), twin.predict_proba(x))
