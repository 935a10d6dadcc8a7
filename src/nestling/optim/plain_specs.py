"""Adam, AdamW and SGD as data, and the torch optimizer made from it."""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from nestling.core.checked import checked

# Of every specification of an optimizer.
CONFIG = ConfigDict(extra="forbid", defer_build=True)
# Learning rate or weight decay: 0 or more, finite.
Rate = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


@checked
@dataclass(frozen=True, config=CONFIG)
class AdamW:
    """Adam with decoupled weight decay [Loshchilov and Hutter 2019, Algorithm 2]."""

    lr: Rate = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Rate = 1e-8
    weight_decay: Rate = 1e-2
    fused: bool | None = None
    name: Literal["adamw"] = "adamw"

    def build(self, params: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer over `params`."""
        params = list(params)
        return torch.optim.AdamW(
            params,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=choose_fused(params, self.fused),
        )


@checked
@dataclass(frozen=True, config=CONFIG)
class Adam:
    """Adam [Kingma and Ba 2015, Algorithm 1]; weight decay is added to the gradient."""

    lr: Rate = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Rate = 1e-8
    weight_decay: Rate = 0.0
    fused: bool | None = None
    name: Literal["adam"] = "adam"

    def build(self, params: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer over `params`."""
        params = list(params)
        return torch.optim.Adam(
            params,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=choose_fused(params, self.fused),
        )


@checked
@dataclass(frozen=True, config=CONFIG)
class SGD:
    """Stochastic gradient descent (SGD), with heavy-ball or Nesterov momentum."""

    lr: Rate = 1e-2
    momentum: Fraction = 0.0
    weight_decay: Rate = 0.0
    nesterov: bool = False
    fused: bool | None = None
    name: Literal["sgd"] = "sgd"

    @model_validator(mode="after")
    def _check_nesterov(self) -> "SGD":
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov=True needs a momentum; momentum=0.9 works")
        return self

    def build(self, params: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer over `params`."""
        params = list(params)
        return torch.optim.SGD(
            params,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            fused=choose_fused(params, self.fused),
        )


def adamw(
    lr: float = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    fused: bool | None = None,
) -> AdamW:
    """AdamW for a level: `torch.optim.AdamW` with these settings.

    Args:
        lr: step size, in parameter units per update.
        betas: decay per update of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: share of lr by which weights shrink per update.
        fused: torch's fused kernel; None takes it where device and dtype allow.

    >>> adamw(lr=1e-2).lr
    0.01
    """
    return AdamW(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)


def adam(
    lr: float = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    fused: bool | None = None,
) -> Adam:
    """Adam for a level: `torch.optim.Adam` with these settings; arguments as in `adamw`."""
    return Adam(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)


def sgd(
    lr: float = 1e-2,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    fused: bool | None = None,
) -> SGD:
    """SGD for a level: `torch.optim.SGD` with these settings.

    Args:
        lr: step size, in parameter units per unit of gradient.
        momentum: decay of the momentum buffer per update.
        weight_decay: added to the gradient, times the weight.
        nesterov: look ahead along the momentum; needs momentum > 0.
        fused: torch's fused kernel; None takes it where device and dtype allow.
    """
    return SGD(lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fused)


def choose_fused(params: list[Tensor], asked: bool | None) -> bool:
    """Whether torch's fused kernel is taken: as asked, else where device and dtype allow."""
    if asked is not None:
        return asked
    # foreach is 3 to 5 times slower than fused on a CPU; fused wants floats on one device kind.
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in params)
