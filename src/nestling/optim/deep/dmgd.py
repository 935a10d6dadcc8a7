"""Deep momentum gradient descent (DMGD): the momentum is a small trained network.

Axes: o = rows of a matrix (1 of a vector), i = its columns, h = hidden units.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from nestling.core.checked import checked
from nestling.core.seeds import make_generator
from nestling.optim.deep.memory_momentum import as_rows
from nestling.optim.deep.rule_optimizer import RuleOptimizer, State, takes_all
from nestling.optim.plain_specs import CONFIG, Fraction, Rate

Target = Literal["gradient", "ones"]
Loss = Literal["l2", "dot"]


def start_memory(num_inputs: int, num_hidden: int, like: Tensor) -> State:
    """An untrained memory: "inner" (h, i) drawn, "outer" (i, h) zeros, so that m(z) = 0.

    The draw depends on the sizes alone.
    """
    generator = make_generator(0, "dmgd", num_inputs, num_hidden)
    drawn = torch.randn(
        num_hidden, num_inputs, generator=generator, dtype=torch.float32, device="cpu"
    )
    return {
        "inner": drawn.to(like.device, like.dtype),
        "outer": torch.zeros(num_inputs, num_hidden, dtype=like.dtype, device=like.device),
    }


def dmgd_update(
    gradient: Tensor,
    state: State,
    *,
    decay: float = 0.999,
    inner_lr: float = 1.0,
    num_hidden: int = 32,
    loss: Loss = "l2",
    target: Target = "gradient",
) -> tuple[Tensor, State]:
    """Deep momentum: a network learns from every gradient, and its answer is the step.

    m <- a m - rate grad L(m; z, v);  W <- W + lr m(z)   [NL eq. 50]

    m(z) = B tanh(A z), one for each parameter, over the rows z of its gradient; |u| / sqrt(o i) is
    the size of the rows, by which they are divided before and their answer is multiplied after.

    loss     "l2"  1/(2 o) sum |m(z) - v|^2    "dot"  -1/o sum <m(z), v>
    target   "gradient"  v = -z                "ones"  v = 1, as printed

    Differs: the paper gives neither network nor rate, and prints 1 as the value: then the memory
    learns to answer 1 whatever the gradient, and nothing descends. With v = -z and a linear m the
    loss "dot" is the usual momentum. The rate is divided by 1 + rate times the mean squared size
    of each layer's input, as in DGD, so that any is stable. B begins at 0: nothing random ever
    moves a weight; with A alone drawn, m(z) opposes z from its first training on.

    Args:
        gradient: u, any shape; a vector is one row. Not changed.
        state: {} or what the last call gave; not changed.
        decay: a, in [0, 1): of B; A keeps to itself.
        inner_lr: rate of the memory's training, >= 0.
        num_hidden: h.
        loss, target: see above.

    Returns: (m(z) times the size of u: the step of size 1 to add, the next state).

    >>> u = torch.tensor([[1.0, -2.0]])
    >>> step, state = dmgd_update(u, {})
    >>> bool((step * u).sum() < 0)
    True
    """
    wide = torch.promote_types(gradient.dtype, torch.float32)
    rows_oi = as_rows(gradient).to(wide)
    size = rows_oi.square().mean().sqrt()
    z_oi = rows_oi / size.clamp(min=torch.finfo(wide).tiny ** 0.5)
    state = state or start_memory(rows_oi.shape[1], num_hidden, gradient)
    inner_hi, outer_ih = state["inner"].to(wide), state["outer"].to(wide)
    num_rows, num_inputs = rows_oi.shape
    # Pre-activations of variance about 1, whatever the width.
    reach = num_inputs**-0.5
    hidden_oh = torch.tanh(reach * z_oi @ inner_hi.mT)
    value_oi = -z_oi if target == "gradient" else torch.ones_like(z_oi)
    error_oi = hidden_oh @ outer_ih.mT - value_oi if loss == "l2" else -value_oi
    # Backward by hand, of the mean over rows.
    outer_grad = error_oi.mT @ hidden_oh / num_rows
    back_oh = (error_oi @ outer_ih) * (1.0 - hidden_oh.square())
    inner_grad = reach * back_oh.mT @ z_oi / num_rows
    outer_rate = inner_lr / (1.0 + inner_lr * hidden_oh.square().sum(dim=1).mean())
    inner_rate = inner_lr / (1.0 + inner_lr * outer_ih.square().sum())
    outer_ih = decay * outer_ih - outer_rate * outer_grad
    inner_hi = inner_hi - inner_rate * inner_grad
    answer_oi = torch.tanh(reach * z_oi @ inner_hi.mT) @ outer_ih.mT
    step = (size * answer_oi).to(gradient.dtype).reshape(gradient.shape)
    kept = {"inner": inner_hi.to(gradient.dtype), "outer": outer_ih.to(gradient.dtype)}
    return step, kept


class DMGDOptimizer(RuleOptimizer):
    """`dmgd_update` of every parameter, as a torch optimizer.

    Args:
        params: parameters, or torch's groups of them.
        spec: rates and settings.
    """

    def __init__(self, params: Iterable[Any], spec: "DMGD | None" = None) -> None:
        spec = DMGD() if spec is None else spec
        settings = {
            "lr": spec.lr,
            "weight_decay": spec.weight_decay,
            "decay": spec.decay,
            "inner_lr": spec.inner_lr,
            "num_hidden": spec.num_hidden,
            "loss": spec.loss,
            "target": spec.target,
        }
        super().__init__(params, settings, _move_dmgd, takes_all)


def _move_dmgd(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[State],
    group: Mapping[str, Any],
) -> tuple[list[Tensor], list[float], list[State]]:
    done = [
        dmgd_update(
            grad,
            state,
            decay=group["decay"],
            inner_lr=group["inner_lr"],
            num_hidden=group["num_hidden"],
            loss=group["loss"],
            target=group["target"],
        )
        for grad, state in zip(grads, states, strict=True)
    ]
    return [one for one, _ in done], [group["lr"]] * len(params), [state for _, state in done]


@checked
@dataclass(frozen=True, config=CONFIG)
class DMGD:
    """Deep momentum gradient descent for a level: its momentum is a small trained network.

    Args:
        lr: step size.
        weight_decay: share of lr by which weights shrink per update.
        decay: of the memory per update.
        inner_lr: rate of the memory's training.
        num_hidden: hidden units of each parameter's memory.
        loss: "l2" or "dot", see `dmgd_update`.
        target: "gradient" or, as printed, "ones".
    """

    lr: Rate = 0.02
    weight_decay: Rate = 0.0
    decay: Fraction = 0.999
    inner_lr: Rate = 1.0
    num_hidden: int = Field(default=32, ge=1)
    loss: Loss = "l2"
    target: Target = "gradient"
    name: Literal["dmgd"] = "dmgd"

    def build(self, params: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer over `params`."""
        return DMGDOptimizer(list(params), self)


def dmgd(
    lr: float = 0.02,
    *,
    decay: float = 0.999,
    inner_lr: float = 1.0,
    num_hidden: int = 32,
    loss: Loss = "l2",
    target: Target = "gradient",
    weight_decay: float = 0.0,
) -> DMGD:
    """Deep momentum gradient descent (DMGD) for a level: the momentum is a small trained network.

    Args:
        lr, decay, inner_lr, num_hidden, loss, target, weight_decay: see `DMGD`.

    Returns: a spec that a level or a plan file can name.

    Raises:
        SettingError: a number out of range, an unknown loss or target.

    >>> dmgd(lr=0.1).num_hidden
    32
    """
    return DMGD(
        lr=lr,
        weight_decay=weight_decay,
        decay=decay,
        inner_lr=inner_lr,
        num_hidden=num_hidden,
        loss=loss,
        target=target,
    )
