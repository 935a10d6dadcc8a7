"""Benna-Fusi synapses over any named weights: a chain of ever slower variables (beakers)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import ForeignSnapshot, NonFiniteInput, SettingError
from nestling.core.params import Params, wide_dtype
from nestling.levels.outer_rules.beaker_chain import (
    Chain,
    check_step,
    measure_charge,
    step_beakers,
)
from nestling.levels.outer_rules.outer_steps import read_fast


class Beakers:
    """Benna-Fusi synapses: a chain of slow variables (beakers) behind every weight.

    What the optimizer adds is poured into the first beaker, then the chain flows for one step
    and the live weights become the first beaker's level. Hidden beakers start as full as the
    weights are. Levels are kept in float64 (float32 on MPS), 8 n bytes per weight: slow flows are
    far below the rounding of float32, and would never arrive.

    Args:
        params: live name -> tensor, e.g. `dict(model.named_parameters())`; floating ones only.
        chain: see `make_chain`.
        step_size: time per call, in steps.

    Raises:
        SettingError: a step that is too large for the chain, or a tensor that is not floating.

    >>> from nestling.consolidate import make_chain
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> beakers = Beakers({"w": weight}, make_chain(2, shortest=4, longest=16))
    >>> with torch.no_grad():
    ...     _ = weight.add_(1.0)  # an optimizer's step
    >>> beakers.step()
    >>> weight.item(), beakers.read_level(1)["w"].item()
    (0.75, 0.125)
    """

    def __init__(self, params: Params, chain: Chain, *, step_size: float = 1.0) -> None:
        check_step(chain, step_size)
        for name, value in params.items():
            if not value.is_floating_point():
                raise SettingError(f"{name!r} is {value.dtype}; beakers hold floating tensors only")
        self.params = dict(params)
        self.chain = chain
        self.step_size = step_size
        self._levels = [
            {
                name: value.detach().to(wide_dtype(value.device), copy=True)
                for name, value in params.items()
            }
            for _ in chain.capacities
        ]

    def step(self) -> None:
        """After an optimizer step: pour in its change, let it flow, write the weights back.

        Raises:
            NonFiniteInput: a live weight is NaN or infinite; nothing has flown then.
        """
        first = {}
        for name, live in self.params.items():
            if not bool(torch.isfinite(live).all()):
                raise NonFiniteInput(f"weight {name!r} has become NaN or infinite; undo that step")
            # The live weight is the first level rounded: only what came since is poured in.
            first[name] = read_fast(self._levels[0][name], live.detach())
        self._levels = step_beakers([first, *self._levels[1:]], self.chain, self.step_size)
        self._write_back()

    def read_level(self, index: int) -> dict[str, Tensor]:
        """Levels of one beaker, 0 the weight's own and -1 the slowest; name -> tensor, a copy.

        Load it in the weights' dtype to read the model at that time scale.
        """
        return {
            name: value.to(self.params[name].dtype, copy=True)
            for name, value in self._levels[index].items()
        }

    def measure_charge(self) -> dict[str, Tensor]:
        """name -> sum_k C_k u_k; without a leak only the optimizer changes it."""
        return measure_charge(self._levels, self.chain)

    def count_bytes(self) -> int:
        """Size of all levels."""
        return sum(v.numel() * v.element_size() for level in self._levels for v in level.values())

    def state_dict(self) -> dict[str, Any]:
        """All levels, as "k.name" -> tensor; the live weights are the model's to save."""
        return {
            f"{k}.{name}": value.clone()
            for k, level in enumerate(self._levels)
            for name, value in level.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the levels over, and write the first into the live weights.

        Raises:
            ForeignSnapshot: of other weights or another number of beakers; nothing changed.
        """
        own = self.state_dict()
        if own.keys() != state.keys() or any(own[n].shape != state[n].shape for n in own):
            raise ForeignSnapshot(
                f"beakers of {len(state)} tensors, here there are {len(own)}; build the same "
                "chain on the same weights"
            )
        self._levels = [
            {name: state[f"{k}.{name}"].to(value, copy=True) for name, value in level.items()}
            for k, level in enumerate(self._levels)
        ]
        self._write_back()

    def _write_back(self) -> None:
        with torch.no_grad():
            for name, live in self.params.items():
                live.copy_(self._levels[0][name])
