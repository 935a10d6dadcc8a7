"""A small net with running statistics, and one step of a plain loop."""

import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.params import digest_tensors
from nestling.levels import NestedOptimizer


class Net(nn.Sequential):
    """Three layers and batch norm: a level for each layer."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            *(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()),
            *(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
        )


class Clock:
    """A clock that stands until it is set."""

    def __init__(self, at: float = 1e9) -> None:
        self.at = at

    def __call__(self) -> float:
        """Seconds since 1970."""
        return self.at


def make_optimizer(
    model: nn.Module, lr: float = 0.1, optimizer: str = "sgd", **spine: object
) -> NestedOptimizer:
    """Levels "head", "middle" and "spine"; `spine` are further settings of that one."""
    rule = {"sgd": nl.sgd, "adamw": nl.adamw}[optimizer]
    plan = nl.Plan(
        nl.Level("head", match=["5.*"], optimizer=rule(lr=lr)),
        nl.Level("middle", match=["3.*"], optimizer=rule(lr=lr)),
        nl.Level("spine", match=["*"], optimizer=rule(lr=lr), **spine),  # type: ignore[arg-type]
    )
    return NestedOptimizer(model, plan)


def draw(step: int) -> tuple[Tensor, Tensor]:
    """A batch of 16, the same for the same step."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 4, generator=generator), torch.randint(3, (16,), generator=generator)


def take_step(model: nn.Module, nested: NestedOptimizer, step: int, spoil: str = "") -> None:
    """One step of a plain loop; gradients of parameters that begin with `spoil` become NaN."""
    x, y = draw(step)
    nested.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    for name, param in model.named_parameters():
        if spoil and name.startswith(spoil):
            assert param.grad is not None
            param.grad.fill_(float("nan"))
    nested.step()


def measure(model: nn.Module, before: dict[str, Tensor], start: str) -> float:
    """Relative change of all parameters whose names begin so, in float64."""
    names = [name for name in before if name.startswith(start)]
    after = dict(model.named_parameters())
    base = torch.cat([before[name].double().flatten() for name in names])
    now = torch.cat([after[name].detach().double().flatten() for name in names])
    return float((now - base).norm() / base.norm())


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name."""
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def digest(model: nn.Module) -> str:
    """Of parameters and buffers."""
    return digest_tensors(model.state_dict())
