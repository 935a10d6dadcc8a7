"""The experts of a stream learner: their arrays, grown and solved, and who moves them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nestling.core.errors import ForeignSnapshot
from nestling.levels import Freeze
from nestling.levels.validation import Validation
from nestling.streams.experts.event_block import Events, make_block
from nestling.streams.experts.event_step import process_events, process_value_events
from nestling.streams.experts.expert_arrays import EXPERTS, NETWORKS, RIDGES, TREES, Sizes
from nestling.streams.experts.expert_parts import (
    PartSettings,
    grow_parts,
    make_parts,
)
from nestling.streams.experts.level_states import find_part
from nestling.streams.experts.model_expert import ModelExpert
from nestling.streams.experts.part_tables import make_scratch, tabulate_parts
from nestling.streams.experts.solving import solve_memory
from nestling.streams.kernels.views import ANSWER, LEARN, MIX, VIEW, find_deviation
from nestling.streams.trees.forest import add_leaves
from nestling.streams.trees.forest_tables import lacks_room

Floats = NDArray[np.float64]

HALF_LIVES = {"spine": math.inf, "ridge_300": 300.0, "ridge_1000": 1000.0, "concepts": math.inf}
STRENGTHS = {"spine": 3.0, "ridge_300": 1.0, "ridge_1000": 1.0, "concepts": 10.0}
MANY_UNITS, STRENGTH_OF_MANY = 256, 10.0
RATES = (0.05, 0.001, 0.001, 0.01)
WEIGHT_DECAY = 0.01
DECAYED = NETWORKS[1:3]
# What an answer says of a class that came later.
LEAST_OF_UNKNOWN = 0.02


class ExpertPool:
    """Experts of a stream and their gate, as arrays by name.

    Args:
        names: experts that take part, of `EXPERTS`.
        seed: of all that is drawn.
        classifies: whether targets are classes.
        quantile: of values, that is foreseen; None for the mean.
        level: share of values that their interval should hold.
        model: the expert "model" of `names`.
    """

    def __init__(
        self,
        names: Sequence[str],
        seed: int,
        *,
        classifies: bool = True,
        quantile: float | None = None,
        level: float = 0.9,
        model: ModelExpert | None = None,
    ) -> None:
        self.names = tuple(names)
        self.classifies = classifies
        self._settings = np.array([1.0 if classifies else 0.0, quantile or 0.0])
        self.level = level
        self.model = model
        self.seed = seed
        self.sizes = Sizes()
        self.rows = {name: self.names.index(name) if name in names else -1 for name in EXPERTS}
        self._rows = np.array([self.rows[name] for name in EXPERTS])
        self.learning = np.ones(len(EXPERTS), dtype=np.int64)
        self._process_events = process_events if classifies else process_value_events
        self.rates = np.array([*RATES, *[WEIGHT_DECAY] * len(DECAYED)])
        self.num_learned = 0
        self.num_loaded = 0  # states: what was computed before one is loaded counts no more
        # Of the slots: events learned, concepts opened. Of the trees: how often each began anew.
        self.clock = np.zeros(2, dtype=np.int64)
        self.anew = np.zeros(len(TREES), dtype=np.int64)
        # Levels that changed since `changes` was emptied, and at which event; see `_note_changes`.
        self.changes: list[tuple[str, int]] = []
        self._counted = self._count_changes()
        # How often each memory was solved.
        self.num_solved = dict.fromkeys(RIDGES, 0)
        self.freezes: dict[str, Freeze] = {}
        self._released: set[str] = set()
        self._due = np.zeros(len(RIDGES), dtype=np.int64)
        # What somebody validated; None before.
        self.validation: Validation | None = None
        self.half_lives = dict(HALF_LIVES)
        self._part_settings = PartSettings(len(self.names), seed, classifies, level)
        self.parts = make_parts(Sizes(), self._part_settings)
        self._gather()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy: its kernels must read its own arrays."""
        self.__dict__.update(state)
        self._gather()

    def grow(self, kinds: Sequence[int], num_categories: Sequence[int], num_outputs: int) -> None:
        """Make room for columns, categories and classes that have appeared; see `grow_parts`."""
        self.parts, self.sizes = grow_parts(
            self.parts, self.sizes, kinds, num_categories, num_outputs, self._part_settings
        )
        self._gather()

    def _gather(self) -> None:
        """Make room for answers, and tell the kernels where the arrays lie now."""
        self._scratch = make_scratch(self.parts, self.sizes, len(self.names))
        self._one = make_block(1, self.sizes, len(self.names))
        self._tabulate()

    def _tabulate(self) -> None:
        switches = (
            *(self._rows, self.learning, self.rates, self._due, self.clock, self.anew),
            self._settings,
        )
        self._table = tabulate_parts(self.parts, switches, self._scratch)

    def make_events(self, x_BC: Floats) -> Events:
        """Room for what is known of events; that of a single one is used again."""
        num_events = len(x_BC)
        is_one = num_events == 1
        events = self._one if is_one else make_block(num_events, self.sizes, len(self.names))
        events.values[:] = x_BC
        return events

    def pad_answers(self, answers_EK: Floats) -> Floats:
        """Answers to all classes of now; those that were unknown then get hardly anything.

        Values, and answers of which all classes were known, stay as they are.
        """
        num_outputs = self.sizes.num_outputs
        if answers_EK.shape[1] == num_outputs:
            return answers_EK
        padded = np.full((len(answers_EK), num_outputs), LEAST_OF_UNKNOWN / num_outputs)
        padded[:, : answers_EK.shape[1]] = answers_EK
        shared: Floats = padded / padded.sum(axis=1, keepdims=True)
        return shared

    def freeze(self, name: str, freeze: Freeze | None) -> None:
        """Let an expert stand still as said; None ends it."""
        self.freezes.pop(name, None)
        self._released.discard(name)
        if freeze is not None:
            self.freezes[name] = freeze
        self.obey_freezes()

    def release(self, event: str) -> None:
        """End the freezes that last until this event."""
        self._released |= {name for name, one in self.freezes.items() if one.until == event}
        self.obey_freezes()

    def obey_freezes(self) -> None:
        """Let those stand still that are frozen at the next event."""
        for at, name in enumerate(EXPERTS):
            self.learning[at] = not self._is_frozen(name)

    def _is_frozen(self, name: str) -> bool:
        freeze = self.freezes.get(name)
        return freeze is not None and freeze.covers(
            self.num_learned + 1, is_released=name in self._released
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the next answer and the next update depend on; tensors are copies."""
        parts = {name: tensors_of(part) for name, part in self.parts.items()}
        model = None if self.model is None else self.model.state_dict()
        state = self.dump_course() | {"parts": parts, "model": model}
        found = self.validation
        return state if found is None else state | {"validation": found.state_dict()}

    def dump_course(self) -> dict[str, Any]:
        """Of the state all that is neither an array of a part nor the model's."""
        return {
            "names": list(self.names),
            "seed": self.seed,
            "classifies": self.classifies,
            "settings": self._settings.tolist(),
            "level": self.level,
            "sizes": asdict(self.sizes),
            "rates": self.rates.tolist(),
            "half_lives": dict(self.half_lives),
            "num_learned": self.num_learned,
            "clock": self.clock.tolist(),
            "anew": self.anew.tolist(),
            "num_solved": dict(self.num_solved),
            "freezes": {name: dump_freeze(one) for name, one in self.freezes.items()},
            "released": sorted(self._released),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, of a pool of the same experts.

        Raises:
            ForeignSnapshot: of other experts, another seed or another task; nothing changed then.
        """
        for name in ("names", "seed", "classifies", "settings", "level"):
            own = self._settings.tolist() if name == "settings" else getattr(self, name)
            own = list(own) if name == "names" else own
            if state.get(name) != own:
                raise ForeignSnapshot(
                    f"the state has {name} {state.get(name)!r}, this learner {own!r}; make it with "
                    "the same arguments"
                )
        if self.model is not None:
            self.model.load_state_dict(state["model"])
        self.parts = {
            name: {key: _numpy(part[key], array) for key, array in self.parts[name].items()}
            for name, part in state["parts"].items()
        }
        self.sizes = Sizes(**state["sizes"])
        self.rates[:] = state["rates"]
        self.half_lives = dict(state["half_lives"])
        self.num_learned = state["num_learned"]
        self.clock[:], self.anew[:] = state["clock"], state["anew"]
        self.changes, self._counted = [], self._count_changes()
        self.num_solved = dict(state["num_solved"])
        self.freezes = {name: Freeze(**one) for name, one in state["freezes"].items()}
        self._released = set(state["released"])
        validated = state.get("validation")
        self.validation = None if validated is None else Validation(**validated)
        self.num_loaded += 1
        self.obey_freezes()
        self._gather()

    def read_tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Tensors of an expert by name (copies)."""
        if name == "model" and self.model is not None:
            return self.model.tensors()
        return tensors_of(self.parts[find_part(name)])

    def read_interval(self) -> tuple[float, float]:
        """How far below and above an answer its interval ends, in units of the target."""
        low, high, scale = self.parts["spread"]["interval"][:3]
        unit = float(scale * self.read_deviation())
        return float(low) * unit, float(high) * unit

    def read_deviation(self) -> float:
        """Running standard deviation of the target, in its own unit."""
        return float(find_deviation(self.parts["target_scale"]["moments"]))

    def read_coverage(self) -> float:
        """Share of targets inside their intervals since these are judged; NaN before."""
        inside, judged = self.parts["spread"]["interval"][3:5]
        return float(inside / judged) if judged > 0 else math.nan

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        own = sum(values.nbytes for part in self.parts.values() for values in part.values())
        tensors = {} if self.model is None else self.model.tensors()
        return own + sum(tensor.nbytes for tensor in tensors.values())

    def process(self, mode: int, events: Events, slower: float = 1.0) -> None:
        """Process events one after the other.

        Args:
            mode: sum of what is to be done; see `kernels.views`.
            events: what is known of them, which is written.
            slower: of the gate, 1 + delay / 100.
        """
        if self.model is None:
            self._process(mode, events, slower)
        else:
            for b in range(len(events)):
                self._process_with_model(self.model, mode, events.cut(b), slower)
                if mode & LEARN and self.freezes:
                    self.obey_freezes()
        if mode & LEARN and self.freezes:
            self.obey_freezes()
        if mode & MIX and not self.classifies:
            events.mixed[:] = self.scale_back(events.mixed)

    def scale_back(self, values_BK: Floats) -> Floats:
        """Values in running deviations of the target (B, K), in its own unit."""
        moments = self.parts["target_scale"]["moments"]
        scaled_BK: Floats = moments[1] + find_deviation(moments) * values_BK
        return scaled_BK

    def _process(self, mode: int, events: Events, slower: float) -> None:
        next_event, num_events = 0, len(events)
        while next_event < num_events:
            before = next_event
            found = self._process_events(
                mode,
                before,
                self._table.table,
                self._table.starts,
                self.sizes.num_inputs,
                self.num_learned,
                slower,
                events.values,
                events.views,
                events.recent,
                events.targets,
                events.weights,
                events.answers,
                events.mixed,
            )
            next_event = abs(found)
            if mode & LEARN:
                self.num_learned += next_event - before
                if found < 0:
                    self._note_changes()
                    self._solve_due()
                elif next_event < num_events:
                    self._add_leaves()

    def _note_changes(self) -> None:
        """Note at which event a concept was opened or a tree began anew."""
        counts = self._count_changes()
        for level, count in counts.items():
            self.changes += [(level, self.num_learned)] * (count - self._counted[level])
        self._counted = counts

    def _count_changes(self) -> dict[str, int]:
        counts = zip(TREES, self.anew.tolist(), strict=True)
        return {"concepts": int(self.clock[1]), **dict(counts)}

    def _process_with_model(
        self, model: ModelExpert, mode: int, event: Events, slower: float
    ) -> None:
        """One event; the model answers and learns beside the kernels."""
        row, is_frozen = self.names.index("model"), self._is_frozen("model")
        if mode & ANSWER:
            self._process(mode & (VIEW | ANSWER), event, slower)
            model.answer(event.views[0], self.sizes.num_inputs, event.answers[0, row])
        if rest := mode & ~(VIEW | ANSWER):
            self._process(rest, event, slower)
        if mode & LEARN and not is_frozen:
            target, weight = float(event.targets[0]), float(event.weights[0])
            model.learn(event.views[0], self.sizes.num_inputs, target, weight)

    def _add_leaves(self) -> None:
        """Give the trees that have no room for one more split more of it."""
        for name in TREES:
            if self.rows[name] >= 0 and lacks_room(tuple(self.parts[name].values())):
                self.parts[name] = add_leaves(self.parts[name])
        # What the last answer went through stays: it may be learned from next.
        self._tabulate()

    def _solve_due(self) -> None:
        due = self._due
        for at, name in enumerate(RIDGES[:3]):
            if due[at]:
                part = self.parts[name]
                self._solve(name, part, int(part["counts"][0]))
                part["counts"][0] = 0
        if due[3]:
            slot, part = int(due[3]) - 1, self.parts["concepts"]
            of_slot = {
                key: part[key][slot]
                for key in ("weights", "waiting", "targets", "example_weights", "gram", "cross")
            }
            waiting, seen = int(part["counts"][slot, 0]), int(part["counts"][slot, 1])
            if waiting == seen:  # a concept that begins
                of_slot["gram"][:] = 0.0
                of_slot["cross"][:] = 0.0
            self._solve("concepts", of_slot, waiting)
            part["counts"][slot, 0] = 0
        due[:] = 0

    def _solve(self, name: str, part: Mapping[str, NDArray[Any]], num_waiting: int) -> None:
        strength = STRENGTHS[name]
        if name == "spine" and self.parts["sparse_units"]["biases"].size > MANY_UNITS:
            strength = STRENGTH_OF_MANY
        half_life = self.half_lives[name]
        solve_memory(part, num_waiting, half_life, strength, classify=self.classifies)
        self.num_solved[name] += 1


def tensors_of(part: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Arrays as tensors of their own; unsigned integers, which files may lack, bit for bit."""
    return {
        name: torch.from_numpy(
            (values.view(np.int64) if values.dtype == np.uint64 else values).copy()
        )
        for name, values in part.items()
    }


def _numpy(tensor: torch.Tensor, like: NDArray[Any]) -> NDArray[Any]:
    values = tensor.numpy().copy()
    return values.view(like.dtype) if values.dtype != like.dtype else values


def dump_freeze(freeze: Freeze) -> dict[str, Any]:
    """A freeze as plain data."""
    return {"windows": [list(window) for window in freeze.windows], "until": freeze.until}
