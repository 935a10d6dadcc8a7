"""A torch optimizer around a pure rule; what the rule does not take learns by Adam or SGD."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from nestling.core.errors import SettingError
from nestling.optim.deep.large_products import is_large
from nestling.optim.plain_specs import SGD, Adam, AdamW, choose_fused

State = dict[str, Any]  # tensors and counts of one parameter; empty before its first step
OtherRule = AdamW | Adam | SGD
# (parameters, gradients, states, settings) -> (direction of each, its factor, new states). It
# changes neither parameters nor gradients; the states are its own.
Rule = Callable[
    [Sequence[Tensor], Sequence[Tensor], Sequence[State], Mapping[str, Any]],
    tuple[list[Tensor], list[float], list[State]],
]


class RuleOptimizer(torch.optim.Optimizer):
    """Torch optimizer whose update is a pure function; the state is kept by parameter.

    W <- (1 - lr weight_decay) W + factor direction, both from the rule.

    Args:
        params: parameters, or torch's groups of them.
        settings: defaults of a group, plain data with `lr` and `weight_decay`.
        rule: directions, their factors, and the next states.
        takes: which parameters the rule is for.
        other: what the rest learns by; its rate keeps its ratio to `lr` when that is turned.
        check: raises where a parameter of the rule's cannot be moved; asked before any moves.
        alone: which parameters are moved one at a time, so that what is read stays in the cache.
    """

    def __init__(
        self,
        params: Iterable[Any],
        settings: dict[str, Any],
        rule: Rule,
        takes: Callable[[Tensor], bool],
        other: OtherRule | None = None,
        check: Callable[[Tensor], object] | None = None,
        alone: Callable[[Tensor], bool] | None = None,
    ) -> None:
        lr = settings["lr"]
        ratio = 1.0 if other is None or lr == 0.0 else other.lr / lr
        super().__init__(params, {**settings, "other_ratio": ratio})
        self.rule = rule
        self.takes = takes
        self.other = other
        self.check = check
        self.alone = alone

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step on the gradients in `.grad`; parameters without one stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:  # nothing is half-applied
            for param in group["params"]:
                if param.grad is not None:
                    _check_gradient(param)
                    if self.check is not None and self.takes(param):
                        self.check(param)
        for group in self.param_groups:
            moving = [param for param in group["params"] if param.grad is not None]
            ours = [param for param in moving if self.takes(param)]
            rest = [param for param in moving if not self.takes(param)]
            for some in self._split(ours):
                self._step_rule(some, group)
            if rest:
                assert self.other is not None
                lr = group["lr"] * group["other_ratio"]
                _step_other(self.other, rest, [self.state[param] for param in rest], lr)
        return loss

    def _split(self, params: Sequence[Tensor]) -> list[list[Tensor]]:
        if self.alone is None:
            return [list(params)] if params else []
        alone = [[param] for param in params if self.alone(param)]
        together = [param for param in params if not self.alone(param)]
        return [*alone, together] if together else alone

    def _step_rule(self, params: Sequence[Tensor], group: Mapping[str, Any]) -> None:
        grads = [param.grad for param in params if param.grad is not None]
        directions, factors, states = self.rule(
            params,
            grads,
            [self.state.get(param, {}) for param in params],
            group,
        )
        keep = 1.0 - group["lr"] * group["weight_decay"]
        moves = zip(params, directions, factors, states, strict=True)
        for param, direction, factor, state in moves:
            if keep != 1.0:
                param.mul_(keep)
            param.add_(direction, alpha=factor)
            self.state[param] = state


def takes_all(_param: Tensor) -> bool:
    """Every parameter is the rule's."""
    return True


def takes_matrices(param: Tensor) -> bool:
    """Matrices and kernels of convolutions are the rule's; vectors and scalars are not."""
    return param.dim() >= 2


def is_large_kernel(param: Tensor) -> bool:
    """Whether `orthogonalize` takes its matrix alone."""
    return is_large(as_matrix(param.detach()))


def as_matrix(tensor: Tensor) -> Tensor:
    """A kernel (out, in, ...) as a matrix (out, in * ...); a matrix as it is."""
    return tensor if tensor.dim() == 2 else tensor.reshape(tensor.shape[0], -1)


def _check_gradient(param: Tensor) -> None:
    assert param.grad is not None
    if param.grad.is_sparse or param.is_complex():
        raise SettingError(
            f"a parameter of shape {tuple(param.shape)} has a sparse gradient or complex numbers; "
            "nl.adamw works on complex ones, torch.optim.SparseAdam on sparse ones"
        )


def _step_other(
    other: OtherRule, params: list[Tensor], states: list[dict[str, Any]], lr: float
) -> None:
    """One step of Adam, AdamW or SGD, by torch's own functions, on states that lie here."""
    grads = [param.grad for param in params if param.grad is not None]
    fused = choose_fused(params, other.fused)
    if isinstance(other, SGD):
        buffers = [state.get("momentum_buffer") for state in states]
        sgd(
            params,
            grads,
            buffers,
            foreach=False,
            fused=fused and all(buffer is not None for buffer in buffers),
            weight_decay=other.weight_decay,
            momentum=other.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=other.nesterov,
            maximize=False,
        )
        if other.momentum > 0.0:
            for state, buffer in zip(states, buffers, strict=True):
                state["momentum_buffer"] = buffer
        return
    for param, state in zip(params, states, strict=True):
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
    step = adamw if isinstance(other, AdamW) else adam
    step(
        params,
        grads,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        foreach=False,
        fused=fused,
        amsgrad=False,
        beta1=other.betas[0],
        beta2=other.betas[1],
        lr=lr,
        weight_decay=other.weight_decay,
        eps=other.eps,
        maximize=False,
    )
