"""Delta gradient descent (DGD): a step that also unlearns along its inputs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from nestling.core.checked import checked
from nestling.core.errors import NonFiniteInput, ShapeMismatch
from nestling.optim.deep.layer_record import InputMoment, find_moment, get_moment, set_moment
from nestling.optim.deep.rule_optimizer import OtherRule, RuleOptimizer, State, takes_matrices
from nestling.optim.plain_specs import CONFIG, SGD, Rate

Form = Literal["exact", "step", "paper"]
_GATHERED = ("total_gii", "num_rows")  # of a matrix in `state`: its inputs since the last step


def dgd_update(
    weight: Tensor, gradient: Tensor, moment: Tensor, *, lr: float, form: Form = "exact"
) -> Tensor:
    """Delta gradient descent: one proximal step of the layer's own regression.

    argmin over V of 1/(2r) sum |V x - u|^2 + 1/(2 lr) |V - W|^2, u = -(r times dL/dy)   [NL 4.5]

    "exact"  W <- (W - lr G) (I + lr C)^-1. With one row it is
             W <- W (I - lr' x x^T) - lr' (dL/dy) x^T, lr' = lr / (1 + lr |x|^2).
    "step"   W <- W - lr' (W C + G), lr' = lr / (1 + lr c), c the largest eigenvalue of C: one
             gradient step towards the same, which never overshoots; with one row the same.
    "paper"  the step with lr' = lr / (1 + lr), as printed.

    C = X^T X / r, G = dL/dW = (dL/dy)^T X.

    Differs: the printed lr' is right for |x| = 1 only; with long inputs it overshoots. The paper
    has one row; a mini-batch is ours.

    Args:
        weight: W, (..., o, i); not changed.
        gradient: G, shape of the weight; of a loss that is a mean over rows.
        moment: C, (..., i, i).
        lr: >= 0.
        form: see above.

    Returns: the new weight; computed in float32 or more, dtype of `weight`.

    Raises:
        ShapeMismatch: shapes that do not belong together.

    >>> w, x, g = torch.ones(1, 1), torch.full((1, 1), 2.0), torch.zeros(1, 1)
    >>> dgd_update(w, g, x * x, lr=1.0)
    tensor([[0.2000]])
    """
    i = weight.shape[-1]
    if gradient.shape != weight.shape or moment.shape != (*weight.shape[:-2], i, i):
        raise ShapeMismatch(
            f"DGD got a weight {tuple(weight.shape)}, a gradient {tuple(gradient.shape)}, a moment "
            f"{tuple(moment.shape)}; (..., o, i) twice and (..., i, i) work"
        )
    wide = torch.promote_types(weight.dtype, torch.float32)
    w, g, c = weight.to(wide), gradient.to(wide), moment.to(wide)
    if form == "exact":
        eye = torch.eye(i, dtype=wide, device=w.device)
        factor = torch.linalg.cholesky(eye + lr * c)
        found = torch.cholesky_solve((w - lr * g).mT, factor).mT
    else:
        bound = torch.ones((), dtype=wide, device=w.device)
        if form == "step":
            bound = torch.linalg.eigvalsh(c)[..., -1, None, None]
        found = w - lr / (1.0 + lr * bound) * (w @ c + g)
    return found.to(weight.dtype)


class DGDOptimizer(RuleOptimizer):
    """DGD as a torch optimizer: weights of recorded layers by `dgd_update`, the rest by `other`.

    Forward and backward run within `record_layers(model)`; a weight whose layer was not recorded
    is an error, and nothing moves. The moment of the inputs gathers since the last step and is part
    of the state, which may be saved and restored anywhere, within a period too.

    Args:
        params: parameters, or torch's groups of them.
        spec: rates and settings.
    """

    def __init__(self, params: Iterable[Any], spec: "DGD | None" = None) -> None:
        spec = DGD() if spec is None else spec
        settings = {"lr": spec.lr, "weight_decay": spec.weight_decay, "form": spec.form}
        super().__init__(params, settings, _move_dgd, takes_matrices, spec.other, self._check)

    def save_gathered(self) -> None:
        """Put the moments of the inputs since the last step into `state`, and go on gathering."""
        for param in self._list_matrices():
            moment, held = get_moment(param), self.state.get(param, {})
            rest = {key: value for key, value in held.items() if key not in _GATHERED}
            if moment is not None:
                rest |= {"total_gii": moment.total_gii, "num_rows": moment.num_rows}
            if rest or param in self.state:
                self.state[param] = rest

    def restore_gathered(self) -> None:
        """Go on from the moments that `state` holds."""
        for param in self._list_matrices():
            held = self.state.get(param, {})
            moment = None
            if "total_gii" in held:  # a copy: it is added to in place
                moment = InputMoment(held["total_gii"].clone(), int(held["num_rows"]))
            set_moment(param, moment)

    def drop_gathered(self) -> None:
        """Forget the inputs since the last step."""
        for param in self._list_matrices():
            set_moment(param, None)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients and the inputs that belong to them, also of a step that was left out.

        So a `GradScaler` may pass over a step: the next one counts its own inputs only.
        """
        super().zero_grad(set_to_none)
        self.drop_gathered()

    def state_dict(self) -> dict[str, Any]:
        """As of any torch optimizer; the moments since the last step are copies."""
        self.save_gathered()
        found = super().state_dict()
        for held in found["state"].values():
            if "total_gii" in held:
                held["total_gii"] = held["total_gii"].clone()
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of any torch optimizer."""
        super().load_state_dict(state_dict)
        self.restore_gathered()

    def _check(self, param: Tensor) -> None:
        """Raise where a matrix cannot be moved; inputs that are not finite are forgotten."""
        if not bool(torch.isfinite(find_moment(param).total_gii).all()):
            self.drop_gathered()
            raise NonFiniteInput(
                f"the inputs recorded for a weight of shape {tuple(param.shape)} hold NaN or "
                "infinity; nothing was moved, and they are forgotten: finite ones work"
            )

    def _list_matrices(self) -> list[Tensor]:
        params = [param for group in self.param_groups for param in group["params"]]
        return [param for param in params if self.takes(param)]


def _move_dgd(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[State],
    group: Mapping[str, Any],
) -> tuple[list[Tensor], list[float], list[State]]:
    directions: list[Tensor] = []
    for param, grad in zip(params, grads, strict=True):
        moment_gii = find_moment(param).mean_gii
        shape = (len(moment_gii), -1, moment_gii.shape[-1])
        weight_goi, grad_goi = param.reshape(shape), grad.reshape(shape)
        new = dgd_update(weight_goi, grad_goi, moment_gii, lr=group["lr"], form=group["form"])
        directions.append((new - weight_goi).reshape(param.shape))
    for param in params:
        set_moment(param, None)
    return directions, [1.0] * len(params), [{} for _ in states]


@checked
@dataclass(frozen=True, config=CONFIG)
class DGD:
    """Delta gradient descent for a level; its passes run within `record_layers(model)`.

    Args:
        lr: step size, >= 0; with the form "exact" any is stable.
        weight_decay: share of lr by which weights shrink per update, beside what DGD unlearns.
        form: "exact", "step" or "paper", see `dgd_update`.
        other: rule of what is no matrix; its rate keeps its ratio to `lr`.
    """

    lr: Rate = 0.1
    weight_decay: Rate = 0.0
    form: Form = "exact"
    other: OtherRule = Field(default_factory=lambda: SGD(lr=0.1), discriminator="name")
    name: Literal["dgd"] = "dgd"

    def build(self, params: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer over `params`."""
        return DGDOptimizer(list(params), self)


def dgd(
    lr: float = 0.1,
    *,
    form: Form = "exact",
    weight_decay: float = 0.0,
    other: OtherRule | None = None,
) -> DGD:
    """Delta gradient descent (DGD) for a level: gradient descent that unlearns along its inputs.

    Args:
        lr, form, weight_decay: see `DGD`.
        other: rule of vectors and scalars; None is `nl.sgd(lr=0.1)`.

    >>> dgd(lr=0.5).form
    'exact'
    """
    rule = SGD(lr=0.1) if other is None else other
    return DGD(lr=lr, form=form, weight_decay=weight_decay, other=rule)
