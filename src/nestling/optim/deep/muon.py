"""Muon: momentum, made orthogonal by Newton-Schulz; for matrices."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from nestling.core.checked import checked
from nestling.core.errors import MismatchedParameters
from nestling.optim.deep.large_products import Coefficients
from nestling.optim.deep.newton_schulz import (
    CUBIC,
    MAX_STEPS,
    QUINTIC,
    orthogonalize_all,
)
from nestling.optim.deep.rule_optimizer import (
    OtherRule,
    RuleOptimizer,
    State,
    as_matrix,
    is_large_kernel,
    takes_matrices,
)
from nestling.optim.plain_specs import CONFIG, AdamW, Fraction, Rate

Precision = Literal["float32", "bfloat16"]
Polynomial = Literal["quintic", "cubic"]
Scale = Literal["shape", "rms", "none"]
POLYNOMIALS: dict[str, Coefficients] = {"quintic": QUINTIC, "cubic": CUBIC}


def muon_update(
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    steps: int = 5,
    coefficients: Coefficients = QUINTIC,
    precision: Precision = "float32",
    in_place: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Muon's update: the momentum of every matrix, made orthogonal.

    M <- mu M + (1 - mu) G;  O = NS((1 - mu) G + mu M), or NS(M) without nesterov   [Jordan 2024;
    NL sec. 2.1: the non-linear read-out of a linear momentum memory]

    Args:
        gradients: G, each a matrix (m, n) or a kernel (m, ...); not changed.
        momenta: M, shapes and dtypes of the gradients; not changed unless `in_place`.
        momentum: mu, in [0, 1).
        nesterov: look ahead along the momentum.
        steps, coefficients: of Newton-Schulz, see `orthogonalize`.
        precision: what Newton-Schulz computes in. "bfloat16" is what torch.optim.Muon takes;
            faster where the processor multiplies it (AMX, GPUs), slower elsewhere. With
            "float32" matrices of float64 stay in float64.
        in_place: the new momenta take the place of the old ones: no memory is asked for.

    Returns: (O, M): the step of size 1 to subtract, and the new momenta; dtypes of the gradients.

    Raises:
        MismatchedParameters: gradients and momenta differ in number or shape.

    >>> (step,), (kept,) = muon_update([torch.eye(2)], [torch.zeros(2, 2)], momentum=0.5)
    >>> kept
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    >>> bool((step.diagonal() - 1).abs().max() < 0.3)
    True
    """
    check_momenta(gradients, momenta)
    blend = Tensor.lerp_ if in_place else Tensor.lerp
    kept = [blend(m, g, 1.0 - momentum) for g, m in zip(gradients, momenta, strict=True)]
    ahead = kept
    if nesterov:
        ahead = [torch.lerp(g, m, momentum) for g, m in zip(gradients, kept, strict=True)]
    return orthogonalize_in(precision, ahead, steps, coefficients), kept


def orthogonalize_in(
    precision: Precision, tensors: Sequence[Tensor], steps: int, coefficients: Coefficients
) -> list[Tensor]:
    """Newton-Schulz over matrices and kernels, computed in `precision`; shapes and dtypes kept."""
    wide = [_widen(as_matrix(tensor), precision) for tensor in tensors]
    done = orthogonalize_all(wide, steps=steps, coefficients=coefficients)
    return [one.to(like.dtype).reshape(like.shape) for one, like in zip(done, tensors, strict=True)]


def check_momenta(gradients: Sequence[Tensor], momenta: Sequence[Tensor]) -> None:
    """Raise MismatchedParameters unless every gradient has a momentum of its shape."""
    ours, theirs = ([tuple(one.shape) for one in each] for each in (gradients, momenta))
    if ours != theirs:
        raise MismatchedParameters(
            f"gradients of shapes {ours} with momenta of shapes {theirs}; "
            "one momentum for each gradient, of its shape, works"
        )


