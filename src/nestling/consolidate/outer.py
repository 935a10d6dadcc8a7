"""Outer optimizer (DiLoCo, SNOO) over any named weights, on slow weights of its own."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import MismatchedParameters, NonFiniteInput, SettingError
from nestling.core.params import Params, check_same_names, widen_half
from nestling.levels.outer_rules.outer_steps import outer_step, read_fast


class OuterNesterov:
    """Outer Nesterov momentum over every K inner steps (DiLoCo, SNOO), on slow weights.

    Every `period` calls the slow weights take an `outer_step` and the live ones restart from
    them. The inner optimizer keeps its own state, as in the papers.

    Args:
        params: live name -> floating tensor, e.g. `dict(model.named_parameters())`.
        period: K >= 1, inner steps between outer ones.
        step_size: eta > 0.
        momentum: mu in [0, 1); 0 is Lookahead.

    Raises:
        SettingError: an argument outside its range.

    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> outer = OuterNesterov({"w": weight}, period=2, step_size=0.5, momentum=0.0)
    >>> for _ in range(2):
    ...     with torch.no_grad():
    ...         _ = weight.add_(1.0)  # an optimizer's step
    ...     outer.step()
    False
    True
    >>> weight.item()
    1.0
    """

    def __init__(
        self, params: Params, *, period: int, step_size: float = 0.7, momentum: float = 0.9
    ) -> None:
        if period < 1 or not 0.0 < step_size < math.inf or not 0.0 <= momentum < 1.0:
            raise SettingError(
                f"period {period}, step size {step_size}, momentum {momentum}; a period of 1 or "
                "more, a step size above 0 and a momentum in [0, 1) work"
            )
        for name, value in params.items():
            if not value.is_floating_point():
                raise SettingError(
                    f"{name!r} is {value.dtype}; outer steps are of floating tensors"
                )
        self.params = dict(params)
        self.period = period
        self.step_size = step_size
        self.momentum = momentum
        self._num_steps = 0
        self._slow = {name: widen_half(value.detach()).clone() for name, value in params.items()}
        self._velocity = {name: torch.zeros_like(value) for name, value in self._slow.items()}

    @property
    def slow(self) -> dict[str, Tensor]:
        """The slow weights, name -> tensor, a copy; float32 at least."""
        return {name: value.clone() for name, value in self._slow.items()}

    def step(self) -> bool:
        """Count an inner step; take an outer step after every `period` of them.

        Returns: whether an outer step was taken, so that the live weights have jumped.

        Raises:
            NonFiniteInput: at an outer step, a live weight is NaN or infinite; nothing changed.
        """
        if self._num_steps + 1 < self.period:
            self._num_steps += 1
            return False
        live = {name: value.detach() for name, value in self.params.items()}
        for name, value in live.items():
            if not bool(torch.isfinite(value).all()):
                raise NonFiniteInput(f"weight {name!r} has become NaN or infinite; undo that step")
            # The live weight started as the slow one rounded: only what came since counts.
            live[name] = read_fast(self._slow[name], value)
        self._slow, self._velocity = outer_step(
            self._slow, live, self._velocity, step_size=self.step_size, momentum=self.momentum
        )
        self._num_steps = 0
        with torch.no_grad():
            for name, value in self.params.items():
                value.copy_(self._slow[name])
        return True

    def count_bytes(self) -> int:
        """Size of the slow weights and their velocity."""
        values = (*self._slow.values(), *self._velocity.values())
        return sum(value.numel() * value.element_size() for value in values)

    def state_dict(self) -> dict[str, Any]:
        """Slow weights, velocity and where in the period it stands."""
        return {
            "num_steps": self._num_steps,
            "slow": self.slow,
            "velocity": {name: value.clone() for name, value in self._velocity.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; the live weights are the model's to load.

        Raises:
            MismatchedParameters: of other weights, or a place beyond this period; nothing changed.
        """
        for saved in (state["slow"], state["velocity"]):
            check_same_names(self._slow, saved)
        if not 0 <= state["num_steps"] < self.period:
            raise MismatchedParameters(
                f"{state['num_steps']} steps into a period of {self.period}; give the period that "
                "it was saved with"
            )
        own = self._slow
        self._velocity = {n: state["velocity"][n].to(v, copy=True) for n, v in own.items()}
        self._slow = {n: state["slow"][n].to(v, copy=True) for n, v in own.items()}
        self._num_steps = state["num_steps"]
