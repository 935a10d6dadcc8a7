"""Models as they are given to a person: trained on the others, and then never again on them."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from nestling.data.persons import Pair
from nestling.learn import Learner
from nestling.levels import Plan
from nestling.models import build_model

OLD_BATCH = 32  # of what was trained on, where a learner learns it before the person comes


def make_convnet(seed: int) -> nn.Module:
    """16 and 32 channels, 64 hidden units, batch norm and dropout; the seed draws the weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.25)),
            *(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
        )


def make_plain(sizes: Sequence[int], seed: int) -> nn.Module:
    """Linear layers of these sizes with ReLU between them; the seed draws the weights."""
    return build_model("mlp", {"sizes": tuple(sizes)}, seed=seed)


def train(
    model: nn.Module, old: Pair, seed: int, num_epochs: int, *, batch_size: int = 32
) -> nn.Module:
    """Train on what the others gave, by Adam at 1e-3; in place, and in evaluation mode after it.

    Args:
        model: any classifier.
        old: (N, D) inputs and (N,) labels.
        seed: of the order, and of what is random in the model.
        num_epochs: passes.
        batch_size: examples per step.
    """
    x, y = old
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        for _ in range(num_epochs):
            for rows in torch.randperm(len(x), generator=generator, device="cpu").split(batch_size):
                optimizer.zero_grad()
                functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
    return model.eval()


def give(
    model: nn.Module, seed: int, *, old: Pair | None = None, plan: Plan | None = None
) -> Learner:
    """`nl.Learner(copy of the model, pretrained=True)`, before the person comes.

    Args:
        model: stays as it is.
        seed: of the learner, and of what is random in the model while old data are learned.
        old: what the model was trained on, learned once by the learner too; None if it is gone.
        plan: instead of the default.
    """
    learner = Learner(copy.deepcopy(model), plan, pretrained=plan is None, seed=seed)
    if old is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for x, y in zip(*(part.split(OLD_BATCH) for part in old), strict=True):
                learner.learn(x, y)
    return learner