def scale_step(shape: Sequence[int], scale: Scale) -> float:
    """By what a step of spectral norm 1 is multiplied, for the shape of its matrix.

    "shape": sqrt(max(1, m / n)) [Jordan 2024]; "rms": .2 sqrt(max(m, n)), by which the step has
    the root mean square that AdamW's has [Liu 2025]; "none": 1. Of a kernel n is the product of
    its other sides.

    >>> scale_step((8, 2), "shape"), scale_step((4, 100), "rms")
    (2.0, 2.0)
    """
    m, n = shape[0], math.prod(shape[1:])
    if scale == "shape":
        return math.sqrt(max(1.0, m / n)) if n else 1.0
    return 0.2 * math.sqrt(max(m, n)) if scale == "rms" else 1.0


class MuonOptimizer(RuleOptimizer):
    """Muon as a torch optimizer: matrices and kernels by `muon_update`, the rest by `other`.

    Args:
        params: parameters, or torch's groups of them.
        spec: rates and settings.

    >>> weight = torch.nn.Parameter(torch.ones(2, 2))
    >>> optimizer = MuonOptimizer([weight], Muon(lr=0.1))
    >>> weight.square().sum().backward()
    >>> optimizer.step()
    >>> bool((weight < 1).all())
    True
    """

    def __init__(self, params: Iterable[Any], spec: "Muon | None" = None) -> None:
        spec = Muon() if spec is None else spec
        settings = {
            "lr": spec.lr,
            "momentum": spec.momentum,
            "nesterov": spec.nesterov,
            "steps": spec.steps,
            "weight_decay": spec.weight_decay,
            "polynomial": spec.polynomial,
            "scale": spec.scale,
            "precision": spec.precision,
        }
        super().__init__(
            params, settings, _move_muon, takes_matrices, spec.other, alone=is_large_kernel
        )


def _move_muon(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[State],
    group: Mapping[str, Any],
) -> tuple[list[Tensor], list[float], list[State]]:
    momenta = [
        state["momentum_buffer"] if state else torch.zeros_like(grad)
        for state, grad in zip(states, grads, strict=True)
    ]
    directions, kept = muon_update(
        grads,
        momenta,
        momentum=group["momentum"],
        nesterov=group["nesterov"],
        steps=group["steps"],
        coefficients=POLYNOMIALS[group["polynomial"]],
        precision=group["precision"],
        in_place=True,
    )
    factors = [-group["lr"] * scale_step(param.shape, group["scale"]) for param in params]
    return directions, factors, [{"momentum_buffer": one} for one in kept]


def _widen(matrix: Tensor, precision: Precision) -> Tensor:
    if precision == "bfloat16":
        return matrix.to(torch.bfloat16)
    return matrix.to(torch.promote_types(matrix.dtype, torch.float32))


@checked
@dataclass(frozen=True, config=CONFIG)
class Muon:
    """Muon for a level: orthogonal momentum for matrices, another rule for the rest.

    Args:
        lr: step size: the spectral norm of an update is about lr (times `scale`).
        momentum: decay per update.
        nesterov: look ahead along the momentum.
        steps: of Newton-Schulz.
        weight_decay: share of lr by which matrices shrink per update.
        polynomial: "quintic" (Jordan's) or "cubic" (Newton's).
        scale: see `scale_step`.
        precision: what Newton-Schulz computes in, see `muon_update`.
        other: rule of what is no matrix; its rate keeps its ratio to `lr`.
    """

    lr: Rate = 0.02
    momentum: Fraction = 0.95
    nesterov: bool = True
    steps: int = Field(default=5, ge=0, le=MAX_STEPS)
    weight_decay: Rate = 0.0
    polynomial: Polynomial = "quintic"
    scale: Scale = "shape"
    precision: Precision = "float32"
    other: OtherRule = Field(default_factory=AdamW, discriminator="name")
    name: Literal["muon"] = "muon"

    def build(self, params: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer over `params`."""
        return MuonOptimizer(list(params), self)


def muon(
    lr: float = 0.02,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    steps: int = 5,
    weight_decay: float = 0.0,
    other: OtherRule | None = None,
) -> Muon:
    """Muon for a level: matrices by orthogonal momentum, the rest by AdamW or `other`.

    Args:
        lr: step size, spectral norm per update.
        momentum, nesterov, steps, weight_decay: see `Muon`, which has more of them.
        other: rule of vectors and scalars; None is `nl.adamw()`.

    >>> muon(lr=0.01).other.name
    'adamw'
    """
    return Muon(
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        steps=steps,
        weight_decay=weight_decay,
        other=AdamW() if other is None else other,
    )
