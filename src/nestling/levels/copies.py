"""Copy levels: slow averages of other levels' parameters."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nestling.core.params import average_into, keep_rows
from nestling.core.seeds import make_generator
from nestling.levels.readings import LevelReading
from nestling.levels.spec import Copy


class CopyLevel:
    """The state of one copy level.

    Args:
        spec: what the plan says.
        params: name -> parameter that is copied; read at every update.
        buffers: name -> what else the model holds, its buffers and the parameters that no level
            owns; a copy that never moves holds them, too.
        generator: draws whether to update, if the plan gives a probability.
    """

    def __init__(
        self,
        spec: Copy,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> None:
        self.spec = spec
        self.is_fixed = spec.decay == 1.0
        self.buffers = {
            name: value.detach().clone() for name, value in buffers.items() if self.is_fixed
        }
        self.params = dict(params)
        self.values = {name: param.detach().clone() for name, param in params.items()}
        self.generator = generator
        self.age = self.num_steps = self.num_updates = 0

    def advance(self) -> bool:
        """Take one optimizer step; returns whether this was a boundary."""
        self.age += 1
        self.num_steps += 1
        if self.age < self.spec.period:
            return False
        self.age = 0
        probability = self.spec.probability
        if self.is_fixed:
            return True
        if probability is None or torch.rand((), generator=self.generator) < probability:
            self._update()
        return True

    def _update(self) -> None:
        self.num_updates += 1
        decay = self.spec.decay
        if self.spec.warmup:
            decay = min(decay, 1.0 - 1.0 / (self.num_updates + 1))
        average_into(self.values.values(), self.params.values(), decay)

    def swap(self, name: str, param: Tensor) -> None:
        """Follow a parameter that got other rows; new ones start at their live values.

        A copy that never moves keeps its own rows.
        """
        self.params[name] = param
        if self.is_fixed:
            return
        self.values[name] = keep_rows(self.values[name], param)

    def read(self, num_all: int) -> LevelReading:
        """The level's reading; `num_all` is the model's number of trainable scalars."""
        num_parameters = sum(value.numel() for value in self.values.values())
        return LevelReading(
            level=self.spec.name,
            kind="copy",
            num_parameters=num_parameters,
            share=num_parameters / num_all,
            period=self.spec.period,
            age=self.age,
            num_steps=self.num_steps,
            num_updates=self.num_updates,
        )


def make_copies(
    specs: Iterable[Copy],
    claims: Mapping[str, Sequence[str]],
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    seed: int,
) -> dict[str, CopyLevel]:
    """The copy levels of a plan, each with a generator of its own.

    Args:
        specs: what the plan says.
        claims: gradient level -> names of its parameters.
        params: name -> parameter.
        buffers: name -> buffer of the model, or parameter that no level owns.
        seed: of the run.
    """
    return {
        spec.name: CopyLevel(
            spec,
            {name: params[name] for level in spec.of for name in claims[level]},
            buffers,
            make_generator(seed, "copy", spec.name),
        )
        for spec in specs
    }
