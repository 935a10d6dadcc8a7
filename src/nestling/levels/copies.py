"""Copy levels: averages of other levels' parameters, or slow weights from which those go on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from nestling.core.errors import MismatchedParameters, SettingError
from nestling.core.params import (
    are_finite,
    average_into,
    check_same_names,
    digest_tensors,
    keep_rows,
    sum_dtype,
)
from nestling.core.seeds import export_generator, import_generator, make_generator
from nestling.levels.control import Knobs, WaitingChanges, turn_copy
from nestling.levels.events import Change, Event, Refusal
from nestling.levels.gradient import GradientLevel
from nestling.levels.level import Clock, check_kind
from nestling.levels.readings import LevelReading
from nestling.levels.spec import Copy, dump_spec, load_spec


class CopyLevel:
    """The state of one copy level.

    Means are kept in float32 or more whatever the model's dtype, since in half precision a slow
    one would never move. A copy that never moves keeps the model's own bits.

    Args:
        spec: what the plan says.
        levels: that it copies; one with a rule writes into them.
        params: name -> parameter that is copied; read at every update.
        buffers: name -> what else the model holds, its buffers and the parameters that no level
            owns; a copy that never moves holds them, too.
        generator: draws whether to update, if the plan gives a probability.

    Raises:
        SettingError: it has a rule, and a parameter is not floating.
    """

    def __init__(
        self,
        spec: Copy,
        levels: Sequence[GradientLevel],
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> None:
        self.spec = spec
        self.levels = list(levels)
        self.is_fixed = spec.decay == 1.0
        self.buffers = {
            name: value.detach().clone() for name, value in buffers.items() if self.is_fixed
        }
        self.params = dict(params)
        self.parts = self._start(self.params)
        self.is_silent = False  # its rule writes nothing, while one level learns alone
        self.generator = generator
        self.clock = Clock("steps")
        self.events: list[Event] = []
        self.changes: WaitingChanges[Copy] = WaitingChanges(turn_copy)
        self.num_all = sum(value.numel() for value in self.values.values())  # of the model's
        for level in self.levels if spec.rule is not None else ():
            level.is_written = True

    @property
    def values(self) -> dict[str, Tensor]:
        """What it answers by, name -> tensor: its mean, slow weights or slowest beaker."""
        return self.parts[0 if self.spec.rule is None else self.spec.rule.answer]

    @property
    def hidden(self) -> dict[str, dict[str, Tensor]]:
        """What else a rule holds, part -> name -> tensor: a velocity, faster beakers."""
        rule = self.spec.rule
        names = () if rule is None else rule.parts
        pairs = zip(names, self.parts, strict=rule is not None)
        return {name: part for name, part in pairs if part is not self.values}

    def _start(self, params: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        rule = self.spec.rule
        if rule is None:
            return [
                {
                    name: param.detach().to(self._choose_dtype(param), copy=True)
                    for name, param in params.items()
                }
            ]
        for name, param in params.items():
            if not param.is_floating_point():
                raise SettingError(
                    f"copy {self.spec.name!r} has the rule {rule.kind!r}, which steps floating "
                    f"weights, and {name!r} is {param.dtype}; give it a level of its own"
                )
        return rule.start(params)

    def advance(self, step: int, judge: Callable[[str], bool] | None) -> bool:
        """Take one optimizer step, after the levels that it copies; whether this was a boundary.

        Args:
            step: number of this optimizer step, from 1.
            judge: asked about what a rule writes into a protected level.
        """
        self.clock.age += 1
        self.clock.num_ticks += 1
        has_rule = self.spec.rule is not None
        if self.is_silent and has_rule:
            return False
        if has_rule:
            self._follow_replaced()
        if self.clock.age < self.spec.period:
            return False
        self.clock.age = 0
        probability = self.spec.probability
        if self.is_fixed:
            return True
        if has_rule:
            self._write_back(step, judge)
        elif (
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

    def _follow_replaced(self) -> None:
        """Begin anew at levels whose weights were put in from elsewhere: undone, or rolled back.

        Else the slow weights would bring back what somebody has taken away.
        """
        rule = self.spec.rule
        assert rule is not None
        for level in self.levels:
            if level.is_replaced:
                self._take(level.names, rule.restart(*self._pick(level.names)))
                level.is_replaced = False

    @torch.no_grad()
    def _write_back(self, step: int, judge: Callable[[str], bool] | None) -> None:
        """Let the rule make new slow weights, and every level that does not stand still go on
        from them."""
        rule = self.spec.rule
        assert rule is not None
        num_written = 0
        for level in self.levels:
            names = level.list_moving(step)
            if not names:
                continue
            parts, live = self._pick(names)
            found = rule.step(parts, live, self.spec.period)
            wanted = {name: found[0][name].to(value.dtype) for name, value in live.items()}
            if not are_finite(list(wanted.values())):  # it is made of the live ones
                reason = f"level {level.spec.name!r} was not finite at its boundary"
                self.events.append(Refusal(self.spec.name, step, reason))
                continue
            written = level.write(step, wanted, judge)
            if level.is_replaced or written == "undone":
                continue
            if written == "bounded":  # the slow weights are where the level goes on
                found[0] = rule.restart(parts, live)[0]
            self._take(names, found)
            if rule.reset_inner:
                level.drop_moments(names)
            num_written += 1
        self._follow_replaced()
        self.clock.num_updates += num_written > 0

    def _pick(self, names: Sequence[str]) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Of these parameters the parts of the rule, and the live weights."""
        parts = [{name: part[name] for name in names} for part in self.parts]
        return parts, {name: self.params[name].detach() for name in names}

    def _take(self, names: Sequence[str], found: Sequence[Mapping[str, Tensor]]) -> None:
        for part, new in zip(self.parts, found, strict=True):
            for name in names:
                part[name] = new[name]

    def swap(self, name: str, param: Tensor) -> None:
        """Follow a parameter that got other rows; new ones start at their live values.

        A copy that never moves keeps its own rows.
        """
        self.params[name] = param
        if self.is_fixed:
            return
        for part, fresh in zip(self.parts, self._start({name: param}), strict=True):
            part[name] = keep_rows(part[name], fresh[name])

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
            lr=getattr(self.spec.rule, "lr", None),
        )

    def tensors(self) -> dict[str, Tensor]:
        """What it holds, by the names of the model and in its dtypes; copies."""
        return {name: value.clone() for name, value in self.read_values().items()}

    def read_values(self) -> dict[str, Tensor]:
        """As `tensors`, for a forward pass: to be read only."""
        values = {name: v.to(self.params[name].dtype) for name, v in self.values.items()}
        return values | self.buffers

    def digest(self) -> str:
        """The sha256 of its tensors, names, shapes and dtypes included.

        What a rule holds beside them (a velocity, faster beakers) is not among them, as an
        optimizer's moments are not among a gradient level's.
        """
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
        """Values, clock and generator, and what a rule holds; tensors are copies."""
        state = {
            "spec": dump_spec(self.spec),
            "clock": self.clock.state_dict(),
            "values": {name: value.clone() for name, value in self.values.items()},
            "buffers": {name: value.clone() for name, value in self.buffers.items()},
            "generator": export_generator(self.generator),
            "waiting": self.changes.state_dict(),
        }
        if self.spec.rule is not None:
            state["hidden"] = {
                part: {name: value.clone() for name, value in values.items()}
                for part, values in self.hidden.items()
            }
        return state

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise MismatchedParameters unless `load_state_dict` will work; nothing is changed."""
        check_kind(state, self.spec, {"clock", "values", "buffers", "generator", "waiting"})
        saved = state["spec"].get("rule") or {}
        kind, own = (saved.get("kind", "average"), getattr(self.spec.rule, "kind", "average"))
        hidden = state.get("hidden", {})
        if kind != own or hidden.keys() != self.hidden.keys():
            raise MismatchedParameters(
                f"copy {self.spec.name!r} was saved with the rule {kind!r} and {list(hidden)}, "
                f"this plan has {own!r} and {list(self.hidden)}; restore it with the plan it was "
                "saved with"
            )
        check_same_names(state["values"], self.values)
        check_same_names(state["buffers"], self.buffers)
        for part, values in self.hidden.items():
            check_same_names(hidden[part], values)

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
        hidden = state.get("hidden", {})
        pairs = [(values, hidden[part]) for part, values in self.hidden.items()]
        pairs += [(self.values, state["values"]), (self.buffers, state["buffers"])]
        for values, others in pairs:
            for name, value in values.items():
                value.copy_(others[name])
        import_generator(self.generator, state["generator"])
        self.changes.load_state_dict(state["waiting"], self.spec)


def make_copies(
    specs: Iterable[Copy],
    gradient: Mapping[str, GradientLevel],
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    seed: int,
) -> dict[str, CopyLevel]:
    """The copy levels of a plan, each with a generator of its own.

    Args:
        specs: what the plan says.
        gradient: gradient levels by name.
        params: name -> parameter.
        buffers: name -> buffer of the model, or parameter that no level owns.
        seed: of the run.
    """
    return {
        spec.name: CopyLevel(
            spec,
            [gradient[level] for level in dict.fromkeys(spec.of)],
            {name: params[name] for level in spec.of for name in gradient[level].names},
            buffers,
            make_generator(seed, "copy", spec.name),
        )
        for spec in specs
    }
