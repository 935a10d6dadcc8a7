"""Momentum as an associative memory: what it fits, forgets, is keyed and read by."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from nestling.core.checked import checked
from nestling.core.errors import MismatchedParameters
from nestling.optim.deep.newton_schulz import orthogonalize
from nestling.optim.deep.rule_optimizer import RuleOptimizer, State, takes_all
from nestling.optim.plain_specs import CONFIG, Fraction, Rate

Objective = Literal["dot", "l2", "huber", "lp"]
Erase = Literal["none", "element", "matrix", "paper"]
FeatureMap = Literal["identity", "sign", "tanh", "unit"]
Preconditioner = Literal["none", "diagonal", "matrix"]
Readout = Literal["identity", "sign", "tanh", "orthogonal"]
Power = Annotated[float, Field(ge=1.0, allow_inf_nan=False)]


def fit_momentum(
    momentum: Tensor,
    target: Tensor,
    *,
    decay: float,
    objective: Objective = "dot",
    delta: float = 1.0,
    power: float = 3.0,
) -> Tensor:
    """Generalised momentum: one step of a memory m on an objective, with the value v = -x.

    m <- m - grad L~(m; v)   [NL eqs. 33, 37]

    "dot"    L~ = -<m, v> + (1 - a)/2 |m|^2:  m <- a m + v, the heavy ball
    "l2"     (1 - a)/2 |m - v|^2:             m <- a m + (1 - a) v, the moving average
    "huber"  as l2 up to `delta`, linear beyond: m <- m + (1 - a) clip(v - m, -delta, delta)
    "lp"     (1 - a)/p sum |m - v|^p:         m <- m + (1 - a) sign(v - m) |v - m|^(p - 1)

    Args:
        momentum: m; not changed.
        target: v, shape of m: the negative gradient, preconditioned and mapped.
        decay: a, in [0, 1).
        objective: see above.
        delta: of "huber", > 0.
        power: p of "lp", >= 1; above 2 it needs small differences to be stable.

    Returns: the next m.

    >>> fit_momentum(torch.ones(1), torch.tensor([9.0]), decay=0.5, objective="huber", delta=1.0)
    tensor([1.5000])
    """
    if objective == "dot":
        return decay * momentum + target
    gap = target - momentum
    if objective == "huber":
        gap = gap.clamp(-delta, delta)
    elif objective == "lp":
        gap = gap.sign() * gap.abs() ** (power - 1.0)
    return momentum + (1.0 - decay) * gap


def erase_momentum(
    momentum: Tensor, gradient: Tensor, *, decay: float, form: Erase = "element", rate: float = 1.0
) -> Tensor:
    """Delta momentum's retention: momentum is forgotten along the new gradient u, and decays.

    "element"  m * (a - clip(c u^2, 0, a))                         [NL eq. 48, element-wise]
    "matrix"   m (a I - c' u^T u), c' = a c / (1 + c |u|_F^2)      [NL eqs. 48-49]
    "paper"    m (a I - u^T u), as printed
    "none"     a m

    Differs: the printed form drops the step size before u^T u, and blows up where the gradient is
    larger than about 1; with c' the eigenvalues of the factor stay in [0, a].

    Args:
        momentum: m, (..., i), a vector counts as one row; not changed.
        gradient: u, shape of m.
        decay: a, in [0, 1].
        form: see above.
        rate: c, >= 0, per squared unit of gradient.

    Returns: what is left of m; the new gradient is not yet in it.

    >>> erase_momentum(torch.ones(2), torch.tensor([0.5, 3.0]), decay=1.0)
    tensor([0.7500, 0.0000])
    """
    if form == "none":
        return decay * momentum
    if form == "element":
        return momentum * (decay - (rate * gradient.square()).clamp(max=decay))
    m, u = as_rows(momentum), as_rows(gradient)
    along = (m @ u.mT) @ u
    size: float | Tensor = 1.0
    if form == "matrix":
        size = decay * rate / (1.0 + rate * u.square().sum())
    return (decay * m - size * along).reshape(momentum.shape)


def map_gradient(gradient: Tensor, feature_map: FeatureMap) -> Tensor:
    """Feature map phi of a gradient, by which it is written into the momentum  [NL eq. 51].

    "identity", "sign", "tanh" element by element; "unit" divides by the Frobenius norm.

    >>> map_gradient(torch.tensor([3.0, -4.0]), "unit")
    tensor([ 0.6000, -0.8000])
    """
    if feature_map == "sign":
        return gradient.sign()
    if feature_map == "tanh":
        return gradient.tanh()
    if feature_map == "unit":
        unit: Tensor = gradient / torch.linalg.vector_norm(gradient).clamp(min=1e-12)
        return unit
    return gradient


def read_momentum(momentum: Tensor, readout: Readout) -> Tensor:
    """Non-linear read-out sigma of a momentum: the step that is taken  [NL eq. 52].

    "orthogonal" is Newton-Schulz, by which a linear memory is Muon; a vector counts as one row.

    >>> read_momentum(torch.tensor([3.0, -4.0]), "sign")
    tensor([ 1., -1.])
    """
    if readout == "sign":
        return momentum.sign()
    if readout == "tanh":
        return momentum.tanh()
    if readout == "orthogonal":
        wide = as_rows(momentum).to(torch.promote_types(momentum.dtype, torch.float32))
        return orthogonalize(wide).to(momentum.dtype).reshape(momentum.shape)
    return momentum


def precondition(
    gradient: Tensor, state: State, *, kind: Preconditioner, decay: float = 0.999, eps: float = 1e-8
) -> tuple[Tensor, State]:
    """Preconditioned gradient P u, with P itself a memory of the gradients before  [NL eqs. 38-47].

    "diagonal"  V <- b V + (1 - b) u^2;    P = 1 / (sqrt(V / c) + eps): Adam's, the element-wise
                ridge regression of eqs. 101-105
    "matrix"    H <- b H + (1 - b) u u^T;  P = (H / c + eps I)^(-1/2) on the shorter side: the
                outer product's version of eqs. 106-111; a vector takes the diagonal one
    "none"      u

    c = 1 - b^t corrects for the start at 0.

    Args:
        gradient: u; not changed.
        state: {} or what the last call gave; not changed.
        kind: see above.
        decay: b, in [0, 1).
        eps: > 0.

    Returns: (P u, the next state).

    >>> precondition(torch.tensor([5.0, -0.1]), {}, kind="diagonal")[0]
    tensor([ 1.0000, -1.0000])
    """
    if kind == "none":
        return gradient, {}
    step = int(state.get("step", 0)) + 1
    correct = 1.0 - decay**step
    if kind == "diagonal" or gradient.dim() < 2:
        square = gradient.square() * (1.0 - decay)
        if "square" in state:
            square = square + decay * state["square"]
        scaled = gradient / ((square / correct).sqrt() + eps)
        return scaled, {"step": step, "square": square}
    wide = torch.promote_types(gradient.dtype, torch.float32)
    u = as_rows(gradient).to(wide)
    is_tall = u.shape[0] > u.shape[1]
    gram = (u.mT @ u if is_tall else u @ u.mT) * (1.0 - decay)
    if "gram" in state:
        gram = gram + decay * state["gram"].to(wide)
    values, vectors = torch.linalg.eigh(gram / correct)
    root = vectors * (values.clamp(min=0.0) + eps).rsqrt() @ vectors.mT
    scaled = u @ root if is_tall else root @ u
    kept = {"step": step, "gram": gram.to(gradient.dtype)}
    return scaled.to(gradient.dtype).reshape(gradient.shape), kept


def momentum_update(gradient: Tensor, state: State, spec: "MemoryMomentum") -> tuple[Tensor, State]:
    """One step of a momentum memory: preconditioned, mapped, written, read  [NL sec. 4.2-4.4].

    x = P phi(u);  m <- fit(erase(m, u), -x);  W <- W + lr sigma(m)

    Args:
        gradient: u; not changed.
        state: {} or what the last call gave ("momentum_buffer" and the preconditioner's); not
            changed.
        spec: which of each.

    Returns: (sigma(m): the step of size 1 to add, the next state).

    Raises:
        MismatchedParameters: the state is of another shape.

    >>> step, state = momentum_update(torch.ones(2), {}, MemoryMomentum())
    >>> step
    tensor([-1., -1.])
    """
    momentum = state["momentum_buffer"] if state else torch.zeros_like(gradient)
    if momentum.shape != gradient.shape:
        raise MismatchedParameters(
            f"a momentum of shape {tuple(momentum.shape)} with a gradient of shape "
            f"{tuple(gradient.shape)}; begin with the state {{}}"
        )
    mapped = map_gradient(gradient, spec.feature_map)
    scaled, kept = precondition(
        mapped, state, kind=spec.preconditioner, decay=spec.precondition_decay, eps=spec.eps
    )
    if spec.erase == "none":
        momentum = fit_momentum(
            momentum,
            -scaled,
            decay=spec.momentum,
            objective=spec.objective,
            delta=spec.delta,
            power=spec.power,
        )
    else:
        left = erase_momentum(
            momentum, mapped, decay=spec.momentum, form=spec.erase, rate=spec.erase_rate
        )
        momentum = left - scaled
    return read_momentum(momentum, spec.readout), {"momentum_buffer": momentum, **kept}


def as_rows(tensor: Tensor) -> Tensor:
    """A tensor as a matrix: a vector as one row, a kernel (out, ...) as (out, all of the rest)."""
    if tensor.dim() < 2:
        return tensor.reshape(1, -1)
    return tensor.reshape(tensor.shape[0], -1)


class MemoryMomentumOptimizer(RuleOptimizer):
    """`momentum_update` of every parameter, as a torch optimizer.

    Args:
        params: parameters, or torch's groups of them.
        spec: rates and settings.
    """

    def __init__(self, params: Iterable[Any], spec: "MemoryMomentum | None" = None) -> None:
        self.spec = MemoryMomentum() if spec is None else spec
        settings = {"lr": self.spec.lr, "weight_decay": self.spec.weight_decay}
        super().__init__(params, settings, self._move, takes_all)

    def _move(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[State],
        group: Mapping[str, Any],
    ) -> tuple[list[Tensor], list[float], list[State]]:
        done = [momentum_update(g, s, self.spec) for g, s in zip(grads, states, strict=True)]
        return [one for one, _ in done], [group["lr"]] * len(params), [state for _, state in done]


@checked
@dataclass(frozen=True, config=CONFIG)
class MemoryMomentum:
    """Momentum as a memory, for a level: by default the heavy ball.

    Args:
        lr: step size. An average ("l2", "huber", "lp") is 1 - a as long as a discounted sum
            ("dot"), and takes a rate as much larger.
        momentum: a, decay per update.
        weight_decay: share of lr by which weights shrink per update.
        objective: what the memory fits, see `fit_momentum`; of no use with `erase`.
        erase: what a gradient erases, see `erase_momentum`.
        feature_map: see `map_gradient`.
        preconditioner: see `precondition`.
        readout: see `read_momentum`.
        erase_rate: c of `erase_momentum`.
        delta, power: of the objectives "huber" and "lp".
        precondition_decay, eps: see `precondition`.
    """

    lr: Rate = 0.005
    momentum: Fraction = 0.9
    weight_decay: Rate = 0.0
    objective: Objective = "dot"
    erase: Erase = "none"
    feature_map: FeatureMap = "identity"
    preconditioner: Preconditioner = "none"
    readout: Readout = "identity"
    erase_rate: Rate = 1.0
    delta: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    power: Power = 3.0
    precondition_decay: Fraction = 0.999
    eps: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1e-8
    name: Literal["memory_momentum"] = "memory_momentum"

    def build(self, params: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer over `params`."""
        return MemoryMomentumOptimizer(list(params), self)


def delta_momentum(
    lr: float = 0.005,
    *,
    momentum: float = 0.9,
    erase: Erase = "element",
    erase_rate: float = 1.0,
    weight_decay: float = 0.0,
) -> MemoryMomentum:
    """Delta momentum for a level: momentum that forgets along each new gradient.

    Args:
        lr, momentum, weight_decay: see `MemoryMomentum`, which has more of them.
        erase: "element", "matrix" or, as printed, "paper"; see `erase_momentum`.
        erase_rate: how much a gradient erases, per squared unit of it.

    >>> delta_momentum(erase="matrix").name
    'memory_momentum'
    """
    return MemoryMomentum(
        lr=lr,
        momentum=momentum,
        erase=erase,
        erase_rate=erase_rate,
        weight_decay=weight_decay,
    )
