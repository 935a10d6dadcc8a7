"""M3: Muon with a second, slow momentum (multi-scale momentum Muon)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from nestling.core.checked import checked
from nestling.core.errors import SettingError
from nestling.optim.deep.large_products import Coefficients
from nestling.optim.deep.muon import (
    POLYNOMIALS,
    Polynomial,
    Precision,
    Scale,
    check_momenta,
    orthogonalize_in,
    scale_step,
)
from nestling.optim.deep.newton_schulz import MAX_STEPS, QUINTIC
from nestling.optim.deep.rule_optimizer import (
    OtherRule,
    RuleOptimizer,
    State,
    is_large_kernel,
    takes_matrices,
)
from nestling.optim.plain_specs import CONFIG, AdamW, Fraction, Rate

Mode = Literal["normalized", "ema", "paper"]


def start_m3(gradient: Tensor, mode: Mode) -> State:
    """The state of one matrix before its first step: zeros.

    Returns: "step" (steps taken), "fast" (M1), "slow" (M2), "gathered" (the sum of the gradients
        of this chunk), "held" (NS(M2), in force for the chunk), and but for the mode "normalized"
        "square" (V); each of the gradient's shape and dtype.

    >>> sorted(start_m3(torch.zeros(2, 2), "normalized"))
    ['fast', 'gathered', 'held', 'slow', 'step']
    """
    names = ("fast", "slow", "gathered", "held", *(() if mode == "normalized" else ("square",)))
    return {"step": 0, **{name: torch.zeros_like(gradient) for name in names}}


def m3_update(
    gradients: Sequence[Tensor],
    states: Sequence[State],
    *,
    mode: Mode = "normalized",
    betas: tuple[float, float, float] = (0.95, 0.999, 0.9),
    alpha: float = 0.5,
    period: int = 32,
    steps: int = 5,
    coefficients: Coefficients = QUINTIC,
    eps: float = 1e-8,
    precision: Precision = "float32",
    in_place: bool = False,
) -> tuple[list[Tensor], list[State]]:
    """M3's update: a fast and a slow momentum, each made orthogonal, summed.

    Every step, with gradient g; every `period` steps, with S the sum of the last `period` of them
    (before the first: nothing)   [NL Algorithm 1]:

    mode          M1               M2                      V               step of size 1
    "normalized"  ema(M1, g, b1)   ema(M2, S/period, b3)   -               (NS(M1) + alpha NS(M2))
                                                                           / (1 + alpha)
    "ema"         ema(M1, g, b1)   ema(M2, S/period, b3)   ema(V, g^2, b2) (NS(M1) + alpha NS(M2))
                                                                           / (sqrt(V / c) + eps)
    "paper"       M1 + b1 g        M2 + b3 S               V + b2 g^2      (NS(M1) + alpha NS(M2))
                                                                           / (sqrt(V) + eps)

    ema(M, x, b) = b M + (1 - b) x; c = 1 - b2^t corrects V for its start at 0. NS(M2) is computed
    once per chunk and held. NS(0) = 0, so the first chunk has the fast part alone.

    Differs: "paper" is the printed form but for its sums, which are printed with period + 1 terms.
    Nothing in it decays, and an orthogonal matrix over sqrt(V) is a step of about 1/|g|: with
    |g| = 1e-3 thousands of times lr at first. "ema" decays, and keeps that division. "normalized",
    the default, leaves V away: a step has the spectral norm of Muon's, and with alpha = 0 it is
    Muon without nesterov.

    Args:
        gradients: g, each a matrix (m, n) or a kernel (m, ...); not changed.
        states: see `start_m3`; an empty one starts. Not changed unless `in_place`.
        mode: see above.
        betas: b1, b2, b3, in [0, 1).
        alpha: weight of the slow momentum, >= 0.
        period: f, steps of a chunk, >= 1.
        steps, coefficients: of Newton-Schulz, see `orthogonalize`.
        eps: added to the root of V.
        precision: see `muon_update`.
        in_place: the states are overwritten: no memory is asked for.

    Returns: (steps to subtract, times lr; new states), dtypes of the gradients.

    Raises:
        SettingError: a period below 1, or states of another mode.
        MismatchedParameters: states of other shapes.

    >>> (one,), (state,) = m3_update([torch.eye(2)], [{}], alpha=0.0, steps=15, coefficients=(1.5,
    ...     -0.5, 0.0))
    >>> one.round(decimals=3), state["step"]
    (tensor([[1., 0.],
            [0., 1.]]), 1)
    """
    if period < 1:
        raise SettingError(f"period={period} of M3; 1 or more works")
    states = [state or start_m3(g, mode) for state, g in zip(states, gradients, strict=True)]
    if any(("square" in state) != (mode != "normalized") for state in states):
        raise SettingError(f"a state of M3 is of another mode than {mode!r}; start with {{}}")
    check_momenta(gradients, [state["fast"] for state in states])
    states = [dict(state) if in_place else _copy(state) for state in states]
    _begin_chunks(states, mode, betas[2], period, alpha, (steps, coefficients, precision))
    for state, g in zip(states, gradients, strict=True):
        state["step"] += 1
        state["gathered"].add_(g)
        if mode == "paper":
            state["fast"].add_(g, alpha=betas[0])
            state["square"].addcmul_(g, g, value=betas[1])
        else:
            state["fast"].lerp_(g, 1.0 - betas[0])
            if mode == "ema":
                state["square"].mul_(betas[1]).addcmul_(g, g, value=1.0 - betas[1])
    fast = orthogonalize_in(precision, [state["fast"] for state in states], steps, coefficients)
    found: list[Tensor] = []
    for one, state in zip(fast, states, strict=True):
        if mode == "normalized":
            found.append(one.lerp_(state["held"], alpha / (1.0 + alpha)))
        else:
            bias = 1.0 if mode == "paper" else 1.0 - betas[1] ** state["step"]
            root = (state["square"] / bias).sqrt_().add_(eps)
            found.append(one.add_(state["held"], alpha=alpha).div_(root))
    return found, states


def _copy(state: State) -> State:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


def _begin_chunks(
    states: Sequence[State],
    mode: Mode,
    beta: float,
    period: int,
    alpha: float,
    how: tuple[int, Coefficients, Precision],
) -> None:
    """Where a chunk begins, its last one goes into the slow momentum, which is held from now on."""
    due = [state for state in states if state["step"] > 0 and state["step"] % period == 0]
    for state in due:
        if mode == "paper":
            state["slow"].add_(state["gathered"], alpha=beta)
        else:
            state["slow"].lerp_(state["gathered"] / period, 1.0 - beta)
        state["gathered"].zero_()
    steps, coefficients, precision = how
    slow = [state["slow"] for state in due] if alpha > 0.0 else []
    for state, held in zip(
        due, orthogonalize_in(precision, slow, steps, coefficients), strict=False
    ):
        state["held"] = held


class M3Optimizer(RuleOptimizer):
    """M3 as a torch optimizer: matrices and kernels by `m3_update`, the rest by `other`.

    Args:
        params: parameters, or torch's groups of them.
        spec: rates and settings.
    """

    def __init__(self, params: Iterable[Any], spec: "M3 | None" = None) -> None:
        spec = M3() if spec is None else spec
        settings = {
            "lr": spec.lr,
            "weight_decay": spec.weight_decay,
            "mode": spec.mode,
            "betas": spec.betas,
            "alpha": spec.alpha,
            "period": spec.period,
            "steps": spec.steps,
            "polynomial": spec.polynomial,
            "scale": spec.scale,
            "eps": spec.eps,
            "precision": spec.precision,
        }
        super().__init__(
            params, settings, _move_m3, takes_matrices, spec.other, alone=is_large_kernel
        )


def _move_m3(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[State],
    group: Mapping[str, Any],
) -> tuple[list[Tensor], list[float], list[State]]:
    directions, states = m3_update(
        grads,
        states,
        mode=group["mode"],
        betas=group["betas"],
        alpha=group["alpha"],
        period=group["period"],
        steps=group["steps"],
        coefficients=POLYNOMIALS[group["polynomial"]],
        eps=group["eps"],
        precision=group["precision"],
        in_place=True,
    )
    scale: Scale = group["scale"] if group["mode"] == "normalized" else "none"
    factors = [-group["lr"] * scale_step(param.shape, scale) for param in params]
    return directions, factors, states


@checked
@dataclass(frozen=True, config=CONFIG)
class M3:
    """M3 for a level: a fast and a slow orthogonal momentum for matrices, another rule for others.

    Args:
        lr: step size: in the mode "normalized" the spectral norm of an update (times `scale`).
        weight_decay: share of lr by which matrices shrink per update.
        mode: "normalized", "ema" or, as printed, "paper"; see `m3_update`.
        betas: decays of the fast momentum, of the squares, of the slow momentum per chunk.
        alpha: weight of the slow momentum.
        period: updates of a chunk.
        steps, polynomial: of Newton-Schulz, see `Muon`.
        scale: see `scale_step`; of the mode "normalized" only.
        eps: added to the root of the squares.
        precision: what Newton-Schulz computes in, see `muon_update`.
        other: rule of what is no matrix; its rate keeps its ratio to `lr`.
    """

    lr: Rate = 0.02
    weight_decay: Rate = 0.0
    mode: Mode = "normalized"
    betas: tuple[Fraction, Fraction, Fraction] = (0.95, 0.999, 0.9)
    alpha: Rate = 0.5
    period: int = Field(default=32, ge=1)
    steps: int = Field(default=5, ge=0, le=MAX_STEPS)
    polynomial: Polynomial = "quintic"
    scale: Scale = "shape"
    eps: Rate = 1e-8
    precision: Precision = "float32"
    other: OtherRule = Field(default_factory=AdamW, discriminator="name")
    name: Literal["m3"] = "m3"

    def build(self, params: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer over `params`."""
        return M3Optimizer(list(params), self)


def m3(
    lr: float = 0.02,
    *,
    mode: Mode = "normalized",
    betas: tuple[float, float, float] = (0.95, 0.999, 0.9),
    alpha: float = 0.5,
    period: int = 32,
    weight_decay: float = 0.0,
    other: OtherRule | None = None,
) -> M3:
    """M3 for a level: Muon with a second momentum, that moves every `period` updates.

    Args:
        lr: step size, spectral norm per update.
        mode, betas, alpha, period, weight_decay: see `M3`, which has more of them.
        other: rule of vectors and scalars; None is `nl.adamw()`.

    >>> m3(period=4).mode
    'normalized'
    """
    return M3(
        lr=lr,
        mode=mode,
        betas=betas,
        alpha=alpha,
        period=period,
        weight_decay=weight_decay,
        other=AdamW() if other is None else other,
    )
