"""Copy levels: exponential moving averages of other levels' parameters."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from nestling.core.params import (
    average_into,
    check_same_names,
    digest_tensors,
    keep_rows,
    sum_dtype,
)
from nestling.core.seeds import export_generator, import_generator, make_generator
from nestling.levels.control import Knobs, WaitingChanges, turn_copy
from nestling.levels.events import Change, Event
from nestling.levels.level import Clock, check_kind
from nestling.levels.readings import LevelReading
from nestling.levels.spec import Copy, dump_spec, load_spec


class CopyLevel:
    """The state of one copy level.

    Means are kept in float32 or more whatever the model's dtype, since in half precision a slow
    one would never move. A copy that never moves keeps the model's own bits.

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
        self.values = {
            name: param.detach().to(self._choose_dtype(param), copy=True)
            for name, param in params.items()
        }
        self.generator = generator
        self.clock = Clock("steps")
        self.events: list[Event] = []
        self.changes: WaitingChanges[Copy] = WaitingChanges(turn_copy)
        self.num_all = sum(value.numel() for value in self.values.values())  # of the model's

    def advance(self) -> bool:
        """Take one optimizer step; returns whether this was a boundary."""
        self.clock.age += 1
        self.clock.num_ticks += 1
        if self.clock.age < self.spec.period:
            return False
        self.clock.age = 0
        probability = self.spec.probability
        if self.is_fixed:
            return True
        if (
            probability is None
            or torch.rand((), generator=self.generator, dtype=torch.float32, device="cpu")
            < probability
        ):
            self._update()
        return True

    def _update(self) -> None:
        self.clock.num_updates += 1
        decay = self.spec.decay
        if self.spec.warmup:
            decay = min(decay, 1.0 - 1.0 / (self.clock.num_updates + 1))
        average_into(self.values.values(), self.params.values(), decay)

    def swap(self, name: str, param: Tensor) -> None:
        """Follow a parameter that got other rows; new ones start at their live values.

        A copy that never moves keeps its own rows.
        """
        self.params[name] = param
        if self.is_fixed:
            return
        self.values[name] = keep_rows(
            self.values[name], param.detach().to(self._choose_dtype(param))
        )

    def read(self) -> LevelReading:
        """How it stands."""
        num_parameters = sum(value.numel() for value in self.values.values())
        return LevelReading(
            level=self.spec.name,
            kind="copy",
            num_parameters=num_parameters,
            share=num_parameters / self.num_all,
            period=self.spec.period,
            age=self.clock.age,
            num_steps=self.clock.num_ticks,
            num_updates=self.clock.num_updates,
        )

    def tensors(self) -> dict[str, Tensor]:
        """What it holds, by the names of the model and in its dtypes; copies."""
        return {name: value.clone() for name, value in self.read_values().items()}

    def read_values(self) -> dict[str, Tensor]:
        """As `tensors`, for a forward pass: to be read only."""
        values = {name: v.to(self.params[name].dtype) for name, v in self.values.items()}
        return values | self.buffers

    def digest(self) -> str:
        """The sha256 of its tensors, names, shapes and dtypes included."""
        return digest_tensors(self._list_tensors())

    def _list_tensors(self) -> dict[str, Tensor]:
        return self.values | self.buffers

    def _choose_dtype(self, param: Tensor) -> torch.dtype:
        return param.dtype if self.is_fixed else sum_dtype(param.dtype)

    def control(self, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """Turn knobs; see `NestedOptimizer.control`."""
        change = self.changes.ask(self.spec, dict(knobs), reason, self.clock.num_ticks)
        if self.clock.age == 0:  # it stands at a boundary
            self.apply_changes(self.clock.num_ticks)
        return change

    def apply_changes(self, step: int) -> None:
        """Let changes that waited come into force, at the boundary of optimizer step `step`."""
        for waiting in self.changes.take(step):
            self.spec = waiting.spec
            self.events.append(waiting.change)

    def state_dict(self) -> dict[str, Any]:
        """Values, clock and generator; tensors are copies."""
        return {
            "spec": dump_spec(self.spec),
            "clock": self.clock.state_dict(),
            "values": {name: value.clone() for name, value in self.values.items()},
            "buffers": {name: value.clone() for name, value in self.buffers.items()},
            "generator": export_generator(self.generator),
            "waiting": self.changes.state_dict(),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise MismatchedParameters unless `load_state_dict` will work; nothing is changed."""
        check_kind(state, self.spec, {"clock", "values", "buffers", "generator", "waiting"})
        check_same_names(state["values"], self.values)
        check_same_names(state["buffers"], self.buffers)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the copy that was saved, in this learner or another of the same plan.

        Raises:
            MismatchedParameters: it is of another plan or model; nothing is changed.
        """
        self.check_state(state)
        spec = load_spec(state["spec"], self.spec)
        assert isinstance(spec, Copy)
        self.spec = spec
        self.clock.load_state_dict(state["clock"])
        for kind, values in (("values", self.values), ("buffers", self.buffers)):
            for name, value in values.items():
                value.copy_(state[kind][name])
        import_generator(self.generator, state["generator"])
        self.changes.load_state_dict(state["waiting"], self.spec)


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
